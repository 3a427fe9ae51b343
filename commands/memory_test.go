package commands_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
)

// memory is a site without a token and without files, so that years of its time can pass in moments (testing/synctest). It
// is everything that commands needs but the projection, which is the real one.
type memory struct {
	stop chan struct{}
	// generate and store fail where a test wants it; nil: they never do.
	generate func(domain.Binding) error
	store    func(domain.Binding) error

	mu      sync.Mutex // guards what follows
	commits []eventstore.Commit
	of      map[string][]int // commits by aggregate
	changed chan struct{}    // closed by the next append
	refused []domain.ActivityRecord
	blobs   map[domain.UID]bool // material ids
}

func newMemory() *memory {
	return &memory{stop: make(chan struct{}), of: map[string][]int{}, changed: make(chan struct{}), blobs: map[domain.UID]bool{}}
}

func (m *memory) Append(_ context.Context, expected eventstore.Revision, c eventstore.Commit) (eventstore.Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last eventstore.Revision
	if own := m.of[c.Aggregate.Name]; len(own) > 0 {
		last = m.commits[own[len(own)-1]].Revision
	}
	if last != expected {
		return eventstore.Commit{}, eventstore.ErrConflict
	}
	c.Revision = eventstore.Revision(len(m.commits) + 1)
	c.Hash = sha256.Sum256(fmt.Append(nil, c.Revision))
	m.of[c.Aggregate.Name] = append(m.of[c.Aggregate.Name], len(m.commits))
	m.commits = append(m.commits, c)
	close(m.changed)
	m.changed = make(chan struct{})
	return c, nil
}

func (m *memory) LoadConfirmed(_ context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	return func(yield func(eventstore.Commit, error) bool) {
		for _, c := range m.history(a) {
			if c.Revision > after && !yield(c, nil) {
				return
			}
		}
	}
}

// history is every commit of an aggregate.
func (m *memory) history(a eventstore.Aggregate) (all []eventstore.Commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.of[a.Name] {
		all = append(all, m.commits[i])
	}
	return all
}

func (m *memory) Subscribe(ctx context.Context, _ eventstore.Revision, caughtUp func(), f func(eventstore.Commit) error) error {
	caughtUp()
	for done := 0; ; {
		m.mu.Lock()
		more, changed := slices.Clip(m.commits[done:]), m.changed
		m.mu.Unlock()
		for _, c := range more {
			if err := f(c); err != nil {
				return err
			}
		}
		done += len(more)
		if len(more) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Load(ctx context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	return m.LoadConfirmed(ctx, a, after)
}

func (m *memory) CommitAt(_ context.Context, rev eventstore.Revision) (eventstore.Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rev < 1 || int(rev) > len(m.commits) {
		return eventstore.Commit{}, eventstore.ErrUnavailable
	}
	return m.commits[rev-1], nil
}

// Head does not answer: how fresh the projection is does not matter here, and asking twice a second for years takes long.
func (m *memory) Head(context.Context) (eventstore.Head, error) {
	<-m.stop
	return eventstore.Head{}, eventstore.ErrUnavailable
}

func (m *memory) PutMaterial(_ context.Context, b domain.Binding, _ []byte) error {
	if m.store != nil {
		if err := m.store(b); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[b.MaterialID] = true
	return nil
}

func (m *memory) EraseMaterial(_ context.Context, b domain.Binding) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, b.MaterialID)
	return nil
}

func (m *memory) Record(_ context.Context, records []domain.ActivityRecord) (eventstore.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = append(m.refused, records...)
	return eventstore.Receipt{}, nil
}

func (m *memory) Generate(_ context.Context, b domain.Binding) (domain.WrappedKey, error) {
	if m.generate != nil {
		if err := m.generate(b); err != nil {
			return domain.WrappedKey{}, err
		}
	}
	return domain.WrappedKey{Blob: b.MaterialID[:], Fingerprint: b.MaterialID[:]}, nil
}

var errNoCrypto = errors.New("there is no token")

func (*memory) Encrypt(context.Context, domain.Binding, []byte, []byte) (iv, ciphertext []byte, err error) {
	return nil, nil, errNoCrypto
}

func (*memory) Decrypt(context.Context, domain.Binding, []byte, []byte, []byte) ([]byte, error) {
	return nil, errNoCrypto
}

func (*memory) Import(context.Context, domain.Binding, []byte, domain.Binding) (domain.WrappedKey, error) {
	return domain.WrappedKey{}, errNoCrypto
}

func (*memory) ImportClear(context.Context, []byte, domain.Binding) (domain.WrappedKey, error) {
	return domain.WrappedKey{}, errNoCrypto
}

func (*memory) Random(context.Context, int) ([]byte, error) { return nil, errNoCrypto }

func (*memory) Evict(domain.UID, domain.Version) {}

// node is one that has its own projection of the site, until the test ends.
func (m *memory) node(t *testing.T) *commands.Service {
	t.Helper()
	known := projections.NewKeys(slog.New(slog.DiscardHandler), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- known.Run(ctx, m, func() {}) }()
	t.Cleanup(func() {
		cancel()
		m.close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return commands.New(commands.Config{
		Location: "local", Keys: known, Events: m, Material: m, Activity: m, Uses: &faults{}, Token: m, Log: slog.New(slog.DiscardHandler),
	})
}

func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.stop:
	default:
		close(m.stop)
	}
}
