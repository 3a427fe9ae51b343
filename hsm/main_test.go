package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
)

// SoftHSM is one per process, so that the tests share one token, and those that break one do it in child processes: the
// test binary itself, started again to run one of children.

const (
	childVar = "KMS_HSM_TEST_CHILD"
	dirVar   = "KMS_HSM_TEST_DIR"
)

var errNoBlob = errors.New("no such blob")

// store keeps blobs as the event store does: by material id.
type store struct {
	mu    sync.Mutex
	blobs map[domain.UID][]byte
	reads int
	delay time.Duration
}

func (s *store) Blob(ctx context.Context, b domain.Binding) ([]byte, error) {
	s.mu.Lock()
	blob, ok := s.blobs[b.MaterialID]
	s.reads++
	delay := s.delay
	s.mu.Unlock()
	if delay > 0 {
		if err := pause(ctx, delay); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errNoBlob
	}
	return blob, nil
}

func (s *store) put(b domain.Binding, blob []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs == nil {
		s.blobs = map[domain.UID][]byte{}
	}
	s.blobs[b.MaterialID] = blob
}

const testRoot = "1"

// shared is the token of this process, and blobs what it reads.
var (
	shared     *Token
	sharedInfo RootInfo
	sharedDir  string
	blobs      = &store{}
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		if err := children[name](os.Getenv(dirVar)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	installTelemetry()
	if sharedDir, err = os.MkdirTemp("", "hsm"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(sharedDir)) }()
	// A cache far smaller than the number of keys that some tests use, so that eviction is always at work.
	if shared, sharedInfo, err = openWithRoot(sharedDir, blobs, func(c *Config) { c.CacheSize = 16 }); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, shared.Close()
}

// openWithRoot opens the token in dir, and makes it and its root if need be.
func openWithRoot(dir string, b Blobs, change func(*Config)) (*Token, RootInfo, error) {
	ctx := context.Background()
	t, err := openIn(dir, b, change)
	if err != nil {
		return nil, RootInfo{}, err
	}
	info, err := t.CreateRoot(ctx, testRoot)
	if errors.Is(err, ErrRootExists) {
		info, err = t.InspectRoot(ctx, testRoot)
	}
	if err == nil {
		err = t.VerifyRoot(ctx, info)
	}
	if err == nil {
		err = t.UseRoot(testRoot)
	}
	if err != nil {
		return nil, RootInfo{}, errors.Join(err, t.Close())
	}
	return t, info, nil
}

func openIn(dir string, b Blobs, change func(*Config)) (*Token, error) {
	module, err := FindModule()
	if err != nil {
		return nil, err
	}
	cfg, err := InitSoftHSM(context.Background(), dir, module)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&cfg)
	}
	return Open(context.Background(), cfg, b)
}

func randomUID() (u domain.UID) {
	_, _ = rand.Read(u[:])
	return u
}

func newBinding() domain.Binding {
	return domain.Binding{
		Project: "p", KeyUID: randomUID(), Version: 1, MaterialID: randomUID(), Algorithm: domain.AES256GCM,
		Purpose: domain.EncryptDecrypt, Protection: domain.HSM, Origin: domain.Generated,
	}
}

// newKey makes a key in the shared token and stores its blob.
func newKey(tb testing.TB) (domain.Binding, domain.WrappedKey) {
	tb.Helper()
	b := newBinding()
	w, err := shared.Generate(tb.Context(), b)
	if err != nil {
		tb.Fatal(err)
	}
	blobs.put(b, w.Blob)
	return b, w
}
