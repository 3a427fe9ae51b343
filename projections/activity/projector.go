package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyledger/kms/eventstore"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// standby is how often a node that does not own a stream looks whether its owner is still alive.
	standby = 2 * time.Second
	// releaseTimeout is how long a node that ends tries to let go of a stream.
	releaseTimeout = 2 * time.Second
	// discover is how often it is asked whether there are new streams.
	discover = time.Minute
	// ahead is how many messages are read ahead of the batch that is being inserted.
	ahead = 16
)

// Run brings every stream into the log until ctx ends, and then returns nil. Whatever fails is tried again, for ever.
func (l *Log) Run(ctx context.Context) error {
	var projectors errgroup.Group
	running := map[string]bool{}
	for {
		streams, err := l.streams(ctx)
		wait := discover
		if err != nil {
			l.log.LogAttrs(ctx, slog.LevelWarn, "the streams of the activity log can't be listed", slog.Any("error", err))
			wait = maxBackoff
		}
		for _, stream := range streams {
			if !running[stream] {
				running[stream] = true
				projectors.Go(func() error { l.project(ctx, stream); return nil })
			}
		}
		if !sleep(ctx, wait) {
			return projectors.Wait()
		}
	}
}

// streams names all that goes into the log.
func (l *Log) streams(ctx context.Context) ([]string, error) {
	activity, err := l.source.ActivityStreams(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the activity streams: %w", err)
	}
	return append([]string{eventsStream}, activity...), nil
}

// project brings one stream into the current generation of the log until ctx ends.
func (l *Log) project(ctx context.Context, stream string) {
	p := &projector{l: l, stream: stream, batch: newBatch()}
	backoff := minBackoff
	failing := false // and said so
	for {
		progressed, err := p.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if progressed {
			backoff, failing = minBackoff, false
		}
		wait := backoff
		switch {
		case errors.Is(err, errNotOwner):
			l.forgetProgress(p.name)
			wait, failing = standby, false
		case errors.Is(err, errNewGeneration):
			l.forgetProgress(p.name)
			wait, failing = 0, false
		default:
			if !failing {
				l.log.LogAttrs(ctx, slog.LevelWarn, "bringing a stream into the activity log is tried again until it succeeds",
					slog.String("stream", stream), slog.Any("error", err))
			}
			failing = true
			p.observeHead(ctx)
			backoff = min(2*backoff, maxBackoff)
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errNewGeneration means that the views moved to another generation of the log.
var errNewGeneration = errors.New("the log has a new generation")

// projector brings one stream into the log.
type projector struct {
	l      *Log
	stream string
	batch  *batch

	// Of the session.

	generation generation
	name       string // of the checkpoint
	checkpoint checkpoint
	revision   uint64 // of the checkpoint
	saved      checkpoint
	until      uint64 // the message to stop after; 0: go on for ever
	lastFlush  time.Time
}

// session works on the current generation until something fails. Any failure ends it, and the next one begins as after a
// crash: there is no other way to recover. progressed tells whether anything was brought into the log.
func (p *projector) session(ctx context.Context) (progressed bool, err error) {
	if p.generation, err = p.l.current(ctx); err != nil {
		return false, err
	}
	if err := p.begin(ctx); err != nil {
		return false, err
	}
	before := p.checkpoint.Done
	err = p.follow(ctx)
	if ctx.Err() != nil {
		p.release(ctx)
	}
	return p.checkpoint.Done > before, err
}

// begin takes the stream over and inserts again what may have been under way.
func (p *projector) begin(ctx context.Context) error {
	name := p.l.checkpointName(p.generation, p.stream)
	if p.name != name {
		p.l.forgetProgress(p.name)
	}
	p.name = name
	var err error
	if p.checkpoint, p.revision, err = p.l.acquire(ctx, p.name); err != nil {
		return err
	}
	p.saved = p.checkpoint
	if p.checkpoint.Last > p.checkpoint.Done {
		if err := p.repeat(ctx); err != nil {
			return fmt.Errorf("inserting the last range again: %w", err)
		}
		if err := p.save(ctx); err != nil {
			return fmt.Errorf("noting that the last range was inserted: %w", err)
		}
	}
	p.publish()
	return nil
}

// repeat inserts the range of the checkpoint once more. ClickHouse drops what it has. It notes a block's token a moment
// before the block itself: if it died in between, the block is missing for good under this token and is inserted under
// another one, which the count of rows tells.
func (p *projector) repeat(ctx context.Context) error {
	p.batch.reset()
	for m, err := range p.l.source.ReadRecords(ctx, p.stream, p.checkpoint.First-1) {
		if err != nil {
			return fmt.Errorf("reading messages %d to %d: %w", p.checkpoint.First, p.checkpoint.Last, err)
		}
		p.batch.add(&m)
		if m.Seq >= p.checkpoint.Last {
			break
		}
	}
	if p.batch.first != p.checkpoint.First || p.batch.last != p.checkpoint.Last {
		return fmt.Errorf("%w: stream %s has messages %d to %d where %d to %d were", eventstore.ErrDamaged,
			p.stream, p.batch.first, p.batch.last, p.checkpoint.First, p.checkpoint.Last)
	}
	for _, suffix := range []string{"", "/again"} {
		if err := p.l.insert(ctx, p.generation.number, p.stream, p.token()+suffix, p.batch); err != nil {
			return err
		}
		n, err := p.l.present(ctx, p.generation.number, p.stream, p.batch)
		if err != nil {
			return err
		}
		if n == p.batch.rows.rows() {
			p.done()
			return nil
		}
		p.l.log.LogAttrs(ctx, slog.LevelWarn, "rows of the activity log are missing and are inserted again", slog.String("stream", p.stream),
			slog.Int("rows", p.batch.rows.rows()), slog.Int("present", n))
	}
	return fmt.Errorf("of messages %d to %d rows are missing after two inserts", p.batch.first, p.batch.last)
}

// token names the batch's range for ClickHouse's deduplication. Whatever changes what the range's rows are is in it.
func (p *projector) token() string {
	return fmt.Sprintf("%s/%s/%d-%d/%s", p.l.source.Lineage(), p.stream, p.batch.first, p.batch.last, p.generation.table)
}

// message is what comes from the stream's reader.
type message struct {
	recorded eventstore.Recorded
	err      error
}

// follow reads on after the checkpoint and inserts batch after batch.
func (p *projector) follow(ctx context.Context) error {
	if p.reached() {
		return nil
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	messages, after := make(chan message, ahead), p.checkpoint.Done
	reader.Go(func() { p.read(ctx, after, messages) })
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	linger := time.NewTimer(0)
	defer linger.Stop()
	<-linger.C
	p.batch.reset()
	for {
		flush := false
		select {
		case m, ok := <-messages:
			switch {
			case !ok:
				return errors.Join(ctx.Err(), errors.New("the stream ended"))
			case m.err != nil:
				return fmt.Errorf("reading the stream: %w", m.err)
			case !p.follows(m.recorded.Seq):
				return fmt.Errorf("%w: stream %s goes on with message %d after %d", eventstore.ErrDamaged, p.stream, m.recorded.Seq, p.position())
			}
			if p.batch.empty() {
				linger.Reset(p.patience())
			}
			p.batch.add(&m.recorded)
			flush = p.batch.full() || p.batch.last == p.until
		case <-linger.C:
			flush = !p.batch.empty()
		case <-renew.C:
			if err := p.renew(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if flush {
			linger.Stop()
			if err := p.flush(ctx); err != nil {
				return err
			}
			if p.reached() {
				return nil
			}
		}
	}
}

// read sends what the stream has after a message, until ctx ends or reading fails.
func (p *projector) read(ctx context.Context, after uint64, to chan<- message) {
	defer close(to)
	for m, err := range p.l.source.ReadRecords(ctx, p.stream, after) {
		select {
		case to <- message{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// position is the last message that was read, or else the last that is in the log.
func (p *projector) position() uint64 { return max(p.batch.last, p.checkpoint.Done) }

// follows reports whether a message is the next one. The first may have any number: older ones may have been archived.
func (p *projector) follows(seq uint64) bool { return p.position() == 0 || seq == p.position()+1 }

func (p *projector) reached() bool { return p.until != 0 && p.checkpoint.Done >= p.until }

// patience is how long a batch waits to be filled.
func (p *projector) patience() time.Duration {
	if time.Since(p.lastFlush) > 2*longLinger {
		return shortLinger
	}
	return longLinger
}

// flush fixes the batch's range and inserts it.
func (p *projector) flush(ctx context.Context) error {
	p.checkpoint.First, p.checkpoint.Last = p.batch.first, p.batch.last
	if err := p.save(ctx); err != nil {
		return fmt.Errorf("fixing a range: %w", err)
	}
	if err := p.l.insert(ctx, p.generation.number, p.stream, p.token(), p.batch); err != nil {
		return err
	}
	p.done()
	p.publish()
	p.batch.reset()
	p.lastFlush = time.Now()
	return nil
}

// done notes that the batch is in the log. The event store learns of it with the next range, or by renew.
func (p *projector) done() {
	p.checkpoint.Done, p.checkpoint.DoneStored = p.batch.last, p.batch.stored
}

// save writes the checkpoint, if this node still owns it.
func (p *projector) save(ctx context.Context) error {
	p.checkpoint.Renewed = time.Now()
	revision, err := p.l.saveCheckpoint(ctx, p.name, p.checkpoint, p.revision)
	if err != nil {
		return err
	}
	p.revision, p.saved = revision, p.checkpoint
	return nil
}

// release lets another node, or the next start, go on at once. If it fails they wait, or insert the last range again.
func (p *projector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	p.checkpoint.Renewed = time.Time{}
	if _, err := p.l.saveCheckpoint(ctx, p.name, p.checkpoint, p.revision); err != nil && !errors.Is(err, errNotOwner) {
		p.l.log.LogAttrs(ctx, slog.LevelWarn, "letting go of a stream of the activity log", slog.String("stream", p.stream), slog.Any("error", err))
	}
}

// renew shows that this node is alive, makes known how far it is, and looks for a new generation.
func (p *projector) renew(ctx context.Context) error {
	if p.l.shared || p.saved.Done != p.checkpoint.Done {
		if err := p.save(ctx); err != nil {
			return fmt.Errorf("renewing a checkpoint: %w", err)
		}
	}
	p.observeHead(ctx)
	if p.until != 0 {
		return nil
	}
	s, err := p.l.readSchema(ctx)
	if err != nil {
		return err
	}
	if !s.complete() || s.shown != p.generation.number || s.activity[s.shown] != p.generation.table {
		return errNewGeneration
	}
	return nil
}

// observeHead notes how long the stream is, for the metrics of lag. That it can't be asked now is told elsewhere.
func (p *projector) observeHead(ctx context.Context) {
	if _, last, err := p.l.source.StreamHead(ctx, p.stream); err == nil {
		p.l.setProgress(p.name, progress{p.stream, p.checkpoint.Done, p.checkpoint.DoneStored, last})
	}
}

// publish makes this node's progress known to its own readers.
func (p *projector) publish() {
	p.l.setProgress(p.name, progress{p.stream, p.checkpoint.Done, p.checkpoint.DoneStored, p.checkpoint.Done})
}
