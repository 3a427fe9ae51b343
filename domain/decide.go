package domain

import (
	"fmt"
	"maps"
	"time"
)

// Command asks for a change to a key. Names are imperative.
//
//sumtype:decl
type Command interface{ isCommand() }

type (
	// CreateKey makes a key with its first version.
	CreateKey struct {
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
		// MaterialID is where the first version's material will be. Zero: the key starts without a version.
		MaterialID UID
	}
	// RotateKey adds a version and makes it primary.
	RotateKey struct{ MaterialID UID }
	// EnableKey lets a disabled key be used again.
	EnableKey struct{}
	// DisableKey stops every use of the key until it is enabled.
	DisableKey struct{}
	// EnableKeyVersion lets a disabled version be used again.
	EnableKeyVersion struct{ Version Version }
	// DisableKeyVersion stops every use of one version, the primary only with AllowPrimary.
	DisableKeyVersion struct {
		Version      Version
		AllowPrimary bool
	}
	// ScheduleKeyDeletion stops every use of the key and destroys it after Wait; zero means DefaultDeletionWait.
	ScheduleKeyDeletion struct{ Wait time.Duration }
	// CancelKeyDeletion keeps the key: disabled, or enabled if Enable is set.
	CancelKeyDeletion struct{ Enable bool }
	// DeleteKey destroys the key for ever: while its deletion is pending, or at once with SkipWait.
	DeleteKey struct{ SkipWait bool }
	// UpdateKey changes what describes the key; nil leaves a field as it is.
	UpdateKey struct {
		DisplayName *string
		Memo        *string
		Labels      *map[string]string
	}
	// RecordErasure notes what came of erasing the material of destroyed versions.
	RecordErasure struct {
		Erased []Version
		Failed []Version
		Cause  string // of the failures
	}
)

func (CreateKey) isCommand()           {}
func (RotateKey) isCommand()           {}
func (EnableKey) isCommand()           {}
func (DisableKey) isCommand()          {}
func (EnableKeyVersion) isCommand()    {}
func (DisableKeyVersion) isCommand()   {}
func (ScheduleKeyDeletion) isCommand() {}
func (CancelKeyDeletion) isCommand()   {}
func (DeleteKey) isCommand()           {}
func (UpdateKey) isCommand()           {}
func (RecordErasure) isCommand()       {}

// Decide returns the events that cmd causes in state k at the given time, or an *Error that says why it is refused. No
// events and no error means that what cmd asks for already holds.
func Decide(k Key, at time.Time, cmd Command) ([]Event, error) {
	if c, ok := cmd.(CreateKey); ok {
		return decideCreate(k, c)
	}
	if k.State == KeyStateAbsent {
		return nil, refuse(ReasonKeyNotFound, "there is no such key; create it, or look at the name for a mistake")
	}
	if c, ok := cmd.(RecordErasure); ok {
		return decideErasure(k, c)
	}
	if k.State == KeyStateDestroyed {
		return nil, refuse(ReasonKeyDestroyed, "key %s is DESTROYED: its material is gone for ever; create a key with another id", k.Name)
	}
	switch c := cmd.(type) {
	case RotateKey:
		if err := k.mustBeEnabled("rotated"); err != nil {
			return nil, err
		}
		v := Version(k.Versions.Len() + 1) //nolint:gosec // memory ends long before 2³¹ versions
		return []Event{k.newVersion(v, c.MaterialID), PrimaryVersionSet{Version: v}}, nil
	case EnableKey:
		switch k.State { //nolint:exhaustive // the other states are refused together
		case KeyStateEnabled:
			return nil, nil
		case KeyStateDisabled:
			return []Event{KeyEnabled{}}, nil
		}
		return nil, k.refuseState("enabled")
	case DisableKey:
		switch k.State { //nolint:exhaustive // the other states are refused together
		case KeyStateDisabled:
			return nil, nil
		case KeyStateEnabled:
			return []Event{KeyDisabled{}}, nil
		}
		return nil, k.refuseState("disabled")
	case EnableKeyVersion:
		return decideEnableVersion(k, c)
	case DisableKeyVersion:
		return decideDisableVersion(k, c)
	case ScheduleKeyDeletion:
		if k.State == KeyStatePendingDeletion {
			return nil, refuse(ReasonKeyPendingDeletion, "the deletion of key %s is already scheduled for %s; cancel it first to choose another time",
				k.Name, k.DeleteTime.UTC().Format(time.RFC3339))
		}
		wait := c.Wait
		if wait == 0 {
			wait = DefaultDeletionWait
		}
		if wait < MinDeletionWait || wait > MaxDeletionWait {
			return nil, refuse(ReasonBadField, "wait must be 24 hours to 120 days, not %s", wait)
		}
		return []Event{KeyDeletionScheduled{DeleteTime: at.Add(wait)}}, nil
	case CancelKeyDeletion:
		if k.State != KeyStatePendingDeletion {
			return nil, refuse(ReasonNotPendingDeletion, "key %s is %s: no deletion is scheduled that could be canceled", k.Name, k.State)
		}
		if c.Enable {
			return []Event{KeyDeletionCanceled{}, KeyEnabled{}}, nil
		}
		return []Event{KeyDeletionCanceled{}}, nil
	case DeleteKey:
		if k.State != KeyStatePendingDeletion && !c.SkipWait {
			return nil, refuse(ReasonNotPendingDeletion, "key %s is %s: schedule its deletion first, or delete it at once with skip_wait", k.Name, k.State)
		}
		return []Event{KeyDestroyed{}}, nil
	case UpdateKey:
		return decideUpdate(k, c)
	case CreateKey, RecordErasure: // decided above
	}
	panic(fmt.Sprintf("domain: undecided command %T", cmd))
}

func decideCreate(k Key, c CreateKey) ([]Event, error) {
	if k.State != KeyStateAbsent { // also when destroyed: an id is never used again
		return nil, refuse(ReasonKeyExists, "key %s exists or existed before; an id is never used again, so choose another", c.Name)
	}
	if err := CheckAlgorithm(c.Purpose, c.Algorithm); err != nil {
		return nil, err
	}
	created := KeyCreated{
		UID: c.UID, Name: c.Name, Purpose: c.Purpose, Algorithm: c.Algorithm, Protection: c.Protection,
		DisplayName: c.DisplayName, Memo: c.Memo, Labels: maps.Clone(c.Labels), Creator: c.Creator, LedgerTag: c.LedgerTag,
	}
	if c.MaterialID.IsZero() {
		return []Event{created}, nil
	}
	version := Evolve(Key{}, time.Time{}, created).newVersion(1, c.MaterialID)
	return []Event{created, version, PrimaryVersionSet{Version: 1}}, nil
}

func (k Key) newVersion(v Version, material UID) KeyVersionAdded {
	return KeyVersionAdded{Version: v, MaterialID: material, Algorithm: k.Algorithm, Origin: Generated}
}

func decideEnableVersion(k Key, c EnableKeyVersion) ([]Event, error) {
	kv, err := k.changeableVersion(c.Version)
	if err != nil {
		return nil, err
	}
	switch kv.State {
	case VersionStateEnabled:
		return nil, nil
	case VersionStateDisabled:
		return []Event{KeyVersionEnabled{Version: c.Version}}, nil
	case VersionStatePendingImport, VersionStateDestroyScheduled, VersionStateDestroyed:
	}
	return nil, versionStateError(k, kv)
}

func decideDisableVersion(k Key, c DisableKeyVersion) ([]Event, error) {
	kv, err := k.changeableVersion(c.Version)
	if err != nil {
		return nil, err
	}
	switch kv.State {
	case VersionStateDisabled:
		return nil, nil
	case VersionStateEnabled:
		if c.Version == k.Primary && !c.AllowPrimary {
			return nil, refuse(ReasonVersionIsPrimary, "version %d is the primary version of key %s: rotate the key first, or set allow_primary if nothing shall be encrypted with it",
				c.Version, k.Name)
		}
		return []Event{KeyVersionDisabled{Version: c.Version}}, nil
	case VersionStatePendingImport, VersionStateDestroyScheduled, VersionStateDestroyed:
	}
	return nil, versionStateError(k, kv)
}

func decideUpdate(k Key, c UpdateKey) ([]Event, error) {
	updated := KeyUpdated{DisplayName: k.DisplayName, Memo: k.Memo, Labels: k.Labels}
	if c.DisplayName != nil {
		updated.DisplayName = *c.DisplayName
	}
	if c.Memo != nil {
		updated.Memo = *c.Memo
	}
	if c.Labels != nil {
		updated.Labels = maps.Clone(*c.Labels)
	}
	if k.describedAs(updated.DisplayName, updated.Memo, updated.Labels) {
		return nil, nil
	}
	return []Event{updated}, nil
}

func decideErasure(k Key, c RecordErasure) ([]Event, error) {
	var events []Event
	told := map[Version]bool{} // in this command
	for _, v := range c.Erased {
		kv, err := k.destroyedVersion(v)
		if err != nil {
			return nil, err
		}
		if kv.Erasure != Erased && !told[v] {
			events = append(events, MaterialErased{Version: v, MaterialID: kv.MaterialID})
		}
		told[v] = true
	}
	for _, v := range c.Failed {
		kv, err := k.destroyedVersion(v)
		if err != nil {
			return nil, err
		}
		if kv.Erasure == NotErased && !told[v] { // one event for all attempts, not one for each
			events = append(events, MaterialErasureFailed{Version: v, MaterialID: kv.MaterialID, Cause: c.Cause})
		}
		told[v] = true
	}
	return events, nil
}

// destroyedVersion returns version v if its material may be erased: erasing what may still be used would lose a key.
func (k Key) destroyedVersion(v Version) (KeyVersion, error) {
	kv, ok := k.Versions.Get(v)
	if !ok {
		return kv, versionNotFound(k, v)
	}
	if kv.State != VersionStateDestroyed {
		return kv, refuse(ReasonBadField, "version %d of key %s is %s: only the material of a DESTROYED version is erased", v, k.Name, kv.State)
	}
	return kv, nil
}

// changeableVersion returns version v if the key's state lets its versions change.
func (k Key) changeableVersion(v Version) (KeyVersion, error) {
	kv, ok := k.Versions.Get(v)
	if !ok {
		return kv, versionNotFound(k, v)
	}
	return kv, k.mustBeEnabled("changed in its versions")
}

func (k Key) mustBeEnabled(toBe string) error {
	if k.State == KeyStateEnabled {
		return nil
	}
	return k.refuseState(toBe)
}
