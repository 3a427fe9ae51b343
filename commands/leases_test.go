package commands_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
)

// limitedKey makes a key of which each version may make so many encryptions.
func limitedKey(t *testing.T, s *commands.Service, budget uint64) (domain.KeyRef, eventstore.KeyState) {
	t.Helper()
	ref, _ := newKey(t, s)
	return ref, limit(t, s, ref, budget)
}

func limit(t *testing.T, s *commands.Service, ref domain.KeyRef, budget uint64) eventstore.KeyState {
	t.Helper()
	state, err := s.UpdateKey(t.Context(), admin, ref, domain.UpdateKey{MaxUsesPerVersion: &budget}, commands.Mutation{})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// rotatesByItself switches automatic rotation on.
func rotatesByItself(t *testing.T, state eventstore.KeyState) {
	t.Helper()
	on := domain.AutoRotationEnabled{RotationPeriod: domain.DefaultRotationPeriod, NextRotationTime: time.Now().Add(domain.DefaultRotationPeriod).UTC().Truncate(time.Microsecond)}
	c, err := store.Append(t.Context(), state.Revision, eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(state.Key.Name), KeyUID: state.Key.UID, CommandID: newID(), Operation: "EnableAutoRotation", Caller: admin,
		Time: state.Time, Prev: state.Hash, Protection: state.Key.Protection, Events: []domain.Event{on},
	})
	if err == nil {
		err = keys.WaitFor(t.Context(), c.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func leased(t *testing.T, ref domain.KeyRef, v domain.Version) uint64 {
	t.Helper()
	state, _ := keys.Get(ref.Name.String())
	kv, ok := state.Key.Versions.Get(v)
	if !ok {
		t.Fatalf("there is no version %d", v)
	}
	return kv.UsesLeased
}

// encryptions are all the ways to use a budget, each with how many uses it takes.
var encryptions = []func(ctx context.Context, s *commands.Service, ref domain.KeyRef, sealed []byte) (done int, err error){
	func(ctx context.Context, s *commands.Service, ref domain.KeyRef, _ []byte) (int, error) {
		_, err := s.Encrypt(ctx, admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
		return 1, err
	},
	func(ctx context.Context, s *commands.Service, ref domain.KeyRef, _ []byte) (int, error) {
		_, err := s.GenerateDataKey(ctx, admin, commands.DataKeyRequest{Ref: ref, Bytes: 16})
		return 1, err
	},
	func(ctx context.Context, s *commands.Service, ref domain.KeyRef, sealed []byte) (int, error) {
		_, err := s.ReEncrypt(ctx, admin, commands.ReEncryptRequest{Ref: ref, Ciphertext: sealed})
		return 1, err
	},
	func(ctx context.Context, s *commands.Service, ref domain.KeyRef, _ []byte) (done int, err error) {
		outcomes, err := s.BatchEncrypt(ctx, admin, ref, make([]commands.EncryptItem, 3))
		for _, o := range outcomes {
			if o.Err == nil {
				done++
			} else {
				err = o.Err
			}
		}
		return done, err
	},
}

// following is another projection of the store, as another node has one.
func following(t *testing.T) *projections.Keys {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	k, caughtUp, done := projections.NewKeys(slog.New(slog.DiscardHandler), nil), make(chan struct{}), make(chan error, 1)
	go func() { done <- k.Run(ctx, store, func() { close(caughtUp) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-caughtUp
	for k.Fresh() != nil && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	return k
}

// spend encrypts with all of the nodes at once until each is refused, or has done so much, and returns how much was done.
func spend(t *testing.T, nodes []*commands.Service, ref domain.KeyRef, sealed []byte, most int) uint64 {
	t.Helper()
	var done atomic.Uint64
	var callers sync.WaitGroup
	for i := range 4 * len(nodes) {
		callers.Go(func() {
			for mine := 0; mine < most; {
				n, err := encryptions[i%len(encryptions)](t.Context(), nodes[i%len(nodes)], ref, sealed)
				if err == nil || i%len(encryptions) == 3 { // of a batch some may be done
					mine += n
					done.Add(uint64(n))
				}
				switch {
				case err == nil, errors.Is(err, &domain.Error{Reason: domain.ReasonStoreAway}): // lost too many races for a lease
				case errors.Is(err, &domain.Error{Reason: domain.ReasonVersionUsedUp}):
					return
				default:
					t.Errorf("refused with %v", err)
					return
				}
			}
		})
	}
	callers.Wait()
	return done.Load()
}

// TestBudgetIsExact: however many nodes use a version in whatever ways, there are never more encryptions than it may make,
// and with one node exactly so many. What a node had leased is lost when it ends.
func TestBudgetIsExact(t *testing.T) {
	other, _ := newKey(t, newService(&faults{}))
	out, err := newService(&faults{}).Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: other, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		budget   uint64
		nodes    int
		restarts bool
	}{
		"1, one node":          {1, 1, false},
		"10, one node":         {10, 1, false},
		"1000, one node":       {1000, 1, false},
		"10, three nodes":      {10, 3, false},
		"1000, three nodes":    {1000, 3, false},
		"1000, restarted once": {1000, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := newService(&faults{})
			ref, _ := limitedKey(t, first, tt.budget)
			nodes := []*commands.Service{first}
			for len(nodes) < tt.nodes {
				nodes = append(nodes, newService(&faults{keys: following(t)})) // has caught up with the key
			}
			var done uint64
			if tt.restarts {
				done = spend(t, nodes, ref, out.Ciphertext, 20)
				nodes = []*commands.Service{newService(&faults{}), nodes[1]}
			}
			done += spend(t, nodes, ref, out.Ciphertext, int(tt.budget)+1)
			switch {
			case done > tt.budget, tt.nodes == 1 && done != tt.budget:
				t.Errorf("%d encryptions with a budget of %d", done, tt.budget)
			case done < tt.budget*9/10:
				t.Errorf("%d encryptions with a budget of %d: the others are lost", done, tt.budget)
			}
			if got := leased(t, ref, 1); got != tt.budget {
				t.Errorf("%d uses leased of %d", got, tt.budget)
			}
			sealed, err := nodes[0].Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref})
			refused(t, err, domain.ReasonVersionUsedUp)
			if sealed.Ciphertext != nil {
				t.Error("a ciphertext came out")
			}
			for _, c := range commits(t, ref)[2:] {
				if c.Operation != "LeaseUses" || c.Caller.Kind != domain.KindSystem {
					t.Fatalf("%s by %s", c.Operation, c.Caller.Principal)
				}
			}
		})
	}
}

// TestDecryptingIsFree: decrypting takes no uses.
func TestDecryptingIsFree(t *testing.T) {
	s := newService(&faults{})
	ref, _ := limitedKey(t, s, 1)
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ref: ref, Ciphertext: sealed.Ciphertext, OnlyIfStale: true}); err != nil {
		t.Errorf("what changes nothing: %v", err)
	}
	_, err = s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ref: ref, Ciphertext: sealed.Ciphertext})
	refused(t, err, domain.ReasonVersionUsedUp)
	_, err = s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: make([]byte, domain.MaxPlaintext+1)})
	refused(t, err, domain.ReasonTooLarge) // and not for want of a lease
}

// TestUnknownLeaseIsLost: a lease that may or may not be this node's is not used.
func TestUnknownLeaseIsLost(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := limitedKey(t, s, 10)
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		c, err := next()
		return c, errors.Join(err, eventstore.ErrUnknownOutcome)
	}
	for range 4 {
		_, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref})
		refused(t, err, domain.ReasonStoreAway)
		if err := keys.WaitFor(t.Context(), commits(t, ref)[len(commits(t, ref))-1].Revision); err != nil {
			t.Fatal(err)
		}
	}
	f.append = nil
	done := 0
	for ; ; done++ {
		if _, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref}); err != nil {
			refused(t, err, domain.ReasonVersionUsedUp)
			break
		}
	}
	if done != 6 {
		t.Errorf("%d encryptions after 4 of 10 were lost", done)
	}
}

// TestLeaseOfADisabledKey: a key that is disabled while a lease is on its way gives none.
func TestLeaseOfADisabledKey(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := limitedKey(t, s, 10)
	disable := sync.OnceFunc(func() {
		if _, err := newService(&faults{}).DisableKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
			t.Error(err)
		}
	})
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		disable()
		return next()
	}
	_, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref})
	refused(t, err, domain.ReasonKeyDisabled)
	if got := leased(t, ref, 1); got != 0 {
		t.Errorf("%d uses leased", got)
	}
	if r := f.last(t); len(f.recorded) != 1 || r.Operation != "Encrypt" || r.Reason != domain.ReasonKeyDisabled {
		t.Errorf("recorded as %+v", f.recorded)
	}
	if _, err := s.EnableKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref}); err != nil {
		t.Error(err)
	}
}

// TestWaitForALeaseIsBounded: a caller does not wait longer than it has time, and what is leased then is not lost.
func TestWaitForALeaseIsBounded(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := limitedKey(t, s, 10)
	released := make(chan struct{})
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		<-released
		return next()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Encrypt(ctx, admin, commands.EncryptRequest{Ref: ref})
	if err == nil {
		t.Fatal("encrypted without a lease")
	}
	close(released)
	for range 10 {
		if _, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUsedUpVersionRotates: a key that rotates by itself goes on with a new version, each of which keeps its own budget.
func TestUsedUpVersionRotates(t *testing.T) {
	nodes := []*commands.Service{newService(&faults{}), newService(&faults{})}
	ref, state := limitedKey(t, nodes[0], 10)
	rotatesByItself(t, state)
	var mu sync.Mutex
	made := map[domain.Version]int{}
	var callers sync.WaitGroup
	const each, most = 7, 9
	for i := range most {
		callers.Go(func() {
			for range each {
				out, err := nodes[i%2].Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made[out.Version]++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	total := 0
	for v, n := range made {
		total += n
		if n > 10 {
			t.Errorf("version %d made %d", v, n)
		}
	}
	if total != each*most {
		t.Errorf("%d encryptions, want %d", total, each*most)
	}
	after, _ := keys.Get(ref.Name.String())
	if n := after.Key.Versions.Len(); n < 7 || n > 8 {
		t.Errorf("%d versions for %d encryptions", n, total)
	}
	if !after.Key.NextRotationTime.After(time.Now().Add(domain.DefaultRotationPeriod - time.Hour)) {
		t.Errorf("the schedule moved: %s", after.Key.NextRotationTime)
	}
	// Who names the version gets no other one.
	_, err := nodes[0].Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: domain.KeyRef{Name: ref.Name, Version: 1}})
	refused(t, err, domain.ReasonVersionUsedUp)
}

// TestLoweredBudget: what is leased of a larger budget counts for nothing once the budget is below it.
func TestLoweredBudget(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s) // with the default of 2³²
	encrypt := func() error {
		_, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref})
		return err
	}
	if err := encrypt(); err != nil {
		t.Fatal(err)
	}
	if got := leased(t, ref, 1); got != 1<<16 {
		t.Errorf("%d uses leased of 2³² for the first", got)
	}
	limit(t, s, ref, 10)
	refused(t, encrypt(), domain.ReasonVersionUsedUp)
	limit(t, s, ref, 1<<20)
	if err := encrypt(); err != nil {
		t.Error(err)
	}
	limit(t, s, ref, 0)
	for range 3 {
		if err := encrypt(); err != nil {
			t.Error(err)
		}
	}
	if got := leased(t, ref, 1); got != 1<<16 {
		t.Errorf("%d uses leased in the end", got)
	}
}

// TestLeasesAreNoChange: leases move a key's revision, but neither its etag nor the time of its last change.
func TestLeasesAreNoChange(t *testing.T) {
	s := newService(&faults{})
	ref, before := limitedKey(t, s, 10)
	if _, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref}); err != nil {
		t.Fatal(err)
	}
	after, _ := keys.Get(ref.Name.String())
	if after.Revision == before.Revision || commands.Etag(after.Tip) != commands.Etag(before.Tip) || !after.Key.UpdateTime.Equal(before.Key.UpdateTime) {
		t.Errorf("revision %d → %d, etag %s → %s, updated %s → %s", before.Revision, after.Revision,
			commands.Etag(before.Tip), commands.Etag(after.Tip), before.Key.UpdateTime, after.Key.UpdateTime)
	}
	disabled, err := s.DisableKey(t.Context(), admin, ref, commands.Mutation{Etag: commands.Etag(before.Tip)})
	if err != nil {
		t.Fatal(err)
	}
	if commands.Etag(disabled.Tip) == commands.Etag(before.Tip) {
		t.Error("a change left the etag as it was")
	}
}

// warnings counts what is logged as a warning.
type warnings struct {
	slog.Handler

	n *atomic.Int64
}

func (warnings) Enabled(context.Context, slog.Level) bool { return true }

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		w.n.Add(1)
	}
	return nil
}

// TestBudgetRunsOut: with 80 % leased it is said once, and the metric shows it from then on, until the key is rotated.
func TestBudgetRunsOut(t *testing.T) {
	var said atomic.Int64
	nodes := []*commands.Service{newService(&faults{log: warnings{slog.DiscardHandler, &said}}), newService(&faults{log: warnings{slog.DiscardHandler, &said}})}
	reader := metric.NewManualReader()
	if err := nodes[0].RegisterMetrics(metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	shown := func() []metricdata.DataPoint[float64] {
		var got metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
		for _, scope := range got.ScopeMetrics {
			for _, m := range scope.Metrics {
				return m.Data.(metricdata.Gauge[float64]).DataPoints
			}
		}
		return nil
	}
	ref, state := limitedKey(t, nodes[0], 10)
	for i := range 10 {
		if _, err := nodes[i%2].Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref}); err != nil {
			t.Fatal(err)
		}
		want := 0
		if i+1 >= 8 {
			want = 1
		}
		points := shown()
		if said.Load() != int64(want) || len(points) != want {
			t.Fatalf("after %d of 10: said %d times, shown %v", i+1, said.Load(), points)
		}
		if want == 1 {
			uid, _ := points[0].Attributes.Value("key_uid")
			if points[0].Value != float64(i+1)/10 || uid.AsString() != state.Key.UID.String() {
				t.Errorf("after %d of 10: shown %v", i+1, points[0])
			}
		}
	}
	if _, err := nodes[0].RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if points := shown(); len(points) != 0 {
		t.Errorf("after a rotation: shown %v", points)
	}
}
