package domain

import (
	"time"
)

// Use is what a key is to be used for.
type Use int

// The uses so far. Protecting makes new ciphertexts; Opening reads existing ones, which EXPIRED and ARCHIVED keys still may.
const (
	Protecting Use = iota
	Opening
)

// VersionFor returns the version that a use of the key takes: v, or the primary one when v is zero. It refuses with an
// *Error what the purpose, the key's state or the version's own state forbids. A key whose deletion is pending is refused
// from the moment it was scheduled, and one that expires from its expire time on, so due work that comes late lets nothing
// through.
func (k Key) VersionFor(use Use, purpose Purpose, v Version, at time.Time) (KeyVersion, error) {
	k.State = k.StateAt(at)
	switch {
	case k.State == KeyStateAbsent:
		return KeyVersion{}, refuse(ReasonKeyNotFound, "there is no such key; create it, or look at the name for a mistake")
	case k.State == KeyStateEnabled:
	case use == Opening && (k.State == KeyStateExpired || k.State == KeyStateArchived):
	default:
		return KeyVersion{}, k.refuseState("used")
	}
	if k.Purpose != purpose {
		return KeyVersion{}, refuse(ReasonWrongPurpose, "key %s has purpose %s, which does not allow this; use a key with purpose %s", k.Name, k.Purpose, purpose)
	}
	if v == 0 {
		if v = k.Primary; v == 0 {
			return KeyVersion{}, refuse(ReasonNoPrimaryVersion, "key %s has no primary version yet; rotate it to make one, or set one of its versions primary", k.Name)
		}
	}
	kv, ok := k.Versions.Get(v)
	if !ok {
		return KeyVersion{}, versionNotFound(k, v)
	}
	if kv.State != VersionStateEnabled {
		return KeyVersion{}, versionStateError(k, kv)
	}
	return kv, nil
}

// refuseState is the refusal of what the key's state forbids: it names the state and the way out.
func (k Key) refuseState(toBe string) error {
	switch k.State {
	case KeyStateDisabled:
		return refuse(ReasonKeyDisabled, "key %s is DISABLED and can't be %s; enable it first", k.Name, toBe)
	case KeyStatePendingImport:
		return refuse(ReasonKeyPendingImport, "key %s is PENDING_IMPORT and can't be %s; import its material first", k.Name, toBe)
	case KeyStatePendingDeletion:
		return refuse(ReasonKeyPendingDeletion, "key %s is PENDING_DELETION until %s and can't be %s; cancel its deletion first",
			k.Name, clock(k.DeleteTime), toBe)
	case KeyStateExpired:
		return refuse(ReasonKeyExpired, "key %s is EXPIRED and can't be %s: it can only decrypt, verify and unwrap; move its expiry or use another key", k.Name, toBe)
	case KeyStateArchived:
		return refuse(ReasonKeyArchived, "key %s is ARCHIVED and can't be %s: it can only decrypt, verify and unwrap; unarchive it or use another key", k.Name, toBe)
	case KeyStateDestroyed:
		return refuse(ReasonKeyDestroyed, "key %s is DESTROYED: its material is gone for ever; use another key", k.Name)
	case KeyStateAbsent, KeyStateEnabled:
	}
	panic("domain: no refusal for a key in state " + string(k.State))
}

func versionStateError(k Key, kv KeyVersion) error {
	switch kv.State {
	case VersionStateDisabled:
		return refuse(ReasonVersionDisabled, "version %d of key %s is DISABLED; enable that version first", kv.Version, k.Name)
	case VersionStatePendingImport:
		return refuse(ReasonVersionPending, "version %d of key %s is PENDING_IMPORT; import its material first", kv.Version, k.Name)
	case VersionStateDestroyScheduled:
		return refuse(ReasonVersionScheduled, "version %d of key %s is DESTROY_SCHEDULED; restore it first", kv.Version, k.Name)
	case VersionStateDestroyed:
		return refuse(ReasonVersionDestroyed, "version %d of key %s is DESTROYED: its material is gone for ever", kv.Version, k.Name)
	case VersionStateEnabled:
	}
	panic("domain: no refusal for a version in state " + string(kv.State))
}

func versionNotFound(k Key, v Version) error {
	return refuse(ReasonVersionNotFound, "key %s has no version %d; its versions are 1 to %d", k.Name, v, k.Versions.Len())
}
