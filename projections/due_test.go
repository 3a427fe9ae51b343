package projections_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
)

// fed is a projection of the commits that a test makes, and of those that it feeds to it afterwards.
func fed(t *testing.T, commits []eventstore.Commit) (*projections.Keys, func(eventstore.Commit)) {
	t.Helper()
	k := projections.NewKeys(quiet(), nil)
	log := liveLog{commits, make(chan eventstore.Commit)}
	ctx, cancel := context.WithCancel(t.Context())
	caughtUp, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- k.Run(ctx, log, func() { close(caughtUp) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-caughtUp
	return k, func(c eventstore.Commit) {
		t.Helper()
		log.live <- c
		if err := k.WaitFor(t.Context(), c.Revision); err != nil {
			t.Fatal(err)
		}
	}
}

// liveLog is a log that goes on.
type liveLog struct {
	commits []eventstore.Commit
	live    chan eventstore.Commit
}

func (l liveLog) Subscribe(ctx context.Context, _ eventstore.Revision, caughtUp func(), f func(eventstore.Commit) error) error {
	for _, c := range l.commits {
		if err := f(c); err != nil {
			return err
		}
	}
	caughtUp()
	for {
		select {
		case c := <-l.live:
			if err := f(c); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (liveLog) Head(context.Context) (eventstore.Head, error) { return eventstore.Head{}, nil }

// rotating are commits that make n keys, each rotated automatically at the time that next says.
func rotating(n int, next func(i int) time.Time) []eventstore.Commit {
	commits := make([]eventstore.Commit, n)
	for i := range commits {
		name := domain.RingName{Project: "p", Location: "local", Ring: "default"}.Key(fmt.Sprint("k", i))
		commits[i] = eventstore.Commit{
			Aggregate: eventstore.KeyAggregate(name), Revision: eventstore.Revision(i + 1), Hash: [32]byte{1}, Time: start,
			Events: []domain.Event{
				domain.KeyCreated{UID: newUID(), Name: name, RotationPeriod: domain.RotationUnit, NextRotationTime: next(i)},
				domain.KeyVersionAdded{Version: 1, Origin: domain.Generated},
				domain.PrimaryVersionSet{Version: 1},
			},
		}
	}
	return commits
}

// TestDueIsExact: after any changes, at any time, what is due and when the next is are what all keys say one by one.
func TestDueIsExact(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	at := func() time.Time { return start.Add(time.Duration(r.IntN(1000)) * time.Hour) }
	commits := rotating(200, func(int) time.Time { return at() })
	k, feed := fed(t, commits)
	for step := range 2000 {
		last := &commits[r.IntN(len(commits))]
		state, _ := k.Get(last.Aggregate.Name)
		c := eventstore.Commit{Aggregate: last.Aggregate, Revision: k.Revision() + 1, Hash: [32]byte{1}, Prev: [32]byte{1}, Time: start}
		switch r.IntN(6) {
		case 0:
			c.Events = []domain.Event{domain.AutoRotationDisabled{}}
		case 1:
			c.Events = []domain.Event{domain.AutoRotationEnabled{RotationPeriod: domain.RotationUnit, NextRotationTime: at()}}
		case 2:
			c.Events = []domain.Event{domain.KeyDeletionScheduled{DeleteTime: at()}}
		case 3:
			c.Events = []domain.Event{domain.KeyDeletionCanceled{}}
		case 4:
			if r.IntN(20) == 0 {
				c.Events = []domain.Event{domain.KeyDestroyed{}}
			}
		default:
			if state.Key.AutoRotation {
				c.Events = []domain.Event{domain.RotationScheduled{NextRotationTime: at()}}
			}
		}
		feed(c)
		now := at()
		want := map[domain.UID]bool{}
		var wantNext time.Time
		for s := range k.Keys(domain.RingName{Project: "p", Location: "local", Ring: "default"}) {
			next := s.Key.NextDue()
			switch {
			case next.IsZero():
			case !next.After(now):
				want[s.Key.UID] = true
			case wantNext.IsZero() || next.Before(wantNext):
				wantNext = next
			}
		}
		due, next := k.Due(now)
		got := map[domain.UID]bool{}
		for _, uid := range due {
			got[uid] = true
		}
		if !maps.Equal(want, got) || len(due) != len(got) || !next.Equal(wantNext) {
			t.Fatalf("step %d: %d keys are due (%d of them apart), the next at %s; want %d and %s", step, len(due), len(got), next, len(want), wantNext)
		}
	}
}

// TestDueSooner: only what is due before all that was known wakes the receiver.
func TestDueSooner(t *testing.T) {
	commits := rotating(3, func(i int) time.Time { return start.Add(time.Duration(i+1) * time.Hour) })
	k, feed := fed(t, commits)
	told := func() bool {
		select {
		case <-k.DueSooner():
			return true
		default:
			return false
		}
	}
	if !told() || told() {
		t.Error("the first keys that fall due are told of more or less than once")
	}
	revision := eventstore.Revision(3)
	for _, tt := range []struct {
		key    int
		events []domain.Event
		want   bool
	}{
		{2, []domain.Event{domain.RotationScheduled{NextRotationTime: start.Add(2 * time.Hour)}}, false},
		{2, []domain.Event{domain.RotationScheduled{NextRotationTime: start.Add(time.Minute)}}, true},
		{2, []domain.Event{domain.RotationScheduled{NextRotationTime: start.Add(9 * time.Hour)}}, false},
		{0, []domain.Event{domain.AutoRotationDisabled{}}, false},
		{0, []domain.Event{domain.KeyDeletionScheduled{DeleteTime: start.Add(time.Hour)}}, true},
		{1, nil, false},
	} {
		revision++
		feed(eventstore.Commit{
			Aggregate: commits[tt.key].Aggregate, Revision: revision, Hash: [32]byte{1}, Prev: [32]byte{1}, Time: start, Events: tt.events,
		})
		if got := told(); got != tt.want {
			t.Errorf("commit %d: told %t, want %t", revision, got, tt.want)
		}
	}
}

// TestIdleDueScan: looking for due work among 100,000 keys of which none is due costs nothing that could be measured.
func TestIdleDueScan(t *testing.T) {
	k, _ := fed(t, rotating(100_000, func(i int) time.Time { return start.Add(time.Duration(1+i*7919%100_000) * time.Second) }))
	const scans = 10_000
	began := time.Now()
	for range scans {
		if due, next := k.Due(start); len(due) != 0 || !next.Equal(start.Add(time.Second)) {
			t.Fatalf("%d keys are due, the next at %s", len(due), next)
		}
	}
	if each := time.Since(began) / scans; each > 20*time.Microsecond {
		t.Errorf("an idle scan takes %s", each)
	}
	if due, next := k.Due(start.Add(10 * time.Second)); len(due) != 10 || !next.Equal(start.Add(11*time.Second)) {
		t.Errorf("%d keys are due, the next at %s", len(due), next)
	}
}
