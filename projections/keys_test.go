package projections_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections"
)

// start is after the site's own first commit, whose time is that of the test.
var start = time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)

func newUID() domain.UID { return domain.UID(uuid.Must(uuid.NewV7())) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// follow runs a projection of the store until the test ends.
func follow(t *testing.T, s *eventstore.Store, onChange func(eventstore.KeyState, eventstore.Commit)) *projections.Keys {
	t.Helper()
	k := projections.NewKeys(quiet(), onChange)
	ctx, cancel := context.WithCancel(t.Context())
	caughtUp, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- k.Run(ctx, s, func() { close(caughtUp) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the projection ended: %v", err)
		}
	})
	select {
	case <-caughtUp:
	case <-time.After(30 * time.Second):
		t.Fatal("the projection did not catch up")
	}
	return k
}

// writer appends commits to one key.
type writer struct {
	t     *testing.T
	store *eventstore.Store
	state eventstore.KeyState
	name  domain.KeyName
}

func newWriter(t *testing.T, s *eventstore.Store, ring, id string) *writer {
	t.Helper()
	return &writer{t: t, store: s, name: domain.RingName{Project: "p", Location: "local", Ring: ring}.Key(id)}
}

func (w *writer) append(request domain.UID, events ...domain.Event) eventstore.KeyState {
	w.t.Helper()
	c := eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(w.name), CommandID: newUID(), RequestID: request, RequestHash: [32]byte{request[15]},
		Operation: "Test", Caller: domain.Caller{Principal: "admin"}, Time: start.Add(time.Duration(w.state.Revision) * time.Second), Prev: w.state.Hash, Events: events,
	}
	c.KeyUID = domain.Fold(w.state.Key, c.Time, events...).UID
	c, err := w.store.Append(w.t.Context(), w.state.Revision, c)
	if err == nil {
		w.state, err = w.state.Apply(c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w.state
}

func (w *writer) create() eventstore.KeyState {
	return w.append(domain.UID{},
		domain.KeyCreated{UID: newUID(), Name: w.name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM},
		domain.KeyVersionAdded{Version: 1, MaterialID: newUID(), Algorithm: domain.AES256GCM, Origin: domain.Generated},
		domain.PrimaryVersionSet{Version: 1})
}

// TestFollow: a projection that follows live, and one that replays afterwards, both are what was written.
func TestFollow(t *testing.T) {
	s := eventstoretest.New(t)
	var seen atomic.Int64
	live := follow(t, s, func(eventstore.KeyState, eventstore.Commit) { seen.Add(1) })
	a, b := newWriter(t, s, "default", "a"), newWriter(t, s, "default", "b")
	a.create()
	b.create()
	request := newUID()
	rotated := a.append(request, domain.KeyVersionAdded{Version: 2, MaterialID: newUID(), Algorithm: domain.AES256GCM, Origin: domain.Generated}, domain.PrimaryVersionSet{Version: 2})
	last := b.append(domain.UID{}, domain.KeyDisabled{})
	if err := live.WaitFor(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	for which, k := range map[string]*projections.Keys{"live": live, "replayed": follow(t, s, nil)} {
		for _, want := range []eventstore.KeyState{rotated, last} {
			got, ok := k.Get(want.Key.Name.String())
			if diff := cmp.Diff(want, got); !ok || diff != "" {
				t.Errorf("%s: %s differs:\n%s", which, want.Key.Name, diff)
			}
			if got, ok := k.GetByUID(want.Key.UID); !ok || got.Revision != want.Revision {
				t.Errorf("%s: by uid: %t, revision %d", which, ok, got.Revision)
			}
		}
		if rev, hash, ok := k.Request(a.name.String(), "admin", request); !ok || rev != rotated.Revision || hash != [32]byte{request[15]} {
			t.Errorf("%s: the request is at %d, %t", which, rev, ok)
		}
		if _, _, ok := k.Request(a.name.String(), "somebody else", request); ok {
			t.Errorf("%s: a request of another principal is known", which)
		}
		if k.Len() != 2 || k.Revision() != last.Revision || !k.HeadTime().Equal(last.Time) {
			t.Errorf("%s: %d keys at revision %d, %s", which, k.Len(), k.Revision(), k.HeadTime())
		}
	}
	if seen.Load() != 4 {
		t.Errorf("told of %d changes, want 4", seen.Load())
	}
	if _, ok := live.Get("projects/p/locations/local/keyRings/default/keys/never"); ok {
		t.Error("a key that was never made is known")
	}
}

// TestOrder: lists are in the order of ids however keys came, and shorter lists that are being read stay as they are.
func TestOrder(t *testing.T) {
	s := eventstoretest.New(t)
	k := follow(t, s, nil)
	var want []string
	var last eventstore.Revision
	ids := []string{"b", "a", "B", "c-1", "c", "0", "_"}
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids {
		want = append(want, "one/"+id)
		last = newWriter(t, s, "one", id).create().Revision
	}
	last = max(last, newWriter(t, s, "two", "a").create().Revision)
	if err := k.WaitFor(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	list := func(ring string) (got []string) {
		for s := range k.Keys(domain.RingName{Project: "p", Location: "local", Ring: ring}) {
			got = append(got, s.Key.Name.Ring+"/"+s.Key.Name.ID)
		}
		return got
	}
	if diff := cmp.Diff(want, list("one")); diff != "" {
		t.Errorf("the ring's keys:\n%s", diff)
	}
	if diff := cmp.Diff(append(want, "two/a"), list(domain.AnyRing)); diff != "" {
		t.Errorf("the keys of all rings:\n%s", diff)
	}
	if got := list("three"); got != nil {
		t.Errorf("keys of a ring without any: %v", got)
	}
}

// TestDueAndUnerased: what has to be done is found in the projection.
func TestDueAndUnerased(t *testing.T) {
	s := eventstoretest.New(t)
	k := follow(t, s, nil)
	w := newWriter(t, s, "default", "w")
	w.create()
	due := start.Add(72 * time.Hour)
	step := func(events ...domain.Event) {
		t.Helper()
		if err := k.WaitFor(t.Context(), w.append(domain.UID{}, events...).Revision); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, pending, unerased int) {
		t.Helper()
		early, next := k.Due(due.Add(-1))
		if len(early) != 0 || (pending == 1) != next.Equal(due) {
			t.Errorf("%s: %d keys are due too early, and the next at %s", what, len(early), next)
		}
		if got, _ := k.Due(due); len(got) != pending {
			t.Errorf("%s: %d keys are due, want %d", what, len(got), pending)
		}
		if got := len(k.Unerased()); got != unerased {
			t.Errorf("%s: %d keys are to be erased, want %d", what, got, unerased)
		}
	}
	check("created", 0, 0)
	step(domain.KeyDeletionScheduled{DeleteTime: due})
	check("scheduled", 1, 0)
	step(domain.KeyDeletionCanceled{})
	check("canceled", 0, 0)
	step(domain.KeyDeletionScheduled{DeleteTime: due})
	step(domain.KeyDestroyed{})
	check("destroyed", 0, 1)
	step(domain.MaterialErasureFailed{Version: 1, Cause: "x"})
	check("not erased", 0, 1)
	step(domain.MaterialErased{Version: 1})
	check("erased", 0, 0)

	// A destroyed version of a living key, and the deleted material of an imported one.
	w = newWriter(t, s, "default", "living")
	w.create()
	step(domain.KeyVersionAdded{Version: 2, MaterialID: newUID(), Origin: domain.Imported})
	step(domain.KeyVersionDestructionScheduled{Version: 1, DeleteTime: due})
	check("version scheduled", 1, 0)
	step(domain.KeyVersionDestroyed{Version: 1})
	check("version destroyed", 0, 1)
	step(domain.KeyMaterialDeleted{Version: 2})
	step(domain.MaterialErased{Version: 1})
	check("material deleted", 0, 1)
	step(domain.MaterialErased{Version: 2})
	check("all erased", 0, 0)
}

// TestWaiters: each waits for its own revision, and leaves nothing behind when it gives up.
func TestWaiters(t *testing.T) {
	s := eventstoretest.New(t)
	k := follow(t, s, nil)
	w := newWriter(t, s, "default", "w")
	base := w.create().Revision
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			rev := base + eventstore.Revision(i%10) + 1
			if err := k.WaitFor(ctx, rev); err != nil {
				t.Error(err)
			}
			if k.Revision() < rev {
				t.Errorf("woken at %d for %d", k.Revision(), rev)
			}
		})
	}
	impatient, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if err := k.WaitFor(impatient, base+1000); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
	for range 10 {
		w.append(domain.UID{})
	}
	cancel()
	wg.Wait()
}

// brokenLog yields what a test wants, as a damaged store would.
type brokenLog struct {
	commits []eventstore.Commit
	head    func() (eventstore.Head, error)
}

func (b brokenLog) Subscribe(ctx context.Context, _ eventstore.Revision, caughtUp func(), f func(eventstore.Commit) error) error {
	for _, c := range b.commits {
		if err := f(c); err != nil {
			return err
		}
	}
	caughtUp()
	<-ctx.Done()
	return ctx.Err()
}

func (b brokenLog) Head(context.Context) (eventstore.Head, error) { return b.head() }

// TestBrokenChain: a log whose commits do not fit each other ends the projection, which ends the process.
func TestBrokenChain(t *testing.T) {
	name := domain.RingName{Project: "p", Location: "local", Ring: "default"}.Key("k")
	commit := func(rev eventstore.Revision, prev byte) eventstore.Commit {
		return eventstore.Commit{
			Aggregate: eventstore.KeyAggregate(name), Revision: rev, Hash: [32]byte{byte(rev)}, Prev: [32]byte{prev}, Time: start,
			Events: []domain.Event{domain.KeyCreated{UID: newUID(), Name: name}},
		}
	}
	log := brokenLog{[]eventstore.Commit{commit(1, 0), commit(2, 9)}, func() (eventstore.Head, error) { return eventstore.Head{Last: 2}, nil }}
	err := projections.NewKeys(quiet(), nil).Run(t.Context(), log, func() {})
	if !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("a broken chain: %v", err)
	}
}

// TestFresh: a projection that does not hear from the log's leader stops being believed after the bound, and is believed
// again when it does.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		log := brokenLog{head: func() (eventstore.Head, error) {
			if away.Load() {
				return eventstore.Head{}, eventstore.ErrUnavailable
			}
			return eventstore.Head{}, nil
		}}
		k := projections.NewKeys(quiet(), nil)
		if err := k.Fresh(); err == nil {
			t.Error("fresh before anything was read")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx, log, func() {}) }()
		time.Sleep(10 * time.Second)
		if err := k.Fresh(); err != nil {
			t.Errorf("after hearing from the log: %v", err)
		}
		away.Store(true)
		time.Sleep(projections.StalenessBound - time.Second)
		if err := k.Fresh(); err != nil {
			t.Errorf("within the bound: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := k.Fresh(); !errors.Is(err, &domain.Error{Reason: domain.ReasonStaleProjection}) {
			t.Errorf("after the bound: %v", err)
		}
		away.Store(false)
		time.Sleep(time.Second)
		if err := k.Fresh(); err != nil {
			t.Errorf("after hearing again: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestManyKeys guards the cost of replay and of lists.
func TestManyKeys(t *testing.T) {
	k := projections.NewKeys(quiet(), nil)
	log := brokenLog{head: func() (eventstore.Head, error) { return eventstore.Head{}, nil }}
	const n = 20_000
	for i := range n {
		name := domain.RingName{Project: "p", Location: "local", Ring: "default"}.Key(fmt.Sprint((i * 7919) % n))
		log.commits = append(log.commits, eventstore.Commit{
			Aggregate: eventstore.KeyAggregate(name), Revision: eventstore.Revision(i + 1), Hash: [32]byte{1}, Time: start,
			Events: []domain.Event{domain.KeyCreated{UID: newUID(), Name: name}},
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	begin := time.Now()
	if err := k.Run(ctx, log, cancel); err != nil {
		t.Fatal(err)
	}
	count, before := 0, ""
	for s := range k.Keys(domain.RingName{Project: "p", Location: "local", Ring: "default"}) {
		if s.Key.Name.ID <= before {
			t.Fatalf("%s after %s", s.Key.Name.ID, before)
		}
		before = s.Key.Name.ID
		count++
	}
	if count != n {
		t.Errorf("listed %d of %d keys", count, n)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}
