package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// loadBatch is how many commits one request for an aggregate's history brings, and loadBytes how many bytes.
const (
	loadBatch = 256
	loadBytes = 4 << 20
)

// Load yields the commits of an aggregate after a revision, oldest first, as the nearest server knows them: in a cluster
// one that was acknowledged a moment ago may be missing. It ends with the first error.
func (s *Store) Load(ctx context.Context, a Aggregate, after Revision) iter.Seq2[Commit, error] {
	return func(yield func(Commit, error) bool) {
		for {
			batch, more, err := s.directBatch(ctx, streamEvents, a.subject(), uint64(after)+1)
			if err != nil {
				yield(Commit{}, fmt.Errorf("loading %s: %w", a.Name, err))
				return
			}
			for _, m := range batch {
				c, err := decodeCommit(m)
				if err == nil && c.Revision <= after {
					err = &IntegrityError{Stream: streamEvents, Message: fmt.Sprintf("commit %d came after %d", c.Revision, after)}
				}
				if !yield(c, err) || err != nil {
					return
				}
				after = c.Revision
			}
			if !more {
				return
			}
		}
	}
}

// LoadConfirmed is Load as the leader of the stream knows them: nothing that was acknowledged is missing. It asks for one
// commit at a time, so it is for the few after a known revision.
func (s *Store) LoadConfirmed(ctx context.Context, a Aggregate, after Revision) iter.Seq2[Commit, error] {
	return func(yield func(Commit, error) bool) {
		subject := a.subject()
		for {
			m, err := s.retryGet(ctx, streamEvents, getRequest{Seq: uint64(after) + 1, NextFor: subject})
			if errors.Is(err, errNoMessage) {
				return
			}
			var c Commit
			if err == nil {
				c, err = decodeCommit(m)
			}
			if err != nil {
				yield(Commit{}, fmt.Errorf("loading %s: %w", a.Name, err))
				return
			}
			if !yield(c, nil) {
				return
			}
			after = c.Revision
		}
	}
}

// directBatch reads messages of a subject from a sequence on in one request (ADR-31 of NATS), and whether there are more.
func (s *Store) directBatch(ctx context.Context, stream, subject string, from uint64) (batch []storedMessage, more bool, err error) {
	if err := s.Err(); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	sub, err := s.nc.SubscribeSync(s.nc.NewRespInbox())
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only when the connection is gone, which ends the subscription too
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	request, err := json.Marshal(struct {
		getRequest
		Batch    int `json:"batch"`
		MaxBytes int `json:"max_bytes"`
	}{getRequest{Seq: from, NextFor: subject}, loadBatch, loadBytes})
	if err != nil {
		return nil, false, fmt.Errorf("encoding a read request: %w", err)
	}
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, sub.Subject, request); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, fmt.Errorf("%w: reading from %s: %w", ErrUnavailable, stream, err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			stored, err := directMessage(m)
			if err != nil {
				return nil, false, fmt.Errorf("reading from %s: %w", stream, err)
			}
			batch = append(batch, stored)
		case "204": // end of the batch
			pending, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			if err != nil {
				return nil, false, fmt.Errorf("reading from %s: how much is left: %w", stream, err)
			}
			return batch, pending > 0 && len(batch) > 0, nil
		case "404":
			return nil, false, nil
		default:
			return nil, false, fmt.Errorf("%w: reading from %s: %s %s", ErrUnavailable, stream, status, m.Header.Get("Description"))
		}
	}
}

// directMessage reads an answer to a direct get, which has the stored headers and some of the server's.
func directMessage(m *nats.Msg) (storedMessage, error) {
	seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return storedMessage{}, fmt.Errorf("the sequence of a message: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return storedMessage{}, fmt.Errorf("the time of message %d: %w", seq, err)
	}
	return storedMessage{subject: m.Header.Get(jetstream.SubjectHeader), seq: seq, time: at, header: m.Header, data: m.Data}, nil
}

// directGet reads one message from the nearest server. It makes one attempt; errNoMessage may be out of date.
func (s *Store) directGet(ctx context.Context, stream string, req getRequest) (storedMessage, error) {
	if err := s.Err(); err != nil {
		return storedMessage{}, err
	}
	data, err := json.Marshal(req)
	if err != nil {
		return storedMessage{}, fmt.Errorf("encoding a read request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	m, err := s.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream, data)
	if err != nil {
		return storedMessage{}, fmt.Errorf("%w: reading from %s: %w", ErrUnavailable, stream, err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return directMessage(m)
	case "404":
		return storedMessage{}, errNoMessage
	default:
		return storedMessage{}, fmt.Errorf("%w: reading from %s: %s %s", ErrUnavailable, stream, status, m.Header.Get("Description"))
	}
}

// Head asks the leader of KMS_EVENTS for its state.
func (s *Store) Head(ctx context.Context) (Head, error) {
	info, err := s.info(ctx, streamEvents)
	if err != nil {
		return Head{}, err
	}
	return Head{
		First: Revision(info.State.FirstSeq), Last: Revision(info.State.LastSeq), Deleted: missing(info.State), Created: info.Created,
	}, nil
}

// Head is the state of KMS_EVENTS as the leader of the stream sees it.
type Head struct {
	First, Last Revision
	Deleted     uint64 // commits missing between them; always zero in an intact stream
	Created     time.Time
}

// missing is how many messages between the first and the last are not there.
func missing(st jetstream.StreamState) uint64 {
	if st.LastSeq == 0 || st.LastSeq < st.FirstSeq {
		return 0
	}
	return st.LastSeq - st.FirstSeq + 1 - min(st.Msgs, st.LastSeq-st.FirstSeq+1)
}
