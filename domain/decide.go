package domain

import (
	"fmt"
	"maps"
	"time"
)

// Decide returns the events that cmd causes in state k at the given time, or an *Error that says why it is refused. No
// events and no error means that what cmd asks for already holds. What is due by the clock counts whether or not it has been
// recorded: an enabled key is expired from its expire time on, and a deletion that is due can't be canceled.
func Decide(k Key, at time.Time, cmd Command) ([]Event, error) {
	if c, ok := cmd.(CreateKey); ok {
		return decideCreate(k, at, c)
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
	recorded := k.State
	k.State = k.StateAt(at)
	switch c := cmd.(type) {
	case RotateKey:
		return decideNewVersion(k, "rotated", c.MaterialID, true)
	case CreateKeyVersion:
		return decideNewVersion(k, "given a version", c.MaterialID, c.MakePrimary)
	case RotateDueKey:
		return decideDueRotation(k, at, c)
	case SetPrimaryVersion:
		return decideSetPrimary(k, c)
	case UpdateRotationPeriod:
		return decideRotationPeriod(k, at, c)
	case EnableAutoRotation:
		return decideEnableAutoRotation(k, at, c)
	case DisableAutoRotation:
		return decideDisableAutoRotation(k)
	case EnableKey:
		switch k.State { //nolint:exhaustive // the other states are refused together
		case KeyStateEnabled:
			return nil, nil
		case KeyStateDisabled:
			return k.enabling(at), nil
		}
		return nil, k.refuseState("enabled")
	case DisableKey:
		switch k.State { //nolint:exhaustive // the other states are refused together
		case KeyStateDisabled:
			return nil, nil
		case KeyStateEnabled, KeyStateExpired:
			return k.unlessInUse("disabled", KeyDisabled{})
		}
		return nil, k.refuseState("disabled")
	case EnableKeyVersion:
		return decideEnableVersion(k, c)
	case DisableKeyVersion:
		return decideDisableVersion(k, c)
	case ScheduleKeyVersionDestruction:
		return decideScheduleVersion(k, at, c)
	case RestoreKeyVersion:
		return decideRestoreVersion(k, at, c)
	case DestroyDueVersions:
		return decideDueVersions(k, at), nil
	case ArchiveKey:
		switch k.State { //nolint:exhaustive // the other states are refused together
		case KeyStateArchived:
			return nil, nil
		case KeyStateEnabled, KeyStateDisabled:
			return k.unlessInUse("archived", KeyArchived{})
		}
		return nil, k.refuseState("archived")
	case UnarchiveKey:
		if k.State != KeyStateArchived {
			return nil, refuse(ReasonNotArchived, "key %s is %s, not ARCHIVED: there is nothing to unarchive", k.Name, k.State)
		}
		events := []Event{KeyUnarchived{}}
		if c.Enable {
			events = append(events, k.enabling(at)...)
		}
		return events, nil
	case ExpireKey:
		if recorded == KeyStateEnabled && k.State == KeyStateExpired {
			return []Event{KeyExpired{}}, nil
		}
		return nil, nil
	case ScheduleKeyDeletion:
		return decideScheduleDeletion(k, at, c)
	case CancelKeyDeletion:
		return decideCancelDeletion(k, at, c)
	case DeleteKey:
		if k.State == KeyStatePendingDeletion {
			return []Event{KeyDestroyed{}}, nil
		}
		if !c.SkipWait {
			return nil, refuse(ReasonNotPendingDeletion, "key %s is %s: schedule its deletion first, or delete it at once with skip_wait", k.Name, k.State)
		}
		return k.unlessInUse("deleted", KeyDestroyed{})
	case DeleteDueKey:
		if k.deletionDue(at) {
			return []Event{KeyDestroyed{}}, nil
		}
		return nil, nil
	case UpdateKey:
		return decideUpdate(k, at, c)
	case LeaseUses:
		return decideLease(k, at, c)
	case ImportKeyVersion:
		return decideImport(k, at, c)
	case DeleteKeyMaterial:
		return decideDeleteMaterial(k, c)
	case AddUsageBinding:
		return decideBind(k, c)
	case RemoveUsageBinding:
		if _, bound := k.findUsageBinding(c.Resource); !bound {
			return nil, nil
		}
		return []Event{UsageUnbound(c)}, nil
	case CreateKey, RecordErasure: // decided above
	}
	panic(fmt.Sprintf("domain: undecided command %T", cmd))
}

func decideCreate(k Key, at time.Time, c CreateKey) ([]Event, error) {
	if k.State != KeyStateAbsent { // also when destroyed: an id is never used again
		return nil, refuse(ReasonKeyExists, "key %s exists or existed before; an id is never used again, so choose another", c.Name)
	}
	if err := CheckAlgorithm(c.Purpose, c.Algorithm); err != nil {
		return nil, err
	}
	created := KeyCreated{
		UID: c.UID, Name: c.Name, Purpose: c.Purpose, Algorithm: c.Algorithm, Protection: c.Protection,
		DisplayName: c.DisplayName, Memo: c.Memo, Labels: maps.Clone(c.Labels), Creator: c.Creator, LedgerTag: c.LedgerTag,
		ManagedBy: c.ManagedBy, ImportOnly: c.ImportOnly, RotationPeriod: c.RotationPeriod,
		MaxUsesPerVersion: DefaultMaxUses(c.Algorithm), ExpireTime: stored(c.ExpireTime), DestroyWait: c.DestroyWait,
	}
	if c.MaxUsesPerVersion != nil {
		created.MaxUsesPerVersion = *c.MaxUsesPerVersion
	}
	if c.ImportOnly && (c.AutoRotation || !c.MaterialID.IsZero()) {
		return nil, refuse(ReasonBadField, "key %s is to be import_only: it starts without a version and can't rotate automatically; leave out import_only or auto_rotation", c.Name)
	}
	if c.AutoRotation && created.RotationPeriod == 0 {
		created.RotationPeriod = DefaultRotationPeriod
	}
	if created.RotationPeriod != 0 {
		if err := checkRotationPeriod(c.Name, created.RotationPeriod); err != nil {
			return nil, err
		}
	}
	if c.AutoRotation {
		created.NextRotationTime = stored(at.Add(created.RotationPeriod))
	}
	if !c.ExpireTime.IsZero() && !created.ExpireTime.After(at) {
		return nil, expireTimePast(c.Name, created.ExpireTime)
	}
	if c.DestroyWait != 0 {
		if err := checkWait(c.Name, "destroy_wait", c.DestroyWait); err != nil {
			return nil, err
		}
	}
	if c.MaterialID.IsZero() {
		return []Event{created}, nil
	}
	version := Evolve(Key{}, time.Time{}, created).newVersion(c.MaterialID)
	return []Event{created, version, PrimaryVersionSet{Version: 1}}, nil
}

// stored is t as events keep it: in UTC, to the microsecond.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func expireTimePast(name KeyName, t time.Time) error {
	return refuse(ReasonBadField, "expire_time of key %s must be in the future, not %s; disable the key to stop its use now", name, clock(t))
}

// clock is how refusals write a time.
func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// enabling are the events that make the key usable, as far as its expiry and the material of its primary version let it.
func (k Key) enabling(at time.Time) []Event {
	switch {
	case k.awaitsImport():
		return []Event{KeyImportAwaited{}}
	case k.expiredAt(at):
		return []Event{KeyEnabled{}, KeyExpired{}}
	}
	return []Event{KeyEnabled{}}
}

// unlessInUse returns the event that takes the key from those who use it, or the refusal if something depends on the key.
func (k Key) unlessInUse(toBe string, e Event) ([]Event, error) {
	if err := k.mustNotBeInUse(toBe); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

func (k Key) mustNotBeInUse(toBe string) error {
	if len(k.UsageBindings) == 0 {
		return nil
	}
	return refuse(ReasonKeyInUse, "key %s protects %q, and %d resources in all, so it can't be %s; remove its usage bindings first",
		k.Name, k.UsageBindings[0].Resource, len(k.UsageBindings), toBe)
}

// deletionWait is the wait asked for, or the key's own, within its bounds.
func (k Key) deletionWait(wait time.Duration) (time.Duration, error) {
	if wait == 0 {
		wait = k.DestroyWait
	}
	if wait == 0 {
		wait = DefaultDeletionWait
	}
	return wait, checkWait(k.Name, "wait", wait)
}

func checkWait(name KeyName, field string, wait time.Duration) error {
	if wait < MinDeletionWait || wait > MaxDeletionWait {
		return refuse(ReasonBadField, "%s must be 24 hours to 120 days for key %s, not %s", field, name, wait)
	}
	return nil
}

func decideScheduleDeletion(k Key, at time.Time, c ScheduleKeyDeletion) ([]Event, error) {
	if k.State == KeyStatePendingDeletion {
		return nil, refuse(ReasonKeyPendingDeletion, "the deletion of key %s is already scheduled for %s; cancel it first to choose another time",
			k.Name, clock(k.DeleteTime))
	}
	wait, err := k.deletionWait(c.Wait)
	if err != nil {
		return nil, err
	}
	return k.unlessInUse("deleted", KeyDeletionScheduled{DeleteTime: stored(at.Add(wait))})
}

func decideCancelDeletion(k Key, at time.Time, c CancelKeyDeletion) ([]Event, error) {
	if k.State != KeyStatePendingDeletion {
		return nil, refuse(ReasonNotPendingDeletion, "key %s is %s: no deletion is scheduled that could be canceled", k.Name, k.State)
	}
	if k.deletionDue(at) {
		return nil, refuse(ReasonKeyPendingDeletion, "the deletion of key %s has been due since %s and can't be canceled any more; create a key with another id",
			k.Name, clock(k.DeleteTime))
	}
	events := []Event{KeyDeletionCanceled{}}
	if c.Enable {
		events = append(events, k.enabling(at)...)
	}
	return events, nil
}

func (k Key) deletionDue(at time.Time) bool {
	return k.State == KeyStatePendingDeletion && !at.Before(k.DeleteTime)
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
			return nil, k.refusePrimary()
		}
		return []Event{KeyVersionDisabled{Version: c.Version}}, nil
	case VersionStatePendingImport, VersionStateDestroyScheduled, VersionStateDestroyed:
	}
	return nil, versionStateError(k, kv)
}

func decideScheduleVersion(k Key, at time.Time, c ScheduleKeyVersionDestruction) ([]Event, error) {
	kv, ok := k.Versions.Get(c.Version)
	if !ok {
		return nil, versionNotFound(k, c.Version)
	}
	switch k.State {
	case KeyStateEnabled, KeyStateDisabled, KeyStateArchived, KeyStateExpired:
	case KeyStateAbsent, KeyStatePendingImport, KeyStatePendingDeletion, KeyStateDestroyed:
		return nil, k.refuseState("changed in its versions")
	}
	switch kv.State {
	case VersionStateEnabled, VersionStateDisabled:
	case VersionStateDestroyScheduled:
		return nil, refuse(ReasonVersionScheduled, "the destruction of version %d of key %s is already scheduled for %s; restore it first to choose another time",
			c.Version, k.Name, clock(kv.DeleteTime))
	case VersionStatePendingImport, VersionStateDestroyed:
		return nil, versionStateError(k, kv)
	}
	if c.Version == k.Primary && !c.AllowPrimary {
		return nil, k.refusePrimary()
	}
	wait, err := k.deletionWait(c.Wait)
	if err != nil {
		return nil, err
	}
	return k.unlessInUse("destroyed in part", KeyVersionDestructionScheduled{Version: c.Version, DeleteTime: stored(at.Add(wait))})
}

func decideRestoreVersion(k Key, at time.Time, c RestoreKeyVersion) ([]Event, error) {
	kv, ok := k.Versions.Get(c.Version)
	if !ok {
		return nil, versionNotFound(k, c.Version)
	}
	if k.State == KeyStatePendingDeletion {
		return nil, k.refuseState("changed in its versions")
	}
	switch kv.State {
	case VersionStateEnabled, VersionStateDisabled, VersionStatePendingImport:
		return nil, refuse(ReasonNotScheduled, "version %d of key %s is %s: no destruction is scheduled that it could be saved from", c.Version, k.Name, kv.State)
	case VersionStateDestroyed:
		return nil, versionStateError(k, kv)
	case VersionStateDestroyScheduled:
	}
	if !at.Before(kv.DeleteTime) {
		return nil, refuse(ReasonVersionScheduled, "the destruction of version %d of key %s has been due since %s, so it can't be restored any more; use another version",
			c.Version, k.Name, clock(kv.DeleteTime))
	}
	return []Event{KeyVersionRestored(c)}, nil
}

func decideDueVersions(k Key, at time.Time) (events []Event) {
	if k.NextDestroyTime.IsZero() || at.Before(k.NextDestroyTime) {
		return nil
	}
	for kv := range k.Versions.All() {
		if kv.State == VersionStateDestroyScheduled && !at.Before(kv.DeleteTime) {
			events = append(events, KeyVersionDestroyed{Version: kv.Version})
		}
		if len(events) == MaxDestroyedVersions {
			break
		}
	}
	return events
}

func decideUpdate(k Key, at time.Time, c UpdateKey) ([]Event, error) {
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
	var events []Event
	if !k.describedAs(updated.DisplayName, updated.Memo, updated.Labels) {
		events = append(events, updated)
	}
	if c.ExpireTime != nil {
		expire := stored(*c.ExpireTime)
		if !expire.IsZero() && !expire.After(at) {
			return nil, expireTimePast(k.Name, expire)
		}
		if !expire.Equal(k.ExpireTime) {
			events = append(events, KeyExpiryChanged{ExpireTime: expire})
			if k.State == KeyStateExpired {
				events = append(events, KeyEnabled{})
			}
		}
	}
	if c.NextRotationTime != nil {
		next, err := k.checkNextRotation(at, *c.NextRotationTime)
		if err != nil {
			return nil, err
		}
		if !next.Equal(k.NextRotationTime) {
			events = append(events, RotationScheduled{NextRotationTime: next})
		}
	}
	if c.MaxUsesPerVersion != nil && *c.MaxUsesPerVersion != k.MaxUsesPerVersion {
		events = append(events, MaxUsesChanged{MaxUsesPerVersion: *c.MaxUsesPerVersion})
	}
	if c.ManagedBy != nil && *c.ManagedBy != k.ManagedBy {
		events = append(events, KeyManagerChanged{ManagedBy: *c.ManagedBy})
	}
	return events, nil
}

func decideBind(k Key, c AddUsageBinding) ([]Event, error) {
	if k.State == KeyStatePendingDeletion {
		return nil, k.refuseState("bound to a resource")
	}
	if len(c.Resource) < 1 || len(c.Resource) > MaxResourceName {
		return nil, refuse(ReasonBadField, "resource must be 1 to %d bytes to be bound to key %s, not %d", MaxResourceName, k.Name, len(c.Resource))
	}
	if _, bound := k.findUsageBinding(c.Resource); bound {
		return nil, nil
	}
	if len(k.UsageBindings) >= MaxUsageBindings {
		return nil, refuse(ReasonTooManyBindings, "key %s has %d usage bindings, which is the most; remove one, or use another key", k.Name, len(k.UsageBindings))
	}
	return []Event{UsageBound(c)}, nil
}

func decideErasure(k Key, c RecordErasure) ([]Event, error) {
	var events []Event
	told := map[Material]bool{} // in this command
	for _, m := range c.Erased {
		kv, err := k.erasableVersion(m)
		if err != nil {
			return nil, err
		}
		if kv.Erasure != Erased && !told[m] {
			events = append(events, MaterialErased{Version: m.Version, MaterialID: m.ID})
		}
		told[m] = true
	}
	for _, m := range c.Failed {
		kv, err := k.erasableVersion(m)
		if err != nil {
			return nil, err
		}
		if kv.Erasure == NotErased && !told[m] { // one event for all attempts, not one for each
			events = append(events, MaterialErasureFailed{Version: m.Version, MaterialID: m.ID, Cause: c.Cause})
		}
		told[m] = true
	}
	return events, nil
}

// erasableVersion returns the version of material that may be erased: erasing what may still be used would lose a key.
func (k Key) erasableVersion(m Material) (KeyVersion, error) {
	kv, ok := k.Versions.Get(m.Version)
	if !ok {
		return kv, versionNotFound(k, m.Version)
	}
	if kv.State != VersionStateDestroyed && kv.State != VersionStatePendingImport {
		return kv, refuse(ReasonBadField, "version %d of key %s is %s: only material that was destroyed or deleted is erased", m.Version, k.Name, kv.State)
	}
	if kv.MaterialID != m.ID {
		return kv, refuse(ReasonBadField, "the material of version %d of key %s is not %s any more", m.Version, k.Name, m.ID)
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

func (k Key) refusePrimary() error {
	return refuse(ReasonVersionIsPrimary, "version %d is the primary version of key %s: rotate the key first, or set allow_primary if nothing shall be encrypted with it",
		k.Primary, k.Name)
}
