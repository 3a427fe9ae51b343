package domain_test

import (
	"maps"
	"slices"
	"time"

	. "github.com/keyledger/kms/domain"
)

// model is a key as a newcomer would think of it: what was done to it, each thing by itself. It has no states and no
// events; a state is only how the facts look from outside. It knows nothing of the package but its words.
type model struct {
	made, gone, importOnly     bool
	disabled, archived         bool
	deleteAt, expireAt, nextAt time.Time // zero: never
	period, wait               time.Duration
	budget                     uint64
	versions                   []*modelVersion // the first is version 1
	primary                    Version
	bound                      map[string]bool
}

type modelVersion struct {
	imported, off, empty, gone, erased bool
	deleteAt                           time.Time
	used                               uint64
	material                           UID
	fingerprint                        string
}

// look is the key's state from outside: what weighs most first.
func (m *model) look(now time.Time) KeyState {
	for _, l := range []struct {
		is    bool
		state KeyState
	}{
		{!m.made, KeyStateAbsent},
		{m.gone, KeyStateDestroyed},
		{!m.deleteAt.IsZero(), KeyStatePendingDeletion},
		{m.archived, KeyStateArchived},
		{m.disabled, KeyStateDisabled},
		{m.empty(), KeyStatePendingImport},
		{passed(m.expireAt, now), KeyStateExpired},
	} {
		if l.is {
			return l.state
		}
	}
	return KeyStateEnabled
}

func passed(t, now time.Time) bool { return !t.IsZero() && t.Compare(now) <= 0 }

func (m *model) empty() bool {
	if v := m.version(m.primary); v != nil {
		return v.empty && !v.gone
	}
	return m.importOnly
}

func (m *model) version(v Version) *modelVersion {
	if v < 1 || int(v) > len(m.versions) {
		return nil
	}
	return m.versions[v-1]
}

func (v *modelVersion) look() VersionState {
	switch {
	case v.gone:
		return VersionStateDestroyed
	case !v.deleteAt.IsZero():
		return VersionStateDestroyScheduled
	case v.empty:
		return VersionStatePendingImport
	case v.off:
		return VersionStateDisabled
	}
	return VersionStateEnabled
}

func (m *model) add(v *modelVersion, primary bool) {
	m.versions = append(m.versions, v)
	if primary {
		m.primary = Version(len(m.versions))
	}
}

// do changes the model as cmd asks, and reports whether that is allowed.
func (m *model) do(cmd Command, now time.Time) bool {
	look := m.look(now)
	in := func(states ...KeyState) bool { return slices.Contains(states, look) }
	kept := !in(KeyStateAbsent, KeyStateDestroyed, KeyStatePendingDeletion)
	there := !in(KeyStateAbsent, KeyStateDestroyed)
	inUse := len(m.bound) > 0
	wholeDays := func(d time.Duration) bool { return d >= day && d <= 730*day && d%day == 0 }
	waits := func(d time.Duration) bool { return d >= day && d <= 120*day }
	or := func(ds ...time.Duration) time.Duration {
		return ds[slices.IndexFunc(ds, func(d time.Duration) bool { return d != 0 })]
	}
	switch c := cmd.(type) {
	case CreateKey:
		switch {
		case m.made, c.ImportOnly && !c.MaterialID.IsZero(), c.RotationPeriod != 0 && !wholeDays(c.RotationPeriod),
			passed(c.ExpireTime, now), c.DestroyWait != 0 && !waits(c.DestroyWait):
			return false
		}
		m.made, m.importOnly, m.wait, m.expireAt, m.period, m.budget = true, c.ImportOnly, c.DestroyWait, c.ExpireTime, c.RotationPeriod, 1<<32
		if c.MaxUsesPerVersion != nil {
			m.budget = *c.MaxUsesPerVersion
		}
		if c.AutoRotation {
			m.period = or(c.RotationPeriod, 90*day)
			m.nextAt = now.Add(m.period)
		}
		if !c.MaterialID.IsZero() {
			m.add(&modelVersion{material: c.MaterialID}, true)
		}
	case RotateKey:
		if look != KeyStateEnabled || m.importOnly {
			return false
		}
		m.add(&modelVersion{material: c.MaterialID}, true)
	case CreateKeyVersion:
		if look != KeyStateEnabled || m.importOnly {
			return false
		}
		m.add(&modelVersion{material: c.MaterialID}, c.MakePrimary)
	case RotateDueKey:
		if !there {
			return false
		}
		if m.nextAt.IsZero() || !in(KeyStateEnabled, KeyStateDisabled) || m.empty() {
			return true
		}
		late := passed(m.nextAt, now)
		p := m.version(m.primary)
		if late || m.budget > 0 && p != nil && float64(p.used) >= 0.8*float64(m.budget) {
			m.add(&modelVersion{material: c.MaterialID}, true)
		}
		for passed(m.nextAt, now) {
			m.nextAt = m.nextAt.Add(m.period)
		}
	case SetPrimaryVersion:
		v := m.version(c.Version)
		if v == nil || look != KeyStateEnabled || v.look() != VersionStateEnabled {
			return false
		}
		m.primary = c.Version
	case UpdateRotationPeriod:
		if !in(KeyStateEnabled, KeyStateDisabled) || m.nextAt.IsZero() || !wholeDays(c.Period) {
			return false
		}
		if c.Period != m.period {
			m.period, m.nextAt = c.Period, now.Add(c.Period)
		}
	case EnableAutoRotation:
		period := or(c.Period, m.period, 90*day)
		if !in(KeyStateEnabled, KeyStateDisabled) || m.importOnly || !wholeDays(period) {
			return false
		}
		if m.nextAt.IsZero() || period != m.period {
			m.period, m.nextAt = period, now.Add(period)
		}
	case DisableAutoRotation:
		if !in(KeyStateEnabled, KeyStateDisabled) || m.importOnly {
			return false
		}
		m.nextAt = time.Time{}
	case EnableKey:
		if !in(KeyStateEnabled, KeyStateDisabled) {
			return false
		}
		m.disabled = false
	case DisableKey:
		if !in(KeyStateEnabled, KeyStateDisabled, KeyStateExpired) || inUse && look != KeyStateDisabled {
			return false
		}
		m.disabled = true
	case ArchiveKey:
		if !in(KeyStateEnabled, KeyStateDisabled, KeyStateArchived) || inUse && look != KeyStateArchived {
			return false
		}
		m.archived = true
	case UnarchiveKey:
		if look != KeyStateArchived {
			return false
		}
		m.archived, m.disabled = false, !c.Enable
	case ExpireKey:
		return there // the clock alone decides
	case EnableKeyVersion, DisableKeyVersion:
		return m.doVersion(cmd, look)
	case ScheduleKeyVersionDestruction:
		v := m.version(c.Version)
		wait := or(c.Wait, m.wait, 72*time.Hour)
		if v == nil || !in(KeyStateEnabled, KeyStateDisabled, KeyStateExpired, KeyStateArchived) || inUse || !waits(wait) ||
			v.look() != VersionStateEnabled && v.look() != VersionStateDisabled || c.Version == m.primary && !c.AllowPrimary {
			return false
		}
		v.deleteAt = now.Add(wait)
	case RestoreKeyVersion:
		v := m.version(c.Version)
		if v == nil || !kept || v.look() != VersionStateDestroyScheduled || passed(v.deleteAt, now) {
			return false
		}
		v.deleteAt, v.off = time.Time{}, true
	case DestroyDueVersions:
		if !there {
			return false
		}
		for _, v := range m.versions {
			if passed(v.deleteAt, now) {
				v.gone, v.deleteAt = true, time.Time{}
			}
		}
	case ScheduleKeyDeletion:
		wait := or(c.Wait, m.wait, 72*time.Hour)
		if !kept || inUse || !waits(wait) {
			return false
		}
		m.deleteAt = now.Add(wait)
	case CancelKeyDeletion:
		if look != KeyStatePendingDeletion || passed(m.deleteAt, now) {
			return false
		}
		m.deleteAt, m.archived, m.disabled = time.Time{}, false, !c.Enable
	case DeleteKey:
		if look != KeyStatePendingDeletion && (!kept || !c.SkipWait || inUse) {
			return false
		}
		m.end()
	case DeleteDueKey:
		if !there {
			return false
		}
		if passed(m.deleteAt, now) {
			m.end()
		}
	case UpdateKey:
		if !there || c.ExpireTime != nil && passed(*c.ExpireTime, now) ||
			c.NextRotationTime != nil && (m.nextAt.IsZero() || passed(*c.NextRotationTime, now)) {
			return false
		}
		if c.ExpireTime != nil {
			m.expireAt = *c.ExpireTime
		}
		if c.NextRotationTime != nil {
			m.nextAt = *c.NextRotationTime
		}
		if c.MaxUsesPerVersion != nil {
			m.budget = *c.MaxUsesPerVersion
		}
	case LeaseUses:
		v := m.version(c.Version)
		switch {
		case v == nil, look != KeyStateEnabled, v.look() != VersionStateEnabled:
			return false
		case m.budget == 0:
			return true
		case c.N == 0, v.used >= m.budget:
			return false
		}
		v.used = min(v.used+c.N, m.budget)
	case ImportKeyVersion:
		if !in(KeyStateEnabled, KeyStatePendingImport) {
			return false
		}
		if c.Version == 0 {
			if slices.ContainsFunc(m.versions, func(v *modelVersion) bool { return v.fingerprint == string(c.Fingerprint) }) {
				return false
			}
			m.add(&modelVersion{imported: true, material: c.MaterialID, fingerprint: string(c.Fingerprint)}, c.MakePrimary || look == KeyStatePendingImport)
			break
		}
		v := m.version(c.Version)
		if v == nil || v.look() != VersionStatePendingImport || !v.erased || v.fingerprint != string(c.Fingerprint) {
			return false
		}
		v.empty, v.erased, v.off, v.material = false, false, false, c.MaterialID
		if c.MakePrimary {
			m.primary = c.Version
		}
	case DeleteKeyMaterial:
		v := m.version(c.Version)
		switch {
		case v == nil, !in(KeyStateEnabled, KeyStatePendingImport):
			return false
		case v.look() == VersionStatePendingImport:
			return true
		case !v.imported, v.look() != VersionStateEnabled && v.look() != VersionStateDisabled, inUse && c.Version == m.primary:
			return false
		}
		v.empty = true
	case AddUsageBinding:
		if !kept {
			return false
		}
		m.bound[c.Resource] = true
	case RemoveUsageBinding:
		if !there {
			return false
		}
		delete(m.bound, c.Resource)
	case RecordErasure:
		if !m.made {
			return false
		}
		for _, named := range slices.Concat(c.Erased, c.Failed) {
			v := m.version(named.Version)
			if v == nil || v.look() != VersionStateDestroyed && v.look() != VersionStatePendingImport || v.material != named.ID {
				return false
			}
		}
		for _, named := range c.Erased {
			m.version(named.Version).erased = true
		}
	}
	return true
}

func (m *model) doVersion(cmd Command, look KeyState) bool {
	var number Version
	var off, allowed bool
	switch c := cmd.(type) { //nolint:gochecksumtype // of these two only
	case EnableKeyVersion:
		number, allowed = c.Version, true
	case DisableKeyVersion:
		number, off, allowed = c.Version, true, c.AllowPrimary || c.Version != m.primary
	}
	v := m.version(number)
	if v == nil || look != KeyStateEnabled || v.look() != VersionStateEnabled && v.look() != VersionStateDisabled || !allowed && !v.off {
		return false
	}
	v.off = off
	return true
}

func (m *model) end() {
	m.gone, m.nextAt = true, time.Time{}
	for _, v := range m.versions {
		v.gone, v.deleteAt = true, time.Time{}
	}
}

// view is what a key and its model must agree on.
type view struct {
	State          KeyState
	Primary        Version
	Next, Expire   time.Time
	Period         time.Duration
	Budget         uint64
	Bound          []string
	Versions       []versionView
	AwaitedErasure int
}

type versionView struct {
	State    VersionState
	Delete   time.Time
	Used     uint64
	Material UID
	Erased   bool
}

func (m *model) view(now time.Time) view {
	v := view{
		State: m.look(now), Primary: m.primary, Next: m.nextAt, Expire: m.expireAt, Period: m.period, Budget: m.budget,
		Bound: slices.Sorted(maps.Keys(m.bound)),
	}
	for _, mv := range m.versions {
		v.Versions = append(v.Versions, versionView{State: mv.look(), Delete: mv.deleteAt, Used: mv.used, Material: mv.material, Erased: mv.erased})
		if (mv.gone || mv.empty) && !mv.erased {
			v.AwaitedErasure++
		}
	}
	return v
}

func viewOf(k Key, now time.Time) view {
	v := view{
		State: k.StateAt(now), Primary: k.Primary, Next: k.NextRotationTime, Expire: k.ExpireTime, Period: k.RotationPeriod, Budget: k.MaxUsesPerVersion,
		AwaitedErasure: k.Unerased,
	}
	for _, b := range k.UsageBindings {
		v.Bound = append(v.Bound, b.Resource)
	}
	for kv := range k.Versions.All() {
		v.Versions = append(v.Versions, versionView{State: kv.State, Delete: kv.DeleteTime, Used: kv.UsesLeased, Material: kv.MaterialID, Erased: kv.Erasure == Erased})
	}
	return v
}
