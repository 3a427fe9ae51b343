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
	// maxAttempts is how often a change is decided anew after others won the race for the aggregate.
	maxAttempts = 16
	// maxClockLag is how far this node's clock may be behind the log before it may not add to it.
	maxClockLag = 5 * time.Second
	// projectionWait bounds the wait for this node to show what was just changed; the change stands either way.
	projectionWait = 2 * time.Second
)

// Mutation is what every changing request may carry.
type Mutation struct {
	// RequestID makes the change idempotent for ever, scoped to the principal and the resource. Zero: not asked for.
	RequestID domain.UID
	// Etag guards the change: it is refused with ReasonEtagMismatch if the resource has changed since. Empty: not asked for.
	Etag string
}

// Etag is the tag of a resource's state after a commit. Leases of uses leave it as it is.
func Etag(t eventstore.Tip) string { return "r" + strconv.FormatUint(uint64(t.Edition), 36) }

// EtagAfter is the tag of a resource's state after a commit; empty if that only leased uses, which leaves the tag as it was.
func EtagAfter(c eventstore.Commit) string {
	if c.OnlyLeases() {
		return ""
	}
	return Etag(eventstore.Tip{Edition: c.Revision})
}

// changeOf is one command on one aggregate, as a caller asked for it. C is what commands on that kind of aggregate are.
type changeOf[C any] struct {
	operation  string
	permission domain.Permission
	// ref names the key that is acted on, or, without an id, the ring.
	ref      domain.KeyRef
	mutation Mutation
	// arguments are what the request says beside that name; with it they make the hash that tells a repeated request
	// from another one with the same id.
	arguments any
	// command makes the command; material is a fresh id for a new version's material.
	command func(material domain.UID) (C, error)
	// due: the service's own work. If it is done already nothing is appended, and nothing recorded.
	due bool
}

// change is one command on one key.
type change = changeOf[domain.Command]

// state is an aggregate after one of its commits; the zero S is that of one without any.
type state[S any] interface {
	Apply(c eventstore.Commit) (S, error)
	Last() eventstore.Tip
}

// kind is what execute needs to know of one kind of aggregate. S is its state, C what commands on it are.
type kind[S, C any] interface {
	// projected is the state on this node of what ref names; the zero S if nothing is recorded of it.
	projected(ctx context.Context, ref domain.KeyRef) (S, error)
	// aggregate names it.
	aggregate(ref domain.KeyRef, state S) eventstore.Aggregate
	// about completes the record of an attempt.
	about(a *attempt, state S)
	// decide returns the commit that the command causes: its events, and the key that they are about.
	decide(ctx context.Context, ref domain.KeyRef, state S, at time.Time, cmd C) (eventstore.Commit, error)
	// makeMaterial makes and stores what the events name, completes them and returns what was stored.
	makeMaterial(ctx context.Context, state S, commit *eventstore.Commit) ([]domain.Binding, error)
}

// execute is the path of every change of a key.
func (s *Service) execute(ctx context.Context, c domain.Caller, ch change) (eventstore.KeyState, error) {
	return s.executeAs(ctx, c, keyKind{s}, ch)
}

// executeAs is execute with a kind that does more than keyKind.
func (s *Service) executeAs(ctx context.Context, c domain.Caller, k kind[eventstore.KeyState, domain.Command], ch change) (eventstore.KeyState, error) {
	state, err := execute(ctx, s, c, k, ch)
	if err != nil {
		return eventstore.KeyState{}, err
	}
	state.Aliases, state.AliasRevision = s.cfg.Keys.AliasesAt(state.Key.UID, state.Revision)
	return state, nil
}

// execute is the path of every change: the gate, then decide, make material, append. A success is recorded by its own
// commit; a refusal is recorded as activity.
func execute[S state[S], C any](ctx context.Context, s *Service, c domain.Caller, k kind[S, C], ch changeOf[C]) (S, error) {
	ctx, span := tracer.Start(ctx, ch.operation)
	defer span.End()
	a := s.begin(c, ch.operation, domain.CategoryManagement, ch.ref)
	err := s.authorize(&a, ch.permission)
	if err == nil {
		var state S
		if state, err = carryOut(ctx, s, &a, k, ch); err == nil {
			return state, nil
		}
	}
	var none S
	if ch.due && othersWon(err) {
		return none, err
	}
	return none, s.refused(ctx, &a, err)
}

func carryOut[S state[S], C any](ctx context.Context, s *Service, a *attempt, k kind[S, C], ch changeOf[C]) (S, error) {
	var none S
	hash, err := ch.hash()
	if err != nil {
		return none, err
	}
	state, err := k.projected(ctx, ch.ref)
	if err != nil {
		return none, err
	}
	commandID, err := newUID()
	if err != nil {
		return none, fmt.Errorf("making a command id: %w", err)
	}
	aggregate := k.aggregate(ch.ref, state)
	confirmed := false
	for range maxAttempts {
		// Step 1: a request that was carried out before gets the answer of then.
		if earlier, known, err := answered[S](ctx, s, aggregate, a.record.Caller, ch.mutation.RequestID, hash); known || err != nil {
			return earlier, err
		}
		// Step 2: decide. This node may lag behind, so a refusal counts only if the log knows nothing newer.
		if state.Last().Revision != 0 {
			k.about(a, state)
		}
		commit, got, err := attemptChange(ctx, s, a, k, ch, state, func(c *eventstore.Commit) {
			c.CommandID, c.RequestID, c.RequestHash = commandID, ch.mutation.RequestID, hash
			c.Aggregate = aggregate
		})
		switch {
		case got == refused:
			if confirmed {
				return none, err
			}
			newer, tailErr := catchUp(ctx, s, aggregate, state)
			if tailErr != nil {
				return none, tailErr
			}
			if newer.Last().Revision == state.Last().Revision {
				return none, err
			}
			state, confirmed = newer, true
			continue
		case got == needless:
			return state, nil
		case errors.Is(err, eventstore.ErrConflict):
			if state, err = catchUp(ctx, s, aggregate, state); err != nil {
				return none, err
			}
			confirmed = true
			continue
		case err != nil:
			return none, err
		}
		// Step 5: show it on this node before the answer.
		return applied(ctx, s, state, commit)
	}
	return none, &domain.Error{
		Reason: domain.ReasonContention, Message: "other changes of this resource came first each time; read it again and decide whether this change is still wanted",
	}
}

// reached is how far one attempt at a change came.
type reached int

const (
	refused  reached = iota // the command was, for the reason that the error gives
	needless                // the service's own work is done already
	decided                 // appended, or the error says why not
)

// attemptChange takes steps 2 to 4 of a change on the state as it is known; identify says whose commit it is. A change of
// the root waits for it to end.
func attemptChange[S state[S], C any](ctx context.Context, s *Service, a *attempt, k kind[S, C], ch changeOf[C], state S, identify func(*eventstore.Commit)) (eventstore.Commit, reached, error) {
	defer s.making.enter()()
	commit, err := decide(ctx, s, k, ch, state)
	if err != nil {
		return eventstore.Commit{}, refused, err
	}
	if ch.due && commit.Empty() {
		return eventstore.Commit{}, needless, nil
	}
	identify(&commit)
	commit.Operation, commit.Caller, commit.GrantedBy = ch.operation, a.record.Caller, a.record.GrantedBy
	commit.Prev = state.Last().Hash
	// Step 3: make the material and store it, so that no event names material that does not exist.
	made, err := k.makeMaterial(ctx, state, &commit)
	if err != nil {
		return eventstore.Commit{}, decided, err
	}
	if len(made) > 0 {
		if err := s.mayMake(); err != nil {
			s.dropMaterial(ctx, made)
			return eventstore.Commit{}, decided, err
		}
	}
	// Step 4: append, if the aggregate is still as it was decided on.
	commit.Duration = s.now().Sub(a.started)
	commit, err = s.cfg.Events.Append(ctx, state.Last().Revision, commit)
	switch {
	case errors.Is(err, eventstore.ErrConflict):
		s.dropMaterial(ctx, made)
		return eventstore.Commit{}, decided, err
	case err != nil:
		return eventstore.Commit{}, decided, appendError(err)
	}
	return commit, decided, nil
}

// hash is the SHA-256 of the normalised request; zero without a request id.
func (ch changeOf[C]) hash() ([32]byte, error) {
	if ch.mutation.RequestID.IsZero() {
		return [32]byte{}, nil
	}
	b, err := json.Marshal([]any{ch.operation, ch.ref.String(), ch.mutation.Etag, ch.arguments})
	if err != nil {
		return [32]byte{}, fmt.Errorf("normalising the request: %w", err)
	}
	return sha256.Sum256(b), nil
}

// answered looks whether this principal's request was carried out before, and returns the state as it was just after.
func answered[S state[S]](ctx context.Context, s *Service, aggregate eventstore.Aggregate, c domain.Caller, request domain.UID, hash [32]byte) (then S, known bool, err error) {
	var none S
	if request.IsZero() {
		return none, false, nil
	}
	rev, earlier, ok := s.cfg.Keys.Request(aggregate.Name, c.Principal, request)
	if !ok {
		return none, false, nil
	}
	if earlier != hash {
		return none, true, errRequestIDReused
	}
	for commit, err := range s.cfg.Events.LoadConfirmed(ctx, aggregate, 0) {
		if err == nil {
			then, err = then.Apply(commit)
		}
		if err != nil {
			return none, true, fmt.Errorf("reading the answer of an earlier request: %w", storeError(err))
		}
		if commit.Revision == rev {
			return then, true, nil
		}
	}
	return none, true, fmt.Errorf("commit %d of %s is not in the log", rev, aggregate.Name)
}

var errRequestIDReused = &domain.Error{
	Reason: domain.ReasonRequestIDReused, Message: "this request_id was used for a different request on this resource; use a new UUID for each new request",
}

// decide returns the commit that the change causes in this state, without the material's facts.
func decide[S state[S], C any](ctx context.Context, s *Service, k kind[S, C], ch changeOf[C], state S) (eventstore.Commit, error) {
	last := state.Last()
	if ch.mutation.Etag != "" && ch.mutation.Etag != Etag(last) {
		return eventstore.Commit{}, &domain.Error{
			Reason: domain.ReasonEtagMismatch, Message: "the resource has changed since this etag was read; read it again and decide whether this change is still wanted",
		}
	}
	now := s.now()
	if lag := s.cfg.Keys.HeadTime().Sub(now); lag > maxClockLag {
		return eventstore.Commit{}, &domain.Error{
			Reason: domain.ReasonClockBehind, Message: fmt.Sprintf("this server's clock is %s behind the event log; an operator must set it right", lag.Round(time.Millisecond)),
		}
	}
	if now.Before(last.Time) { // effective time never runs backwards within an aggregate
		now = last.Time
	}
	material, err := newUID()
	if err != nil {
		return eventstore.Commit{}, fmt.Errorf("making a material id: %w", err)
	}
	command, err := ch.command(material)
	if err != nil {
		return eventstore.Commit{}, err
	}
	commit, err := k.decide(ctx, ch.ref, state, now, command)
	commit.Time = now
	return commit, err
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
func catchUp[S state[S]](ctx context.Context, s *Service, aggregate eventstore.Aggregate, state S) (S, error) {
	var none S
	before := state.Last().Revision
	for commit, err := range s.cfg.Events.LoadConfirmed(ctx, aggregate, before) {
		if err == nil {
			state, err = state.Apply(commit)
		}
		if err != nil {
			return none, fmt.Errorf("reading the newest commits of %s: %w", aggregate.Name, storeError(err))
		}
	}
	if state.Last().Revision == before {
		return state, nil
	}
	wait, cancel := context.WithTimeout(ctx, projectionWait)
	defer cancel()
	if err := s.cfg.Keys.WaitFor(wait, state.Last().Revision); err != nil {
		return none, &domain.Error{
			Reason: domain.ReasonStaleProjection, Message: "this node is behind the event log; try again, or another node",
		}
	}
	return state, nil
}

// applied returns the state after the commit once this node shows it, or after a bounded wait: the change stands.
func applied[S state[S]](ctx context.Context, s *Service, state S, commit eventstore.Commit) (S, error) {
	next, err := state.Apply(commit)
	if err != nil {
		var none S
		return none, fmt.Errorf("applying commit %d: %w", commit.Revision, err)
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
