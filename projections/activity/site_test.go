package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections/activity"
	"github.com/keyledger/kms/projections/activity/engine"
)

// childArg makes this test binary the engine's child process.
const childArg = "clickhouse-engine"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := engine.Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience bounds every wait of the tests.
const patience = 60 * time.Second

// site is a real event store and a real engine, both in temporary folders.
type site struct {
	store  *eventstore.Store
	engine *engine.Process
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{store: eventstoretest.New(t), engine: startEngine(t, t.TempDir())}
}

func startEngine(t *testing.T, dir string) *engine.Process {
	t.Helper()
	p, err := engine.Start(t.Context(), engine.Config{Dir: dir, Args: []string{childArg}, Logger: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, p) })
	return p
}

func closeEngine(t *testing.T, p *engine.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// open opens the log over the embedded engine.
func (s *site) open(t *testing.T) *activity.Log {
	t.Helper()
	return open(t, activity.Config{Dial: s.engine.DialContext, Source: s.store, Owner: "node", Logger: testLog(t)})
}

// openShared opens it in the name of one of several nodes, as if the engine were a server.
func (s *site) openShared(t *testing.T, owner string) *activity.Log {
	t.Helper()
	return open(t, activity.Config{URL: "http://" + s.listen(t), Source: s.store, Owner: owner, Logger: testLog(t)})
}

func open(t *testing.T, cfg activity.Config) *activity.Log {
	t.Helper()
	l, err := activity.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// listen makes the engine reachable over TCP and returns its address.
func (s *site) listen(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	connections.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { s.forward(ctx, from) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		connections.Wait()
	})
	return listener.Addr().String()
}

func (s *site) forward(ctx context.Context, from net.Conn) {
	to, err := s.engine.DialContext(ctx, "")
	if err != nil {
		_ = from.Close()
		return
	}
	closeBoth := func() { _ = from.Close(); _ = to.Close() }
	defer context.AfterFunc(ctx, closeBoth)()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(to, from); closeBoth() })
	wg.Go(func() { _, _ = io.Copy(from, to); closeBoth() })
	wg.Wait()
}

// run runs the log's projectors until stop is called, or the test ends.
func run(t *testing.T, l *activity.Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			t.Errorf("running the log: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the projectors do not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// record stores records durably, in messages of at most n.
func (s *site) record(t testing.TB, n int, records ...domain.ActivityRecord) {
	t.Helper()
	for len(records) > 0 {
		k := min(n, len(records))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := s.store.Record(ctx, records[:k])
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		records = records[k:]
	}
}

// caughtUp waits until everything recorded before the call is in the log.
func caughtUp(t *testing.T, l *activity.Log) {
	t.Helper()
	began := time.Now()
	for {
		page, err := l.Logs(t.Context(), activity.Query{PageSize: 1}.Resolve(time.Now()))
		if err == nil && !page.AsOfTime.Before(began) {
			return
		}
		if err != nil && !errors.Is(err, activity.ErrUnavailable) {
			t.Fatal(err)
		}
		if time.Since(began) > patience {
			t.Fatalf("the log is not caught up: as of %v, %v", page.AsOfTime, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func newUID(t testing.TB) domain.UID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return domain.UID(id)
}

var keyUID = domain.UID{1, 2, 3, 4, 5, 6, 0x70, 8, 0x90, 10, 11, 12, 13, 14, 15, 16}

// record returns a record of now with every field set.
func record(t testing.TB) domain.ActivityRecord {
	t.Helper()
	return domain.ActivityRecord{
		Time: time.Now().UTC().Truncate(time.Microsecond), Project: "default", Location: "local", KeyUID: keyUID,
		KeyName: "projects/default/locations/local/keyRings/default/keys/k", Version: 3, Operation: "Encrypt",
		Category: domain.CategoryCrypto, Outcome: domain.OutcomeOK,
		Caller: domain.Caller{
			Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, Address: netip.MustParseAddr("192.0.2.1"),
			UserAgent: "connect-go/1.21.1", RequestID: newUID(t), ClientRequestID: "client", CorrelationID: "correlation", TraceID: [16]byte{1, 0, 2},
		},
		GrantedBy: "admin", Protection: domain.HSM, LedgerTag: [32]byte{1, 0, 2}, BytesIn: 32, BytesOut: 93, Duration: 321 * time.Microsecond,
	}
}

func scan[T any](t *testing.T, l *activity.Log, query string) T {
	t.Helper()
	var v T
	if err := l.Conn().QueryRow(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// exactlyOnce checks that the log has so many rows of activity records, none of them twice.
func exactlyOnce(t *testing.T, l *activity.Log, want int) {
	t.Helper()
	const from = " FROM kms.activity WHERE stream LIKE 'KMS_ACTIVITY_%'"
	if got := scan[uint64](t, l, "SELECT count()"+from); got != uint64(want) {
		t.Errorf("%d rows, want %d", got, want)
	}
	if got := scan[uint64](t, l, "SELECT uniqExact(lineage, stream, stream_seq, record_index)"+from); got != uint64(want) {
		t.Errorf("%d different rows, want %d", got, want)
	}
}
