package domain

import (
	"sort"
	"strings"
	"time"
)

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

// The bounds of the wait between scheduling a deletion and destroying the key, or one version of it.
const (
	MinDeletionWait     = 24 * time.Hour
	MaxDeletionWait     = 120 * 24 * time.Hour
	DefaultDeletionWait = 72 * time.Hour
)

// The bounds of the period of automatic rotation, which is in whole days, and how far ahead the next one may be set.
const (
	RotationUnit          = 24 * time.Hour
	MinRotationPeriod     = RotationUnit
	MaxRotationPeriod     = 730 * RotationUnit
	DefaultRotationPeriod = 90 * RotationUnit
)

// The bounds of usage bindings.
const (
	MaxUsageBindings = 100 // of one key
	MaxResourceName  = 512 // bytes
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
	ManagedBy string // what manages the key in its owner's stead, as it names itself; empty: nothing does
	// ImportOnly keys take imported material only and are never rotated by the service.
	ImportOnly bool

	Versions VersionList
	Primary  Version // zero: none yet

	// AutoRotation says whether the service rotates the key by itself; then RotationPeriod and NextRotationTime are set.
	AutoRotation     bool
	RotationPeriod   time.Duration // whole days; outlasts automatic rotation; zero: never chosen
	NextRotationTime time.Time     // zero: automatic rotation is off
	// MaxUsesPerVersion is how many encryptions each version may make; zero: any number.
	MaxUsesPerVersion uint64
	ExpireTime        time.Time     // from when on the key only decrypts; zero: never
	DestroyWait       time.Duration // of deletions for which no wait is named; zero: DefaultDeletionWait
	// UsageBindings are the resources that depend on the key, by name; never changed in place.
	UsageBindings []UsageBinding

	// Unerased is how many versions have material that shall be erased and is not known to be.
	Unerased int
	// NextDestroyTime is when the first of the scheduled destructions of versions is due; zero: none is scheduled.
	NextDestroyTime time.Time

	CreateTime  time.Time
	UpdateTime  time.Time // of any change but leases of uses
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
	ImportJob   string // through which the material came; empty if it was not imported through one
	// UsesLeased is how many encryptions nodes were allowed to make; those they did not make are lost.
	UsesLeased  uint64
	CreateTime  time.Time
	StateTime   time.Time
	DeleteTime  time.Time // when a scheduled destruction is due; zero: none is scheduled
	DestroyTime time.Time // when the version was destroyed
	Erasure     Erasure
}

// UsageBinding says that a resource depends on the key: while there is one, the key and its versions can't be taken away.
type UsageBinding struct {
	Resource   string // as its owner names it
	Creator    string // principal
	CreateTime time.Time
}

// Erasure says what is known of the material that was a destroyed version's, or that was deleted from an imported one.
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

// StateAt is the key's state at the given time: a key is EXPIRED from its expire time on, whether or not that has been
// recorded yet.
func (k Key) StateAt(at time.Time) KeyState {
	if k.State == KeyStateEnabled && k.expiredAt(at) {
		return KeyStateExpired
	}
	return k.State
}

func (k Key) expiredAt(at time.Time) bool { return !k.ExpireTime.IsZero() && !at.Before(k.ExpireTime) }

// awaitsImport reports whether the key can't be used before material is imported: it is import_only and has none yet, or
// the material of its primary version was deleted.
func (k Key) awaitsImport() bool {
	if k.Primary == 0 {
		return k.ImportOnly
	}
	kv, _ := k.Versions.Get(k.Primary)
	return kv.State == VersionStatePendingImport
}

// Origin is where the material of the primary version came from, or of the first version if none is primary. Without
// versions it is empty, but IMPORTED for a key that takes no other.
func (k Key) Origin() Origin {
	kv, ok := k.Versions.Get(max(k.Primary, 1))
	if !ok && k.ImportOnly {
		return Imported
	}
	return kv.Origin
}

// MustErase reports whether the version's material shall be erased and is not known to be: the version was destroyed, or
// its imported material was deleted.
func (kv KeyVersion) MustErase() bool {
	return (kv.State == VersionStateDestroyed || kv.State == VersionStatePendingImport) && kv.Erasure != Erased
}

// findUsageBinding returns where the binding of the resource is, or would be, and whether it is there.
func (k Key) findUsageBinding(resource string) (int, bool) {
	return sort.Find(len(k.UsageBindings), func(i int) int { return strings.Compare(resource, k.UsageBindings[i].Resource) })
}
