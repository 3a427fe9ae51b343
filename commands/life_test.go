package commands_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// version is ref with a version.
func version(ref domain.KeyRef, v domain.Version) domain.KeyRef {
	ref.Version = v
	return ref
}

// keyOf is a key whose deletion was scheduled.
func keyOf(d commands.ScheduledDeletion, err error) (eventstore.KeyState, error) {
	return d.KeyState, err
}

// head is the last sequence of the stream of events.
func head(t *testing.T) eventstore.Revision {
	t.Helper()
	h, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h.Last
}

// later are the faults of a service whose clock is ahead, and which stores nothing: the other tests could change nothing
// after a commit of the future.
func later(d time.Duration) *faults {
	return &faults{
		clock: func() time.Time { return time.Now().Add(d) },
		append: func(func() (eventstore.Commit, error)) (eventstore.Commit, error) {
			return eventstore.Commit{}, errors.New("a commit of the future")
		},
	}
}

// TestRefusedChanges: whatever is asked for against the rules is refused for its reason with a sentence that says what is
// the matter and what to do, is on the record, and leaves the stream of events as it was.
func TestRefusedChanges(t *testing.T) {
	f := &faults{}
	s := newService(f)
	none := commands.Mutation{}
	type attempt = func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error)
	// Each is a key in the state that the refusal is about.
	prepare := map[string]func(ref domain.KeyRef) error{
		"enabled": func(domain.KeyRef) error { return nil },
		"disabled": func(ref domain.KeyRef) error {
			_, err := s.DisableKeyVersion(t.Context(), admin, version(ref, 1), true, none)
			_, err2 := s.DisableKey(t.Context(), admin, ref, none)
			return errors.Join(err, err2)
		},
		"pending": func(ref domain.KeyRef) error {
			_, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 0, none)
			return err
		},
		"archived": func(ref domain.KeyRef) error {
			_, err := s.ArchiveKey(t.Context(), admin, ref, none)
			return err
		},
		"scheduled": func(ref domain.KeyRef) error {
			_, err := s.ScheduleKeyVersionDestruction(t.Context(), admin, version(ref, 1), day, true, none)
			return err
		},
		"rotating": func(ref domain.KeyRef) error {
			_, err := s.EnableAutoRotation(t.Context(), admin, ref, 0, none)
			return err
		},
		"bound": func(ref domain.KeyRef) error {
			_, err := s.AddUsageBinding(t.Context(), admin, ref, "billing/1", none)
			return err
		},
	}
	period := func(d time.Duration) attempt {
		return func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.UpdateRotationPeriod(ctx, admin, ref, d, none)
		}
	}
	wait := func(d time.Duration) attempt {
		return func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.ScheduleKeyVersionDestruction(ctx, admin, version(ref, 1), d, true, none)
		}
	}
	for name, tt := range map[string]struct {
		key    string
		change attempt
		reason domain.Reason
		says   []string
		after  time.Duration // how far the clock has gone meanwhile
	}{
		"period of 0":            {"rotating", period(0), domain.ReasonBadField, []string{"1 to 730 whole days"}, 0},
		"period of 731 days":     {"rotating", period(731 * day), domain.ReasonBadField, []string{"1 to 730 whole days"}, 0},
		"period of 1.5 days":     {"rotating", period(36 * time.Hour), domain.ReasonBadField, []string{"1 to 730 whole days"}, 0},
		"period less than 0":     {"rotating", period(-day), domain.ReasonBadField, []string{"1 to 730 whole days"}, 0},
		"period without a cause": {"enabled", period(day), domain.ReasonAutoRotationOff, []string{"does not rotate automatically", "enable automatic rotation first"}, 0},
		"enabled for 731 days": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.EnableAutoRotation(ctx, admin, ref, 731*day, none)
		}, domain.ReasonBadField, []string{"1 to 730 whole days"}, 0},
		"a schedule for a pending key": {"pending", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.EnableAutoRotation(ctx, admin, ref, 0, none)
		}, domain.ReasonKeyPendingDeletion, []string{"PENDING_DELETION", "cancel its deletion first"}, 0},
		"wait below 24 hours": {"enabled", wait(day - 1), domain.ReasonBadField, []string{"24 hours to 120 days"}, 0},
		"wait over 120 days":  {"enabled", wait(120*day + 1), domain.ReasonBadField, []string{"24 hours to 120 days"}, 0},
		"a key's wait below": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return keyOf(s.ScheduleKeyDeletion(ctx, admin, ref, day-1, 0, none))
		}, domain.ReasonBadField, []string{"24 hours to 120 days"}, 0},
		"a key's wait above": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return keyOf(s.ScheduleKeyDeletion(ctx, admin, ref, 121*day, 0, none))
		}, domain.ReasonBadField, []string{"24 hours to 120 days"}, 0},
		"rotating a pending key": {"pending", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.RotateKey(ctx, admin, ref, none)
		}, domain.ReasonKeyPendingDeletion, []string{"PENDING_DELETION", "cancel its deletion first"}, 0},
		"a version for an archived key": {"archived", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.CreateKeyVersion(ctx, admin, ref, true, none)
		}, domain.ReasonKeyArchived, []string{"ARCHIVED", "unarchive it"}, 0},
		"enabling a version of a disabled key": {"disabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.EnableKeyVersion(ctx, admin, version(ref, 1), none)
		}, domain.ReasonKeyDisabled, []string{"DISABLED", "enable it first"}, 0},
		"disabling the primary": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.DisableKeyVersion(ctx, admin, version(ref, 1), false, none)
		}, domain.ReasonVersionIsPrimary, []string{"primary", "rotate the key first"}, 0},
		"destroying the primary": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.ScheduleKeyVersionDestruction(ctx, admin, version(ref, 1), 0, false, none)
		}, domain.ReasonVersionIsPrimary, []string{"primary", "rotate the key first"}, 0},
		"a scheduled version as primary": {"scheduled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.SetPrimaryVersion(ctx, admin, version(ref, 1), none)
		}, domain.ReasonVersionScheduled, []string{"DESTROY_SCHEDULED", "restore it first"}, 0},
		"no version as primary": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.SetPrimaryVersion(ctx, admin, version(ref, 9), none)
		}, domain.ReasonVersionNotFound, []string{"no version 9", "1 to 1"}, 0},
		"restoring what was not scheduled": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.RestoreKeyVersion(ctx, admin, version(ref, 1), none)
		}, domain.ReasonNotScheduled, []string{"ENABLED", "no destruction is scheduled"}, 0},
		"restoring a version after its time": {"scheduled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.RestoreKeyVersion(ctx, admin, version(ref, 1), none)
		}, domain.ReasonVersionScheduled, []string{"due since", "use another version"}, day + time.Minute},
		"canceling a deletion after its time": {"pending", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.CancelKeyDeletion(ctx, admin, ref, true, none)
		}, domain.ReasonKeyPendingDeletion, []string{"due since", "create a key"}, 4 * day},
		"unarchiving what is not archived": {"disabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.UnarchiveKey(ctx, admin, ref, true, none)
		}, domain.ReasonNotArchived, []string{"DISABLED, not ARCHIVED"}, 0},
		"disabling what is in use": {"bound", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.DisableKey(ctx, admin, ref, none)
		}, domain.ReasonKeyInUse, []string{"billing/1", "remove its usage bindings first"}, 0},
		"deleting what is in use": {"bound", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.DeleteKey(ctx, admin, ref, true, none)
		}, domain.ReasonKeyInUse, []string{"billing/1", "remove its usage bindings first"}, 0},
		"a binding without a name": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.AddUsageBinding(ctx, admin, ref, "", none)
		}, domain.ReasonBadField, []string{"1 to 512 bytes"}, 0},
		"an expiry that has passed": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.UpdateKey(ctx, admin, ref, domain.UpdateKey{ExpireTime: new(time.Now().Add(-time.Hour))}, none)
		}, domain.ReasonBadField, []string{"must be in the future", "disable the key"}, 0},
		"a rotation in three years": {"rotating", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.UpdateKey(ctx, admin, ref, domain.UpdateKey{NextRotationTime: new(time.Now().Add(3 * 365 * day))}, none)
		}, domain.ReasonBadField, []string{"730 days at most"}, 0},
		"a stale etag": {"enabled", func(ctx context.Context, s *commands.Service, ref domain.KeyRef) (eventstore.KeyState, error) {
			return s.ArchiveKey(ctx, admin, ref, commands.Mutation{Etag: "r1"})
		}, domain.ReasonEtagMismatch, []string{"has changed since", "read it again"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ref, _ := newKey(t, s)
			if err := prepare[tt.key](ref); err != nil {
				t.Fatal(err)
			}
			service, records := s, f
			if tt.after > 0 {
				records = later(tt.after)
				service = newService(records)
			}
			before := head(t)
			_, err := tt.change(t.Context(), service, ref)
			refused(t, err, tt.reason)
			for _, part := range tt.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the refusal says %q, and nothing of %q", err, part)
				}
			}
			if after := head(t); after != before {
				t.Errorf("the stream of events went from %d to %d", before, after)
			}
			if r := records.last(t); r.Reason != tt.reason || r.KeyName != ref.Name.String() || r.Outcome == domain.OutcomeOK {
				t.Errorf("recorded as %+v", r)
			}
		})
	}
}

// TestLife goes through a key's life: each step is recorded under its name, and what it makes is shown by its answer.
func TestLife(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	none := commands.Mutation{}
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	for _, step := range []struct {
		operation string
		version   domain.Version
		do        func() (eventstore.KeyState, error)
		shows     func(k domain.Key) bool
	}{
		{"EnableAutoRotation", 0, func() (eventstore.KeyState, error) { return s.EnableAutoRotation(t.Context(), admin, ref, 0, none) }, func(k domain.Key) bool {
			return k.AutoRotation && k.RotationPeriod == 90*day && k.NextRotationTime.Equal(k.UpdateTime.Add(90*day))
		}},
		{"UpdateRotationPeriod", 0, func() (eventstore.KeyState, error) {
			return s.UpdateRotationPeriod(t.Context(), admin, ref, 7*day, none)
		}, func(k domain.Key) bool {
			return k.RotationPeriod == 7*day && k.NextRotationTime.Equal(k.UpdateTime.Add(7*day))
		}},
		{"UpdateKey", 0, func() (eventstore.KeyState, error) {
			return s.UpdateKey(t.Context(), admin, ref, domain.UpdateKey{NextRotationTime: &soon, ExpireTime: new(soon.Add(day)), ManagedBy: new("svc"), MaxUsesPerVersion: new(uint64(5))}, none)
		}, func(k domain.Key) bool {
			return k.NextRotationTime.Equal(soon) && k.ExpireTime.Equal(soon.Add(day)) && k.ManagedBy == "svc" && k.MaxUsesPerVersion == 5
		}},
		{"RotateKey", 2, func() (eventstore.KeyState, error) { return s.RotateKey(t.Context(), admin, ref, none) }, func(k domain.Key) bool {
			return k.Primary == 2 && k.NextRotationTime.Equal(soon) // rotating by hand does not move the schedule
		}},
		{"DisableAutoRotation", 0, func() (eventstore.KeyState, error) { return s.DisableAutoRotation(t.Context(), admin, ref, none) }, func(k domain.Key) bool {
			return !k.AutoRotation && k.NextRotationTime.IsZero() && k.RotationPeriod == 7*day
		}},
		{"CreateKeyVersion", 3, func() (eventstore.KeyState, error) {
			return s.CreateKeyVersion(t.Context(), admin, ref, false, none)
		}, func(k domain.Key) bool { return k.Versions.Len() == 3 && k.Primary == 2 }},
		{"SetPrimaryVersion", 3, func() (eventstore.KeyState, error) {
			return s.SetPrimaryVersion(t.Context(), admin, version(ref, 3), none)
		}, func(k domain.Key) bool { return k.Primary == 3 }},
		{"ScheduleKeyVersionDestruction", 1, func() (eventstore.KeyState, error) {
			return s.ScheduleKeyVersionDestruction(t.Context(), admin, version(ref, 1), 2*day, false, none)
		}, func(k domain.Key) bool {
			v, _ := k.Versions.Get(1)
			return v.State == domain.VersionStateDestroyScheduled && v.DeleteTime.Equal(k.UpdateTime.Add(2*day))
		}},
		{"RestoreKeyVersion", 1, func() (eventstore.KeyState, error) {
			return s.RestoreKeyVersion(t.Context(), admin, version(ref, 1), none)
		}, func(k domain.Key) bool {
			v, _ := k.Versions.Get(1)
			return v.State == domain.VersionStateDisabled && v.DeleteTime.IsZero()
		}},
		{"ArchiveKey", 0, func() (eventstore.KeyState, error) { return s.ArchiveKey(t.Context(), admin, ref, none) }, func(k domain.Key) bool {
			return k.State == domain.KeyStateArchived
		}},
		{"UnarchiveKey", 0, func() (eventstore.KeyState, error) { return s.UnarchiveKey(t.Context(), admin, ref, true, none) }, func(k domain.Key) bool {
			return k.State == domain.KeyStateEnabled
		}},
		{"AddUsageBinding", 0, func() (eventstore.KeyState, error) {
			return s.AddUsageBinding(t.Context(), admin, ref, "billing/1", none)
		}, func(k domain.Key) bool {
			return len(k.UsageBindings) == 1 && k.UsageBindings[0].Resource == "billing/1" && k.UsageBindings[0].Creator == "admin"
		}},
		{"RemoveUsageBinding", 0, func() (eventstore.KeyState, error) {
			return s.RemoveUsageBinding(t.Context(), admin, ref, "billing/1", none)
		}, func(k domain.Key) bool { return len(k.UsageBindings) == 0 }},
	} {
		state, err := step.do()
		if err != nil {
			t.Fatalf("%s: %v", step.operation, err)
		}
		if !step.shows(state.Key) {
			t.Errorf("%s left %+v", step.operation, state.Key)
		}
		all := commits(t, ref)
		if c := all[len(all)-1]; c.Operation != step.operation || c.Version != step.version || c.Revision != state.Revision || len(c.Events) == 0 {
			t.Errorf("%s is recorded as %s of version %d, with %d events", step.operation, c.Operation, c.Version, len(c.Events))
		}
	}
}

// TestCreateWithLimits: a key is made with all that it was asked to have.
func TestCreateWithLimits(t *testing.T) {
	s := newService(&faults{})
	expire := time.Now().Add(day).UTC().Truncate(time.Microsecond)
	state, err := s.CreateKey(t.Context(), admin, commands.CreateKey{
		Parent: ring, KeyID: "limits" + newID().String(), Purpose: domain.EncryptDecrypt, AutoRotation: true, RotationPeriod: 7 * day,
		MaxUsesPerVersion: new(uint64(9)), ExpireTime: expire, DestroyWait: 2 * day, ManagedBy: "svc",
	})
	if err != nil {
		t.Fatal(err)
	}
	k := state.Key
	if !k.AutoRotation || k.RotationPeriod != 7*day || !k.NextRotationTime.Equal(k.CreateTime.Add(7*day)) || k.MaxUsesPerVersion != 9 ||
		!k.ExpireTime.Equal(expire) || k.DestroyWait != 2*day || k.ManagedBy != "svc" || k.Primary != 1 {
		t.Errorf("created %+v", k)
	}
	waiting, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: "import" + newID().String(), Purpose: domain.EncryptDecrypt, ImportOnly: true})
	if err != nil || waiting.Key.State != domain.KeyStatePendingImport || waiting.Key.Versions.Len() != 0 {
		t.Errorf("import_only: %+v, %v", waiting.Key, err)
	}
	// The key's own wait counts where none is named.
	scheduled, err := s.ScheduleKeyDeletion(t.Context(), admin, domain.KeyRef{Name: k.Name}, 0, 0, commands.Mutation{})
	if err != nil || !scheduled.Key.DeleteTime.Equal(scheduled.Key.UpdateTime.Add(2*day)) {
		t.Errorf("scheduled %+v, %v", scheduled.Key, err)
	}
}

// TestRepeatedLifeRequests: each change of a key's life is remembered with its request id, those that changed nothing too,
// and answered as it was then.
func TestRepeatedLifeRequests(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	type request = func(m commands.Mutation) (eventstore.KeyState, error)
	requests := []request{
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.EnableAutoRotation(t.Context(), admin, ref, day, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.EnableAutoRotation(t.Context(), admin, ref, day, m)
		}, // is so already
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.UpdateRotationPeriod(t.Context(), admin, ref, 2*day, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.DisableAutoRotation(t.Context(), admin, ref, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.CreateKeyVersion(t.Context(), admin, ref, true, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.SetPrimaryVersion(t.Context(), admin, version(ref, 2), m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.ScheduleKeyVersionDestruction(t.Context(), admin, version(ref, 1), day, false, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.RestoreKeyVersion(t.Context(), admin, version(ref, 1), m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.ArchiveKey(t.Context(), admin, ref, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.UnarchiveKey(t.Context(), admin, ref, true, m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.AddUsageBinding(t.Context(), admin, ref, "a", m)
		},
		func(m commands.Mutation) (eventstore.KeyState, error) {
			return s.RemoveUsageBinding(t.Context(), admin, ref, "a", m)
		},
	}
	ids := make([]commands.Mutation, len(requests))
	answers := make([]eventstore.KeyState, len(requests))
	for i, r := range requests {
		ids[i].RequestID = newID()
		var err error
		if answers[i], err = r(ids[i]); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	before := head(t)
	for i, r := range requests {
		again, err := r(ids[i])
		if diff := cmp.Diff(answers[i], again); diff != "" || err != nil {
			t.Errorf("request %d is answered otherwise when repeated: %v\n%s", i, err, diff)
		}
		// With other arguments, or as another request, the id is refused.
		_, err = s.CreateKeyVersion(t.Context(), admin, ref, false, ids[i])
		refused(t, err, domain.ReasonRequestIDReused)
	}
	if after := head(t); after != before {
		t.Errorf("repeating went from %d to %d", before, after)
	}
}

// TestUsesByTheClock: an expired key only decrypts, from the very moment on and before anything is recorded; an archived
// one does the same; a version that is to be destroyed does nothing.
func TestUsesByTheClock(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	none := commands.Mutation{}
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	// Without a budget, no lease of the future is stored.
	made, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: "other" + newID().String(), Purpose: domain.EncryptDecrypt, MaxUsesPerVersion: new(uint64(0))})
	if err != nil {
		t.Fatal(err)
	}
	other := domain.KeyRef{Name: made.Key.Name}
	if _, err := s.UpdateKey(t.Context(), admin, ref, domain.UpdateKey{ExpireTime: new(time.Now().Add(time.Hour))}, none); err != nil {
		t.Fatal(err)
	}
	// uses tries everything and wants what makes ciphertexts refused, and decryption too if it is to be.
	uses := func(s *commands.Service, protecting, opening domain.Reason) {
		t.Helper()
		check := func(what string, err error, want domain.Reason) {
			t.Helper()
			refusal, ok := errors.AsType[*domain.Error](err)
			if want == "" && err != nil || want != "" && (!ok || refusal.Reason != want) {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
		}
		_, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref})
		check("Encrypt", err, protecting)
		_, err = s.GenerateDataKey(t.Context(), admin, commands.DataKeyRequest{Ref: ref, Bytes: 16})
		check("GenerateDataKey", err, protecting)
		_, err = s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ref: ref, Ciphertext: sealed.Ciphertext})
		check("ReEncrypt to it", err, protecting)
		outcomes, err := s.BatchEncrypt(t.Context(), admin, ref, []commands.EncryptItem{{}})
		check("BatchEncrypt", errors.Join(err, outcomes[0].Err), protecting)
		_, err = s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ref: other, Ciphertext: sealed.Ciphertext})
		check("ReEncrypt from it", err, opening)
		_, err = s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
		check("Decrypt", err, opening)
		opened, err := s.BatchDecrypt(t.Context(), admin, "p", []commands.DecryptItem{{Ciphertext: sealed.Ciphertext}})
		check("BatchDecrypt", errors.Join(err, opened[0].Err), opening)
	}
	uses(s, "", "")
	expired := newService(later(2 * time.Hour))
	uses(expired, domain.ReasonKeyExpired, "")
	before := head(t)
	_, err = expired.RotateKey(t.Context(), admin, ref, none)
	refused(t, err, domain.ReasonKeyExpired)
	if after := head(t); after != before {
		t.Errorf("the stream went from %d to %d", before, after)
	}
	if _, err := s.ArchiveKey(t.Context(), admin, ref, none); err != nil {
		t.Fatal(err)
	}
	uses(s, domain.ReasonKeyArchived, "")
	if _, err := s.UnarchiveKey(t.Context(), admin, ref, true, none); err != nil {
		t.Fatal(err)
	}
	uses(s, "", "")
	if _, err := s.ScheduleKeyVersionDestruction(t.Context(), admin, version(ref, 1), 0, true, none); err != nil {
		t.Fatal(err)
	}
	uses(s, domain.ReasonVersionScheduled, domain.ReasonVersionScheduled)
}
