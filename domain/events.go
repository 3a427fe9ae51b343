package domain

import (
	"bytes"
	"maps"
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
	}
	// PrimaryVersionSet says which version new ciphertexts are made with from here on.
	PrimaryVersionSet struct{ Version Version }
	// KeyEnabled ends KeyDisabled.
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
	// MaterialErased says that a destroyed version's wrapped key was removed from the material store.
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

func (KeyCreated) isEvent()            {}
func (KeyVersionAdded) isEvent()       {}
func (PrimaryVersionSet) isEvent()     {}
func (KeyEnabled) isEvent()            {}
func (KeyDisabled) isEvent()           {}
func (KeyVersionEnabled) isEvent()     {}
func (KeyVersionDisabled) isEvent()    {}
func (KeyDeletionScheduled) isEvent()  {}
func (KeyDeletionCanceled) isEvent()   {}
func (KeyDestroyed) isEvent()          {}
func (KeyUpdated) isEvent()            {}
func (MaterialErased) isEvent()        {}
func (MaterialErasureFailed) isEvent() {}

// Evolve returns k after e, which happened at. It never refuses: e already happened.
func Evolve(k Key, at time.Time, e Event) Key {
	k.UpdateTime = at
	switch e := e.(type) {
	case KeyCreated:
		return Key{
			UID: e.UID, Name: e.Name, State: KeyStateEnabled, Purpose: e.Purpose, Algorithm: e.Algorithm, Protection: e.Protection,
			DisplayName: e.DisplayName, Memo: e.Memo, Labels: e.Labels, Creator: e.Creator, LedgerTag: e.LedgerTag,
			CreateTime: at, UpdateTime: at, StateTime: at,
		}
	case KeyVersionAdded:
		k.Versions = k.Versions.With(KeyVersion{
			Version: e.Version, State: VersionStateEnabled, Algorithm: e.Algorithm, Origin: e.Origin, MaterialID: e.MaterialID,
			Fingerprint: e.Fingerprint, PublicKey: e.PublicKey, CreateTime: at, StateTime: at,
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
		for v := Version(1); int(v) <= k.Versions.Len(); v++ {
			k = k.withVersionState(v, VersionStateDestroyed, at)
		}
	case KeyUpdated:
		k.DisplayName, k.Memo, k.Labels = e.DisplayName, e.Memo, e.Labels
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

func (k Key) withVersionState(v Version, s VersionState, at time.Time) Key {
	kv, ok := k.Versions.Get(v)
	if !ok || kv.State == s {
		return k
	}
	kv.State, kv.StateTime = s, at
	if s == VersionStateDestroyed {
		kv.DestroyTime = at
	}
	k.Versions = k.Versions.With(kv)
	return k
}

func (k Key) withErasure(v Version, e Erasure) Key {
	kv, ok := k.Versions.Get(v)
	if !ok {
		return k
	}
	kv.Erasure = e
	k.Versions = k.Versions.With(kv)
	return k
}

// Equal reports whether both versions are the same in every field.
func (kv KeyVersion) Equal(o KeyVersion) bool {
	return kv.Version == o.Version && kv.State == o.State && kv.Algorithm == o.Algorithm && kv.Origin == o.Origin &&
		kv.MaterialID == o.MaterialID && bytes.Equal(kv.Fingerprint, o.Fingerprint) && bytes.Equal(kv.PublicKey, o.PublicKey) &&
		kv.CreateTime.Equal(o.CreateTime) && kv.StateTime.Equal(o.StateTime) && kv.DestroyTime.Equal(o.DestroyTime) && kv.Erasure == o.Erasure
}

func (k Key) describedAs(displayName, memo string, labels map[string]string) bool {
	return k.DisplayName == displayName && k.Memo == memo && maps.Equal(k.Labels, labels)
}
