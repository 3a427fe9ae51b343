package eventstore_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// race has many writers change one key, each trying again when it loses, and checks that the history is a chain which holds
// every success once.
func race(t *testing.T, stores []*eventstore.Store, writers, each int) {
	t.Helper()
	first, err := stores[0].Append(t.Context(), 0, createKey(t, newUID(t).String()))
	if err != nil {
		t.Fatal(err)
	}
	var conflicts atomic.Int32
	var mu sync.Mutex
	won := map[domain.UID]eventstore.Revision{first.CommandID: first.Revision}
	var wg sync.WaitGroup
	for w := range writers {
		s := stores[w%len(stores)]
		wg.Go(func() {
			last := first
			for range each {
				c := nextCommit(t, last)
				for {
					c.Prev = last.Hash
					stored, err := s.Append(t.Context(), last.Revision, c)
					if err == nil {
						last = stored
						mu.Lock()
						won[stored.CommandID] = stored.Revision
						mu.Unlock()
						break
					}
					if !errors.Is(err, eventstore.ErrConflict) {
						t.Error(err)
						return
					}
					conflicts.Add(1)
					for c, err := range s.LoadConfirmed(t.Context(), last.Aggregate, last.Revision) {
						if err != nil {
							t.Error(err)
							return
						}
						last = c
					}
				}
			}
		})
	}
	wg.Wait()
	var state eventstore.KeyState
	n := 0
	for c, err := range stores[0].LoadConfirmed(t.Context(), first.Aggregate, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if won[c.CommandID] != c.Revision {
			t.Errorf("commit %d is of a command that was acknowledged at %d", c.Revision, won[c.CommandID])
		}
		if state, err = state.Apply(c); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != len(won) || n != writers*each+1 {
		t.Errorf("%d commits are stored, %d were acknowledged, of %d", n, len(won), writers*each+1)
	}
	t.Logf("%d commits, %d conflicts", n, conflicts.Load())
}

func TestManyWriters(t *testing.T) {
	race(t, []*eventstore.Store{eventstoretest.New(t)}, 16, 20)
}

func TestOneCreates(t *testing.T) {
	s := eventstoretest.New(t)
	var wins atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, err := s.Append(t.Context(), 0, createKey(t, "k"))
			if err == nil {
				wins.Add(1)
			} else if !errors.Is(err, eventstore.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d of 16 created the key", wins.Load())
	}
}

// TestAppendAgain: a command that is stored already is found, not stored twice.
func TestAppendAgain(t *testing.T) {
	s := eventstoretest.New(t)
	c := createKey(t, "k")
	first, err := s.Append(t.Context(), 0, c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Append(t.Context(), 0, c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, commitOptions); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Append(ctx, first.Revision+100, nextCommit(t, first)); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("expecting the future: error = %v", err)
	}
	huge := createKey(t, "huge")
	huge.Events = append(huge.Events, domain.KeyUpdated{Memo: strings.Repeat("m", 300<<10)})
	if _, err := s.Append(t.Context(), 0, huge); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("too large: error = %v", err)
	}
	strange := createKey(t, "strange")
	strange.Aggregate.Project = "another"
	if _, err := s.Append(t.Context(), 0, strange); err == nil {
		t.Error("a commit was stored under another project than its name's")
	}
}

// TestLongHistory needs more than one request.
func TestLongHistory(t *testing.T) {
	s := eventstoretest.New(t)
	c, err := s.Append(t.Context(), 0, createKey(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	const n = 600
	for range n - 1 {
		if c, err = s.Append(t.Context(), c.Revision, nextCommit(t, c)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(collect(t, s, c.Aggregate, 0)); got != n {
		t.Errorf("%d commits, want %d", got, n)
	}
	seen := 0
	for _, err := range s.Load(t.Context(), c.Aggregate, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 3 {
			break
		}
	}
	if got := collect(t, s, c.Aggregate, c.Revision); len(got) != 0 {
		t.Errorf("%d commits after the last", len(got))
	}
	if got := collect(t, s, eventstore.KeyAggregate(keyName("unknown")), 0); len(got) != 0 {
		t.Errorf("%d commits of an unknown key", len(got))
	}
}

func TestApplyRefuses(t *testing.T) {
	first := createKey(t, "k")
	first.Revision, first.Hash = 3, [32]byte{3}
	state, err := eventstore.KeyState{}.Apply(first)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*eventstore.Commit){
		"older":            func(c *eventstore.Commit) { c.Revision = 3 },
		"another chain":    func(c *eventstore.Commit) { c.Prev[0]++ },
		"earlier":          func(c *eventstore.Commit) { c.Time = c.Time.Add(-time.Microsecond) },
		"of another key":   func(c *eventstore.Commit) { c.Aggregate = eventstore.KeyAggregate(keyName("other")) },
		"a second created": func(c *eventstore.Commit) { c.Prev = [32]byte{} },
	} {
		c := nextCommit(t, first)
		c.Revision = 4
		if next, err := state.Apply(c); err != nil || next.Key.State != domain.KeyStateDisabled || next.CreateRevision != 3 {
			t.Fatalf("%+v, %v", next, err)
		}
		change(&c)
		var chain *eventstore.ChainError
		if _, err := state.Apply(c); !errors.As(err, &chain) || !errors.Is(err, eventstore.ErrDamaged) {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

func TestSubscribe(t *testing.T) {
	s := eventstoretest.New(t)
	for i := range 10 {
		if _, err := s.Append(t.Context(), 0, createKey(t, "before-"+strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, caughtUp := make(chan eventstore.Commit, 100), make(chan int, 1)
	ended := make(chan error, 1)
	go func() {
		n := 0
		ended <- s.Subscribe(ctx, 0, func() { caughtUp <- n }, func(c eventstore.Commit) error {
			n++
			seen <- c
			return nil
		})
	}()
	if n := receive(t, caughtUp); n != 11 { // with the site's
		t.Errorf("caught up after %d commits, want 11", n)
	}
	for i := range 5 {
		c, err := s.Append(t.Context(), 0, createKey(t, "after-"+strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		for {
			if got := receive(t, seen); got.Revision == c.Revision {
				if got.Hash != c.Hash || got.CommandID != c.CommandID {
					t.Errorf("commit %d differs", c.Revision)
				}
				break
			}
		}
	}
	cancel()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}

	errEnough := errors.New("enough")
	if err := s.Subscribe(t.Context(), 3, nil, func(c eventstore.Commit) error {
		if c.Revision != 4 {
			t.Errorf("the first after 3 is %d", c.Revision)
		}
		return errEnough
	}); !errors.Is(err, errEnough) {
		t.Errorf("ended with %v", err)
	}
	if err := s.Subscribe(t.Context(), 1000, nil, func(eventstore.Commit) error { return nil }); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("after the end: ended with %v", err)
	}
	// One who knows everything is caught up at once.
	ctx, cancel = context.WithCancel(t.Context())
	times := 0
	if err := s.Subscribe(ctx, 16, func() { times++; cancel() }, func(eventstore.Commit) error { return nil }); !errors.Is(err, context.Canceled) || times != 1 {
		t.Errorf("caught up %d times, ended with %v", times, err)
	}
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came in 20 s")
		panic("unreachable")
	}
}

func TestRecordsOfCommits(t *testing.T) {
	s := eventstoretest.New(t)
	c, err := s.Append(t.Context(), 0, createKey(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range s.ReadRecords(t.Context(), "KMS_EVENTS", uint64(c.Revision)-1) {
		if err != nil {
			t.Fatal(err)
		}
		want := domain.ActivityRecord{
			Time: day, Project: "default", Location: "local", KeyUID: c.KeyUID, KeyName: c.Aggregate.Name, Operation: "CreateKey",
			Category: domain.CategoryManagement, Outcome: domain.OutcomeOK, Caller: c.Caller, GrantedBy: "admin", Protection: domain.HSM,
			LedgerTag: [32]byte{7}, Duration: 1234 * time.Microsecond,
		}
		if diff := cmp.Diff([]domain.ActivityRecord{want}, r.Records, commitOptions); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if r.Seq != uint64(c.Revision) || r.Lineage != s.Lineage() || r.Writer != "" {
			t.Errorf("%+v", r)
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var last error
	for _, err := range s.ReadRecords(ctx, "KMS_ACTIVITY_1", 0) {
		last = err
	}
	if !errors.Is(last, context.DeadlineExceeded) {
		t.Errorf("ended with %v", last)
	}
}
