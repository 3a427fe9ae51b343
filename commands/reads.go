package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// revisionWait bounds how long a read waits for the revision it asks for.
const revisionWait = 2 * time.Second

// Read names a read: the RPC, its permission, and what is read.
type Read struct {
	Operation  string
	Permission domain.Permission
	Category   domain.Category
	Ref        domain.KeyRef // its Name.ID is empty when no single key is read
	// MinRevision is the oldest state of the projection that will do; the read waits for it, bounded.
	MinRevision eventstore.Revision
	// AsOf asks for what was at a past moment. Zero: for what is.
	AsOf eventstore.Moment
}

// GetKey returns a key for reading its metadata. Refusals are recorded, successes only if they are of the past.
func (s *Service) GetKey(ctx context.Context, c domain.Caller, r Read) (eventstore.KeyState, error) {
	if !r.AsOf.IsZero() {
		return s.RecordRead(ctx, c, r)
	}
	a := s.begin(c, r.Operation, r.Category, r.Ref)
	state, err := s.read(ctx, &a, r)
	if err != nil {
		return eventstore.KeyState{}, s.refused(ctx, &a, err)
	}
	return state, nil
}

// Authorize lets a read of no single key pass the gate: lists and the like. Refusals are recorded, successes are not.
func (s *Service) Authorize(ctx context.Context, c domain.Caller, r Read) error {
	a := s.begin(c, r.Operation, r.Category, r.Ref)
	err := s.authorize(&a, r.Permission)
	if err == nil {
		err = s.waitFor(ctx, r.MinRevision)
	}
	if err != nil {
		return s.refused(ctx, &a, err)
	}
	return nil
}

// RecordRead is GetKey for what is protected even from being read unseen, like the activity log: the success is recorded
// too, before the caller gets anything.
func (s *Service) RecordRead(ctx context.Context, c domain.Caller, r Read) (eventstore.KeyState, error) {
	return use(ctx, s, s.begin(c, r.Operation, r.Category, r.Ref), r.Permission,
		func(ctx context.Context, a *attempt) (eventstore.KeyState, error) { return s.read(ctx, a, r) })
}

// RecordRefusal records that an authenticated caller's request was refused before it came this far, e.g. for its
// syntax. It returns what to tell the caller.
func (s *Service) RecordRefusal(ctx context.Context, c domain.Caller, r Read, refusal error) error {
	a := s.begin(c, r.Operation, r.Category, r.Ref)
	return s.refused(ctx, &a, refusal)
}

// RecordAttempts records attempts of nobody in particular: those that did not authenticate.
func (s *Service) RecordAttempts(ctx context.Context, attempts []domain.ActivityRecord) error {
	return s.record(ctx, attempts...)
}

func (s *Service) read(ctx context.Context, a *attempt, r Read) (eventstore.KeyState, error) {
	if err := s.authorize(a, r.Permission); err != nil {
		return eventstore.KeyState{}, err
	}
	if err := s.waitFor(ctx, r.MinRevision); err != nil {
		return eventstore.KeyState{}, err
	}
	then, err := s.past(ctx, r.AsOf)
	if err != nil {
		return eventstore.KeyState{}, err
	}
	state, err := s.key(r.Ref)
	if err != nil {
		return eventstore.KeyState{}, err
	}
	a.about(state.Key, r.Ref.Version)
	if !r.AsOf.IsZero() {
		if state, err = s.keyThen(ctx, state, then); err != nil {
			return eventstore.KeyState{}, err
		}
	}
	if r.Ref.Version != 0 {
		if _, ok := state.Key.Versions.Get(r.Ref.Version); !ok {
			return eventstore.KeyState{}, &domain.Error{
				Reason:  domain.ReasonVersionNotFound,
				Message: fmt.Sprintf("key %s has no version %d; its versions are 1 to %d", state.Key.Name, r.Ref.Version, state.Key.Versions.Len()),
			}
		}
	}
	return state, nil
}

// waitFor waits until the projection is fresh and has applied the revision.
func (s *Service) waitFor(ctx context.Context, rev eventstore.Revision) error {
	if err := s.cfg.Keys.Fresh(); err != nil {
		return err
	}
	if rev == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, revisionWait)
	defer cancel()
	if err := s.cfg.Keys.WaitFor(ctx, rev); errors.Is(err, context.DeadlineExceeded) {
		return &domain.Error{
			Reason: domain.ReasonFutureRevision, Message: fmt.Sprintf("this node has not reached min_revision %d yet; try again, or leave it out", rev),
		}
	} else if err != nil {
		return err
	}
	return nil
}
