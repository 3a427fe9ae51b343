package domain_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	. "github.com/keyledger/kms/domain"
)

// TestEvolve says of every event what it changes in a key, and by the comparison of the whole key that it changes
// nothing else.
func TestEvolve(t *testing.T) {
	version := func(change func(*KeyVersion), numbers ...Version) func(*Key) {
		return func(k *Key) {
			for _, v := range numbers {
				kv, _ := k.Versions.Get(v)
				change(&kv)
				k.Versions = k.Versions.With(kv)
			}
		}
	}
	withDetails := added3
	var evolved []string
	withDetails.Fingerprint, withDetails.PublicKey, withDetails.BlobDigest, withDetails.ImportJob = []byte("fp"), []byte("pub"), []byte("digest"), "job"
	choosy := created
	choosy.ManagedBy, choosy.ImportOnly, choosy.RotationPeriod, choosy.NextRotationTime = "disks", true, 2*day, day3
	choosy.MaxUsesPerVersion, choosy.ExpireTime, choosy.DestroyWait = 5, day9, 4*day
	destroyedVersion := version(func(kv *KeyVersion) {
		kv.State, kv.StateTime, kv.DestroyTime, kv.DeleteTime = VersionStateDestroyed, day1, day1, time.Time{}
	}, 1)
	scheduled2 := KeyVersionDestructionScheduled{Version: 2, DeleteTime: day9}

	for name, tt := range map[string]struct {
		given Key
		event Event
		then  func(*Key)
	}{
		"KeyCreated": {Key{}, created, func(k *Key) {
			*k = Key{
				UID: keyUID, Name: keyName, State: KeyStateEnabled, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
				DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
				MaxUsesPerVersion: 1 << 32, CreateTime: day1, StateTime: day1,
			}
		}},
		"KeyCreated with everything": {Key{}, choosy, func(k *Key) {
			*k = Key{
				UID: keyUID, Name: keyName, State: KeyStatePendingImport, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
				DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
				ManagedBy: "disks", ImportOnly: true, AutoRotation: true, RotationPeriod: 2 * day, NextRotationTime: day3,
				MaxUsesPerVersion: 5, ExpireTime: day9, DestroyWait: 4 * day, CreateTime: day1, StateTime: day1,
			}
		}},
		"KeyVersionAdded": {keyIn(KeyStateEnabled), withDetails, func(k *Key) {
			k.Versions = k.Versions.With(KeyVersion{
				Version: 3, State: VersionStateEnabled, Algorithm: AES256GCM, Origin: Generated, MaterialID: material3,
				Fingerprint: []byte("fp"), PublicKey: []byte("pub"), ImportJob: "job", CreateTime: day1, StateTime: day1,
			})
		}},
		"PrimaryVersionSet":               {keyIn(KeyStateEnabled), primary1, func(k *Key) { k.Primary, k.RotateTime = 1, day1 }},
		"PrimaryVersionSet for the first": {given(created, added1), primary1, func(k *Key) { k.Primary = 1 }},
		"KeyEnabled":                      {keyIn(KeyStateDisabled), KeyEnabled{}, func(k *Key) { k.State, k.StateTime = KeyStateEnabled, day1 }},
		"KeyDisabled":                     {keyIn(KeyStateEnabled), KeyDisabled{}, func(k *Key) { k.State, k.StateTime = KeyStateDisabled, day1 }},
		"KeyVersionEnabled": {keyWithVersionIn(1, VersionStateDisabled), KeyVersionEnabled{Version: 1}, version(func(kv *KeyVersion) {
			kv.State, kv.StateTime = VersionStateEnabled, day1
		}, 1)},
		"KeyVersionDisabled": {keyIn(KeyStateEnabled), KeyVersionDisabled{Version: 2}, version(func(kv *KeyVersion) {
			kv.State, kv.StateTime = VersionStateDisabled, day1
		}, 2)},
		"KeyDeletionScheduled": {keyIn(KeyStateEnabled), scheduled, func(k *Key) {
			k.State, k.StateTime, k.DeleteTime = KeyStatePendingDeletion, day1, day3
		}},
		"KeyDeletionCanceled": {keyIn(KeyStatePendingDeletion), KeyDeletionCanceled{}, func(k *Key) {
			k.State, k.StateTime = KeyStateDisabled, day1
			k.DeleteTime = Key{}.DeleteTime
		}},
		"KeyDestroyed": {keyIn(KeyStatePendingDeletion), destroyed, func(k *Key) {
			k.State, k.StateTime, k.DestroyTime = KeyStateDestroyed, day1, day1
			k.DeleteTime, k.Unerased = time.Time{}, 2
			version(func(kv *KeyVersion) { kv.State, kv.StateTime, kv.DestroyTime = VersionStateDestroyed, day1, day1 }, 1, 2)(k)
		}},
		"KeyDestroyed with a schedule": {keyIn(KeyStateEnabled, rotating[0], scheduled1), destroyed, func(k *Key) {
			k.State, k.StateTime, k.DestroyTime, k.Unerased = KeyStateDestroyed, day1, day1, 2
			k.AutoRotation, k.NextRotationTime, k.NextDestroyTime = false, time.Time{}, time.Time{}
			version(func(kv *KeyVersion) {
				kv.State, kv.StateTime, kv.DestroyTime, kv.DeleteTime = VersionStateDestroyed, day1, day1, time.Time{}
			}, 1, 2)(k)
		}},
		"KeyArchived":       {keyIn(KeyStateEnabled), KeyArchived{}, func(k *Key) { k.State, k.StateTime = KeyStateArchived, day1 }},
		"KeyUnarchived":     {keyIn(KeyStateArchived), KeyUnarchived{}, func(k *Key) { k.State, k.StateTime = KeyStateDisabled, day1 }},
		"KeyExpired":        {keyIn(KeyStateEnabled), KeyExpired{}, func(k *Key) { k.State, k.StateTime = KeyStateExpired, day1 }},
		"KeyExpiryChanged":  {keyIn(KeyStateExpired), KeyExpiryChanged{ExpireTime: day9}, func(k *Key) { k.ExpireTime = day9 }},
		"KeyManagerChanged": {keyIn(KeyStateEnabled), KeyManagerChanged{ManagedBy: "disks"}, func(k *Key) { k.ManagedBy = "disks" }},
		"KeyImportAwaited":  {keyIn(KeyStateEnabled), KeyImportAwaited{}, func(k *Key) { k.State, k.StateTime = KeyStatePendingImport, day1 }},
		"AutoRotationEnabled": {keyIn(KeyStateEnabled), AutoRotationEnabled{RotationPeriod: 3 * day, NextRotationTime: day9}, func(k *Key) {
			k.AutoRotation, k.RotationPeriod, k.NextRotationTime = true, 3*day, day9
		}},
		"AutoRotationDisabled": {keyIn(KeyStateEnabled, rotating...), AutoRotationDisabled{}, func(k *Key) {
			k.AutoRotation, k.NextRotationTime = false, time.Time{}
		}},
		"RotationPeriodChanged": {keyIn(KeyStateEnabled, rotating...), RotationPeriodChanged{RotationPeriod: 3 * day, NextRotationTime: day9}, func(k *Key) {
			k.RotationPeriod, k.NextRotationTime = 3*day, day9
		}},
		"RotationScheduled": {keyIn(KeyStateEnabled, rotating...), RotationScheduled{NextRotationTime: day9}, func(k *Key) { k.NextRotationTime = day9 }},
		"MaxUsesChanged":    {keyIn(KeyStateEnabled), MaxUsesChanged{MaxUsesPerVersion: 3}, func(k *Key) { k.MaxUsesPerVersion = 3 }},
		"UsesLeased":        {keyIn(KeyStateEnabled, UsesLeased{Version: 2, Uses: 3}), UsesLeased{Version: 2, Uses: 4}, version(func(kv *KeyVersion) { kv.UsesLeased = 7 }, 2)},
		"KeyVersionDestructionScheduled": {keyIn(KeyStateEnabled), scheduled1, func(k *Key) {
			version(func(kv *KeyVersion) { kv.State, kv.StateTime, kv.DeleteTime = VersionStateDestroyScheduled, day1, day3 }, 1)(k)
			k.NextDestroyTime = day3
		}},
		"KeyVersionDestructionScheduled after another": {keyIn(KeyStateEnabled, scheduled1), scheduled2, version(func(kv *KeyVersion) {
			kv.State, kv.StateTime, kv.DeleteTime = VersionStateDestroyScheduled, day1, day9
		}, 2)},
		"KeyVersionRestored": {keyIn(KeyStateEnabled, scheduled1), KeyVersionRestored{Version: 1}, func(k *Key) {
			version(func(kv *KeyVersion) { kv.State, kv.StateTime, kv.DeleteTime = VersionStateDisabled, day1, time.Time{} }, 1)(k)
			k.NextDestroyTime = time.Time{}
		}},
		"KeyVersionRestored of the first": {keyIn(KeyStateEnabled, scheduled2, scheduled1), KeyVersionRestored{Version: 1}, func(k *Key) {
			version(func(kv *KeyVersion) { kv.State, kv.StateTime, kv.DeleteTime = VersionStateDisabled, day1, time.Time{} }, 1)(k)
			k.NextDestroyTime = day9
		}},
		"KeyVersionDestroyed": {keyIn(KeyStateEnabled, scheduled1), KeyVersionDestroyed{Version: 1}, func(k *Key) {
			destroyedVersion(k)
			k.NextDestroyTime, k.Unerased = time.Time{}, 1
		}},
		"KeyMaterialDeleted": {keyIn(KeyStateEnabled, imported(1)), KeyMaterialDeleted{Version: 1}, func(k *Key) {
			version(func(kv *KeyVersion) { kv.State, kv.StateTime = VersionStatePendingImport, day1 }, 1)(k)
			k.Unerased = 1
		}},
		"KeyVersionImported": {
			keyIn(KeyStateEnabled, erasedEarlier(1)...),
			KeyVersionImported{Version: 1, MaterialID: material3, Origin: ImportedClear, ImportJob: "job", BlobDigest: []byte("d")},
			version(func(kv *KeyVersion) {
				kv.State, kv.StateTime, kv.MaterialID, kv.Origin, kv.ImportJob, kv.Erasure = VersionStateEnabled, day1, material3, ImportedClear, "job", NotErased
			}, 1),
		},
		"UsageBound": {keyIn(KeyStateEnabled, bound...), UsageBound{Resource: "a disk", Creator: "other"}, func(k *Key) {
			k.UsageBindings = []UsageBinding{{Resource: "a disk", Creator: "other", CreateTime: day1}, {Resource: "disk-1", Creator: "admin", CreateTime: day0}}
		}},
		"UsageUnbound": {keyIn(KeyStateEnabled, bound[0], UsageBound{Resource: "z", Creator: "admin"}), UsageUnbound{Resource: "disk-1"}, func(k *Key) {
			k.UsageBindings = []UsageBinding{{Resource: "z", Creator: "admin", CreateTime: day0}}
		}},
		"KeyUpdated": {keyIn(KeyStateEnabled), KeyUpdated{DisplayName: "d", Memo: "m", Labels: map[string]string{"l": "v"}}, func(k *Key) {
			k.DisplayName, k.Memo, k.Labels = "d", "m", map[string]string{"l": "v"}
		}},
		"MaterialErased": {keyIn(KeyStateDestroyed), MaterialErased{Version: 2}, func(k *Key) {
			version(func(kv *KeyVersion) { kv.Erasure = Erased }, 2)(k)
			k.Unerased = 1
		}},
		"MaterialErasureFailed": {keyIn(KeyStateDestroyed), MaterialErasureFailed{Version: 2}, version(func(kv *KeyVersion) { kv.Erasure = ErasureFailed }, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			want := tt.given
			tt.then(&want)
			if _, lease := tt.event.(UsesLeased); !lease {
				want.UpdateTime = day1
			}
			if diff := cmp.Diff(want, Evolve(tt.given, day1, tt.event)); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
		})
		evolved = append(evolved, reflect.TypeOf(tt.event).Name())
	}
	slices.Sort(evolved)
	if got, want := slices.Compact(evolved), sealedTypes(t, "isEvent"); !slices.Equal(got, want) {
		t.Errorf("the table speaks of %v, want %v", got, want)
	}
}

// TestKeyVersionEqual: a difference in any field counts, or the comparisons of whole keys in these tests would be blind.
func TestKeyVersionEqual(t *testing.T) {
	one := KeyVersion{Version: 1}
	if !one.Equal(KeyVersion{Version: 1}) {
		t.Error("equal versions differ")
	}
	fields := reflect.TypeFor[KeyVersion]()
	for i := range fields.NumField() {
		other := one
		f := reflect.ValueOf(&other).Elem().Field(i)
		switch f.Interface().(type) {
		case Version:
			f.SetInt(2)
		case uint64:
			f.SetUint(2)
		case []byte:
			f.SetBytes([]byte("x"))
		case UID:
			f.Set(reflect.ValueOf(material1))
		default:
			if f.Kind() == reflect.String {
				f.SetString("x")
			} else {
				f.Set(reflect.ValueOf(day1))
			}
		}
		if one.Equal(other) {
			t.Errorf("versions that differ in %s are equal", fields.Field(i).Name)
		}
	}
}

// TestKeyBinding: the material is bound to what the event log says of it, and to nothing if there is no such version.
func TestKeyBinding(t *testing.T) {
	want := Binding{
		Project: "shop", KeyUID: keyUID, Version: 2, MaterialID: material2,
		Algorithm: AES256GCM, Purpose: EncryptDecrypt, Protection: HSM, Origin: Generated,
	}
	if diff := cmp.Diff(want, keyIn(KeyStateEnabled).Binding(2)); diff != "" {
		t.Errorf("binding (-want +got):\n%s", diff)
	}
	if got := keyIn(KeyStateEnabled).Binding(3); got != (Binding{}) {
		t.Errorf("a version that does not exist is bound to %v", got)
	}
}

// TestEvolveChangesNoOlderKey: bindings are shared by the keys before and after, and must not be changed in place.
func TestEvolveChangesNoOlderKey(t *testing.T) {
	k := keyIn(KeyStateEnabled, UsageBound{Resource: "b"}, UsageBound{Resource: "d"})
	want := []UsageBinding{{Resource: "b", CreateTime: day0}, {Resource: "d", CreateTime: day0}}
	for _, e := range events(UsageBound{Resource: "a"}, UsageBound{Resource: "c"}, UsageBound{Resource: "e"}, UsageUnbound{Resource: "b"}, UsageUnbound{Resource: "d"}) {
		Fold(k, day1, e, UsageBound{Resource: "f"})
		if diff := cmp.Diff(want, k.UsageBindings); diff != "" {
			t.Fatalf("%T changed the key before it:\n%s", e, diff)
		}
	}
}

func TestKeyOrigin(t *testing.T) {
	for name, tt := range map[string]struct {
		key  Key
		want Origin
	}{
		"no version":                {given(created), ""},
		"no version, import only":   {given(createdImportOnly), Imported},
		"no primary":                {given(created, added1), Generated},
		"of the primary":            {keyIn(KeyStateEnabled, imported(2)), Imported},
		"of the primary, generated": {keyIn(KeyStateEnabled, imported(1)), Generated},
	} {
		if got := tt.key.Origin(); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
