package eventstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"

	"github.com/keyledger/kms/domain"
)

// What one message of an activity stream holds at most, and what may wait for it.
const (
	maxBatchRecords  = 512
	maxBatchBytes    = 400 << 10
	maxQueueRequests = 8192
	maxQueueBytes    = 32 << 20
	// giveUpAfter is when records that are certainly not stored are refused, so that callers don't wait for their own deadline.
	giveUpAfter = 2 * time.Second
)

// Receipt is where records became durable.
type Receipt struct {
	Stream string
	Seq    uint64
	First  int // index in the message of the first of the records; the others follow it
}

// writer appends records to this process's own subject of the live activity stream: one append in flight, without any timer;
// what was asked for meanwhile is the next batch. Each append expects the subject's last sequence, which only this writer
// moves, so that repeating one whose outcome is unknown stores it once.
type writer struct {
	store   *Store
	subject string
	queue   chan *recordRequest
	queued  atomic.Int64 // bytes in queue
	pool    sync.Pool    // of *recordRequest
	name    atomic.Pointer[string]

	// Only used by run.

	last  uint64 // sequence of the subject's last message
	batch []*recordRequest
	data  []byte
	carry *recordRequest // taken from queue but too large for the batch
	late  bool           // an earlier message was given up and may still arrive

	drain  chan struct{}   // closed by close: store what is queued and end
	giveUp context.Context // ended by close when its own context does: store nothing more
	abort  context.CancelFunc
	done   chan struct{} // closed when run has ended
}

// recordRequest is one caller's records on their way. Whoever moves state from queued owns it.
type recordRequest struct {
	data   []byte // elements of ActivityBatch.records
	count  int
	trace  string
	state  atomic.Int32
	result chan recordResult // of capacity 1
}

type recordResult struct {
	receipt Receipt
	err     error
}

const (
	stateQueued    int32 = iota
	stateTaken           // by run: it may be stored, and a result will come
	stateAbandoned       // by its caller: it will not be stored
)

func newWriter(s *Store) (*writer, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("making the writer's name: %w", err)
	}
	w := &writer{
		store: s, subject: subjectActivity + lowerBase32.EncodeToString(id[:]),
		queue: make(chan *recordRequest, maxQueueRequests),
		drain: make(chan struct{}), done: make(chan struct{}),
	}
	w.pool.New = func() any { return &recordRequest{result: make(chan recordResult, 1)} }
	w.giveUp, w.abort = context.WithCancel(context.Background())
	return w, nil
}

// stream is the activity stream that is written to.
func (w *writer) stream() string {
	if name := w.name.Load(); name != nil {
		return *name
	}
	return streamActivity1
}

// Record stores the records of one request, at most 512, in one message and returns when they are durable. Errors:
// ErrOverloaded, ErrTooLarge, ErrFull, ErrUnavailable (not stored), ErrUnknownOutcome (ctx ended while they were being
// stored). After any error the result of what was recorded must not be released.
func (s *Store) Record(ctx context.Context, records []domain.ActivityRecord) (_ Receipt, err error) {
	if err := s.usable(); err != nil {
		return Receipt{}, err
	}
	if len(records) == 0 {
		return Receipt{}, nil
	}
	if s.gauge.diskFull() {
		return Receipt{}, fmt.Errorf("recording: %w", ErrFull)
	}
	if len(records) > maxBatchRecords {
		return Receipt{}, fmt.Errorf("recording: %w: %d records, at most %d are kept together", ErrTooLarge, len(records), maxBatchRecords)
	}
	ctx, span := s.tel.start(ctx, "eventstore.Record", attribute.Int("kms.records", len(records)))
	defer func() { end(span, err) }()
	return s.writer.record(ctx, records)
}

func (w *writer) record(ctx context.Context, records []domain.ActivityRecord) (Receipt, error) {
	r := w.pool.Get().(*recordRequest) //nolint:forcetypeassert // the pool holds nothing else
	r.data, r.count, r.trace = r.data[:0], len(records), traceParent(ctx)
	r.state.Store(stateQueued)
	var err error
	for i := range records {
		if r.data, err = appendRecord(r.data, &records[i]); err != nil {
			return Receipt{}, err
		}
	}
	size := int64(len(r.data))
	if size > maxBatchBytes {
		return Receipt{}, fmt.Errorf("recording: %w: %d bytes", ErrTooLarge, size)
	}
	if w.queued.Add(size) > maxQueueBytes {
		w.queued.Add(-size)
		return Receipt{}, fmt.Errorf("recording: %w", ErrOverloaded)
	}
	select {
	case w.queue <- r:
	default:
		w.queued.Add(-size)
		return Receipt{}, fmt.Errorf("recording: %w", ErrOverloaded)
	}
	select {
	case result := <-r.result:
		w.pool.Put(r)
		return result.receipt, result.err
	case <-ctx.Done():
		// A request that is not taken is left to the garbage collector: the queue still refers to it.
		if r.state.CompareAndSwap(stateQueued, stateAbandoned) {
			return Receipt{}, fmt.Errorf("recording: %w: %w", ErrUnavailable, ctx.Err())
		}
		return Receipt{}, fmt.Errorf("recording: %w: %w", ErrUnknownOutcome, ctx.Err())
	case <-w.done:
		select {
		case result := <-r.result:
			return result.receipt, result.err
		default:
			return Receipt{}, fmt.Errorf("recording: %w", ErrClosed)
		}
	}
}

// close has run store what is queued, within ctx, and end.
func (w *writer) close(ctx context.Context) error {
	close(w.drain)
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		w.abort()
		<-w.done
		return fmt.Errorf("storing the last records: %w", ctx.Err())
	}
}

func (w *writer) run() {
	defer close(w.done)
	defer w.abort()
	for {
		if !w.collect() {
			return
		}
		if len(w.batch) > 0 {
			w.storeBatch()
		}
	}
}

// collect fills the batch with what is queued, waiting for the first. It reports false when run shall end.
func (w *writer) collect() bool {
	w.batch, w.data = w.batch[:0], w.data[:0]
	records := 0
	first := w.carry
	if first == nil {
		select {
		case first = <-w.queue:
		default:
			select {
			case first = <-w.queue:
			case <-w.drain:
				select {
				case first = <-w.queue:
				default:
					return false
				}
			case <-w.store.life.Done():
				return false
			}
		}
		// Those whose records the last batch held are about to ask again: let them, rather than sync one record alone.
		runtime.Gosched()
	}
	w.carry = nil
	for r := first; ; {
		if records+r.count > maxBatchRecords || len(w.data)+len(r.data) > maxBatchBytes {
			w.carry = r
			return true
		}
		w.queued.Add(-int64(len(r.data)))
		if r.state.CompareAndSwap(stateQueued, stateTaken) {
			records += r.count
			w.data = append(w.data, r.data...)
			w.batch = append(w.batch, r)
		}
		select {
		case r = <-w.queue:
		default:
			return true
		}
	}
}

// storeBatch stores the batch and tells those who wait for it.
func (w *writer) storeBatch() {
	began := time.Now()
	receipt, err := w.append()
	records := 0
	for _, r := range w.batch {
		receipt.First = records
		records += r.count
		r.result <- recordResult{receipt: receipt, err: err}
	}
	clear(w.batch)
	w.store.tel.batch(w.giveUp, records, time.Since(began), err)
	w.store.gauge.touch()
}

// append stores data. It does not end before the outcome is known, unless the store is closed or failed.
func (w *writer) append() (Receipt, error) {
	s := w.store
	lineage := s.lineage.Load()
	if lineage == nil {
		return Receipt{}, ErrNotProvisioned
	}
	msg := newMessage(w.subject, typeActivity, *lineage, w.last, w.data)
	for _, r := range w.batch {
		if r.trace != "" {
			msg.Header[headerTraceParent] = []string{r.trace}
			break
		}
	}
	began, maybeStored := time.Now(), false
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		ack, outcome, err := s.publish(w.giveUp, msg)
		switch outcome {
		case stored:
			return w.stored(ack.Stream, ack.Seq), nil
		case refused:
			if !maybeStored {
				return Receipt{}, err
			}
		case unknown:
			maybeStored = true
		case notStored:
			if !maybeStored && time.Since(began) > giveUpAfter {
				return Receipt{}, err
			}
		case conflict:
		}
		if outcome == conflict || maybeStored {
			receipt, known, readErr := w.resolve(msg)
			if known {
				return receipt, readErr
			}
			if outcome == refused && errors.Is(readErr, errNoMessage) {
				w.late = true
				return Receipt{}, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
		}
		if s.Err() != nil || !sleep(w.giveUp, pause) {
			if maybeStored {
				return Receipt{}, fmt.Errorf("%w: %w", ErrUnknownOutcome, errors.Join(s.Err(), err))
			}
			return Receipt{}, fmt.Errorf("%w: %w", ErrUnavailable, errors.Join(s.Err(), err))
		}
	}
}

func (w *writer) stored(stream string, seq uint64) Receipt {
	w.last = seq
	if w.stream() != stream {
		w.name.Store(&stream)
	}
	return Receipt{Stream: stream, Seq: seq}
}

// resolve looks on this writer's subject for the message, and reports whether its outcome is known. It returns errNoMessage if
// the message is not there.
func (w *writer) resolve(msg *nats.Msg) (_ Receipt, known bool, err error) {
	stream := w.stream()
	m, err := w.store.leaderGet(w.giveUp, stream, getRequest{LastFor: w.subject})
	if err != nil {
		return Receipt{}, false, err
	}
	switch {
	case m.seq <= w.last:
		return Receipt{}, false, errNoMessage
	case bytes.Equal(m.data, msg.Data):
		return w.stored(stream, m.seq), true, nil
	}
	if _, err := parseTypeHeader(m.header.Get(headerType), typeActivity); err != nil || !w.late {
		err := &IntegrityError{Stream: stream, Message: fmt.Sprintf("message %d on this process's own subject is not its own", m.seq)}
		w.store.fail(err)
		return Receipt{}, true, err
	}
	// The message that was given up when the stream was full arrived late. This one follows it.
	w.last, w.late = m.seq, false
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, fmt.Sprint(m.seq))
	return Receipt{}, false, errNoMessage
}
