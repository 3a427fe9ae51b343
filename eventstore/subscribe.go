package eventstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
)

// How much a reader of a stream asks for ahead. The bytes bound its memory; one message is at most maxBatchBytes.
const (
	pullMessages  = 4096
	pullBytes     = 4 << 20
	consumerGrace = time.Minute // until the server forgets a reader that went away
)

// Subscribe calls f with every commit of every aggregate (SiteAggregate too) after a revision, in order, and goes on with new
// ones, over lost connections. caughtUp, if not nil, is called once, when f has seen everything that was stored when
// Subscribe was called. It ends only with ctx, with f's error, or with an ErrDamaged when commits are missing or unreadable.
func (s *Store) Subscribe(ctx context.Context, after Revision, caughtUp func(), f func(Commit) error) error {
	err := s.follow(ctx, streamEvents, uint64(after), caughtUp, func(m storedMessage) error {
		c, err := decodeCommit(m)
		if err != nil {
			return err
		}
		return f(c)
	})
	return fmt.Errorf("following the events: %w", err)
}

// Recorded is one message of an activity stream, or a commit seen as the record of its command.
type Recorded struct {
	Stream      string
	Seq         uint64
	Lineage     domain.UID
	Writer      string // the process that wrote it; empty for commits
	StoredTime  time.Time
	Records     []domain.ActivityRecord
	TraceParent string // W3C Trace Context, of a request that is in it and was sampled; empty without one
}

// ReadRecords yields the messages of an activity stream, or the commits of KMS_EVENTS as records, after a sequence, in order,
// and waits for new ones, over lost connections. It ends when the loop does, with ctx (yielding its error), or with an
// ErrDamaged when messages are missing or unreadable.
func (s *Store) ReadRecords(ctx context.Context, stream string, after uint64) iter.Seq2[Recorded, error] {
	errStop := errors.New("the reader has enough")
	return func(yield func(Recorded, error) bool) {
		err := s.follow(ctx, stream, after, nil, func(m storedMessage) error {
			r, err := decodeRecorded(stream, m)
			if err != nil {
				return err
			}
			if !yield(r, nil) {
				return errStop
			}
			return nil
		})
		if !errors.Is(err, errStop) {
			yield(Recorded{}, fmt.Errorf("reading the records of %s: %w", stream, err))
		}
	}
}

func decodeRecorded(stream string, m storedMessage) (Recorded, error) {
	if stream != streamEvents {
		return decodeBatch(stream, m)
	}
	c, err := decodeCommit(m)
	if err != nil {
		return Recorded{}, err
	}
	return Recorded{
		Stream: stream, Seq: m.seq, Lineage: c.Lineage, StoredTime: c.StoredTime, Records: []domain.ActivityRecord{c.ActivityRecord()},
		TraceParent: m.header.Get(headerTraceParent),
	}, nil
}

// follow calls f with every message of a stream that never deletes any, after a sequence, in order.
func (s *Store) follow(ctx context.Context, stream string, after uint64, caughtUp func(), f func(storedMessage) error) error {
	head, err := s.headOf(ctx, stream)
	if err != nil {
		return err
	}
	if head < after {
		return &IntegrityError{Stream: stream, Message: fmt.Sprintf(
			"it ends at message %d but held message %d before; restore the event store from a backup", head, after)}
	}
	passed := func() {
		if caughtUp != nil && after >= head {
			caughtUp()
			caughtUp = nil
		}
	}
	passed()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		before := after
		err := s.consume(ctx, stream, after+1, func(m storedMessage) error {
			if m.seq != after+1 {
				return &IntegrityError{Stream: stream, Message: fmt.Sprintf("message %d follows message %d: some are missing; restore the event store from a backup", m.seq, after)}
			}
			if err := f(m); err != nil {
				return callbackError{err}
			}
			after = m.seq
			passed()
			return nil
		})
		var callback callbackError
		switch {
		case errors.As(err, &callback):
			return callback.error
		case ctx.Err() != nil:
			return ctx.Err()
		case s.life.Err() != nil:
			return ErrClosed
		case s.Err() != nil:
			return s.Err()
		case errors.Is(err, ErrDamaged):
			return err
		}
		s.log.WarnContext(ctx, "reading a stream stopped; going on where it did",
			slog.String("stream", stream), slog.Uint64("after", after), slog.Any("error", err))
		if after > before {
			pause = 50 * time.Millisecond
		}
		if !sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// callbackError is an error of the reader's own function, which is none of the stream's.
type callbackError struct{ error }

// headOf is the last sequence of a stream, asked for until there is an answer or ctx ends.
func (s *Store) headOf(ctx context.Context, stream string) (uint64, error) {
	for {
		info, err := s.info(ctx, stream)
		if err == nil {
			return info.State.LastSeq, nil
		}
		if !errors.Is(err, ErrUnavailable) || s.Err() != nil {
			return 0, err
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return 0, err
		}
	}
}

// consume reads a stream from a sequence on until something is in the way.
func (s *Store) consume(ctx context.Context, stream string, from uint64, f func(storedMessage) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	consumer, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, InactiveThreshold: consumerGrace,
	})
	if err != nil {
		return fmt.Errorf("%w: reading %s: %w", ErrUnavailable, stream, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes))
	if err != nil {
		return fmt.Errorf("%w: reading %s: %w", ErrUnavailable, stream, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("%w: reading %s: %w", ErrUnavailable, stream, err)
		}
		md, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("reading %s: %w", stream, err)
		}
		m := storedMessage{subject: msg.Subject(), seq: md.Sequence.Stream, time: md.Timestamp, header: msg.Headers(), data: msg.Data()}
		if err := f(m); err != nil {
			return err
		}
	}
}

// ActivityStreams names the activity streams, oldest first. The last one is written to.
func (s *Store) ActivityStreams(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var numbers []int
	lister := s.js.StreamNames(ctx)
	for name := range lister.Name() {
		if text, ok := strings.CutPrefix(name, activityPrefix); ok {
			if n, err := strconv.Atoi(text); err == nil {
				numbers = append(numbers, n)
			}
		}
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("%w: listing the activity streams: %w", ErrUnavailable, err)
	}
	slices.Sort(numbers)
	names := make([]string, len(numbers))
	for i, n := range numbers {
		names[i] = activityPrefix + strconv.Itoa(n)
	}
	return names, nil
}

// StreamHead returns the first and last sequence of a stream, as its leader sees them.
func (s *Store) StreamHead(ctx context.Context, stream string) (first, last uint64, err error) {
	info, err := s.info(ctx, stream)
	if err != nil {
		return 0, 0, err
	}
	return info.State.FirstSeq, info.State.LastSeq, nil
}
