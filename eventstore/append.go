package eventstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"

	"github.com/keyledger/kms/domain"
)

// maxCommitBytes is the most that one commit can hold; KMS_EVENTS takes no larger message.
const maxCommitBytes = 240 << 10

// Append stores c durably if the aggregate's last commit is still at expected (zero: there is none), and returns it with
// Lineage, Revision and Hash. It repeats attempts until ctx ends, always under the same command id, so c is stored at most
// once.
//
// A command that is already stored is returned as it is stored, without an error. Errors: ErrConflict, ErrFull (also while
// the streams are nearly full, so that uses can be recorded longer than keys can be changed), ErrTooLarge, ErrUnavailable
// (not stored), ErrUnknownOutcome (ctx ended first: it may be stored, so neither success nor failure may be reported).
func (s *Store) Append(ctx context.Context, expected Revision, c Commit) (_ Commit, err error) {
	if err := s.usable(); err != nil {
		return Commit{}, err
	}
	if s.gauge.nearlyFull() {
		return Commit{}, fmt.Errorf("appending to %s: %w", c.Aggregate.Name, ErrFull)
	}
	return s.append(ctx, s.Lineage(), expected, c)
}

func (s *Store) append(ctx context.Context, lineage domain.UID, expected Revision, c Commit) (_ Commit, err error) {
	ctx, span := s.tel.start(ctx, "eventstore.Append", attribute.String("kms.operation", c.Operation), attribute.Int("kms.events", len(c.Events)))
	defer func() { end(span, err) }()
	began := time.Now()
	c.Lineage = lineage
	data, err := encodeCommit(c)
	if err != nil {
		return Commit{}, err
	}
	if len(data) > maxCommitBytes {
		return Commit{}, fmt.Errorf("appending to %s: %w: %d bytes", c.Aggregate.Name, ErrTooLarge, len(data))
	}
	msg := newMessage(c.Aggregate.subject(), typeCommit, lineage, uint64(expected), data)
	msg.Header[jetstream.MsgIDHeader] = []string{lowerBase32.EncodeToString(c.CommandID[:])}
	addTraceParent(msg, ctx)

	c, err = s.appendOnce(ctx, msg, expected, c)
	s.tel.appended(ctx, streamEvents, time.Since(began), err)
	if err != nil {
		return Commit{}, fmt.Errorf("appending to %s: %w", c.Aggregate.Name, err)
	}
	s.gauge.touch()
	return c, nil
}

// appendOnce makes attempts to store c, which is what msg holds, until the outcome is known or ctx ends.
//
// The server's own answer is not enough: a repeated message is acknowledged as a duplicate by a cluster but refused as a
// conflict by a single server, and a message in flight looks like a conflict. What decides is whether the command is in the
// stream. A message with this expectation can only be the very next one of its subject, so one read tells.
func (s *Store) appendOnce(ctx context.Context, msg *nats.Msg, expected Revision, c Commit) (Commit, error) {
	maybeStored := false
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		ack, outcome, err := s.publish(ctx, msg)
		switch outcome {
		case stored:
			if !ack.Duplicate {
				c.Revision, c.Hash = Revision(ack.Seq), sha256.Sum256(msg.Data)
				return c, nil
			}
			maybeStored = true
		case refused:
			if !maybeStored {
				return c, err
			}
		case unknown:
			maybeStored = true
		case notStored, conflict:
		}
		if outcome == conflict || maybeStored {
			next, readErr := s.nextCommit(ctx, msg.Subject, expected)
			switch {
			case readErr == nil && next.CommandID == c.CommandID:
				return next, nil
			case readErr == nil:
				return c, ErrConflict
			case errors.Is(readErr, ErrDamaged):
				return c, readErr
			case errors.Is(readErr, errNoMessage) && outcome == refused:
				// The earlier attempt may still be on its way; it would be refused like this one, but who knows.
				return c, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
		}
		if fatal := s.Err(); fatal != nil {
			err = errors.Join(fatal, err)
		} else if sleep(ctx, pause) {
			continue
		}
		switch {
		case maybeStored && errors.Is(err, ErrUnknownOutcome):
			return c, err
		case maybeStored:
			return c, fmt.Errorf("%w: %w", ErrUnknownOutcome, errors.Join(ctx.Err(), err))
		case outcome == conflict:
			return c, ErrConflict
		}
		return c, err
	}
}

// nextCommit reads the commit that follows a revision on a subject, as the leader knows it.
func (s *Store) nextCommit(ctx context.Context, subject string, after Revision) (Commit, error) {
	m, err := s.leaderGet(ctx, streamEvents, getRequest{Seq: uint64(after) + 1, NextFor: subject})
	if err != nil {
		return Commit{}, err
	}
	return decodeCommit(m)
}
