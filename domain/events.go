package domain

import (
	"bytes"
	"maps"
	"slices"
	"time"
)

// Event is something that happened to a key. Names are past tense; what they mean never changes: a new meaning is a new
// event. The time and the caller of an event are those of the commit it is in.
//
//sumtype:decl
type Event interface{ isEvent() }

type (
	// KeyCreated is the first event of every key.
	KeyCreated struct {
		UID         UID
		Name        KeyName
		Purpose     Purpose
		Algorithm   Algorithm
		Protection  ProtectionLevel
		DisplayName string
		Memo        string
		Labels      map[string]string
		Creator     string
		LedgerTag   [32]byte
		ManagedBy   string
		// ImportOnly: the key waits for its first material to be imported.
		ImportOnly     bool
		RotationPeriod time.Duration
		// NextRotationTime is set if automatic rotation is on.
		NextRotationTime  time.Time
		MaxUsesPerVersion uint64
		ExpireTime        time.Time
		DestroyWait       time.Duration
	}
	// KeyVersionAdded names material that is already stored under MaterialID.
	KeyVersionAdded struct {
		Version     Version
		MaterialID  UID
		Algorithm   Algorithm
		Origin      Origin
		Fingerprint []byte
		PublicKey   []byte
		// BlobDigest is the SHA-256 of the wrapped key as it was first stored.
		BlobDigest []byte
		// ImportJob names the job through which imported material came.
		ImportJob string
	}
	// PrimaryVersionSet says which version new ciphertexts are made with from here on.
	PrimaryVersionSet struct{ Version Version }
	// KeyEnabled lets the key be used, whatever kept it from that before.
	KeyEnabled struct{}
	// KeyDisabled stops every use of the key.
	KeyDisabled struct{}
	// KeyVersionEnabled ends KeyVersionDisabled.
	KeyVersionEnabled struct{ Version Version }
	// KeyVersionDisabled stops every use of one version.
	KeyVersionDisabled struct{ Version Version }
	// KeyDeletionScheduled stops every use of the key, which is destroyed at DeleteTime unless that is canceled.
	KeyDeletionScheduled struct{ DeleteTime time.Time }
	// KeyDeletionCanceled leaves the key disabled.
	KeyDeletionCanceled struct{}
	// KeyDestroyed ends the key: its material is erased after this event, never before.
	KeyDestroyed struct{}
	// KeyUpdated replaces what describes the key.
	KeyUpdated struct {
		DisplayName string
		Memo        string
		Labels      map[string]string
	}
	// KeyArchived lets the key only decrypt from here on.
	KeyArchived struct{}
	// KeyUnarchived ends KeyArchived and leaves the key disabled.
	KeyUnarchived struct{}
	// KeyExpired says that the key's expire time has come.
	KeyExpired struct{}
	// KeyExpiryChanged moves the expire time; zero: the key does not expire.
	KeyExpiryChanged struct{ ExpireTime time.Time }
	// KeyManagerChanged says what manages the key from here on.
	KeyManagerChanged struct{ ManagedBy string }
	// KeyImportAwaited stops every use of the key until material is imported.
	KeyImportAwaited struct{}
	// AutoRotationEnabled starts automatic rotation.
	AutoRotationEnabled struct {
		RotationPeriod   time.Duration
		NextRotationTime time.Time
	}
	// AutoRotationDisabled ends automatic rotation. The period is kept.
	AutoRotationDisabled struct{}
	// RotationPeriodChanged gives automatic rotation another period, and with it another next time.
	RotationPeriodChanged struct {
		RotationPeriod   time.Duration
		NextRotationTime time.Time
	}
	// RotationScheduled moves the next automatic rotation.
	RotationScheduled struct{ NextRotationTime time.Time }
	// MaxUsesChanged says how many encryptions each version may make, those made already included; zero: any number.
	MaxUsesChanged struct{ MaxUsesPerVersion uint64 }
	// UsesLeased lets a node make that many encryptions with the version.
	UsesLeased struct {
		Version Version
		Uses    uint64
	}
	// KeyVersionDestructionScheduled stops every use of the version, which is destroyed at DeleteTime unless it is restored.
	KeyVersionDestructionScheduled struct {
		Version    Version
		DeleteTime time.Time
	}
	// KeyVersionRestored ends KeyVersionDestructionScheduled and leaves the version disabled.
	KeyVersionRestored struct{ Version Version }
	// KeyVersionDestroyed ends the version: its material is erased after this event, never before.
	KeyVersionDestroyed struct{ Version Version }
	// KeyVersionImported gives a version whose material was deleted the same material again, stored under another id.
	KeyVersionImported struct {
		Version    Version
		MaterialID UID
		Origin     Origin
		ImportJob  string
		// BlobDigest is the SHA-256 of the wrapped key as it was stored this time.
		BlobDigest []byte
	}
	// KeyMaterialDeleted takes an imported version its material, which is erased after this event, until it is imported again.
	KeyMaterialDeleted struct{ Version Version }
	// UsageBound says that a resource depends on the key from here on.
	UsageBound struct {
		Resource string
		Creator  string
	}
	// UsageUnbound says that the resource no longer depends on the key.
	UsageUnbound struct{ Resource string }
	// MaterialErased says that a wrapped key that is no longer to be used was removed from the material store: a destroyed
	// version's, or one deleted from an imported version.
	MaterialErased struct {
		Version    Version
		MaterialID UID
	}
	// MaterialErasureFailed says that an attempt to remove it did not succeed; it will be tried again.
	MaterialErasureFailed struct {
		Version    Version
		MaterialID UID
		Cause      string
	}
)

func (KeyCreated) isEvent()                     {}
func (KeyVersionAdded) isEvent()                {}
func (PrimaryVersionSet) isEvent()              {}
func (KeyEnabled) isEvent()                     {}
func (KeyDisabled) isEvent()                    {}
func (KeyVersionEnabled) isEvent()              {}
func (KeyVersionDisabled) isEvent()             {}
func (KeyDeletionScheduled) isEvent()           {}
func (KeyDeletionCanceled) isEvent()            {}
func (KeyDestroyed) isEvent()                   {}
func (KeyUpdated) isEvent()                     {}
func (KeyArchived) isEvent()                    {}
func (KeyUnarchived) isEvent()                  {}
func (KeyExpired) isEvent()                     {}
func (KeyExpiryChanged) isEvent()               {}
func (KeyManagerChanged) isEvent()              {}
func (KeyImportAwaited) isEvent()               {}
func (AutoRotationEnabled) isEvent()            {}
func (AutoRotationDisabled) isEvent()           {}
func (RotationPeriodChanged) isEvent()          {}
func (RotationScheduled) isEvent()              {}
func (MaxUsesChanged) isEvent()                 {}
func (UsesLeased) isEvent()                     {}
func (KeyVersionDestructionScheduled) isEvent() {}
func (KeyVersionRestored) isEvent()             {}
func (KeyVersionDestroyed) isEvent()            {}
func (KeyVersionImported) isEvent()             {}
func (KeyMaterialDeleted) isEvent()             {}
func (UsageBound) isEvent()                     {}
func (UsageUnbound) isEvent()                   {}
func (MaterialErased) isEvent()                 {}
func (MaterialErasureFailed) isEvent()          {}

// Evolve returns k after e, which happened at. It never refuses: e already happened.
func Evolve(k Key, at time.Time, e Event) Key {
	if _, lease := e.(UsesLeased); !lease { // a key that is used does not change for the people who change it
		k.UpdateTime = at
	}
	switch e := e.(type) {
	case KeyCreated:
		state := KeyStateEnabled
		if e.ImportOnly {
			state = KeyStatePendingImport
		}
		return Key{
			UID: e.UID, Name: e.Name, State: state, Purpose: e.Purpose, Algorithm: e.Algorithm, Protection: e.Protection,
			DisplayName: e.DisplayName, Memo: e.Memo, Labels: e.Labels, Creator: e.Creator, LedgerTag: e.LedgerTag,
			ManagedBy: e.ManagedBy, ImportOnly: e.ImportOnly,
			AutoRotation: !e.NextRotationTime.IsZero(), RotationPeriod: e.RotationPeriod, NextRotationTime: e.NextRotationTime,
			MaxUsesPerVersion: e.MaxUsesPerVersion, ExpireTime: e.ExpireTime, DestroyWait: e.DestroyWait,
			CreateTime: at, UpdateTime: at, StateTime: at,
		}
	case KeyVersionAdded:
		k.Versions = k.Versions.With(KeyVersion{
			Version: e.Version, State: VersionStateEnabled, Algorithm: e.Algorithm, Origin: e.Origin, MaterialID: e.MaterialID,
			Fingerprint: e.Fingerprint, PublicKey: e.PublicKey, ImportJob: e.ImportJob, CreateTime: at, StateTime: at,
		})
	case PrimaryVersionSet:
		if k.Primary != 0 {
			k.RotateTime = at
		}
		k.Primary = e.Version
	case KeyEnabled:
		k.State, k.StateTime = KeyStateEnabled, at
	case KeyDisabled:
		k.State, k.StateTime = KeyStateDisabled, at
	case KeyVersionEnabled:
		k = k.withVersionState(e.Version, VersionStateEnabled, at)
	case KeyVersionDisabled:
		k = k.withVersionState(e.Version, VersionStateDisabled, at)
	case KeyDeletionScheduled:
		k.State, k.StateTime, k.DeleteTime = KeyStatePendingDeletion, at, e.DeleteTime
	case KeyDeletionCanceled:
		k.State, k.StateTime, k.DeleteTime = KeyStateDisabled, at, time.Time{}
	case KeyDestroyed:
		k.State, k.StateTime, k.DeleteTime, k.DestroyTime = KeyStateDestroyed, at, time.Time{}, at
		k.AutoRotation, k.NextRotationTime, k.NextDestroyTime = false, time.Time{}, time.Time{}
		for v := Version(1); int(v) <= k.Versions.Len(); v++ {
			k = k.withVersionState(v, VersionStateDestroyed, at)
		}
	case KeyUpdated:
		k.DisplayName, k.Memo, k.Labels = e.DisplayName, e.Memo, e.Labels
	case KeyArchived:
		k.State, k.StateTime = KeyStateArchived, at
	case KeyUnarchived:
		k.State, k.StateTime = KeyStateDisabled, at
	case KeyExpired:
		k.State, k.StateTime = KeyStateExpired, at
	case KeyExpiryChanged:
		k.ExpireTime = e.ExpireTime
	case KeyManagerChanged:
		k.ManagedBy = e.ManagedBy
	case KeyImportAwaited:
		k.State, k.StateTime = KeyStatePendingImport, at
	case AutoRotationEnabled:
		k.AutoRotation, k.RotationPeriod, k.NextRotationTime = true, e.RotationPeriod, e.NextRotationTime
	case AutoRotationDisabled:
		k.AutoRotation, k.NextRotationTime = false, time.Time{}
	case RotationPeriodChanged:
		k.RotationPeriod, k.NextRotationTime = e.RotationPeriod, e.NextRotationTime
	case RotationScheduled:
		k.NextRotationTime = e.NextRotationTime
	case MaxUsesChanged:
		k.MaxUsesPerVersion = e.MaxUsesPerVersion
	case UsesLeased:
		k = k.withVersion(e.Version, func(kv *KeyVersion) { kv.UsesLeased += e.Uses })
	case KeyVersionDestructionScheduled:
		k = k.withVersion(e.Version, func(kv *KeyVersion) {
			kv.State, kv.StateTime, kv.DeleteTime = VersionStateDestroyScheduled, at, e.DeleteTime
		})
	case KeyVersionRestored:
		k = k.withVersionState(e.Version, VersionStateDisabled, at)
	case KeyVersionDestroyed:
		k = k.withVersionState(e.Version, VersionStateDestroyed, at)
	case KeyVersionImported:
		k = k.withVersion(e.Version, func(kv *KeyVersion) {
			kv.State, kv.StateTime, kv.Erasure = VersionStateEnabled, at, NotErased
			kv.MaterialID, kv.Origin, kv.ImportJob = e.MaterialID, e.Origin, e.ImportJob
		})
	case KeyMaterialDeleted:
		k = k.withVersionState(e.Version, VersionStatePendingImport, at)
	case UsageBound:
		if i, there := k.findUsageBinding(e.Resource); !there {
			k.UsageBindings = slices.Insert(slices.Clone(k.UsageBindings), i, UsageBinding{Resource: e.Resource, Creator: e.Creator, CreateTime: at})
		}
	case UsageUnbound:
		if i, there := k.findUsageBinding(e.Resource); there {
			k.UsageBindings = slices.Delete(slices.Clone(k.UsageBindings), i, i+1)
		}
	case MaterialErased:
		k = k.withErasure(e.Version, Erased)
	case MaterialErasureFailed:
		k = k.withErasure(e.Version, ErasureFailed)
	}
	return k
}

// Fold replays events that happened at onto k.
func Fold(k Key, at time.Time, events ...Event) Key {
	for _, e := range events {
		k = Evolve(k, at, e)
	}
	return k
}

// withVersion returns k with version v changed, and with what k sums up of its versions. There is no such version only if
// the log is damaged, which others notice.
func (k Key) withVersion(v Version, change func(*KeyVersion)) Key {
	before, ok := k.Versions.Get(v)
	if !ok {
		return k
	}
	after := before
	change(&after)
	k.Versions = k.Versions.With(after)
	if before.MustErase() {
		k.Unerased--
	}
	if after.MustErase() {
		k.Unerased++
	}
	switch due := after.DeleteTime; {
	case !due.IsZero() && (k.NextDestroyTime.IsZero() || due.Before(k.NextDestroyTime)):
		k.NextDestroyTime = due
	case !before.DeleteTime.IsZero() && before.DeleteTime.Equal(k.NextDestroyTime): // it was the first to be due, or one of several
		k.NextDestroyTime = k.firstDeleteTime()
	}
	return k
}

func (k Key) firstDeleteTime() (first time.Time) {
	for kv := range k.Versions.All() {
		if due := kv.DeleteTime; !due.IsZero() && (first.IsZero() || due.Before(first)) {
			first = due
		}
	}
	return first
}

func (k Key) withVersionState(v Version, s VersionState, at time.Time) Key {
	if kv, _ := k.Versions.Get(v); kv.State == s {
		return k
	}
	return k.withVersion(v, func(kv *KeyVersion) {
		kv.State, kv.StateTime, kv.DeleteTime = s, at, time.Time{}
		if s == VersionStateDestroyed {
			kv.DestroyTime = at
		}
	})
}

func (k Key) withErasure(v Version, e Erasure) Key {
	return k.withVersion(v, func(kv *KeyVersion) { kv.Erasure = e })
}

// Equal reports whether both versions are the same in every field.
func (kv KeyVersion) Equal(o KeyVersion) bool {
	return kv.Version == o.Version && kv.State == o.State && kv.Algorithm == o.Algorithm && kv.Origin == o.Origin &&
		kv.MaterialID == o.MaterialID && bytes.Equal(kv.Fingerprint, o.Fingerprint) && bytes.Equal(kv.PublicKey, o.PublicKey) &&
		kv.ImportJob == o.ImportJob && kv.UsesLeased == o.UsesLeased && kv.CreateTime.Equal(o.CreateTime) && kv.StateTime.Equal(o.StateTime) &&
		kv.DeleteTime.Equal(o.DeleteTime) && kv.DestroyTime.Equal(o.DestroyTime) && kv.Erasure == o.Erasure
}

func (k Key) describedAs(displayName, memo string, labels map[string]string) bool {
	return k.DisplayName == displayName && k.Memo == memo && maps.Equal(k.Labels, labels)
}
