package commands_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections"
)

func TestCreateKey(t *testing.T) {
	s := newService(&faults{})
	ref, state := newKey(t, s)
	k := state.Key
	if k.Name != ref.Name || k.State != domain.KeyStateEnabled || k.Primary != 1 || k.Creator != "admin" || k.Algorithm != domain.AES256GCM || k.Protection != domain.HSM {
		t.Errorf("created %+v", k)
	}
	v, _ := k.Versions.Get(1)
	if len(v.Fingerprint) == 0 || v.MaterialID.IsZero() {
		t.Errorf("version 1 is %+v", v)
	}
	c := commits(t, ref)[0]
	if c.Operation != "CreateKey" || c.Caller.Principal != "admin" || c.GrantedBy != "admin" || c.Version != 1 {
		t.Errorf("the commit does not tell who did what: %+v", c)
	}
	_, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: ref.Name.ID, Purpose: domain.EncryptDecrypt})
	refused(t, err, domain.ReasonKeyExists)
}

// TestRequestID: a repeated request is answered as it was then, whatever happened since; another one is refused.
func TestRequestID(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	m := commands.Mutation{RequestID: newID()}
	first, err := s.RotateKey(t.Context(), admin, ref, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DisableKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	again, err := s.RotateKey(t.Context(), admin, ref, m) // a disabled key can't be rotated, but this one already was
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the repeated answer differs:\n%s", diff)
	}
	_, err = s.EnableKey(t.Context(), admin, ref, m)
	refused(t, err, domain.ReasonRequestIDReused)
	// What changed nothing is remembered too.
	m = commands.Mutation{RequestID: newID()}
	idle, err := s.DisableKey(t.Context(), admin, ref, m)
	if err != nil {
		t.Fatal(err)
	}
	if c := commits(t, ref); len(c[len(c)-1].Events) != 0 {
		t.Errorf("disabling a disabled key made events: %+v", c[len(c)-1].Events)
	}
	if _, err := s.EnableKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	again, err = s.DisableKey(t.Context(), admin, ref, m)
	if diff := cmp.Diff(idle, again); diff != "" || err != nil {
		t.Errorf("the repeated answer differs: %v\n%s", err, diff)
	}
	if state, _ := keys.Get(ref.Name.String()); state.Key.State != domain.KeyStateEnabled {
		t.Errorf("repeating an old request made the key %s", state.Key.State)
	}
}

func TestEtag(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{Etag: commands.Etag(state.Tip)}); err != nil {
		t.Fatal(err)
	}
	_, err := s.DisableKey(t.Context(), admin, ref, commands.Mutation{Etag: commands.Etag(state.Tip)})
	refused(t, err, domain.ReasonEtagMismatch)
	if r := f.last(t); r.Operation != "DisableKey" || r.Reason != domain.ReasonEtagMismatch || r.KeyUID != state.Key.UID {
		t.Errorf("the refusal is recorded as %+v", r)
	}
}

// TestRace: of many that change one key at once, on several nodes, each succeeds once and no version is lost.
func TestRace(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	const nodes, each = 4, 5
	var wg sync.WaitGroup
	errs := make([]error, nodes)
	for n := range nodes {
		wg.Go(func() {
			node := newService(&faults{})
			for range each {
				for {
					_, err := node.RotateKey(t.Context(), admin, ref, commands.Mutation{})
					if refusal, ok := errors.AsType[*domain.Error](err); ok && refusal.Reason == domain.ReasonContention {
						continue
					}
					errs[n] = errors.Join(errs[n], err)
					break
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	state, _ := keys.Get(ref.Name.String())
	if got := state.Key.Versions.Len(); got != 1+nodes*each {
		t.Errorf("%d versions, want %d", got, 1+nodes*each)
	}
	// Material of attempts that lost is gone: what is left is what the events name.
	for v := range state.Key.Versions.All() {
		if _, err := store.Blob(t.Context(), state.Key.Binding(v.Version)); err != nil {
			t.Errorf("version %d: %v", v.Version, err)
		}
	}
}

// TestUnknownOutcome: a commit that was stored although the answer got lost is found by its request id.
func TestUnknownOutcome(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := newKey(t, s)
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		if _, err := next(); err != nil {
			return eventstore.Commit{}, err
		}
		return eventstore.Commit{}, eventstore.ErrUnknownOutcome
	}
	m := commands.Mutation{RequestID: newID()}
	_, err := s.RotateKey(t.Context(), admin, ref, m)
	refused(t, err, domain.ReasonOutcomeUnknown)
	f.append = nil
	state, err := s.RotateKey(t.Context(), admin, ref, m)
	if err != nil || state.Key.Versions.Len() != 2 {
		t.Errorf("after repeating the request the key has %d versions, want 2: %v", state.Key.Versions.Len(), err)
	}
}

// TestLostRace: a change is decided again on what came first, and refused if that forbids it.
func TestLostRace(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := newKey(t, s)
	other := newService(&faults{})
	once := false
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		if !once {
			once = true
			if _, err := other.DisableKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
				return eventstore.Commit{}, err
			}
		}
		return next()
	}
	_, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{})
	refused(t, err, domain.ReasonKeyDisabled)
}

func TestClockBehind(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	f.clock = func() time.Time { return state.Time.Add(-time.Minute) }
	_, err := newService(f).RotateKey(t.Context(), admin, ref, commands.Mutation{})
	refused(t, err, domain.ReasonClockBehind)
}

func TestDeleteKey(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.DeleteKey(t.Context(), admin, ref, false, commands.Mutation{})
	refused(t, err, domain.ReasonNotPendingDeletion)
	if _, err := s.ScheduleKeyDeletion(t.Context(), admin, ref, 0, 0, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
	refused(t, err, domain.ReasonKeyPendingDeletion)
	deleted, err := s.DeleteKey(t.Context(), admin, ref, false, commands.Mutation{})
	if err != nil || deleted.Key.State != domain.KeyStateDestroyed {
		t.Fatalf("deleted: %+v, %v", deleted.Key.State, err)
	}
	if _, err := store.Blob(t.Context(), state.Key.Binding(1)); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("the material of a destroyed key: %v, want it erased", err)
	}
	after, _ := keys.Get(ref.Name.String())
	if v, _ := after.Key.Versions.Get(1); v.Erasure != domain.Erased {
		t.Errorf("the erasure is not recorded: %+v", v)
	}
	_, err = s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
	refused(t, err, domain.ReasonKeyDestroyed)
	_, err = s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: ref.Name.ID, Purpose: domain.EncryptDecrypt})
	refused(t, err, domain.ReasonKeyExists)
}

// TestDue: a deletion that is due is carried out by whichever node sees it, once.
func TestDue(t *testing.T) {
	// A store of its own: its time is in the future.
	own := eventstoretest.New(t)
	known := projections.NewKeys(slog.New(slog.DiscardHandler), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	caughtUp := make(chan struct{})
	wg.Go(func() {
		if err := known.Run(ctx, own, func() { close(caughtUp) }); err != nil {
			t.Error(err)
		}
	})
	<-caughtUp
	ref, _ := newKey(t, newService(&faults{store: own, keys: known}))
	if _, err := newService(&faults{store: own, keys: known}).ScheduleKeyDeletion(ctx, admin, ref, domain.MinDeletionWait, 0, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		node := newService(&faults{store: own, keys: known, clock: func() time.Time { return time.Now().Add(domain.MinDeletionWait + time.Minute) }})
		wg.Go(func() { _ = node.RunDue(ctx) })
	}
	for {
		state, _ := known.Get(ref.Name.String())
		if v, _ := state.Key.Versions.Get(1); v.Erasure == domain.Erased {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the key was not destroyed and erased")
		}
		time.Sleep(10 * time.Millisecond)
	}
	destroyed := 0
	for c, err := range own.LoadConfirmed(ctx, eventstore.KeyAggregate(ref.Name), 0) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range c.Events {
			if _, ok := e.(domain.KeyDestroyed); ok {
				destroyed++
				if c.Caller.Kind != domain.KindSystem {
					t.Errorf("destroyed by %+v, want the system", c.Caller)
				}
			}
		}
	}
	if destroyed != 1 {
		t.Errorf("destroyed %d times", destroyed)
	}
}

// TestDenied: who may not do something learns nothing, and is on the record.
func TestDenied(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	missing := domain.KeyRef{Name: ring.Key("missing")}
	for r, uid := range map[domain.KeyRef]domain.UID{ref: state.Key.UID, missing: {}} {
		_, err := s.RotateKey(t.Context(), nobody, r, commands.Mutation{})
		refused(t, err, domain.ReasonPermissionDenied)
		if last := f.last(t); last.Outcome != domain.OutcomeDenied || last.Caller.Principal != "nobody" || last.KeyUID != uid {
			t.Errorf("recorded as %+v", last)
		}
		_, err = s.Encrypt(t.Context(), nobody, commands.EncryptRequest{Ref: r})
		refused(t, err, domain.ReasonPermissionDenied)
	}
	_, err := s.RotateKey(t.Context(), admin, missing, commands.Mutation{})
	refused(t, err, domain.ReasonKeyNotFound)
}
