package domain_test

import (
	"reflect"
	"slices"
	"testing"

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
	withDetails.Fingerprint, withDetails.PublicKey, withDetails.BlobDigest = []byte("fp"), []byte("pub"), []byte("digest")

	for name, tt := range map[string]struct {
		given Key
		event Event
		then  func(*Key)
	}{
		"KeyCreated": {Key{}, created, func(k *Key) {
			*k = Key{
				UID: keyUID, Name: keyName, State: KeyStateEnabled, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
				DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
				CreateTime: day1, StateTime: day1,
			}
		}},
		"KeyVersionAdded": {keyIn(KeyStateEnabled), withDetails, func(k *Key) {
			k.Versions = k.Versions.With(KeyVersion{
				Version: 3, State: VersionStateEnabled, Algorithm: AES256GCM, Origin: Generated, MaterialID: material3,
				Fingerprint: []byte("fp"), PublicKey: []byte("pub"), CreateTime: day1, StateTime: day1,
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
			k.DeleteTime = Key{}.DeleteTime
			version(func(kv *KeyVersion) { kv.State, kv.StateTime, kv.DestroyTime = VersionStateDestroyed, day1, day1 }, 1, 2)(k)
		}},
		"KeyUpdated": {keyIn(KeyStateEnabled), KeyUpdated{DisplayName: "d", Memo: "m", Labels: map[string]string{"l": "v"}}, func(k *Key) {
			k.DisplayName, k.Memo, k.Labels = "d", "m", map[string]string{"l": "v"}
		}},
		"MaterialErased":        {keyIn(KeyStateDestroyed), MaterialErased{Version: 2}, version(func(kv *KeyVersion) { kv.Erasure = Erased }, 2)},
		"MaterialErasureFailed": {keyIn(KeyStateDestroyed), MaterialErasureFailed{Version: 2}, version(func(kv *KeyVersion) { kv.Erasure = ErasureFailed }, 2)},
	} {
		t.Run(name, func(t *testing.T) {
			want := tt.given
			tt.then(&want)
			want.UpdateTime = day1
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
