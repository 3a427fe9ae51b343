package projections

import (
	"cmp"
	"slices"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// ringEntry is one key ring of which something is recorded.
type ringEntry struct {
	state    eventstore.RingState
	requests requests
}

func (k *Keys) applyRing(c eventstore.Commit) error {
	e, known := k.recorded[c.Aggregate.Name]
	if !known {
		e = &ringEntry{}
	}
	state, err := e.state.Apply(c)
	if err != nil {
		return err
	}
	e.state = state
	e.requests.remember(c)
	k.recorded[c.Aggregate.Name] = e
	return nil
}

// Ring returns what is recorded of the key ring with this name; the zero state if nothing is, as of a ring that was never
// made and of domain.DefaultRing before the first change to it.
func (k *Keys) Ring(name domain.RingName) eventstore.RingState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e, ok := k.recorded[name.String()]; ok {
		return e.state
	}
	return eventstore.RingState{}
}

// Rings are the key rings of a location in the order of their ids, archived ones and domain.DefaultRing included.
func (k *Keys) Rings(project, location string) []eventstore.RingState {
	rings := k.recordedIn(project, location)
	name := domain.RingName{Project: project, Location: location, Ring: domain.DefaultRing}
	if !slices.ContainsFunc(rings, func(s eventstore.RingState) bool { return s.Ring.Name == name }) {
		if ring, ok := domain.RingAsKnown(name, domain.Ring{}); ok {
			rings = append(rings, eventstore.RingState{Ring: ring})
		}
	}
	slices.SortFunc(rings, func(a, b eventstore.RingState) int { return cmp.Compare(a.Ring.Name.Ring, b.Ring.Name.Ring) })
	return rings
}

func (k *Keys) recordedIn(project, location string) (rings []eventstore.RingState) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, e := range k.recorded {
		if n := e.state.Ring.Name; n.Project == project && n.Location == location {
			rings = append(rings, e.state)
		}
	}
	return rings
}
