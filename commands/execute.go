package commands

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// maxAttempts is how often a change is decided anew after others won the race for the key.
	maxAttempts = 16
	// maxClockLag is how far this node's clock may be behind the log before it may not add to it.
	maxClockLag = 5 * time.Second
	// projectionWait bounds the wait for this node to show what was just changed; the change stands either way.
	projectionWait = 2 * time.Second
)

// Mutation is what every changing request may carry.
type Mutation struct {
	// RequestID makes the change idempotent for ever, scoped to the principal and the key. Zero: not asked for.
	RequestID domain.UID
	// Etag guards the change: it is refused with ReasonEtagMismatch if the key has changed since. Empty: not asked for.
	Etag string
}

// Etag is the tag of a key's state after a commit.
func Etag(rev eventstore.Revision) string { return "r" + strconv.FormatUint(uint64(rev), 36) }

// change is one command on one key, as a caller asked for it.
type change struct {
	operation  string
	permission domain.Permission
	ref        domain.KeyRef
	mutation   Mutation
	// arguments are what the request says beside the key's name; with it they make the hash that tells a repeated request
	// from another one with the same id.
	arguments any
	// command makes the command; material is a fresh id for a new version's material.
	command func(material domain.UID) (domain.Command, error)
}

// execute is the path of every change: the gate, then decide, make material, append. A success is recorded by its own
// commit; a refusal is recorded as activity.
func (s *Service) execute(ctx context.Context, c domain.Caller, ch change) (eventstore.KeyState, error) {
	ctx, span := tracer.Start(ctx, ch.operation)
	defer span.End()
	a := s.begin(c, ch.operation, domain.CategoryManagement, ch.ref)
	err := s.authorize(&a, ch.permission)
	if err == nil {
		var state eventstore.KeyState
		if state, err = s.change(ctx, &a, ch); err == nil {
			return state, nil
		}
	}
	return eventstore.KeyState{}, s.refused(ctx, &a, err)
}

func (s *Service) change(ctx context.Context, a *attempt, ch change) (eventstore.KeyState, error) {
	hash, err := ch.hash()
	if err != nil {
		return eventstore.KeyState{}, err
	}
	state, err := s.startingPoint(ch)
	if err != nil {
		return eventstore.KeyState{}, err
	}
	commandID, err := newUID()
	if err != nil {
		return eventstore.KeyState{}, fmt.Errorf("making a command id: %w", err)
	}
	confirmed := false
	for range maxAttempts {
		// Step 1: a request that was carried out before gets the answer of then.
		if earlier, known, err := s.answered(ctx, a.record.Caller, ch, state, hash); known || err != nil {
			return earlier, err
		}
		// Step 2: decide. This node may lag behind, so a refusal counts only if the log knows nothing newer.
		if state.Revision != 0 {
			a.about(state.Key, ch.ref.Version)
		}
		commit, err := s.decide(state, ch)
		if err != nil {
			if confirmed {
				return eventstore.KeyState{}, err
			}
			newer, tailErr := s.catchUp(ctx, state, ch)
			if tailErr != nil {
				return eventstore.KeyState{}, tailErr
			}
			if newer.Revision == state.Revision {
				return eventstore.KeyState{}, err
			}
			state, confirmed = newer, true
			continue
		}
		// Step 3: make the material and store it, so that no event names material that does not exist.
		made, err := s.makeMaterial(ctx, state.Key, &commit)
		if err != nil {
			return eventstore.KeyState{}, err
		}
		// Step 4: append, if the key is still as it was decided on.
		commit.CommandID, commit.RequestID, commit.RequestHash = commandID, ch.mutation.RequestID, hash
		commit.Operation, commit.Caller, commit.GrantedBy = ch.operation, a.record.Caller, a.record.GrantedBy
		commit.Duration = s.now().Sub(a.started)
		commit, err = s.cfg.Events.Append(ctx, state.Revision, commit)
		if errors.Is(err, eventstore.ErrConflict) {
			s.dropMaterial(ctx, made)
			if state, err = s.catchUp(ctx, state, ch); err != nil {
				return eventstore.KeyState{}, err
			}
			confirmed = true
			continue
		}
		if err != nil {
			return eventstore.KeyState{}, appendError(err)
		}
		// Step 5: show it on this node before the answer.
		return s.applied(ctx, state, commit)
	}
	return eventstore.KeyState{}, &domain.Error{
		Reason: domain.ReasonContention, Message: "other changes of this key came first each time; read the key again and decide whether this change is still wanted",
	}
}

// startingPoint is the projected key; the zero state under its name if it was never made.
func (s *Service) startingPoint(ch change) (eventstore.KeyState, error) {
	state, err := s.key(ch.ref)
	if err != nil && ch.ref.UID.IsZero() { // Decide refuses, or creates
		return eventstore.KeyState{}, nil
	}
	return state, err
}

func (ch change) aggregate(state eventstore.KeyState) eventstore.Aggregate {
	if state.Revision != 0 {
		return eventstore.KeyAggregate(state.Key.Name)
	}
	return eventstore.KeyAggregate(ch.ref.Name)
}

// hash is the SHA-256 of the normalised request; zero without a request id.
func (ch change) hash() ([32]byte, error) {
	if ch.mutation.RequestID.IsZero() {
		return [32]byte{}, nil
	}
	b, err := json.Marshal([]any{ch.operation, ch.ref.String(), ch.mutation.Etag, ch.arguments})
	if err != nil {
		return [32]byte{}, fmt.Errorf("normalising the request: %w", err)
	}
	return sha256.Sum256(b), nil
}

// answered looks whether this principal's request was carried out before, and returns the key as it was just after.
func (s *Service) answered(ctx context.Context, c domain.Caller, ch change, state eventstore.KeyState, hash [32]byte) (eventstore.KeyState, bool, error) {
	if ch.mutation.RequestID.IsZero() {
		return eventstore.KeyState{}, false, nil
	}
	aggregate := ch.aggregate(state)
	rev, earlier, ok := s.cfg.Keys.Request(aggregate.Name, c.Principal, ch.mutation.RequestID)
	if !ok {
		return eventstore.KeyState{}, false, nil
	}
	if earlier != hash {
		return eventstore.KeyState{}, true, errRequestIDReused
	}
	var then eventstore.KeyState
	for commit, err := range s.cfg.Events.LoadConfirmed(ctx, aggregate, 0) {
		if err == nil {
			then, err = then.Apply(commit)
		}
		if err != nil {
			return eventstore.KeyState{}, true, fmt.Errorf("reading the answer of an earlier request: %w", storeError(err))
		}
		if commit.Revision == rev {
			return then, true, nil
		}
	}
	return eventstore.KeyState{}, true, fmt.Errorf("commit %d of %s is not in the log", rev, aggregate.Name)
}

var errRequestIDReused = &domain.Error{
	Reason: domain.ReasonRequestIDReused, Message: "this request_id was used for a different request on this key; use a new UUID for each new request",
}

// decide returns the commit that the change causes in this state, without the material's facts.
func (s *Service) decide(state eventstore.KeyState, ch change) (eventstore.Commit, error) {
	if ch.mutation.Etag != "" && ch.mutation.Etag != Etag(state.Revision) {
		return eventstore.Commit{}, &domain.Error{
			Reason: domain.ReasonEtagMismatch, Message: "the key has changed since this etag was read; read it again and decide whether this change is still wanted",
		}
	}
	now := s.now()
	if lag := s.cfg.Keys.HeadTime().Sub(now); lag > maxClockLag {
		return eventstore.Commit{}, &domain.Error{
			Reason: domain.ReasonClockBehind, Message: fmt.Sprintf("this server's clock is %s behind the event log; an operator must set it right", lag.Round(time.Millisecond)),
		}
	}
	if now.Before(state.Time) { // effective time never runs backwards within a key
		now = state.Time
	}
	material, err := newUID()
	if err != nil {
		return eventstore.Commit{}, fmt.Errorf("making a material id: %w", err)
	}
	command, err := ch.command(material)
	if err != nil {
		return eventstore.Commit{}, err
	}
	events, err := domain.Decide(state.Key, now, command)
	if err != nil {
		return eventstore.Commit{}, err
	}
	after := domain.Fold(state.Key, now, events...)
	return eventstore.Commit{
		Aggregate: ch.aggregate(state), KeyUID: after.UID, Version: ch.ref.Version, Protection: after.Protection, LedgerTag: after.LedgerTag,
		Time: now, Prev: state.Hash, Events: events,
	}, nil
}

// makeMaterial makes and stores the material of every version that the commit adds and completes its events. It returns
// what was stored.
func (s *Service) makeMaterial(ctx context.Context, k domain.Key, commit *eventstore.Commit) ([]domain.Binding, error) {
	var made []domain.Binding
	after := domain.Fold(k, commit.Time, commit.Events...)
	for i, e := range commit.Events {
		added, ok := e.(domain.KeyVersionAdded)
		if !ok {
			continue
		}
		b := after.Binding(added.Version)
		wrapped, err := s.cfg.Token.Generate(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("making version %d in the token: %w", added.Version, err)
		}
		if err := s.cfg.Material.PutMaterial(ctx, b, wrapped.Blob); err != nil {
			return nil, fmt.Errorf("storing the wrapped key: %w", storeError(err))
		}
		digest := sha256.Sum256(wrapped.Blob)
		added.Fingerprint, added.PublicKey, added.BlobDigest = wrapped.Fingerprint, wrapped.PublicKey, digest[:]
		commit.Events[i], commit.Version = added, added.Version
		made = append(made, b)
	}
	return made, nil
}

// dropMaterial erases what an attempt that lost its race has stored. It is erased by name: nothing else could tell it
// from material whose event is on its way. What can't be erased now is an orphan, harmless but reported.
func (s *Service) dropMaterial(ctx context.Context, made []domain.Binding) {
	for _, b := range made {
		if err := s.cfg.Material.EraseMaterial(ctx, b); err != nil {
			s.cfg.Log.WarnContext(ctx, "material of a lost attempt is left behind",
				slog.String("key_uid", b.KeyUID.String()), slog.String("material_id", b.MaterialID.String()), slog.Any("error", err))
		}
	}
}

// catchUp folds what the log knows beyond state, and waits for the projection to know it too, so that the requests in
// those commits are known as well.
func (s *Service) catchUp(ctx context.Context, state eventstore.KeyState, ch change) (eventstore.KeyState, error) {
	before := state.Revision
	for commit, err := range s.cfg.Events.LoadConfirmed(ctx, ch.aggregate(state), state.Revision) {
		if err == nil {
			state, err = state.Apply(commit)
		}
		if err != nil {
			return eventstore.KeyState{}, fmt.Errorf("reading the newest commits of the key: %w", storeError(err))
		}
	}
	if state.Revision == before {
		return state, nil
	}
	wait, cancel := context.WithTimeout(ctx, projectionWait)
	defer cancel()
	if err := s.cfg.Keys.WaitFor(wait, state.Revision); err != nil {
		return eventstore.KeyState{}, &domain.Error{
			Reason: domain.ReasonStaleProjection, Message: "this node is behind the event log; try again, or another node",
		}
	}
	return state, nil
}

// applied returns the state after the commit once this node shows it, or after a bounded wait: the change stands.
func (s *Service) applied(ctx context.Context, state eventstore.KeyState, commit eventstore.Commit) (eventstore.KeyState, error) {
	next, err := state.Apply(commit)
	if err != nil {
		return eventstore.KeyState{}, fmt.Errorf("applying commit %d: %w", commit.Revision, err)
	}
	wait, cancel := context.WithTimeout(ctx, projectionWait)
	defer cancel()
	if err := s.cfg.Keys.WaitFor(wait, commit.Revision); err != nil {
		s.cfg.Log.WarnContext(ctx, "the projection does not show a change yet", slog.Uint64("revision", uint64(commit.Revision)), slog.Any("error", err))
	}
	return next, nil
}

// appendError is what a caller is told when a commit could not be appended.
func appendError(err error) error {
	if errors.Is(err, eventstore.ErrUnknownOutcome) {
		return errors.Join(&domain.Error{
			Reason: domain.ReasonOutcomeUnknown, Message: "the change may or may not have been stored; repeat it with the same request_id to learn which",
		}, err)
	}
	return fmt.Errorf("appending the commit: %w", storeError(err))
}

// storeError turns what the store reports into what a caller is told.
func storeError(err error) error {
	switch {
	case errors.Is(err, eventstore.ErrFull):
		return errors.Join(&domain.Error{Reason: domain.ReasonStoreFull, Message: "the event store has no room for management; an operator must make some"}, err)
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return errors.Join(&domain.Error{Reason: domain.ReasonStoreAway, Message: "the event store does not answer; try again"}, err)
	}
	return err
}
