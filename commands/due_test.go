package commands_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections"
)

const (
	day      = 24 * time.Hour
	twoYears = 2 * 365 * day
)

// wish is what the owner of a key asks for at some time.
type wish struct {
	at      time.Duration // after the key was made
	command domain.Command
}

// makeWishes makes a random plan of two years: a change of the key every few weeks, none at the same second of an hour as
// another, so that no two things ever happen at once.
func makeWishes(r *rand.Rand) (wishes []wish) {
	pending, disabled := false, false
	for hour := r.IntN(500); hour < int(twoYears/time.Hour); hour += 1 + r.IntN(1200) {
		var c domain.Command
		switch n := r.IntN(11); {
		case pending:
			c, pending, disabled = domain.CancelKeyDeletion{}, false, true
		case n == 0:
			c, pending = domain.ScheduleKeyDeletion{Wait: domain.MaxDeletionWait}, true
		case n <= 2:
			c = domain.UpdateRotationPeriod{Period: time.Duration(1+r.IntN(120)) * day}
		case n == 3:
			c = domain.DisableAutoRotation{}
		case n <= 5:
			c = domain.EnableAutoRotation{Period: time.Duration(r.IntN(60)) * day}
		case n <= 7 && !disabled:
			c = domain.RotateKey{}
		case disabled:
			c, disabled = domain.EnableKey{}, false
		default:
			c, disabled = domain.DisableKey{}, true
		}
		wishes = append(wishes, wish{time.Duration(hour)*time.Hour + time.Duration(1+len(wishes))*10*time.Second, c})
	}
	return wishes
}

// grant asks the service for what the owner wishes. Some wishes can't be granted, like another period without automatic
// rotation.
func grant(ctx context.Context, s *commands.Service, ref domain.KeyRef, c domain.Command) {
	switch c := c.(type) { //nolint:gochecksumtype // makeWishes makes no others
	case domain.CancelKeyDeletion:
		_, _ = s.CancelKeyDeletion(ctx, admin, ref, c.Enable, commands.Mutation{})
	case domain.ScheduleKeyDeletion:
		_, _ = s.ScheduleKeyDeletion(ctx, admin, ref, c.Wait, 0, commands.Mutation{})
	case domain.UpdateRotationPeriod:
		_, _ = s.UpdateRotationPeriod(ctx, admin, ref, c.Period, commands.Mutation{})
	case domain.DisableAutoRotation:
		_, _ = s.DisableAutoRotation(ctx, admin, ref, commands.Mutation{})
	case domain.EnableAutoRotation:
		_, _ = s.EnableAutoRotation(ctx, admin, ref, c.Period, commands.Mutation{})
	case domain.RotateKey:
		_, _ = s.RotateKey(ctx, admin, ref, commands.Mutation{})
	case domain.EnableKey:
		_, _ = s.EnableKey(ctx, admin, ref, commands.Mutation{})
	case domain.DisableKey:
		_, _ = s.DisableKey(ctx, admin, ref, commands.Mutation{})
	}
}

// span is a time in which no node runs.
type span struct{ from, to time.Duration }

// calendar keeps by hand when a key should be rotated.
type calendar struct {
	away      []span
	on        bool
	pending   bool
	period    time.Duration
	next, now time.Duration
	rotations []time.Duration
}

// until lets time pass.
func (c *calendar) until(end time.Duration) {
	for c.on && !c.pending {
		at := max(c.next, c.now)
		for _, s := range c.away {
			if s.from <= at && at < s.to {
				at = s.to
			}
		}
		if at >= end {
			break
		}
		c.rotations = append(c.rotations, at)
		for c.next <= at {
			c.next += c.period
		}
	}
	c.now = end
}

func (c *calendar) begin(period time.Duration) { c.period, c.next = period, c.now+period }

func (c *calendar) wish(w wish) {
	c.until(w.at)
	switch w := w.command.(type) { //nolint:gochecksumtype // others do not touch the schedule
	case domain.ScheduleKeyDeletion:
		c.pending = true
	case domain.CancelKeyDeletion:
		c.pending = false
	case domain.UpdateRotationPeriod:
		if c.on && w.Period != c.period {
			c.begin(w.Period)
		}
	case domain.DisableAutoRotation:
		c.on = false
	case domain.EnableAutoRotation:
		period := w.Period
		if period == 0 {
			period = c.period
		}
		if !c.on || period != c.period {
			c.on = true
			c.begin(period)
		}
	}
}

// TestTwoYearsOfRotation: two nodes do the automatic rotation of 1,000 keys for two years, with outages, disabled spans,
// pending deletions and changes of the period, each exactly when a calendar kept by hand says so, and once.
func TestTwoYearsOfRotation(t *testing.T) {
	const keyCount, period = 1000, 30 * day
	r := rand.New(rand.NewPCG(5, 6))
	var away []span
	for from := time.Duration(r.IntN(60)) * day; from < twoYears; from += time.Duration(1+r.IntN(80)) * day {
		from += 30*time.Minute + 5*time.Second // between whatever happens
		to := from + time.Duration(1+r.IntN(40*24>>r.IntN(8)))*time.Hour
		away = append(away, span{from, to})
		from = to
	}
	plans := make([][]wish, keyCount)
	for i := range plans {
		plans[i] = makeWishes(r)
	}
	synctest.Test(t, func(t *testing.T) {
		site := newMemory()
		nodes := []*commands.Service{site.node(t), site.node(t)}
		born := time.Now()
		type happening struct {
			at time.Duration
			do func()
		}
		var all []happening
		refs := make([]domain.KeyRef, keyCount)
		for i, wishes := range plans {
			id := fmt.Sprint("k", i)
			refs[i] = domain.KeyRef{Name: ring.Key(id)}
			if _, err := nodes[0].CreateKey(t.Context(), admin, commands.CreateKey{
				Parent: ring, KeyID: id, Purpose: domain.EncryptDecrypt, AutoRotation: true, RotationPeriod: period,
			}); err != nil {
				t.Fatal(err)
			}
			for _, w := range wishes {
				all = append(all, happening{w.at, func() { grant(t.Context(), nodes[i%2], refs[i], w.command) }})
			}
		}
		var running sync.WaitGroup
		stop := func() {}
		run := func() {
			ctx, cancel := context.WithCancel(t.Context())
			for _, n := range nodes {
				running.Go(func() { _ = n.RunDue(ctx) })
			}
			stop = func() { cancel(); running.Wait() }
		}
		for _, s := range away {
			all = append(all, happening{s.from, func() { stop() }}, happening{s.to, run})
		}
		slices.SortStableFunc(all, func(a, b happening) int { return int(a.at - b.at) })
		run()
		for _, h := range all {
			if h.at > twoYears {
				break
			}
			time.Sleep(time.Until(born.Add(h.at)))
			synctest.Wait() // what is due at this moment is done
			h.do()
		}
		time.Sleep(time.Until(born.Add(twoYears)))
		synctest.Wait()
		stop()
		total := 0
		for i, ref := range refs {
			c := calendar{away: away, on: true}
			c.begin(period)
			for _, w := range plans[i] {
				c.wish(w)
			}
			c.until(twoYears)
			var got []time.Duration
			for _, commit := range site.history(eventstore.KeyAggregate(ref.Name)) {
				if commit.Caller.Kind == domain.KindSystem {
					if commit.Operation != "RotateKey" || commit.Caller.Request != domain.RequestSystem || len(commit.Events) == 0 {
						t.Fatalf("the service itself did %+v", commit)
					}
					got = append(got, commit.Time.Sub(born))
				}
			}
			if !slices.Equal(got, c.rotations) {
				t.Fatalf("key %d with wishes %v: rotated at\n%v, want\n%v", i, plans[i], got, c.rotations)
			}
			total += len(got)
		}
		if total < 8*keyCount {
			t.Errorf("only %d rotations: they show little", total)
		}
		for _, r := range site.refused {
			if r.Caller.Kind == domain.KindSystem {
				t.Fatalf("due work was refused: %+v", r)
			}
		}
		t.Logf("%d rotations in %d outages", total, len(away))
	})
}

// TestFailingWork: work that fails is tried again, less and less often, keeps nothing else from being done, and is done
// once it can be.
func TestFailingWork(t *testing.T) {
	for name, reason := range map[string]domain.Reason{"token away": domain.ReasonTokenUnavailable, "store away": domain.ReasonStoreAway} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				site := newMemory()
				s := site.node(t)
				var away atomic.Bool
				var tries atomic.Int64
				site.generate = func(b domain.Binding) error {
					if away.Load() && b.Version == 2 {
						tries.Add(1)
						return &domain.Error{Reason: reason, Message: "it does not answer; try again"}
					}
					return nil
				}
				create := func(id string) domain.KeyRef {
					r := commands.CreateKey{Parent: ring, KeyID: id, Purpose: domain.EncryptDecrypt, AutoRotation: true, RotationPeriod: day}
					if _, err := s.CreateKey(t.Context(), admin, r); err != nil {
						t.Fatal(err)
					}
					return domain.KeyRef{Name: ring.Key(id)}
				}
				failing := []domain.KeyRef{create("a"), create("b")}
				other := create("c")
				if _, err := s.ScheduleKeyDeletion(t.Context(), admin, other, day, 0, commands.Mutation{}); err != nil {
					t.Fatal(err)
				}
				var running sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				running.Go(func() { _ = s.RunDue(ctx) })
				versions := func(ref domain.KeyRef) int {
					n := 0
					for _, c := range site.history(eventstore.KeyAggregate(ref.Name)) {
						for _, e := range c.Events {
							if _, ok := e.(domain.KeyVersionAdded); ok {
								n++
							}
						}
					}
					return n
				}
				away.Store(true)
				time.Sleep(day + 10*time.Second)
				destroyed := slices.ContainsFunc(site.history(eventstore.KeyAggregate(other.Name)), func(c eventstore.Commit) bool {
					return c.Operation == "DeleteKey" && c.Time.Before(time.Now().Add(-5*time.Second))
				})
				if !destroyed {
					t.Error("what fails keeps others from being done")
				}
				time.Sleep(10 * time.Hour)
				if n := tries.Load(); n < 60 || n > 400 {
					t.Errorf("tried %d times in ten hours", n)
				}
				away.Store(false)
				time.Sleep(6 * time.Minute)
				for _, ref := range failing {
					if n := versions(ref); n != 2 {
						t.Errorf("%s has %d versions, want 2", ref.Name, n)
					}
				}
				cancel()
				running.Wait()
			})
		})
	}
}

// countedMaterial knows what is stored.
type countedMaterial struct {
	*eventstore.Store

	mu     sync.Mutex
	stored map[domain.UID]bool
	made   int
}

func (m *countedMaterial) PutMaterial(ctx context.Context, b domain.Binding, blob []byte) error {
	err := m.Store.PutMaterial(ctx, b, blob)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored[b.MaterialID] = err == nil
	m.made++
	return err
}

func (m *countedMaterial) EraseMaterial(ctx context.Context, b domain.Binding) error {
	err := m.Store.EraseMaterial(ctx, b)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.stored, b.MaterialID)
	}
	return err
}

// TestThreeNodesRacing: three nodes, each with its own projection, do what falls due at the same moment on one store once,
// leave no material that no event names, and record nothing but what was done.
func TestThreeNodesRacing(t *testing.T) {
	const each = 40
	own := eventstoretest.New(t)
	material := &countedMaterial{Store: own, stored: map[domain.UID]bool{}}
	var ahead atomic.Int64
	activity := &faults{store: own}
	var nodes []*commands.Service
	var views []*projections.Keys
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 3 {
		known := projections.NewKeys(slog.New(slog.DiscardHandler), nil)
		caughtUp := make(chan struct{})
		running.Go(func() {
			if err := known.Run(ctx, own, func() { close(caughtUp) }); err != nil {
				t.Error(err)
			}
		})
		<-caughtUp
		views = append(views, known)
		nodes = append(nodes, commands.New(commands.Config{
			Location: "local", Keys: known, Events: own, Material: material, Activity: faultyActivity{activity}, Uses: activity, Token: token,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		}))
	}
	must := func(_ eventstore.KeyState, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := nodes[0]
	want := map[domain.KeyRef][]string{}
	create := func(i int, what string, r commands.CreateKey) domain.KeyRef {
		r.Parent, r.KeyID, r.Purpose = ring, fmt.Sprint(what, i), domain.EncryptDecrypt
		must(s.CreateKey(ctx, admin, r))
		return domain.KeyRef{Name: ring.Key(r.KeyID)}
	}
	for i := range each {
		ref := create(i, "rotation", commands.CreateKey{AutoRotation: true, RotationPeriod: day})
		want[ref] = []string{"RotateKey 2"}
		ref = create(i, "deletion", commands.CreateKey{})
		must(keyOf(s.ScheduleKeyDeletion(ctx, admin, ref, day, 0, commands.Mutation{})))
		want[ref] = []string{"DeleteKey 0", "EraseMaterial 0"}
		ref = create(i, "destruction", commands.CreateKey{})
		must(s.RotateKey(ctx, admin, ref, commands.Mutation{}))
		first := ref
		first.Version = 1
		must(s.ScheduleKeyVersionDestruction(ctx, admin, first, day, false, commands.Mutation{}))
		want[ref] = []string{"DestroyKeyVersion 1", "EraseMaterial 0"}
		ref = create(i, "expiry", commands.CreateKey{ExpireTime: time.Now().Add(day)})
		want[ref] = []string{"ExpireKey 0"}
	}
	for _, v := range views {
		if err := v.WaitFor(ctx, views[0].Revision()); err != nil {
			t.Fatal(err)
		}
	}
	ahead.Store(int64(day + time.Hour))
	due, stopDue := context.WithCancel(ctx)
	var working sync.WaitGroup
	for _, n := range nodes {
		working.Go(func() { _ = n.RunDue(due) })
	}
	done := func() bool {
		left, _ := views[0].Due(time.Now().Add(time.Duration(ahead.Load())))
		return len(left) == 0 && len(views[0].Unerased()) == 0
	}
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what is due is not done")
		}
	}
	time.Sleep(200 * time.Millisecond) // for whoever comes late
	stopDue()
	working.Wait()

	named := map[domain.UID]bool{}
	for ref, operations := range want {
		var got []string
		for c, err := range own.LoadConfirmed(ctx, eventstore.KeyAggregate(ref.Name), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if c.Caller.Kind == domain.KindSystem {
				got = append(got, fmt.Sprint(c.Operation, " ", c.Version))
				if len(c.Events) == 0 || c.Caller.Request != domain.RequestSystem || c.GrantedBy != "system" {
					t.Errorf("%s: the commit %+v", ref.Name, c)
				}
			}
		}
		if !slices.Equal(got, operations) {
			t.Errorf("%s: done %v, want %v", ref.Name, got, operations)
		}
		state, _ := views[1].Get(ref.Name.String())
		for kv := range state.Key.Versions.All() {
			if kv.State != domain.VersionStateDestroyed {
				named[kv.MaterialID] = true
			}
		}
	}
	if !maps.Equal(material.stored, named) {
		t.Errorf("%d wrapped keys are stored, %d are named by the log", len(material.stored), len(named))
	}
	if len(activity.recorded) > 0 {
		t.Errorf("recorded %+v", activity.recorded[0])
	}
	t.Logf("%d keys were made in the token, %d of them for nothing", material.made, material.made-len(named)-2*each)
}
