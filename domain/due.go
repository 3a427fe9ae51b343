package domain

import "time"

// Work is something that the service does to a key by itself once its time has come.
type Work string

// The works, each with the command that does it.
const (
	WorkDeletion    Work = "DELETION"    // DeleteDueKey
	WorkDestruction Work = "DESTRUCTION" // DestroyDueVersions
	WorkExpiry      Work = "EXPIRY"      // ExpireKey
	WorkRotation    Work = "ROTATION"    // RotateDueKey
)

// Due returns the works that are due at the given time, most pressing first. The command of any of them then makes events.
func (k Key) Due(at time.Time) []Work {
	passed := func(t time.Time) bool { return !t.IsZero() && !at.Before(t) }
	if passed(k.nextDeletion()) { // the versions and the schedule end with the key
		return []Work{WorkDeletion}
	}
	var due []Work
	if passed(k.nextDestruction()) {
		due = append(due, WorkDestruction)
	}
	if passed(k.nextExpiry()) {
		return append(due, WorkExpiry) // an expired key is not rotated
	}
	if passed(k.nextRotation()) {
		due = append(due, WorkRotation)
	}
	return due
}

// NextDue is the earliest time at which Due returns anything; zero if it never does unless the key changes. It may be in
// the past, which means at once.
func (k Key) NextDue() time.Time {
	var next time.Time
	for _, t := range [...]time.Time{k.nextDeletion(), k.nextDestruction(), k.nextExpiry(), k.nextRotation()} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// Each of these is when the work is due, or zero if it is not to be done.

func (k Key) nextDeletion() time.Time {
	if k.State == KeyStatePendingDeletion {
		return k.DeleteTime
	}
	return time.Time{}
}

func (k Key) nextDestruction() time.Time { return k.NextDestroyTime }

func (k Key) nextExpiry() time.Time {
	if k.State == KeyStateEnabled {
		return k.ExpireTime
	}
	return time.Time{}
}
