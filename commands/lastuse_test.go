package commands_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
)

var errAway = &domain.Error{Reason: domain.ReasonActivityAway, Message: "the activity database does not answer"}

// TestDeletionOfAnUnusedKey: a deletion that is to require that the key is unused is refused unless that is certain, and
// then changes nothing.
func TestDeletionOfAnUnusedKey(t *testing.T) {
	now := time.Now()
	days := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	for name, tt := range map[string]struct {
		last commands.LastUse
		err  error
		want domain.Reason // empty: scheduled
	}{
		"used yesterday":              {commands.LastUse{Time: days(1), Operation: "Encrypt", Principal: "somebody", TrackedSince: days(99)}, nil, domain.ReasonKeyRecentlyUsed},
		"used in the future":          {commands.LastUse{Time: days(-1), TrackedSince: days(99)}, nil, domain.ReasonKeyRecentlyUsed},
		"used before":                 {commands.LastUse{Time: days(31), TrackedSince: days(99)}, nil, ""},
		"never used":                  {commands.LastUse{TrackedSince: days(99)}, nil, ""},
		"made after the log began":    {commands.LastUse{TrackedSince: days(3)}, nil, ""},
		"made before the log began":   {commands.LastUse{TrackedSince: days(-1)}, nil, domain.ReasonActivityAway},
		"the log is empty":            {commands.LastUse{}, nil, domain.ReasonActivityAway},
		"the log does not answer":     {commands.LastUse{}, errAway, domain.ReasonActivityAway},
		"the log does not catch up":   {commands.LastUse{}, context.DeadlineExceeded, domain.ReasonActivityAway},
		"the log fails to understand": {commands.LastUse{}, errors.New("no such column"), domain.ReasonActivityAway},
	} {
		t.Run(name, func(t *testing.T) {
			f := &faults{uses: func(ctx context.Context, current bool) (commands.LastUse, error) {
				if _, bounded := ctx.Deadline(); !bounded {
					t.Error("the question is not bounded")
				}
				if !current && tt.want != "" {
					t.Error("decided on a log that may not have caught up")
				}
				return tt.last, tt.err
			}}
			s := newService(f)
			ref, _ := newKey(t, s)
			m := commands.Mutation{RequestID: newID()}
			before := len(commits(t, ref))
			scheduled, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 30*24*time.Hour, m)
			if tt.want != "" {
				refused(t, err, tt.want)
				if r := f.last(t); r.Operation != "ScheduleKeyDeletion" || r.Reason != tt.want {
					t.Errorf("recorded as %+v", r)
				}
				if tt.last.Principal != "" && !strings.Contains(err.Error(), "somebody (Encrypt)") {
					t.Errorf("it is not said who used the key: %v", err)
				}
				if after := len(commits(t, ref)); after != before {
					t.Errorf("%d commits were added", after-before)
				}
				return
			}
			if err != nil || scheduled.Key.State != domain.KeyStatePendingDeletion || !scheduled.LastUse.Time.Equal(tt.last.Time) {
				t.Fatalf("scheduled %+v, %v", scheduled, err)
			}
			// Repeated, it is done already, whatever the log says by now.
			f.uses = func(context.Context, bool) (commands.LastUse, error) { return commands.LastUse{}, errAway }
			again, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 30*24*time.Hour, m)
			if err != nil || again.Revision != scheduled.Revision {
				t.Errorf("repeated: %d, %v", again.Revision, err)
			}
			_, err = s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, time.Hour, m)
			refused(t, err, domain.ReasonRequestIDReused)
		})
	}
}

// TestStateComesBeforeUse: a key that can't be deleted anyway is refused for that.
func TestStateComesBeforeUse(t *testing.T) {
	s := newService(&faults{uses: func(context.Context, bool) (commands.LastUse, error) { return commands.LastUse{}, errAway }})
	ref, _ := newKey(t, s)
	if _, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 0, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	_, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, time.Hour, commands.Mutation{})
	refused(t, err, domain.ReasonKeyPendingDeletion)
	_, err = s.ScheduleKeyDeletion(t.Context(), nobody, ref, 0, time.Hour, commands.Mutation{})
	refused(t, err, domain.ReasonPermissionDenied)
}

// TestDeletionTellsOfTheLastUse: it warns of a use within 7 days, and goes on without the log.
func TestDeletionTellsOfTheLastUse(t *testing.T) {
	for name, tt := range map[string]struct {
		ago  time.Duration // zero: never
		err  error
		warn string // a part of the only warning; empty: none
	}{
		"used now":                  {time.Second, nil, "by somebody (Decrypt), within the last 7 days"},
		"used within a week":        {7*24*time.Hour - time.Minute, nil, "within the last 7 days"},
		"used before":               {7*24*time.Hour + time.Minute, nil, ""},
		"never used":                {0, nil, ""},
		"the log does not answer":   {0, errAway, "it is not known when the key was last used"},
		"the log takes its time":    {0, context.DeadlineExceeded, "it is not known"},
		"the log is not understood": {0, errors.New("no such column"), "it is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			last := commands.LastUse{TrackedSince: time.Now().Add(-time.Hour)}
			if tt.ago != 0 {
				last.Time, last.Operation, last.Principal = time.Now().Add(-tt.ago), "Decrypt", "somebody"
			}
			s := newService(&faults{uses: func(_ context.Context, current bool) (commands.LastUse, error) {
				if current {
					t.Error("waits for a log that nothing depends on")
				}
				return last, tt.err
			}})
			ref, _ := newKey(t, s)
			scheduled, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 0, commands.Mutation{})
			if err != nil {
				t.Fatal(err)
			}
			switch w := strings.Join(scheduled.Warnings, "|"); {
			case tt.warn == "" && w != "", !strings.Contains(w, tt.warn), len(scheduled.Warnings) > 1:
				t.Errorf("warnings %q, want %q", w, tt.warn)
			}
			if tt.err == nil && scheduled.LastUse != last {
				t.Errorf("last use %+v, want %+v", scheduled.LastUse, last)
			}
		})
	}
}
