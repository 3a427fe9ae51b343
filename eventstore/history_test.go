package eventstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

func TestMoment(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		moment eventstore.Moment
		rev    eventstore.Revision
		at     time.Time
		want   bool
	}{
		"the revision":       {eventstore.Moment{Revision: 5}, 5, noon, true},
		"the next":           {eventstore.Moment{Revision: 5}, 6, noon, false},
		"the time":           {eventstore.Moment{Time: noon}, 5, noon, true},
		"a microsecond late": {eventstore.Moment{Time: noon}, 5, noon.Add(time.Microsecond), false},
		"none":               {eventstore.Moment{}, 1, noon, false},
	} {
		if got := tt.moment.Covers(tt.rev, tt.at); got != tt.want {
			t.Errorf("%s: covered %t", name, got)
		}
	}
	if !(eventstore.Moment{}).IsZero() || (eventstore.Moment{Revision: 1}).IsZero() || (eventstore.Moment{Time: noon}).IsZero() {
		t.Error("which moment is none is not clear")
	}
}

func TestCommitAt(t *testing.T) {
	s := eventstoretest.New(t)
	first, err := s.Append(t.Context(), 0, createKey(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(t.Context(), 0, createKey(t, "b")); err != nil {
		t.Fatal(err)
	}
	got, err := s.CommitAt(t.Context(), first.Revision)
	if err != nil || got.CommandID != first.CommandID || got.Hash != first.Hash || got.StoredTime.IsZero() {
		t.Errorf("read %+v, %v", got, err)
	}
	if _, err := s.CommitAt(t.Context(), first.Revision+100); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("what was never stored: %v", err)
	}
}
