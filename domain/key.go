package domain

import "time"

// KeyState is where a key stands in its life. Versions inherit it: a version can be used only while its key can.
type KeyState string

// The states of a key. EXPIRED and ARCHIVED allow decrypt, verify and unwrap only.
const (
	KeyStateAbsent          KeyState = "" // no event recorded yet
	KeyStateEnabled         KeyState = "ENABLED"
	KeyStateDisabled        KeyState = "DISABLED"
	KeyStatePendingImport   KeyState = "PENDING_IMPORT"
	KeyStatePendingDeletion KeyState = "PENDING_DELETION"
	KeyStateExpired         KeyState = "EXPIRED"
	KeyStateArchived        KeyState = "ARCHIVED"
	KeyStateDestroyed       KeyState = "DESTROYED"
)

// VersionState is a version's own state, which returns when its key is enabled again.
type VersionState string

// The states of a version.
const (
	VersionStateEnabled          VersionState = "ENABLED"
	VersionStateDisabled         VersionState = "DISABLED"
	VersionStatePendingImport    VersionState = "PENDING_IMPORT"
	VersionStateDestroyScheduled VersionState = "DESTROY_SCHEDULED"
	VersionStateDestroyed        VersionState = "DESTROYED"
)

// The bounds of the wait between scheduling a deletion and destroying the key.
const (
	MinDeletionWait     = 24 * time.Hour
	MaxDeletionWait     = 120 * 24 * time.Hour
	DefaultDeletionWait = 72 * time.Hour
)

// Key is one key's state, folded from its events. The zero Key has none. It is a value: Evolve returns another and never
// changes one, so a Key may be read by many goroutines at once.
type Key struct {
	UID         UID
	Name        KeyName
	State       KeyState
	Purpose     Purpose
	Algorithm   Algorithm
	Protection  ProtectionLevel
	DisplayName string
	Memo        string
	Labels      map[string]string // never changed in place
	Creator     string            // principal
	// LedgerTag is random, made with the key; leaves of the ledger show it in place of the key's name.
	LedgerTag [32]byte

	Versions VersionList
	Primary  Version // zero: none yet

	CreateTime  time.Time
	UpdateTime  time.Time // of any change
	StateTime   time.Time // of the last change of State
	RotateTime  time.Time // of the last new primary; zero: never rotated
	DeleteTime  time.Time // when a pending deletion is due; zero: none pending
	DestroyTime time.Time // when the key was destroyed
}

// KeyVersion is one generation of a key's material.
type KeyVersion struct {
	Version     Version
	State       VersionState
	Algorithm   Algorithm
	Origin      Origin
	MaterialID  UID
	Fingerprint []byte
	PublicKey   []byte // DER SubjectPublicKeyInfo; nil for secret keys
	CreateTime  time.Time
	StateTime   time.Time
	DestroyTime time.Time
	Erasure     Erasure
}

// Erasure says what is known of a destroyed version's material.
type Erasure string

// The steps of erasure.
const (
	NotErased     Erasure = ""
	Erased        Erasure = "ERASED"
	ErasureFailed Erasure = "FAILED" // tried again until it succeeds
)

// Binding is what the material of version v is bound to. It is the zero Binding if there is no such version.
func (k Key) Binding(v Version) Binding {
	kv, ok := k.Versions.Get(v)
	if !ok {
		return Binding{}
	}
	return Binding{
		Project: k.Name.Project, KeyUID: k.UID, Version: v, MaterialID: kv.MaterialID,
		Algorithm: kv.Algorithm, Purpose: k.Purpose, Protection: k.Protection, Origin: kv.Origin,
	}
}
