package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// leaseTimeout bounds the work for one lease. What is not known to be granted by then is lost.
	leaseTimeout = 5 * time.Second
	// leaseWait bounds how long one use waits for leases.
	leaseWait = 5 * time.Second
	// leaseGrowth is how many times larger each lease is than the one before, until it has its full size, and how many times
	// smaller than that the first one is at most. What a node loses when it ends is so in proportion to what it used.
	leaseGrowth, leaseRamp = 4, 256
)

// leases are the encryptions that this node may still make, for each version with a budget that it has encrypted with. A
// lease is one commit on the key and nothing else: the node that appended it, and knows that it did, has the uses. They end
// with the process. There are never more leases than versions in the projection, so none is forgotten before that.
type leases struct{ byVersion sync.Map } // of leaseKey and *lease

type leaseKey struct {
	key     domain.UID
	version domain.Version
}

func (l *leases) of(key domain.UID, v domain.Version) *lease {
	k := leaseKey{key, v}
	if found, ok := l.byVersion.Load(k); ok {
		return found.(*lease)
	}
	made, _ := l.byVersion.LoadOrStore(k, &lease{})
	return made.(*lease)
}

// lease is what is left of one version's leases. The zero lease is empty.
type lease struct {
	left atomic.Uint64
	// mark is what left must fall below for more to be leased meanwhile; zero while that is under way.
	mark atomic.Uint64

	mu      sync.Mutex
	renewal *renewal // under way; nil: none
	size    uint64   // of the last one that was granted; only the renewal that is under way touches it
}

// renewal is one attempt to lease more uses, on which any number of callers wait.
type renewal struct {
	done chan struct{}
	// Set when done.

	key domain.Key // as of the renewal
	err error
}

// take takes one use, if any is left. low tells one caller of those below the mark that it is time to lease more.
func (l *lease) take() (ok, low bool) {
	for {
		n := l.left.Load()
		if n == 0 {
			return false, false
		}
		if l.left.CompareAndSwap(n, n-1) {
			return true, n <= l.mark.Load() && l.mark.Swap(0) != 0
		}
	}
}

// granted adds the uses of a lease.
func (l *lease) granted(n uint64) {
	l.size = n
	l.left.Add(n)
	l.mark.Store(n / 4)
}

// failed makes the next attempt wait until half of what is left is used, so that the last uses don't ask one by one.
func (l *lease) failed() { l.mark.Store(l.left.Load() / 2) }

// nextLease is how many uses to lease of a budget after a lease of the last size; zero: the first one.
func nextLease(budget, last uint64) uint64 {
	full := domain.LeaseSize(budget)
	if last >= full/leaseGrowth && last != 0 {
		return full
	}
	return max(1, full/leaseRamp, last*leaseGrowth)
}

// awaitUse is for a use of version v of the key, zero being the primary one, for which this node has no lease: it waits for
// one, bounded. It returns the version that may make the use, and the key as it is known by then: if the primary version is
// used up and the key may rotate by itself, it has another one.
func (s *Service) awaitUse(ctx context.Context, key domain.Key, version domain.KeyVersion, v domain.Version, at time.Time) (domain.Key, domain.KeyVersion, error) {
	wait, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	for {
		var refused, err error
		key, refused = s.awaitLease(wait, key, version.Version)
		version, err = key.VersionFor(domain.Protecting, domain.EncryptDecrypt, v, at)
		if err != nil || s.allowed(ctx, key, version) { // asked first, since another lease may have come in between
			return key, version, err
		}
		if refused != nil {
			return key, version, refused
		}
	}
}

// allowed takes one use of the version from this node's leases. What is taken is not given back. If the budget was lowered
// below what is leased already, leases count for nothing.
func (s *Service) allowed(ctx context.Context, key domain.Key, version domain.KeyVersion) bool {
	budget := key.MaxUsesPerVersion
	if budget == 0 {
		return true
	}
	if version.UsesLeased > budget {
		return false
	}
	l := s.leases.of(key.UID, version.Version)
	ok, low := l.take()
	if low && version.UsesLeased < budget {
		s.renew(ctx, l, key, version.Version)
	}
	return ok
}

// awaitLease waits until a lease of the version was granted to this node or refused, and returns the key as of then.
func (s *Service) awaitLease(ctx context.Context, key domain.Key, v domain.Version) (domain.Key, error) {
	r := s.renew(ctx, s.leases.of(key.UID, v), key, v)
	select {
	case <-r.done:
		return r.key, r.err
	case <-ctx.Done():
		return key, errors.Join(noLease(key, v), ctx.Err())
	}
}

func noLease(key domain.Key, v domain.Version) error {
	return &domain.Error{
		Reason: domain.ReasonStoreAway, Message: fmt.Sprintf("the event store granted this node no further encryptions with version %d of key %s in time; try again", v, key.Name),
	}
}

// renew begins to lease more uses of the version, unless that is under way. It goes on if the caller's request ends: others
// wait for it too.
func (s *Service) renew(ctx context.Context, l *lease, key domain.Key, v domain.Version) *renewal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.renewal != nil {
		return l.renewal
	}
	r := &renewal{done: make(chan struct{})}
	l.renewal = r
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseTimeout)
		defer cancel()
		r.key, r.err = s.leaseMore(ctx, l, key, v)
		l.mu.Lock()
		l.renewal = nil
		l.mu.Unlock()
		close(r.done)
	}()
	return r
}

// leaseMore leases uses of the version for this node. It returns the key as of then, or else as it was given. If there are
// no more to lease of the primary version, the key is rotated if it may rotate by itself.
func (s *Service) leaseMore(ctx context.Context, l *lease, key domain.Key, v domain.Version) (domain.Key, error) {
	uses, leased, err := s.leaseUses(ctx, key, v, nextLease(key.MaxUsesPerVersion, l.size))
	if err == nil {
		l.granted(uses)
		return leased, nil
	}
	l.failed()
	if key.AutoRotation && v == key.Primary && errors.Is(err, &domain.Error{Reason: domain.ReasonVersionUsedUp}) {
		rotated, failed := s.rotateUsedUp(ctx, key, v)
		if failed == nil && rotated.Primary != v {
			return rotated, nil
		}
		if failed != nil {
			err = fmt.Errorf("rotating a key whose primary version is used up: %w", failed)
		}
	}
	if refusal, ok := errors.AsType[*domain.Error](err); ok && (refusal.Reason == domain.ReasonOutcomeUnknown || refusal.Reason == domain.ReasonContention) {
		err = errors.Join(noLease(key, v), err) // the one who encrypts has asked for no change that could be repeated
	}
	return key, err
}

// leaseUses appends a lease of n uses, or of as many as are left, and returns how many it is of: only what this commit
// grants is this node's, and if it is not known whether it was stored, nothing is. A refusal is recorded for the use that
// needed the lease, not once more for the lease.
func (s *Service) leaseUses(ctx context.Context, key domain.Key, v domain.Version, n uint64) (uses uint64, leased domain.Key, err error) {
	id, err := newUID()
	if err != nil {
		return 0, key, fmt.Errorf("making a request id: %w", err)
	}
	ref := domain.KeyRef{Name: key.Name, Version: v}
	a := s.begin(domain.System(id), OperationLeaseUses, domain.CategoryManagement, ref)
	if err := s.authorize(&a, domain.PermissionEncrypt); err != nil {
		return 0, key, err
	}
	var dueBefore bool
	k := checkedKind{keyKind{s}, func(_ context.Context, state eventstore.KeyState, _ time.Time, commit eventstore.Commit) error {
		uses, dueBefore = 0, state.Key.BudgetDue(v) // of the attempt that counts, the last
		for _, e := range commit.Events {
			if lease, ok := e.(domain.UsesLeased); ok {
				uses = lease.Uses
			}
		}
		return nil
	}}
	state, err := carryOut(ctx, s, &a, k, change{
		operation: a.record.Operation, permission: domain.PermissionEncrypt, ref: ref, command: always(domain.LeaseUses{Version: v, N: n}),
	})
	if err != nil {
		return 0, key, err
	}
	if !dueBefore && state.Key.BudgetDue(v) { // this commit crossed the line, so it is said once
		kv, _ := state.Key.Versions.Get(v)
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "80 % of the encryptions that a version may make are leased; rotate the key, unless it rotates by itself",
			slog.String("key_uid", state.Key.UID.String()), slog.String("key", state.Key.Name.String()), slog.Int("version", int(v)),
			slog.Uint64("uses_leased", kv.UsesLeased), slog.Uint64("max_uses_per_version", state.Key.MaxUsesPerVersion), slog.Bool("auto_rotation", state.Key.AutoRotation))
	}
	return uses, state.Key, nil
}

// errRotated ends a rotation that somebody else has made meanwhile.
var errRotated = errors.New("the key has another primary version already")

// rotateUsedUp rotates a key whose primary version v has no uses left, if that is still so, and returns the key as of then.
// As with leases, a refusal is recorded for the use that needed it.
func (s *Service) rotateUsedUp(ctx context.Context, key domain.Key, v domain.Version) (domain.Key, error) {
	id, err := newUID()
	if err != nil {
		return key, fmt.Errorf("making a request id: %w", err)
	}
	ref := domain.KeyRef{Name: key.Name}
	a := s.begin(domain.System(id), "RotateKey", domain.CategoryManagement, ref)
	if err := s.authorize(&a, domain.PermissionKeysRotate); err != nil {
		return key, err
	}
	k := checkedKind{keyKind{s}, func(_ context.Context, state eventstore.KeyState, _ time.Time, _ eventstore.Commit) error {
		if key = state.Key; key.Primary != v { // its budget may call for a rotation by now, but nothing waits for that
			return errRotated
		}
		return nil
	}}
	state, err := carryOut(ctx, s, &a, k, change{
		operation: a.record.Operation, permission: domain.PermissionKeysRotate, ref: ref,
		command: func(material domain.UID) (domain.Command, error) {
			return domain.RotateDueKey{MaterialID: material}, nil
		},
	})
	switch {
	case errors.Is(err, errRotated):
		return key, nil
	case err != nil:
		return key, err
	}
	return state.Key, nil
}

// checkedKind is keyKind with a check of every commit that is decided, which may refuse it. state is the key before it and
// at its time.
type checkedKind struct {
	keyKind
	check func(ctx context.Context, state eventstore.KeyState, at time.Time, commit eventstore.Commit) error
}

func (k checkedKind) decide(ctx context.Context, ref domain.KeyRef, state eventstore.KeyState, at time.Time, cmd domain.Command) (eventstore.Commit, error) {
	commit, err := k.keyKind.decide(ctx, ref, state, at, cmd)
	if err != nil {
		return eventstore.Commit{}, err
	}
	return commit, k.check(ctx, state, at, commit)
}

// RegisterMetrics makes the gauge of how much of the budgets of versions is leased. It shows the primary versions that this
// node encrypts with and that are due to be rotated for it, and no others: there may be many keys.
func (s *Service) RegisterMetrics(m metric.Meter) error {
	ratio, err := m.Float64ObservableGauge("kms.version.uses", metric.WithUnit("1"),
		metric.WithDescription("Uses of a primary version that are leased, as a part of max_uses_per_version, from 80 % on."))
	if err != nil {
		return fmt.Errorf("making the gauge of uses: %w", err)
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for k := range s.leases.byVersion.Range {
			of := k.(leaseKey)
			state, _ := s.cfg.Keys.GetByUID(of.key)
			if state.Key.Primary != of.version || !state.Key.BudgetDue(of.version) {
				continue
			}
			version, _ := state.Key.Versions.Get(of.version)
			o.ObserveFloat64(ratio, float64(version.UsesLeased)/float64(state.Key.MaxUsesPerVersion),
				metric.WithAttributes(attribute.String("key_uid", of.key.String()), attribute.Int("version", int(of.version))))
		}
		return nil
	}, ratio)
	if err != nil {
		return fmt.Errorf("making the gauge of uses: %w", err)
	}
	return nil
}
