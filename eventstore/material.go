package eventstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

// maxMaterialBytes is the most that one wrapped key can have; KMS_MATERIAL takes no larger message.
const maxMaterialBytes = 60 << 10

func materialSubject(b domain.Binding) string {
	return subjectMaterial + subjectToken(b.Project) + "." + b.KeyUID.String() + "." + b.MaterialID.String()
}

// PutMaterial stores wrapped material durably under the binding's project, key and material id, before the event that names
// it. Material ids are made for one attempt each, so that a repeated call finds its own blob, which is not an error; another
// blob under the id is ErrMaterialExists. Further errors: as Append's, but for ErrConflict.
func (s *Store) PutMaterial(ctx context.Context, b domain.Binding, blob []byte) (err error) {
	if err := s.usable(); err != nil {
		return err
	}
	if s.gauge.nearlyFull() {
		return fmt.Errorf("storing material: %w", ErrFull)
	}
	ctx, span := s.tel.start(ctx, "eventstore.PutMaterial")
	defer func() { end(span, err) }()
	began := time.Now()
	data, err := proto.Marshal(&eventsv1.MaterialBlob{Blob: blob})
	if err != nil {
		return fmt.Errorf("encoding material: %w", err)
	}
	if len(blob) == 0 || len(data) > maxMaterialBytes {
		return fmt.Errorf("storing material: %w: %d bytes", ErrTooLarge, len(blob))
	}
	err = s.putOnce(ctx, materialSubject(b), data)
	s.tel.appended(ctx, streamMaterial, time.Since(began), err)
	if err != nil {
		return fmt.Errorf("storing material %s: %w", b.MaterialID, err)
	}
	s.gauge.touch()
	return nil
}

// putOnce makes attempts to store the only message of a subject until the outcome is known or ctx ends.
func (s *Store) putOnce(ctx context.Context, subject string, data []byte) error {
	msg := newMessage(subject, typeMaterial, s.Lineage(), 0, data)
	addTraceParent(msg, ctx)
	maybeStored := false
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		_, outcome, err := s.publish(ctx, msg)
		switch {
		case outcome == stored:
			return nil
		case outcome == refused && !maybeStored:
			return err
		case outcome == unknown:
			maybeStored = true
		}
		if outcome == conflict || maybeStored {
			m, readErr := s.leaderGet(ctx, streamMaterial, getRequest{LastFor: subject})
			switch {
			case readErr == nil && bytes.Equal(m.data, data):
				return nil
			case readErr == nil:
				return ErrMaterialExists
			case errors.Is(readErr, errNoMessage) && outcome == refused:
				return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
			}
		}
		if fatal := s.Err(); fatal != nil {
			err = errors.Join(fatal, err)
		} else if sleep(ctx, pause) {
			continue
		}
		switch {
		case maybeStored && !errors.Is(err, ErrUnknownOutcome):
			return fmt.Errorf("%w: %w", ErrUnknownOutcome, errors.Join(ctx.Err(), err))
		case outcome == conflict:
			return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		return err
	}
}

// Blob returns the wrapped material of a binding. The error is ErrMaterialMissing if there is none.
func (s *Store) Blob(ctx context.Context, b domain.Binding) ([]byte, error) {
	subject := materialSubject(b)
	m, err := s.directGet(ctx, streamMaterial, getRequest{LastFor: subject})
	if errors.Is(err, errNoMessage) || errors.Is(err, ErrUnavailable) {
		// The nearest server may not have it yet, or be away; the leader of the stream knows.
		m, err = s.retryGet(ctx, streamMaterial, getRequest{LastFor: subject})
	}
	if errors.Is(err, errNoMessage) {
		return nil, fmt.Errorf("material %s: %w", b.MaterialID, ErrMaterialMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("reading material %s: %w", b.MaterialID, err)
	}
	if _, err := parseTypeHeader(m.header.Get(headerType), typeMaterial); err != nil {
		return nil, fmt.Errorf("reading material %s: %w: %w", b.MaterialID, ErrMaterialMissing, err)
	}
	var blob eventsv1.MaterialBlob
	if err := proto.Unmarshal(m.data, &blob); err != nil {
		return nil, fmt.Errorf("reading material %s: %w: %w", b.MaterialID, ErrMaterialMissing, err)
	}
	return blob.GetBlob(), nil
}

// EraseMaterial overwrites the material of a binding where it is stored, and returns when the leader of the stream has
// nothing more under its id. It is idempotent. In a cluster copies stay in the nodes' Raft logs for a while, and file systems,
// disks and backups keep others: final erasure is by destroying the root.
func (s *Store) EraseMaterial(ctx context.Context, b domain.Binding) (err error) {
	if err := s.usable(); err != nil {
		return err
	}
	ctx, span := s.tel.start(ctx, "eventstore.EraseMaterial")
	defer func() { end(span, err) }()
	subject := materialSubject(b)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		m, err := s.retryGet(ctx, streamMaterial, getRequest{LastFor: subject})
		if errors.Is(err, errNoMessage) {
			return nil
		}
		if err == nil {
			err = s.secureDelete(ctx, streamMaterial, m.seq)
		}
		if err != nil && (!errors.Is(err, ErrUnavailable) || !sleep(ctx, pause)) {
			return fmt.Errorf("erasing material %s: %w", b.MaterialID, err)
		}
	}
}

// secureDelete has the server overwrite a message, not only forget it. A message that is gone already is not an error.
func (s *Store) secureDelete(ctx context.Context, stream string, seq uint64) error {
	var resp struct {
		Error   *jetstream.APIError `json:"error"`
		Success bool                `json:"success"`
	}
	req := struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{Seq: seq}
	if err := s.api(ctx, "$JS.API.STREAM.MSG.DELETE."+stream, req, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		if err := apiError(resp.Error); !errors.Is(err, errNoMessage) {
			return err
		}
	}
	return nil
}
