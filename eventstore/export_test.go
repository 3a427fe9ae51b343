package eventstore

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamBytes is how many bytes a stream has.
func (s *Store) StreamBytes(t testing.TB, stream string) uint64 {
	t.Helper()
	info, err := s.info(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Bytes
}

// JetStream lets tests do to the streams what an administrator could.
func (s *Store) JetStream() jetstream.JetStream { return s.js }

// SetDialer makes the store connect through d.
func SetDialer(cfg *Config, d nats.CustomDialer) { cfg.dialer = d }

// WriterSubject is where this process records.
func (s *Store) WriterSubject() string { return s.writer.subject }
