package commands

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// maxWatches is how many watches a node serves at once. Each reads the log by itself, so that a slow one keeps nothing
	// in memory and holds up nobody.
	maxWatches = 64
	// watchInterval is how often a watch tells how far it is, and whether the caller still may is looked at.
	watchInterval = 3 * time.Second
	// watchedStates is how many keys a watch remembers to apply their next commits to. Others are read from the log.
	watchedStates = 1024
)

// WatchUpdate is what a watch tells.
type WatchUpdate struct {
	// Revision is up to where everything was told.
	Revision eventstore.Revision
	// CaughtUp says that everything was told that was known when the watch began.
	CaughtUp bool
	Change   *KeyChange // nil: the update only tells how far the watch is
}

// KeyChange is a key before and after a commit.
type KeyChange struct {
	Before, After eventstore.KeyState // Before is zero if the commit made the key
	Commit        eventstore.Commit
}

// WatchKeys tells send of each change of a key in the ring after a revision, zero meaning now, in the order of the log,
// until ctx ends or send fails, and returns that error. Changes of aliases are not among them.
func (s *Service) WatchKeys(ctx context.Context, c domain.Caller, r Read, ring domain.RingName, after eventstore.Revision, send func(WatchUpdate) error) error {
	a := s.begin(c, r.Operation, r.Category, r.Ref)
	after, leave, err := s.beginWatch(ctx, &a, r, after)
	if err != nil {
		return s.refused(ctx, &a, err)
	}
	defer leave()
	w := &watch{s: s, ring: ring, states: map[string]eventstore.KeyState{}, at: after, send: send}

	reading, stop := context.WithCancel(ctx)
	steps := make(chan step)
	var reader sync.WaitGroup
	var readErr error // once steps is closed
	reader.Go(func() {
		defer close(steps)
		readErr = s.readSteps(reading, after, steps)
	})
	defer reader.Wait()
	defer stop()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case next, ok := <-steps:
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case !ok:
				return storeError(readErr)
			}
			err = w.step(ctx, next)
		case <-tick.C:
			if err := s.authorize(&a, r.Permission); err != nil { // what was allowed at the beginning may not be any more
				return s.refused(ctx, &a, err)
			}
			err = send(WatchUpdate{Revision: w.at, CaughtUp: w.caughtUp})
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// beginWatch passes the gate and returns after which revision the watch begins, and how it gives back its place.
func (s *Service) beginWatch(ctx context.Context, a *attempt, r Read, after eventstore.Revision) (eventstore.Revision, func(), error) {
	if err := s.authorize(a, r.Permission); err != nil {
		return 0, nil, err
	}
	head, err := s.head(ctx)
	switch {
	case err != nil:
		return 0, nil, err
	case after > head:
		return 0, nil, &domain.Error{
			Reason: domain.ReasonFutureMoment, Message: fmt.Sprintf("start_revision %d has not been yet: the newest is %d; leave it out to watch from now on", after, head),
		}
	case after == 0:
		after = head
	}
	leave, err := enter(s.watches, "watches")
	return after, leave, err
}

// step is what a watch reads from the log: a commit, or that it has caught up.
type step struct {
	commit   eventstore.Commit
	caughtUp bool
}

// readSteps reads the log until ctx ends.
func (s *Service) readSteps(ctx context.Context, after eventstore.Revision, steps chan<- step) error {
	push := func(next step) error {
		select {
		case steps <- next:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// That pushing failed means that ctx ended, which Subscribe sees by itself.
	return s.cfg.Events.Subscribe(ctx, after, func() { _ = push(step{caughtUp: true}) },
		func(commit eventstore.Commit) error { return push(step{commit: commit}) })
}

// watch is one caller's watch of a ring. It belongs to one goroutine.
type watch struct {
	s        *Service
	ring     domain.RingName
	states   map[string]eventstore.KeyState // of some keys, by name, as of the last commit that was read
	at       eventstore.Revision
	caughtUp bool
	send     func(WatchUpdate) error
}

func (w *watch) step(ctx context.Context, next step) error {
	if next.caughtUp {
		w.caughtUp = true
		return w.send(WatchUpdate{Revision: w.at, CaughtUp: true})
	}
	w.at = next.commit.Revision
	if !w.watches(next.commit.Aggregate) {
		return nil
	}
	change, err := w.change(ctx, next.commit)
	if err != nil {
		return err
	}
	return w.send(WatchUpdate{Revision: w.at, CaughtUp: w.caughtUp, Change: change})
}

// watches reports whether the aggregate is a key in the ring.
func (w *watch) watches(a eventstore.Aggregate) bool {
	if a.Kind() != eventstore.KindKey {
		return false
	}
	ref, err := domain.ParseKeyRef(a.Name)
	if err != nil {
		return false // of a place that no ring can be in
	}
	in := ref.Name.RingName()
	if w.ring.Ring == domain.AnyRing {
		in.Ring = domain.AnyRing
	}
	return in == w.ring
}

// change is the key before and after the commit.
func (w *watch) change(ctx context.Context, commit eventstore.Commit) (*KeyChange, error) {
	if err := w.s.reach(ctx, commit.Revision); err != nil { // for the aliases
		return nil, err
	}
	name := commit.Aggregate.Name
	before, known := w.states[name]
	if !known {
		for earlier, err := range w.s.commits(ctx, commit.Aggregate, 0, commit.Revision) {
			if err == nil && earlier.Revision == commit.Revision {
				break
			}
			if err == nil {
				before, err = before.Apply(earlier)
			}
			if err != nil {
				return nil, fmt.Errorf("reading %s as it was before revision %d: %w", name, commit.Revision, err)
			}
		}
	}
	after, err := before.Apply(commit)
	if err != nil {
		return nil, err
	}
	if !known && len(w.states) >= watchedStates {
		for some := range w.states {
			delete(w.states, some)
			break
		}
	}
	w.states[name] = after
	change := &KeyChange{Before: byClock(before, commit.Time), After: byClock(after, commit.Time), Commit: commit}
	change.Before.Aliases, change.Before.AliasRevision = w.s.cfg.Keys.AliasesAt(after.Key.UID, commit.Revision-1)
	change.After.Aliases, change.After.AliasRevision = w.s.cfg.Keys.AliasesAt(after.Key.UID, commit.Revision)
	return change, nil
}
