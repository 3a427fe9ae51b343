package activity_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/projections/activity"
)

// TestCurrentLatestUse: the answer has what was recorded just before the question, on the node that writes the log and on
// one that does not; a log that does not catch up gives none.
func TestCurrentLatestUse(t *testing.T) {
	s := newSite(t)
	writer, other := s.openShared(t, "writer"), s.openShared(t, "other")
	use := func(principal string) {
		r := record(t)
		r.Caller.Principal = principal
		s.record(t, 1, r)
	}
	lastUser := func(l *activity.Log) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		got, err := l.CurrentLatestUse(ctx, keyUID)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Entries) != 1 || got.Entries[0].LastSuccess == nil {
			t.Fatalf("entries %+v", got.Entries)
		}
		return got.Entries[0].LastSuccess.Principal
	}
	stop := run(t, writer)
	for _, l := range []*activity.Log{writer, other, writer} {
		want := newUID(t).String()
		use(want)
		if got := lastUser(l); got != want {
			t.Errorf("last used by %s, want %s", got, want)
		}
	}
	// Somebody fills the log anew: the answer is as new.
	if err := writer.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	use("after the rebuild")
	if got := lastUser(other); got != "after the rebuild" {
		t.Errorf("last used by %s after a rebuild", got)
	}

	stop()
	use("unseen")
	for _, l := range []*activity.Log{writer, other} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if got, err := l.CurrentLatestUse(ctx, keyUID); !errors.Is(err, activity.ErrUnavailable) {
			t.Errorf("a log that is behind answers %+v, %v", got.Entries, err)
		}
	}
	if never, err := writer.LatestUse(t.Context(), domain.UID{9}); err != nil || len(never.Entries) != 0 { // that does not wait
		t.Errorf("a key that was never used: %+v, %v", never, err)
	}
}
