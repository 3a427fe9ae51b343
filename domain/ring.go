package domain

import (
	"fmt"
	"time"
)

// DefaultRing is the ring that every location of every project has without its being made.
const DefaultRing = "default"

// RingState says whether a ring takes new keys.
type RingState string

// The states of a ring. A ring is archived, never deleted, so no rule spans a ring and its keys.
const (
	RingStateAbsent   RingState = "" // no event recorded yet
	RingStateActive   RingState = "ACTIVE"
	RingStateArchived RingState = "ARCHIVED" // takes no new keys; those in it work as before
)

// Ring is one key ring's state, folded from its events. The zero Ring has none. Like Key it is a value.
type Ring struct {
	Name    RingName
	State   RingState
	Labels  map[string]string // never changed in place
	Creator string            // principal

	CreateTime time.Time
	StateTime  time.Time // of the last change of State
}

// RingCommand asks for a change to a key ring. Names are imperative.
//
//sumtype:decl
type RingCommand interface{ isRingCommand() }

type (
	// CreateKeyRing makes a ring.
	CreateKeyRing struct {
		Name    RingName
		Labels  map[string]string
		Creator string
	}
	// ArchiveKeyRing makes a ring take no new keys. Name and Creator are for DefaultRing, which may have no event yet.
	ArchiveKeyRing struct {
		Name    RingName
		Creator string
	}
	// UnarchiveKeyRing makes an archived ring take new keys again. Name and Creator are as in ArchiveKeyRing.
	UnarchiveKeyRing struct {
		Name    RingName
		Creator string
	}
)

func (CreateKeyRing) isRingCommand()    {}
func (ArchiveKeyRing) isRingCommand()   {}
func (UnarchiveKeyRing) isRingCommand() {}

// RingEvent is something that happened to a key ring; see Event.
//
//sumtype:decl
type RingEvent interface{ isRingEvent() }

type (
	// KeyRingCreated is the first event of every ring; of DefaultRing it is recorded with the first change to it.
	KeyRingCreated struct {
		Name    RingName
		Labels  map[string]string
		Creator string
	}
	// KeyRingArchived makes the ring take no new keys.
	KeyRingArchived struct{}
	// KeyRingUnarchived ends KeyRingArchived.
	KeyRingUnarchived struct{}
)

func (KeyRingCreated) isRingEvent()    {}
func (KeyRingArchived) isRingEvent()   {}
func (KeyRingUnarchived) isRingEvent() {}

// DecideRing returns the events that the command causes in this state, none if what it asks for already holds, or the
// refusal as an *Error.
func DecideRing(r Ring, cmd RingCommand) ([]RingEvent, error) {
	switch cmd := cmd.(type) {
	case CreateKeyRing:
		if r.State != RingStateAbsent || cmd.Name.Ring == DefaultRing {
			return nil, refuse(ReasonRingExists, "key ring %s already exists; use it, or choose another id", cmd.Name)
		}
		return []RingEvent{KeyRingCreated(cmd)}, nil
	case ArchiveKeyRing:
		return stateOfRing(r, cmd.Name, cmd.Creator, RingStateArchived, KeyRingArchived{})
	case UnarchiveKeyRing:
		return stateOfRing(r, cmd.Name, cmd.Creator, RingStateActive, KeyRingUnarchived{})
	}
	panic(fmt.Sprintf("domain: undecided ring command %T", cmd))
}

// stateOfRing decides about a change of the ring's state by event.
func stateOfRing(r Ring, name RingName, creator string, want RingState, event RingEvent) ([]RingEvent, error) {
	known, ok := RingAsKnown(name, r)
	if !ok {
		return nil, ringNotFound(name)
	}
	var events []RingEvent
	if r.State == RingStateAbsent {
		events = append(events, KeyRingCreated{Name: name, Creator: creator})
	}
	if known.State != want {
		events = append(events, event)
	}
	return events, nil
}

// EvolveRing returns r after e, which happened at. It never refuses: e already happened.
func EvolveRing(r Ring, at time.Time, e RingEvent) Ring {
	switch e := e.(type) {
	case KeyRingCreated:
		return Ring{Name: e.Name, State: RingStateActive, Labels: e.Labels, Creator: e.Creator, CreateTime: at, StateTime: at}
	case KeyRingArchived:
		r.State, r.StateTime = RingStateArchived, at
	case KeyRingUnarchived:
		r.State, r.StateTime = RingStateActive, at
	}
	return r
}

// FoldRing replays events that happened at onto r.
func FoldRing(r Ring, at time.Time, events ...RingEvent) Ring {
	for _, e := range events {
		r = EvolveRing(r, at, e)
	}
	return r
}

// RingAsKnown is the ring of this name as callers know it, and whether there is one: DefaultRing exists, and is active,
// before anything is recorded of it.
func RingAsKnown(name RingName, recorded Ring) (Ring, bool) {
	switch {
	case recorded.State != RingStateAbsent:
		return recorded, true
	case name.Ring == DefaultRing:
		return Ring{Name: name, State: RingStateActive}, true
	}
	return Ring{}, false
}

// RingNamed is RingAsKnown with a refusal for a ring that was never made.
func RingNamed(name RingName, recorded Ring) (Ring, error) {
	known, ok := RingAsKnown(name, recorded)
	if !ok {
		return Ring{}, ringNotFound(name)
	}
	return known, nil
}

// CheckNewKey refuses a new key in a ring that does not exist or is archived.
func CheckNewKey(name RingName, recorded Ring) error {
	known, err := RingNamed(name, recorded)
	if err != nil {
		return err
	}
	if known.State == RingStateArchived {
		return refuse(ReasonRingArchived, "key ring %s is archived and takes no new keys; unarchive it with UnarchiveKeyRing, or use another ring", name)
	}
	return nil
}

func ringNotFound(name RingName) error {
	return refuse(ReasonRingNotFound, "there is no key ring %s; create it with CreateKeyRing, or use the ring %s, which always exists", name, DefaultRing)
}
