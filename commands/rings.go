package commands

import (
	"context"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// CreateKeyRing is a request for a new key ring.
type CreateKeyRing struct {
	Mutation `json:"-"`
	Name     domain.RingName
	Labels   map[string]string
}

// CreateKeyRing makes a key ring. One that exists is refused with ReasonRingExists.
func (s *Service) CreateKeyRing(ctx context.Context, c domain.Caller, r CreateKeyRing) (eventstore.RingState, error) {
	return execute(ctx, s, c, ringKind{s}, changeOf[domain.RingCommand]{
		operation: "CreateKeyRing", permission: domain.PermissionRingsCreate, ref: ringRef(r.Name), mutation: r.Mutation, arguments: r,
		command: just[domain.RingCommand](domain.CreateKeyRing{Name: r.Name, Labels: r.Labels, Creator: c.Principal}),
	})
}

// ArchiveKeyRing makes the ring take no new keys; those in it work as before. No rule spans a ring and its keys: a key
// that is being made at the same moment may still come into it.
func (s *Service) ArchiveKeyRing(ctx context.Context, c domain.Caller, name domain.RingName, m Mutation) (eventstore.RingState, error) {
	return execute(ctx, s, c, ringKind{s}, changeOf[domain.RingCommand]{
		operation: "ArchiveKeyRing", permission: domain.PermissionRingsArchive, ref: ringRef(name), mutation: m,
		command: just[domain.RingCommand](domain.ArchiveKeyRing{Name: name, Creator: c.Principal}),
	})
}

// UnarchiveKeyRing makes an archived ring take new keys again.
func (s *Service) UnarchiveKeyRing(ctx context.Context, c domain.Caller, name domain.RingName, m Mutation) (eventstore.RingState, error) {
	return execute(ctx, s, c, ringKind{s}, changeOf[domain.RingCommand]{
		operation: "UnarchiveKeyRing", permission: domain.PermissionRingsUnarchive, ref: ringRef(name), mutation: m,
		command: just[domain.RingCommand](domain.UnarchiveKeyRing{Name: name, Creator: c.Principal}),
	})
}

// GetKeyRing returns a ring for reading. Refusals are recorded, successes are not.
func (s *Service) GetKeyRing(ctx context.Context, c domain.Caller, r Read) (eventstore.RingState, error) {
	a := s.begin(c, r.Operation, r.Category, r.Ref)
	state, err := s.readRing(ctx, &a, r)
	if err != nil {
		return eventstore.RingState{}, s.refused(ctx, &a, err)
	}
	return state, nil
}

func (s *Service) readRing(ctx context.Context, a *attempt, r Read) (eventstore.RingState, error) {
	if err := s.authorize(a, r.Permission); err != nil {
		return eventstore.RingState{}, err
	}
	if err := s.waitFor(ctx, r.MinRevision); err != nil {
		return eventstore.RingState{}, err
	}
	name := r.Ref.Name.RingName()
	state := s.cfg.Keys.Ring(name)
	var err error
	state.Ring, err = domain.RingNamed(name, state.Ring)
	return state, err
}

// takesKeys refuses a new key in a ring that was never made or is archived. This node may lag behind, so a refusal counts
// only if the log says the same.
func (s *Service) takesKeys(ctx context.Context, name domain.RingName) error {
	state := s.cfg.Keys.Ring(name)
	if domain.CheckNewKey(name, state.Ring) == nil {
		return nil
	}
	state, err := catchUp(ctx, s, eventstore.RingAggregate(name), state)
	if err != nil {
		return err
	}
	return domain.CheckNewKey(name, state.Ring)
}

// ringRef names a ring for the record.
func ringRef(n domain.RingName) domain.KeyRef { return domain.KeyRef{Name: n.Key("")} }

// just is for commands that need no material.
func just[C any](cmd C) func(domain.UID) (C, error) {
	return func(domain.UID) (C, error) { return cmd, nil }
}

// ringKind is how key rings are changed.
type ringKind struct{ s *Service }

func (k ringKind) projected(_ context.Context, ref domain.KeyRef) (eventstore.RingState, error) {
	return k.s.cfg.Keys.Ring(ref.Name.RingName()), nil
}

func (ringKind) aggregate(ref domain.KeyRef, _ eventstore.RingState) eventstore.Aggregate {
	return eventstore.RingAggregate(ref.Name.RingName())
}

// about adds nothing: a ring is its name.
func (ringKind) about(*attempt, eventstore.RingState) {}

func (ringKind) decide(_ context.Context, _ domain.KeyRef, state eventstore.RingState, _ time.Time, cmd domain.RingCommand) (eventstore.Commit, error) {
	events, err := domain.DecideRing(state.Ring, cmd)
	return eventstore.Commit{Ring: events}, err
}

// makeMaterial makes none: rings have no material.
func (ringKind) makeMaterial(context.Context, eventstore.RingState, *eventstore.Commit) ([]domain.Binding, error) {
	return nil, nil
}
