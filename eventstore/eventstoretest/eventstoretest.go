// Package eventstoretest gives tests a real event store: an embedded JetStream server on a temporary folder.
package eventstoretest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/keyledger/kms/eventstore"
)

// New returns a provisioned and verified store over a temporary folder. It is closed when the test ends.
func New(t testing.TB) *eventstore.Store {
	t.Helper()
	return Open(t, t.TempDir())
}

// Open is New over a folder of the test's own, so that a store can be closed and opened again.
func Open(t testing.TB, dir string) *eventstore.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := eventstore.Open(ctx, Config(t, dir))
	if err != nil {
		t.Fatalf("opening the event store: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("closing the event store: %v", err)
		}
	})
	if err := s.Provision(ctx, 1); err != nil {
		t.Fatalf("provisioning the event store: %v", err)
	}
	if err := s.Verify(ctx); err != nil {
		t.Fatalf("verifying the event store: %v", err)
	}
	return s
}

// Config is that of the stores made here: small limits, and a log that shows up with the test.
func Config(t testing.TB, dir string) eventstore.Config {
	t.Helper()
	return eventstore.Config{
		DataDir:        dir,
		EventsMaxBytes: 1 << 30, ActivityMaxBytes: 1 << 30, MaterialMaxBytes: 1 << 30,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}
