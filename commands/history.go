package commands

import (
	"context"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// Edges know these of the event store, too.
type (
	// Moment is a point in the history, after a revision or at a time. The zero Moment is none.
	Moment = eventstore.Moment
	// Commit is what one command changed.
	Commit = eventstore.Commit
)

// History is the log of commits, for looking back.
type History interface {
	// Load yields the aggregate's commits after a revision, oldest first and many at once, as the nearest server of the log
	// knows them: the newest may be missing.
	Load(ctx context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error]
	// CommitAt returns the commit with this revision, of whatever aggregate.
	CommitAt(ctx context.Context, rev eventstore.Revision) (eventstore.Commit, error)
	// Head is the end of the log as its leader knows it.
	Head(ctx context.Context) (eventstore.Head, error)
	// Subscribe calls f with every commit after a revision until ctx ends, and caughtUp once f has seen all that was stored
	// when it was called.
	Subscribe(ctx context.Context, after eventstore.Revision, caughtUp func(), f func(eventstore.Commit) error) error
}

const (
	// maxPastLists is how many lists of the past a node works on at once.
	maxPastLists = 4
	// pastChunk is how many keys such a list holds at once, and pastParallel how many of them it reads from the log at once.
	pastChunk    = 64
	pastParallel = 8
)

// past is a moment that has been.
type past struct {
	Moment
	// clock is what the clock showed then, for what changes by the clock alone.
	clock time.Time
}

// past checks that a moment has been, and waits until this node knows all that happened before it. Of no moment it is zero.
func (s *Service) past(ctx context.Context, m Moment) (past, error) {
	if m.IsZero() {
		return past{}, nil
	}
	if now := s.now(); m.Time.After(now) {
		return past{}, &domain.Error{
			Reason: domain.ReasonFutureMoment, Message: fmt.Sprintf("as_of_time %s has not come yet: it is %s by this server's clock; name a moment of the past", clock(m.Time), clock(now)),
		}
	}
	head, err := s.head(ctx)
	if err != nil {
		return past{}, err
	}
	if m.Revision > head {
		return past{}, &domain.Error{
			Reason: domain.ReasonFutureMoment, Message: fmt.Sprintf("as_of_revision %d has not been yet: the newest is %d; name a revision of the past", m.Revision, head),
		}
	}
	if !m.Time.IsZero() {
		return past{m, m.Time}, s.reach(ctx, head)
	}
	commit, err := s.cfg.Events.CommitAt(ctx, m.Revision)
	if err != nil {
		return past{}, storeError(err)
	}
	return past{m, commit.Time}, s.reach(ctx, m.Revision)
}

// head is the newest revision of the log, as its leader knows it.
func (s *Service) head(ctx context.Context) (eventstore.Revision, error) {
	head, err := s.cfg.Events.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the head of the log: %w", storeError(err))
	}
	return head.Last, nil
}

// reach waits, bounded, until the projection has applied a revision that is in the log.
func (s *Service) reach(ctx context.Context, rev eventstore.Revision) error {
	wait, cancel := context.WithTimeout(ctx, projectionWait)
	defer cancel()
	if err := s.cfg.Keys.WaitFor(wait, rev); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &domain.Error{Reason: domain.ReasonStaleProjection, Message: "this node is behind the event log; try again, or another node"}
	}
	return nil
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z") }

// keyThen is the key as it was then. The error is a refusal with ReasonKeyNotFound if it was not made yet.
func (s *Service) keyThen(ctx context.Context, now eventstore.KeyState, then past) (eventstore.KeyState, error) {
	if !then.Covers(now.CreateRevision, now.Key.CreateTime) {
		return eventstore.KeyState{}, &domain.Error{
			Reason:  domain.ReasonKeyNotFound,
			Message: fmt.Sprintf("key %s was not made yet then: it exists since %s, revision %d", now.Key.Name, clock(now.Key.CreateTime), now.CreateRevision),
		}
	}
	return s.stateThen(ctx, now, then)
}

// stateThen is the state then of a key that was made by then. Only if the key was changed since, it is read from the log.
func (s *Service) stateThen(ctx context.Context, now eventstore.KeyState, then past) (eventstore.KeyState, error) {
	state := now
	if !then.Covers(now.Revision, now.Time) {
		state = eventstore.KeyState{}
		for commit, err := range s.commits(ctx, eventstore.KeyAggregate(now.Key.Name), 0, now.Revision) {
			if err == nil && !then.Covers(commit.Revision, commit.Time) {
				break
			}
			if err == nil {
				state, err = state.Apply(commit)
			}
			if err != nil {
				return eventstore.KeyState{}, fmt.Errorf("reading key %s as it was then: %w", now.Key.Name, err)
			}
		}
	}
	state.Aliases, state.AliasRevision = s.cfg.Keys.AliasesAsOf(now.Key.UID, then.Moment)
	return byClock(state, then.clock), nil
}

// byClock is the state at a time, whether or not it has been recorded that the key expired.
func byClock(state eventstore.KeyState, at time.Time) eventstore.KeyState {
	if shown := state.Key.StateAt(at); shown != state.Key.State {
		state.Key.State, state.Key.StateTime = shown, state.Key.ExpireTime
	}
	return state
}

// commits yields an aggregate's commits after one revision up to another, which is known to be stored. What the nearest
// server does not have yet is read from the leader.
func (s *Service) commits(ctx context.Context, a eventstore.Aggregate, after, last eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	return func(yield func(eventstore.Commit, error) bool) {
		for _, load := range []func(context.Context, eventstore.Aggregate, eventstore.Revision) iter.Seq2[eventstore.Commit, error]{
			s.cfg.Events.Load, s.cfg.Events.LoadConfirmed,
		} {
			for commit, err := range load(ctx, a, after) {
				if err != nil {
					yield(eventstore.Commit{}, storeError(err))
					return
				}
				if commit.Revision > last || !yield(commit, nil) || commit.Revision == last {
					return
				}
				after = commit.Revision
			}
			if after >= last {
				return
			}
		}
		yield(eventstore.Commit{}, &eventstore.ChainError{Aggregate: a, Revision: last, Message: "it is not in the log; restore the event store from a backup"})
	}
}

// ListKeysAsOf calls list with the keys as they were at r.AsOf, in the order in which keys yields them as they are; those
// not made by then are left out. It records the read before it returns. Keys that were changed since are read from the log,
// so the cost grows with their number.
func (s *Service) ListKeysAsOf(ctx context.Context, c domain.Caller, r Read, keys iter.Seq[*eventstore.KeyState], list func(iter.Seq[*eventstore.KeyState]) error) error {
	_, err := use(ctx, s, s.begin(c, r.Operation, r.Category, r.Ref), r.Permission, func(ctx context.Context, _ *attempt) (struct{}, error) {
		if err := s.waitFor(ctx, r.MinRevision); err != nil {
			return struct{}{}, err
		}
		then, err := s.past(ctx, r.AsOf)
		if err != nil {
			return struct{}{}, err
		}
		leave, err := enter(s.pastLists, "lists of the past")
		if err != nil {
			return struct{}{}, err
		}
		defer leave()
		var failed error
		err = list(func(yield func(*eventstore.KeyState) bool) { failed = s.yieldThen(ctx, keys, then, yield) })
		if failed != nil {
			err = failed
		}
		return struct{}{}, err
	})
	return err
}

// enter takes a place, if there is one, and returns how it is left.
func enter(places chan struct{}, of string) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, &domain.Error{Reason: domain.ReasonOverloaded, Message: fmt.Sprintf("this node has %d %s at once, and no more; try again, or another node", cap(places), of)}
	}
}

// yieldThen yields the keys as they were then.
func (s *Service) yieldThen(ctx context.Context, keys iter.Seq[*eventstore.KeyState], then past, yield func(*eventstore.KeyState) bool) error {
	chunk := make([]*eventstore.KeyState, 0, pastChunk)
	more := true
	flush := func() error {
		if err := s.statesThen(ctx, chunk, then); err != nil {
			return err
		}
		for _, state := range chunk {
			if more = yield(state); !more {
				return nil
			}
		}
		chunk = chunk[:0]
		return nil
	}
	for now := range keys {
		if !then.Covers(now.CreateRevision, now.Key.CreateTime) {
			continue
		}
		if chunk = append(chunk, now); len(chunk) < pastChunk {
			continue
		}
		if err := flush(); err != nil || !more {
			return err
		}
	}
	return flush()
}

// statesThen puts in the place of each state that of the same key then.
func (s *Service) statesThen(ctx context.Context, states []*eventstore.KeyState, then past) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pastParallel)
	for i, now := range states {
		group.Go(func() error {
			state, err := s.stateThen(ctx, *now, then)
			states[i] = &state
			return err
		})
	}
	return group.Wait()
}

// KeyHistory is a part of what the log holds of a key.
type KeyHistory struct {
	Key     eventstore.KeyState // as it is now
	Commits []eventstore.Commit // oldest first
	More    bool                // the log has later ones
}

// GetKeyHistory returns up to limit of a key's commits after a revision, and records that before.
func (s *Service) GetKeyHistory(ctx context.Context, c domain.Caller, r Read, after eventstore.Revision, limit int) (KeyHistory, error) {
	return use(ctx, s, s.begin(c, r.Operation, r.Category, r.Ref), r.Permission, func(ctx context.Context, a *attempt) (KeyHistory, error) {
		state, err := s.read(ctx, a, r)
		if err != nil || after >= state.Revision {
			return KeyHistory{Key: state}, err
		}
		history := KeyHistory{Key: state}
		for commit, err := range s.commits(ctx, eventstore.KeyAggregate(state.Key.Name), after, state.Revision) {
			if err != nil {
				return KeyHistory{}, fmt.Errorf("reading the history of key %s: %w", state.Key.Name, err)
			}
			if history.More = len(history.Commits) == limit; history.More {
				break
			}
			history.Commits = append(history.Commits, commit)
		}
		return history, nil
	})
}
