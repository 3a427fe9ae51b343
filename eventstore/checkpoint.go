package eventstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// LoadCheckpoint returns what a projector saved last under a name, and its revision; no data and revision zero if there is
// nothing. Names are of lower-case letters, digits, '_' and '-'.
func (s *Store) LoadCheckpoint(ctx context.Context, name string) (data []byte, revision uint64, err error) {
	subject, err := checkpointSubject(name)
	if err != nil {
		return nil, 0, err
	}
	m, err := s.retryGet(ctx, streamProjection, getRequest{LastFor: subject})
	if errors.Is(err, errNoMessage) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("loading checkpoint %s: %w", name, err)
	}
	return m.data, m.seq, nil
}

// SaveCheckpoint replaces a checkpoint that is still at the expected revision, zero for none, and returns the new one. Errors:
// ErrConflict, ErrUnavailable, ErrUnknownOutcome; two writers must not save the same bytes, since by these a write is
// recognised whose acknowledgement was lost.
func (s *Store) SaveCheckpoint(ctx context.Context, name string, data []byte, expected uint64) (revision uint64, err error) {
	subject, err := checkpointSubject(name)
	if err != nil {
		return 0, err
	}
	if err := s.usable(); err != nil {
		return 0, err
	}
	msg := newMessage(subject, typeCheckpoint, s.Lineage(), expected, data)
	maybeStored := false
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		ack, outcome, err := s.publish(ctx, msg)
		switch outcome {
		case stored:
			return ack.Seq, nil
		case unknown:
			maybeStored = true
		case refused:
			return 0, fmt.Errorf("saving checkpoint %s: %w", name, err)
		case conflict, notStored:
		}
		if outcome == conflict || maybeStored {
			m, readErr := s.leaderGet(ctx, streamProjection, getRequest{LastFor: subject})
			switch {
			case readErr == nil && m.seq > expected && maybeStored && bytes.Equal(m.data, data):
				return m.seq, nil
			case readErr == nil && m.seq != expected:
				return 0, fmt.Errorf("saving checkpoint %s: %w", name, ErrConflict)
			case errors.Is(readErr, errNoMessage) && outcome == conflict && expected != 0:
				return 0, fmt.Errorf("saving checkpoint %s: %w", name, ErrConflict)
			}
		}
		if s.Err() != nil || !sleep(ctx, pause) {
			return 0, fmt.Errorf("saving checkpoint %s: %w", name, errors.Join(s.Err(), err))
		}
	}
}

func checkpointSubject(name string) (string, error) {
	for i := range len(name) {
		if c := name[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return "", fmt.Errorf("checkpoint name %q has other characters than a-z 0-9 _ -", name)
		}
	}
	if name == "" {
		return "", errors.New("a checkpoint needs a name")
	}
	return subjectProjection + name, nil
}
