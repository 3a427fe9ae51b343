package eventstore_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// stored returns the operations of all records, by where they are. Each test gives its records an operation of their own.
func stored(t testing.TB, s *eventstore.Store) map[eventstore.Receipt]string {
	t.Helper()
	all := map[eventstore.Receipt]string{}
	streams, err := s.ActivityStreams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range streams {
		_, last, err := s.StreamHead(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			continue
		}
		for r, err := range s.ReadRecords(t.Context(), stream, 0) {
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range r.Records {
				all[eventstore.Receipt{Stream: stream, Seq: r.Seq, First: i}] = x.Operation
			}
			if r.Seq == last {
				break
			}
		}
	}
	return all
}

func TestGroupCommit(t *testing.T) {
	const callers, each = 64, 50
	s := eventstoretest.New(t)
	var mu sync.Mutex
	want := map[eventstore.Receipt]string{}
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				records := make([]domain.ActivityRecord, 1+i%3)
				for j := range records {
					records[j] = record(t, "k")
					records[j].Operation = strings.Join([]string{"op", strconv.Itoa(caller), strconv.Itoa(i), strconv.Itoa(j)}, "-")
				}
				receipt, err := s.Record(t.Context(), records)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for j := range records {
					at := receipt
					at.First += j
					want[at] = records[j].Operation
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	got := stored(t, s)
	if len(got) != len(want) {
		t.Errorf("%d records are stored, %d were acknowledged", len(got), len(want))
	}
	batches := uint64(0)
	for at, operation := range want {
		if got[at] != operation {
			t.Errorf("at %+v is %q, want %q", at, got[at], operation)
		}
		batches = max(batches, at.Seq)
	}
	if requests := uint64(callers * each); batches > requests/4 {
		t.Errorf("%d requests needed %d appends: they do not share them", requests, batches)
	}
}

func TestBatchLimits(t *testing.T) {
	s := eventstoretest.New(t)
	many := make([]domain.ActivityRecord, 513)
	for i := range many {
		many[i] = record(t, "k")
	}
	if _, err := s.Record(t.Context(), many); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("513 records: error = %v", err)
	}
	if receipt, err := s.Record(t.Context(), many[:512]); err != nil || receipt.Seq != 1 || receipt.First != 0 {
		t.Errorf("512 records: %+v, %v", receipt, err)
	}
	for i := range many {
		many[i].Caller.Principal = strings.Repeat("p", 1000)
	}
	if _, err := s.Record(t.Context(), many[:512]); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("512 KB: error = %v", err)
	}
	if receipt, err := s.Record(t.Context(), nil); err != nil || receipt != (eventstore.Receipt{}) {
		t.Errorf("no records: %+v, %v", receipt, err)
	}
	// Requests that don't fit together are kept whole, in two messages.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			receipt, err := s.Record(t.Context(), many[:300])
			if err != nil || receipt.First != 0 {
				t.Errorf("300 KB: %+v, %v", receipt, err)
			}
		})
	}
	wg.Wait()
	if got := len(stored(t, s)); got != 512+8*300 {
		t.Errorf("%d records are stored, want %d", got, 512+8*300)
	}
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{{Category: "NONSENSE"}}); err == nil {
		t.Error("a record with an unknown category was stored")
	}
}

// TestOverload: while nothing can be stored, what waits is bounded, and is refused at the end or stored, but not forgotten.
func TestOverload(t *testing.T) {
	srv := listen(t, nil)
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL, cfg.Logger = srv.ClientURL(), slog.New(slog.DiscardHandler)
	s := openExternal(t, cfg, 1)
	srv.Shutdown()
	srv.WaitForShutdown()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[string]int{}
	large := record(t, "k")
	large.Caller.Principal = strings.Repeat("p", 300<<10)
	for range 400 { // 120 MB
		wg.Go(func() {
			_, err := s.Record(ctx, []domain.ActivityRecord{large})
			kind := "stored"
			switch {
			case errors.Is(err, eventstore.ErrOverloaded):
				kind = "overloaded"
			case errors.Is(err, eventstore.ErrUnavailable):
				kind = "unavailable"
			case errors.Is(err, eventstore.ErrUnknownOutcome): // the one whose append was being tried when ctx ended
				kind = "unknown"
			case err != nil:
				kind = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			counts[kind]++
		})
	}
	wg.Wait()
	if counts["overloaded"] == 0 || counts["unavailable"] == 0 || counts["overloaded"]+counts["unavailable"]+counts["unknown"] != 400 || counts["unknown"] > 4 {
		t.Errorf("outcomes: %v", counts)
	}
}

func TestRecordCanceled(t *testing.T) {
	s := eventstoretest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		_, err := s.Record(ctx, []domain.ActivityRecord{record(t, "k")})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("error = %v", err)
		}
	}
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
		t.Fatal(err)
	}
}

func TestCloseStoresWhatWaits(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	var wg sync.WaitGroup
	var mu sync.Mutex
	acknowledged := 0
	for range 32 {
		wg.Go(func() {
			for {
				_, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")})
				if errors.Is(err, eventstore.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged++
				mu.Unlock()
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	closeStore(t, s)
	wg.Wait()
	s = eventstoretest.Open(t, dir)
	if got := len(stored(t, s)); got < acknowledged || acknowledged == 0 {
		t.Errorf("%d records are stored, %d were acknowledged", got, acknowledged)
	}
	if _, err := s.Append(t.Context(), 0, createKey(t, "k")); err != nil {
		t.Error(err)
	}
}

// TestFull: keys can't be changed any more while there is still room to record uses, and then nothing is answered. Nothing is
// ever evicted.
func TestFull(t *testing.T) {
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.ActivityMaxBytes = 1 << 20
	s := openExternal(t, cfg, 1)
	many := make([]domain.ActivityRecord, 100)
	for i := range many {
		many[i] = record(t, "k")
	}
	messages := 0
	var err error
	for ; messages < 1000; messages++ {
		if _, err = s.Record(t.Context(), many); err != nil {
			break
		}
		if messages == 0 {
			if _, err := s.Append(t.Context(), 0, createKey(t, "first")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !errors.Is(err, eventstore.ErrFull) {
		t.Fatalf("after %d messages: error = %v, want full", messages, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for i := 0; ; i++ {
		if _, err := s.Append(t.Context(), 0, createKey(t, strconv.Itoa(i))); errors.Is(err, eventstore.ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("keys can still be changed")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := s.PutMaterial(t.Context(), domain.Binding{KeyUID: newUID(t), MaterialID: newUID(t)}, []byte("x")); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("material: error = %v, want full", err)
	}
	if got := len(stored(t, s)); got != messages*len(many) {
		t.Errorf("%d records are stored, want %d", got, messages*len(many))
	}
}

// TestDiskFull: the embedded server keeps a reserve, because a failed write would stop its streams.
func TestDiskFull(t *testing.T) {
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.MinFreeDisk = 1 << 60
	s := openExternal(t, cfg, 1)
	if _, err := s.Append(t.Context(), 0, createKey(t, "k")); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("append: error = %v, want full", err)
	}
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("record: error = %v, want full", err)
	}
	if err := s.Ready(t.Context()); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("ready: error = %v, want full", err)
	}
}

// TestWriterSubject: another process that wrote to this one's subject would break exactly-once; it must not go unnoticed.
func TestWriterSubject(t *testing.T) {
	dir := t.TempDir()
	srv := listen(t, func(o *server.Options) { o.StoreDir = dir })
	cfg := eventstoretest.Config(t, t.TempDir())
	cfg.URL = srv.ClientURL()
	s := openExternal(t, cfg, 1)
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.JetStream().Publish(t.Context(), s.WriterSubject(), []byte("intruder")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("error = %v, want damage", err)
	}
	if err := s.Ready(t.Context()); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("ready: error = %v, want damage", err)
	}
}
