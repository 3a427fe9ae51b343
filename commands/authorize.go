package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// attempt is one caller's try to do one thing to one resource. It becomes one activity record.
type attempt struct {
	ref     domain.KeyRef
	started time.Time
	record  domain.ActivityRecord
}

func (s *Service) begin(c domain.Caller, operation string, category domain.Category, ref domain.KeyRef) attempt {
	now := s.now()
	a := attempt{ref: ref, started: now, record: domain.ActivityRecord{
		Time: now, Project: ref.Name.Project, Location: ref.Name.Location, Version: ref.Version,
		Operation: operation, Category: category, Caller: c,
	}}
	switch {
	case ref.Name.ID != "":
		a.record.KeyName = ref.Name.String()
	case ref.Name.Ring != "":
		a.record.KeyName = ref.Name.RingName().String()
	}
	if a.record.Location == "" {
		a.record.Location = s.cfg.Location
	}
	return a
}

// about completes the record with what is known of the key that is acted on.
func (a *attempt) about(k domain.Key, v domain.Version) {
	a.record.KeyUID, a.record.KeyName, a.record.Version = k.UID, k.Name.String(), v
	a.record.Project, a.record.Location = k.Name.Project, k.Name.Location
	a.record.Protection, a.record.LedgerTag = k.Protection, k.LedgerTag
}

// authorize is the only gate: nothing is looked up, decided or used before it lets the caller pass. It comes before
// anyone learns whether the resource exists.
func (s *Service) authorize(a *attempt, p domain.Permission) error {
	granted, ok := domain.Allowed(a.record.Caller, p)
	if !ok {
		return &domain.Error{
			Reason:  domain.ReasonPermissionDenied,
			Message: fmt.Sprintf("%s lacks permission %s here, or there is no such resource; ask an admin for a role that has it", a.record.Caller.Principal, p),
		}
	}
	a.record.GrantedBy = granted
	return nil
}

// key returns the projected key that ref names. The error is a refusal with ReasonKeyNotFound.
func (s *Service) key(ref domain.KeyRef) (eventstore.KeyState, error) {
	var state eventstore.KeyState
	var ok bool
	switch {
	case ref.Alias != "":
		state, ok = s.cfg.Keys.GetByAlias(ref.AliasName())
	case ref.UID.IsZero():
		state, ok = s.cfg.Keys.Get(ref.Name.String())
	default:
		if state, ok = s.cfg.Keys.GetByUID(ref.UID); ok {
			ok = state.Key.Name.Project == ref.Name.Project && state.Key.Name.Location == ref.Name.Location
		}
	}
	if !ok {
		return eventstore.KeyState{}, keyNotFound(ref)
	}
	return state, nil
}

func keyNotFound(ref domain.KeyRef) error {
	if ref.Alias != "" {
		return &domain.Error{
			Reason: domain.ReasonKeyNotFound, Message: fmt.Sprintf("no key of this location has the alias %s; ListKeys shows the aliases of keys, AddKeyAlias adds one", ref.Alias),
		}
	}
	return &domain.Error{
		Reason: domain.ReasonKeyNotFound, Message: fmt.Sprintf("there is no key %s; create it, or look at the name for a mistake", ref.Name),
	}
}

// succeeded records the attempt as done. Its result may be released only if the answer is nil.
func (s *Service) succeeded(ctx context.Context, a *attempt) error {
	a.record.Outcome = domain.OutcomeOK
	a.record.Duration = s.now().Sub(a.started)
	return s.record(ctx, a.record)
}

// refused records the attempt as refused because of err and returns what to tell the caller: err, or that no record
// could be made of it.
func (s *Service) refused(ctx context.Context, a *attempt, err error) error {
	s.refuse(a, err)
	if failed := s.record(ctx, a.record); failed != nil {
		return failed
	}
	return err
}

// refuse completes the record of a refused attempt. It names the key that was meant, if there is one, also when the caller
// is not told whether there is: auditors of the key look for just that.
func (s *Service) refuse(a *attempt, err error) {
	if a.record.KeyUID.IsZero() && a.ref.Name.ID != "" {
		if state, err := s.key(a.ref); err == nil {
			a.about(state.Key, a.ref.Version)
		}
	}
	a.record.GrantedBy = ""
	a.record.Duration = s.now().Sub(a.started)
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok { // not a rule's refusal: the cause is for the server's log, not for the record
		refusal = &domain.Error{Reason: domain.ReasonInternal, Message: "internal error"}
	}
	a.record.Reason, a.record.Message = refusal.Reason, refusal.Message
	a.record.Outcome = domain.OutcomeOf(refusal.Reason)
}

// record makes records durable; without that there is no answer.
func (s *Service) record(ctx context.Context, records ...domain.ActivityRecord) error {
	_, err := s.cfg.Activity.Record(ctx, records)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, eventstore.ErrFull):
		return &domain.Error{Reason: domain.ReasonStoreFull, Message: "the activity log is full, so no use can be recorded and none is answered; an operator must make room"}
	case errors.Is(err, eventstore.ErrOverloaded):
		return &domain.Error{Reason: domain.ReasonOverloaded, Message: "more requests wait for their record than this node can hold; try again a little later"}
	}
	return errors.Join(&domain.Error{
		Reason: domain.ReasonNotRecorded, Message: "no durable record of this request could be made, so it gets no answer; try again",
	}, err)
}

// use carries out one recorded use of a key, or protected read: the gate, the work, the record, and only then the
// result. The work completes the attempt by what it learns.
func use[T any](ctx context.Context, s *Service, a attempt, p domain.Permission, work func(context.Context, *attempt) (T, error)) (T, error) {
	ctx, span := tracer.Start(ctx, a.record.Operation)
	defer span.End()
	var none T
	if err := s.authorize(&a, p); err != nil {
		return none, s.refused(ctx, &a, err)
	}
	result, err := work(ctx, &a)
	if err != nil {
		return none, s.refused(ctx, &a, err)
	}
	if err := s.succeeded(ctx, &a); err != nil {
		return none, err
	}
	return result, nil
}
