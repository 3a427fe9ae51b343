package commands_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// newRing makes a key ring of the test's own.
func newRing(t *testing.T, s *commands.Service) domain.RingName {
	t.Helper()
	name := domain.RingName{Project: "p", Location: "local", Ring: "r" + newID().String()}
	if _, err := s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: name}); err != nil {
		t.Fatal(err)
	}
	return name
}

func createIn(name domain.RingName) commands.CreateKey {
	return commands.CreateKey{Parent: name, KeyID: "k" + newID().String(), Purpose: domain.EncryptDecrypt}
}

func TestCreateKeyRing(t *testing.T) {
	f := &faults{}
	s := newService(f)
	name := domain.RingName{Project: "p", Location: "local", Ring: "r" + newID().String()}
	m := commands.Mutation{RequestID: newID()}
	create := commands.CreateKeyRing{Mutation: m, Name: name, Labels: map[string]string{"team": "x"}}
	made, err := s.CreateKeyRing(t.Context(), admin, create)
	if err != nil {
		t.Fatal(err)
	}
	if r := made.Ring; r.Name != name || r.State != domain.RingStateActive || r.Labels["team"] != "x" || r.Creator != "admin" || made.Revision == 0 {
		t.Errorf("made %+v", made)
	}
	if _, err := s.ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	again, err := s.CreateKeyRing(t.Context(), admin, create)
	if diff := cmp.Diff(made, again); diff != "" || err != nil {
		t.Errorf("the repeated answer differs: %v\n%s", err, diff)
	}
	_, err = s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Mutation: m, Name: name})
	refused(t, err, domain.ReasonRequestIDReused)
	_, err = s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: name})
	refused(t, err, domain.ReasonRingExists)
	if r := f.last(t); r.Operation != "CreateKeyRing" || r.KeyName != name.String() || r.Project != "p" || !r.KeyUID.IsZero() {
		t.Errorf("the refusal is recorded as %+v", r)
	}
	_, err = s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: ring})
	refused(t, err, domain.ReasonRingExists)
	_, err = s.CreateKeyRing(t.Context(), nobody, commands.CreateKeyRing{Name: name})
	refused(t, err, domain.ReasonPermissionDenied)
}

// TestArchivedRing: it takes no new keys, those in it work, and asking twice is recorded but changes nothing.
func TestArchivedRing(t *testing.T) {
	f := &faults{}
	s := newService(f)
	name := newRing(t, s)
	state, err := s.CreateKey(t.Context(), admin, createIn(name))
	if err != nil {
		t.Fatal(err)
	}
	ref := domain.KeyRef{Name: state.Key.Name}
	archived, err := s.ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{})
	if err != nil || archived.Ring.State != domain.RingStateArchived {
		t.Fatalf("archived: %+v, %v", archived, err)
	}
	again, err := s.ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{Etag: commands.Etag(archived.Tip)})
	if err != nil || again.Revision <= archived.Revision || !again.Ring.StateTime.Equal(archived.Ring.StateTime) {
		t.Errorf("archived again: %+v, %v", again, err)
	}
	_, err = s.UnarchiveKeyRing(t.Context(), admin, name, commands.Mutation{Etag: commands.Etag(archived.Tip)})
	refused(t, err, domain.ReasonEtagMismatch)
	_, err = s.CreateKey(t.Context(), admin, createIn(name))
	refused(t, err, domain.ReasonRingArchived)
	if r := f.last(t); r.Outcome != domain.OutcomeDenied {
		t.Errorf("the refusal is recorded as %+v", r)
	}
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Errorf("a key of an archived ring: %v", err)
	}
	if _, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")}); err != nil {
		t.Errorf("a key of an archived ring: %v", err)
	}
	if _, err := s.UnarchiveKeyRing(t.Context(), admin, name, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateKey(t.Context(), admin, createIn(name)); err != nil {
		t.Errorf("after unarchiving: %v", err)
	}
}

func TestRingThatWasNeverMade(t *testing.T) {
	f := &faults{}
	s := newService(f)
	name := domain.RingName{Project: "p", Location: "local", Ring: "never" + newID().String()}
	_, err := s.CreateKey(t.Context(), admin, createIn(name))
	refused(t, err, domain.ReasonRingNotFound)
	_, err = s.ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{})
	refused(t, err, domain.ReasonRingNotFound)
	read := commands.Read{Operation: "GetKeyRing", Permission: domain.PermissionRingsGet, Category: domain.CategoryManagement, Ref: domain.KeyRef{Name: name.Key("")}}
	_, err = s.GetKeyRing(t.Context(), admin, read)
	refused(t, err, domain.ReasonRingNotFound)
	if r := f.last(t); r.Operation != "GetKeyRing" || r.KeyName != name.String() {
		t.Errorf("the refusal is recorded as %+v", r)
	}
	for c, err := range store.LoadConfirmed(t.Context(), eventstore.RingAggregate(name), 0) {
		t.Errorf("refusals left commit %+v, %v", c, err)
	}
}

// TestDefaultRing: it needs no creation, can be archived, and is recorded by that.
func TestDefaultRing(t *testing.T) {
	s := newService(&faults{})
	name := domain.RingName{Project: "p" + newID().String(), Location: "local", Ring: domain.DefaultRing}
	read := commands.Read{Operation: "GetKeyRing", Permission: domain.PermissionRingsGet, Ref: domain.KeyRef{Name: name.Key("")}}
	before, err := s.GetKeyRing(t.Context(), admin, read)
	if err != nil || before.Ring.Name != name || before.Ring.State != domain.RingStateActive || before.Revision != 0 {
		t.Fatalf("got %+v, %v", before, err)
	}
	if _, err := s.CreateKey(t.Context(), admin, createIn(name)); err != nil {
		t.Fatal(err)
	}
	archived, err := s.ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{Etag: commands.Etag(eventstore.Tip{})})
	if err != nil || archived.Ring.State != domain.RingStateArchived {
		t.Fatalf("archived: %+v, %v", archived, err)
	}
	_, err = s.CreateKey(t.Context(), admin, createIn(name))
	refused(t, err, domain.ReasonRingArchived)
	read.MinRevision = archived.Revision
	if after, err := s.GetKeyRing(t.Context(), admin, read); err != nil || !cmp.Equal(after, archived) {
		t.Errorf("got %+v, %v", after, err)
	}
}

// TestLaggingRing: a node that has not heard of a ring asks the log before it refuses a key in it.
func TestLaggingRing(t *testing.T) {
	name := newRing(t, newService(&faults{}))
	f := &faults{deaf: name.String()}
	if _, err := newService(f).CreateKey(t.Context(), admin, createIn(name)); err != nil {
		t.Error(err)
	}
	if _, err := newService(f).ArchiveKeyRing(t.Context(), admin, name, commands.Mutation{}); err != nil {
		t.Error(err)
	}
	_, err := newService(f).CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: name})
	refused(t, err, domain.ReasonRingExists)
}
