package domain

import "time"

func (k Key) newVersion(material UID) KeyVersionAdded {
	return KeyVersionAdded{Version: k.NextVersion(), MaterialID: material, Algorithm: k.Algorithm, Origin: Generated}
}

// NextVersion is the number that the key's next version will have.
func (k Key) NextVersion() Version {
	return Version(k.Versions.Len() + 1) //nolint:gosec // memory ends long before 2³¹ versions
}

func decideNewVersion(k Key, toBe string, material UID, primary bool) ([]Event, error) {
	if err := k.mustBeEnabled(toBe); err != nil {
		return nil, err
	}
	if k.ImportOnly {
		return nil, k.refuseImportOnly(toBe)
	}
	added := k.newVersion(material)
	if !primary {
		return []Event{added}, nil
	}
	return []Event{added, PrimaryVersionSet{Version: added.Version}}, nil
}

func (k Key) refuseImportOnly(toBe string) error {
	return refuse(ReasonKeyImportOnly, "key %s is import_only and can't be %s by the service; import a version instead", k.Name, toBe)
}

func decideSetPrimary(k Key, c SetPrimaryVersion) ([]Event, error) {
	kv, err := k.changeableVersion(c.Version)
	if err != nil {
		return nil, err
	}
	if kv.State != VersionStateEnabled {
		return nil, versionStateError(k, kv)
	}
	if c.Version == k.Primary {
		return nil, nil
	}
	return []Event{PrimaryVersionSet(c)}, nil
}

func decideDueRotation(k Key, at time.Time, c RotateDueKey) ([]Event, error) {
	next := k.nextRotation()
	if next.IsZero() || at.Before(next) {
		return nil, nil
	}
	added := k.newVersion(c.MaterialID)
	events := []Event{added, PrimaryVersionSet{Version: added.Version}}
	if late := at.Sub(k.NextRotationTime); late >= 0 { // else the budget alone called for it, which leaves the schedule as it is
		periods := late/k.RotationPeriod + 1
		events = append(events, RotationScheduled{NextRotationTime: k.NextRotationTime.Add(periods * k.RotationPeriod)})
	}
	return events, nil
}

// nextRotation is when the service is to rotate the key: at the scheduled time, or already when most of the primary
// version's budget is leased; zero if it is not to.
func (k Key) nextRotation() time.Time {
	if !k.AutoRotation || k.State != KeyStateEnabled && k.State != KeyStateDisabled || k.awaitsImport() {
		return time.Time{}
	}
	if k.BudgetDue(k.Primary) {
		return k.UpdateTime
	}
	return k.NextRotationTime
}

func checkRotationPeriod(name KeyName, period time.Duration) error {
	if period < MinRotationPeriod || period > MaxRotationPeriod || period%RotationUnit != 0 {
		return refuse(ReasonBadField, "rotation_period of key %s must be 1 to 730 whole days, not %s", name, period)
	}
	return nil
}

// mustBeSchedulable refuses changes of automatic rotation where there can be none.
func (k Key) mustBeSchedulable() error {
	if k.State != KeyStateEnabled && k.State != KeyStateDisabled {
		return k.refuseState("given another schedule")
	}
	if k.ImportOnly {
		return k.refuseImportOnly("rotated")
	}
	return nil
}

func (k Key) mustRotateAutomatically() error {
	if k.AutoRotation {
		return nil
	}
	return refuse(ReasonAutoRotationOff, "key %s does not rotate automatically, so there is no schedule to change; enable automatic rotation first", k.Name)
}

func decideRotationPeriod(k Key, at time.Time, c UpdateRotationPeriod) ([]Event, error) {
	if err := checkRotationPeriod(k.Name, c.Period); err != nil {
		return nil, err
	}
	if err := k.mustBeSchedulable(); err != nil {
		return nil, err
	}
	if err := k.mustRotateAutomatically(); err != nil {
		return nil, err
	}
	return k.changePeriod(at, c.Period), nil
}

// changePeriod begins another period now; the same one goes on as it is.
func (k Key) changePeriod(at time.Time, period time.Duration) []Event {
	if period == k.RotationPeriod {
		return nil
	}
	return []Event{RotationPeriodChanged{RotationPeriod: period, NextRotationTime: stored(at.Add(period))}}
}

func decideEnableAutoRotation(k Key, at time.Time, c EnableAutoRotation) ([]Event, error) {
	period := c.Period
	if period == 0 {
		period = k.RotationPeriod
	}
	if period == 0 {
		period = DefaultRotationPeriod
	}
	if err := checkRotationPeriod(k.Name, period); err != nil {
		return nil, err
	}
	if err := k.mustBeSchedulable(); err != nil {
		return nil, err
	}
	if k.AutoRotation {
		return k.changePeriod(at, period), nil
	}
	return []Event{AutoRotationEnabled{RotationPeriod: period, NextRotationTime: stored(at.Add(period))}}, nil
}

func decideDisableAutoRotation(k Key) ([]Event, error) {
	if err := k.mustBeSchedulable(); err != nil {
		return nil, err
	}
	if !k.AutoRotation {
		return nil, nil
	}
	return []Event{AutoRotationDisabled{}}, nil
}

// checkNextRotation returns the time as it is stored, if the next automatic rotation may be then.
func (k Key) checkNextRotation(at, next time.Time) (time.Time, error) {
	if err := k.mustRotateAutomatically(); err != nil {
		return time.Time{}, err
	}
	next = stored(next)
	if !next.After(at) || next.Sub(at) > MaxRotationPeriod {
		return time.Time{}, refuse(ReasonBadField, "next_rotation_time of key %s must be in the future, by 730 days at most, not %s; rotate the key to rotate it now", k.Name, clock(next))
	}
	return next, nil
}

// LeaseSize is how many encryptions a node leases at once of a budget.
func LeaseSize(budget uint64) uint64 { return max(1, budget/256) }

// BudgetDue reports whether 80 % or more of the encryptions that version v may make are leased: it is time to rotate.
func (k Key) BudgetDue(v Version) bool {
	budget := k.MaxUsesPerVersion
	kv, _ := k.Versions.Get(v)
	return budget > 0 && kv.UsesLeased >= budget-budget/5
}

func decideLease(k Key, at time.Time, c LeaseUses) ([]Event, error) {
	kv, ok := k.Versions.Get(c.Version)
	if !ok {
		return nil, versionNotFound(k, c.Version)
	}
	if _, err := k.VersionFor(Protecting, k.Purpose, c.Version, at); err != nil {
		return nil, err
	}
	if k.MaxUsesPerVersion == 0 {
		return nil, nil
	}
	if c.N == 0 {
		return nil, refuse(ReasonBadField, "a lease of key %s must be for at least one use", k.Name)
	}
	if kv.UsesLeased >= k.MaxUsesPerVersion {
		return nil, refuse(ReasonVersionUsedUp, "version %d of key %s has made the %d encryptions that max_uses_per_version allows; rotate the key, or raise max_uses_per_version",
			c.Version, k.Name, k.MaxUsesPerVersion)
	}
	return []Event{UsesLeased{Version: c.Version, Uses: min(c.N, k.MaxUsesPerVersion-kv.UsesLeased)}}, nil
}
