package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
)

// Headers of stored messages, few and short since they are kept for ever: headerType is "<type> <lineage>".
const (
	headerType        = "Kms"
	headerTraceParent = "Traceparent"

	typeCommit     = "commit1"
	typeActivity   = "activity1"
	typeMaterial   = "material1"
	typeCheckpoint = "checkpoint1"
)

// Error codes of the JetStream API that the client has no name for.
const (
	codeWrongLastSequence         = jetstream.JSErrCodeStreamWrongLastSequence
	codeWrongLastSequenceConstant = jetstream.JSErrCodeStreamWrongLastSequenceConstant // another write of the subject is in flight
	codeDuplicateInBatch          = jetstream.ErrorCode(10201)
	codeDuplicateInFlight         = jetstream.ErrorCode(10158)
	codeStoreFailed               = jetstream.ErrorCode(10077) // a limit of the stream; an I/O error gets no answer
	codeSequenceNotFound          = jetstream.ErrorCode(10043) // to be deleted, and somebody else did it
	codeInsufficientResources     = jetstream.ErrorCode(10023)
	codeStorageExceeded           = jetstream.ErrorCode(10047)
	codeNoPeers                   = jetstream.ErrorCode(10005) // no server has room for a replica, or is known to be up
)

// attempt is what one attempt to append came to.
type attempt int

const (
	stored    attempt = iota
	conflict          // another message of the subject is stored, or in flight
	refused           // not stored, and another attempt would not be either
	notStored         // not stored; another attempt may be
	unknown           // no answer: it may be stored, now or later
)

// publish makes one attempt to append a message and waits for the acknowledgement, at most attemptTimeout. The error says
// more than the outcome when that is not stored.
func (s *Store) publish(ctx context.Context, msg *nats.Msg) (ack pubAck, outcome attempt, err error) {
	if err := ctx.Err(); err != nil {
		return ack, notStored, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if turn := s.turn(msg.Subject); turn != nil {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return ack, notStored, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, msg)
	switch {
	case err == nil:
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return ack, notStored, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return ack, refused, fmt.Errorf("%w: %w", ErrTooLarge, err)
	default:
		return ack, unknown, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return ack, unknown, fmt.Errorf("%w: reading the acknowledgement: %w", ErrUnknownOutcome, err)
	}
	if ack.Error == nil {
		if ack.Seq == 0 {
			return ack, unknown, fmt.Errorf("%w: the acknowledgement names no sequence", ErrUnknownOutcome)
		}
		return ack, stored, nil
	}
	switch ack.Error.ErrorCode {
	case codeWrongLastSequence, codeWrongLastSequenceConstant, codeDuplicateInBatch, codeDuplicateInFlight:
		return ack, conflict, ErrConflict
	case codeStoreFailed, codeStorageExceeded:
		return ack, refused, fmt.Errorf("%w: %w", ErrFull, ack.Error)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return ack, refused, fmt.Errorf("%w: %w", ErrTooLarge, ack.Error)
	case codeInsufficientResources:
		return ack, notStored, fmt.Errorf("%w: %w", ErrUnavailable, ack.Error)
	}
	if ack.Error.Code/100 == 4 {
		return ack, refused, fmt.Errorf("appending: %w", ack.Error)
	}
	return ack, unknown, fmt.Errorf("%w: %w", ErrUnknownOutcome, ack.Error)
}

// turns let the embedded server have one append of a stream at a time. It works through all that has arrived before it
// sends the first acknowledgement, so that callers who append to two streams, as creating a key does, would move from one
// stream to the other as one crowd while the other stream has nothing to do: 10 to 20 % fewer keys per second. A cluster
// groups what arrives together into one write, and must have it all at once.
type turns struct{ events, material chan struct{} }

func newTurns() *turns {
	return &turns{events: make(chan struct{}, 1), material: make(chan struct{}, 1)}
}

// turn is what an append of this subject has to wait for; nil: nothing. The activity writer takes turns by itself.
func (s *Store) turn(subject string) chan struct{} {
	switch {
	case s.turns == nil:
	case strings.HasPrefix(subject, subjectEvents):
		return s.turns.events
	case strings.HasPrefix(subject, subjectMaterial):
		return s.turns.material
	}
	return nil
}

type pubAck struct {
	Stream    string              `json:"stream"`
	Seq       uint64              `json:"seq"`
	Duplicate bool                `json:"duplicate"`
	Error     *jetstream.APIError `json:"error"`
}

// newMessage is a message that is stored only if the last one of its subject has this sequence.
func newMessage(subject, kind string, lineage domain.UID, expected uint64, data []byte) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Data: data, Header: make(nats.Header, 4)}
	msg.Header[headerType] = []string{typeHeader(kind, lineage)}
	msg.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(expected, 10)}
	return msg
}

// storedMessage is a message as a stream holds it.
type storedMessage struct {
	subject string
	seq     uint64
	time    time.Time
	header  nats.Header
	data    []byte
}

// getRequest asks for one message: at or after Seq, of the subject NextFor, or the last of the subject LastFor.
type getRequest struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
}

// errNoMessage: the stream has no such message.
var errNoMessage = errors.New("no such message")

// leaderGet reads one message from the leader of a stream, which knows everything that was acknowledged. It makes one
// attempt.
func (s *Store) leaderGet(ctx context.Context, stream string, req getRequest) (storedMessage, error) {
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := s.api(ctx, "$JS.API.STREAM.MSG.GET."+stream, req, &resp); err != nil {
		return storedMessage{}, err
	}
	if resp.Error != nil {
		return storedMessage{}, apiError(resp.Error)
	}
	m := resp.Message
	header := nats.Header{}
	if len(m.Header) > 0 {
		var err error
		if header, err = nats.DecodeHeadersMsg(m.Header); err != nil {
			return storedMessage{}, fmt.Errorf("reading the header of message %d of %s: %w", m.Seq, stream, err)
		}
	}
	return storedMessage{subject: m.Subject, seq: m.Seq, time: m.Time, header: header, data: m.Data}, nil
}

// retryGet is leaderGet until there is an answer or ctx ends.
func (s *Store) retryGet(ctx context.Context, stream string, req getRequest) (storedMessage, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		m, err := s.leaderGet(ctx, stream, req)
		if err == nil || !errors.Is(err, ErrUnavailable) || s.Err() != nil {
			return m, err
		}
		if !sleep(ctx, pause) {
			return m, err
		}
	}
}

// info asks the leader of a stream for its configuration and state. It makes one attempt.
func (s *Store) info(ctx context.Context, stream string) (*jetstream.StreamInfo, error) {
	var resp struct {
		Error *jetstream.APIError `json:"error"`
		jetstream.StreamInfo
	}
	if err := s.api(ctx, "$JS.API.STREAM.INFO."+stream, struct{}{}, &resp); err != nil {
		return nil, err
	}
	if resp.Error != nil {
		return nil, fmt.Errorf("asking for stream %s: %w", stream, apiError(resp.Error))
	}
	return &resp.StreamInfo, nil
}

func (s *Store) api(ctx context.Context, subject string, req, resp any) error {
	if err := s.Err(); err != nil {
		return err
	}
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding a request to %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	reply, err := s.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		if s.closed.Load() {
			return ErrClosed
		}
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, subject, err)
	}
	if err := json.Unmarshal(reply.Data, resp); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", subject, err)
	}
	return nil
}

func apiError(e *jetstream.APIError) error {
	switch {
	case e.ErrorCode == jetstream.JSErrCodeMessageNotFound, e.ErrorCode == codeSequenceNotFound:
		return errNoMessage
	case e.ErrorCode == jetstream.JSErrCodeStreamNotFound:
		return fmt.Errorf("%w: %w", ErrNotProvisioned, e)
	case e.Code/100 == 5:
		return fmt.Errorf("%w: %w", ErrUnavailable, e)
	}
	return e
}
