package eventstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// listen starts a real server that is reached over loopback, as an external one is.
func listen(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	srv := launch(t, change)
	waitListening(t, srv)
	return srv
}

// launch is listen without waiting until the server is ready.
func launch(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, NoSigs: true, NoLog: true,
		JetStreamMaxStore: 1 << 50,
	}
	if change != nil {
		change(opts)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

func waitListening(t testing.TB, srv *server.Server) {
	t.Helper()
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
}

// openExternal opens a store on an external server, provisions and verifies it.
func openExternal(t testing.TB, cfg eventstore.Config, replicas int) *eventstore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := eventstore.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Logf("closing: %v", err)
		}
	})
	if err := s.Provision(ctx, replicas); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// lossy is a network that loses answers: once armed, the next message written whose bytes contain the pattern is delivered,
// and then the connection is cut before anything is read from it.
type lossy struct {
	mu      sync.Mutex
	pattern []byte // nil: not armed
	lost    atomic.Int32
}

func (l *lossy) arm(pattern string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pattern = []byte(pattern)
}

func (l *lossy) fires(written []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pattern == nil || !bytes.Contains(written, l.pattern) {
		return false
	}
	l.pattern = nil
	l.lost.Add(1)
	return true
}

func (l *lossy) Dial(network, address string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &lossyConn{Conn: conn, network: l}, nil
}

type lossyConn struct {
	net.Conn
	network *lossy
	deaf    atomic.Bool
}

func (c *lossyConn) Write(b []byte) (int, error) {
	if c.network.fires(b) {
		c.deaf.Store(true)
		n, err := c.Conn.Write(b)
		time.Sleep(100 * time.Millisecond) // the server stores it meanwhile
		return n, errors.Join(err, c.Close())
	}
	return c.Conn.Write(b)
}

func (c *lossyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		return 0, io.EOF
	}
	return n, err
}

func TestLostAcknowledgements(t *testing.T) {
	srv, network := listen(t, nil), new(lossy)
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL = srv.ClientURL()
	cfg.Logger = slog.New(slog.DiscardHandler) // connections are cut on purpose
	eventstore.SetDialer(&cfg, network)
	s := openExternal(t, cfg, 1)

	t.Run("of an append", func(t *testing.T) {
		network.arm("HPUB kms.events.")
		want := createKey(t, "k")
		c, err := s.Append(t.Context(), 0, want)
		if err != nil {
			t.Fatal(err)
		}
		all := collect(t, s, want.Aggregate, 0)
		if len(all) != 1 || all[0].CommandID != want.CommandID || all[0].Hash != c.Hash || all[0].Revision != c.Revision {
			t.Errorf("%d commits are stored; the first is %d %x, appended was %d %x", len(all), all[0].Revision, all[0].Hash, c.Revision, c.Hash)
		}
	})
	t.Run("of an append that lost its race", func(t *testing.T) {
		first, err := s.Append(t.Context(), 0, createKey(t, "race"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), first.Revision, nextCommit(t, first)); err != nil {
			t.Fatal(err)
		}
		network.arm("HPUB kms.events.")
		if _, err := s.Append(t.Context(), first.Revision, nextCommit(t, first)); !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("error = %v, want a conflict", err)
		}
	})
	t.Run("of records", func(t *testing.T) {
		network.arm("HPUB kms.activity.")
		receipt, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "a")})
		if err != nil {
			t.Fatal(err)
		}
		next, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "b")})
		if err != nil {
			t.Fatal(err)
		}
		if next.Seq != receipt.Seq+1 {
			t.Errorf("the records have sequences %d and %d: one was stored twice, or not", receipt.Seq, next.Seq)
		}
	})
	t.Run("of material", func(t *testing.T) {
		b := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
		network.arm("HPUB kms.material.")
		if err := s.PutMaterial(t.Context(), b, []byte("wrapped")); err != nil {
			t.Fatal(err)
		}
		if blob, err := s.Blob(t.Context(), b); err != nil || string(blob) != "wrapped" {
			t.Errorf("blob = %q, %v", blob, err)
		}
	})
	t.Run("of a checkpoint", func(t *testing.T) {
		network.arm("HPUB kms.projection.")
		rev, err := s.SaveCheckpoint(t.Context(), "x", []byte("1"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.SaveCheckpoint(t.Context(), "x", []byte("2"), rev); err != nil {
			t.Fatal(err)
		}
	})
	if n := network.lost.Load(); n != 5 {
		t.Errorf("%d acknowledgements were lost, want 5", n)
	}
}

// TestUnknownOutcome: a caller whose time is over before it is known what became of its append must not be told that it failed.
func TestUnknownOutcome(t *testing.T) {
	srv, network := listen(t, nil), new(lossy)
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL, cfg.Logger = srv.ClientURL(), slog.New(slog.DiscardHandler)
	eventstore.SetDialer(&cfg, network)
	s := openExternal(t, cfg, 1)

	network.arm("HPUB kms.events.")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Append(ctx, 0, createKey(t, "k")); !errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("append: error = %v, want an unknown outcome", err)
	}
	waitReady(t, s)

	network.arm("HPUB kms.activity.")
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Record(ctx, []domain.ActivityRecord{record(t, "k")}); !errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("record: error = %v, want an unknown outcome", err)
	}
	// The writer goes on behind the message whose caller is gone.
	if receipt, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "l")}); err != nil || receipt.Seq != 2 {
		t.Errorf("record: %+v, %v; want sequence 2", receipt, err)
	}
}

func waitReady(t testing.TB, s *eventstore.Store) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for s.Ready(t.Context()) != nil {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", s.Ready(t.Context()))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestServerAway: while the server is away calls fail in bounded time and say that nothing was stored; then all goes on.
func TestServerAway(t *testing.T) {
	dir := t.TempDir()
	srv := listen(t, func(o *server.Options) { o.StoreDir = dir })
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL, cfg.Logger = srv.ClientURL(), slog.New(slog.DiscardHandler)
	s := openExternal(t, cfg, 1)
	port := srv.Addr().(*net.TCPAddr).Port

	var seen atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var subscriber sync.WaitGroup
	subscriber.Go(func() {
		err := s.Subscribe(ctx, 0, nil, func(eventstore.Commit) error { seen.Add(1); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("subscription ended with %v", err)
		}
	})
	if _, err := s.Append(t.Context(), 0, createKey(t, "before")); err != nil {
		t.Fatal(err)
	}
	srv.Shutdown()
	srv.WaitForShutdown()
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready without a server")
	}
	short, cancelShort := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancelShort()
	if _, err := s.Append(short, 0, createKey(t, "away")); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("append: error = %v, want unavailable", err)
	}
	began := time.Now()
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("record: error = %v, want unavailable", err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("record needed %s to say so", d)
	}
	listen(t, func(o *server.Options) { o.StoreDir, o.Port = dir, port })
	waitReady(t, s)
	if _, err := s.Append(t.Context(), 0, createKey(t, "after")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); seen.Load() < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("the subscriber saw %d of 3 commits", seen.Load())
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	subscriber.Wait()
}

// TestPermissionMissing: NATS answers a forbidden publish with silence. It must not look like a slow server.
func TestPermissionMissing(t *testing.T) {
	dir := t.TempDir()
	open := listen(t, func(o *server.Options) { o.StoreDir = dir })
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL, cfg.Logger = open.ClientURL(), slog.New(slog.DiscardHandler)
	first := openExternal(t, cfg, 1)
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	open.Shutdown()
	open.WaitForShutdown()

	srv := listen(t, func(o *server.Options) {
		o.StoreDir = dir
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"$JS.API.>"}},
		}}}
	})
	cfg.URL = "nats://u:p@" + srv.Addr().String()
	s, err := eventstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(t.Context()) }() // it failed for good, which is what is tested
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.Append(ctx, 0, createKey(t, "k")); !errors.Is(err, eventstore.ErrPermission) {
		t.Errorf("append: error = %v, want a missing permission", err)
	}
	select {
	case <-s.Failed():
	default:
		t.Error("the store does not say that it failed")
	}
	if err := s.Ready(ctx); !errors.Is(err, eventstore.ErrPermission) {
		t.Errorf("ready: error = %v", err)
	}
	cfg.URL = "nats://u:wrong@" + srv.Addr().String()
	if _, err := eventstore.Open(ctx, cfg); !errors.Is(err, eventstore.ErrPermission) || bytes.Contains([]byte(err.Error()), []byte("wrong@")) {
		t.Errorf("open with a wrong password: error = %v", err)
	}
}
