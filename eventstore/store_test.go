package eventstore_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

var day = time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC)

func newUID(t testing.TB) domain.UID {
	t.Helper()
	u, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return domain.UID(u)
}

func keyName(id string) domain.KeyName {
	return domain.KeyName{Project: "default", Location: "local", Ring: "default", ID: id}
}

// createKey is the first commit of a key.
func createKey(t testing.TB, id string) eventstore.Commit {
	t.Helper()
	name, uid := keyName(id), newUID(t)
	events, err := domain.Decide(domain.Key{}, day, domain.CreateKey{
		UID: uid, Name: name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM,
		Labels: map[string]string{"team": "payments"}, Creator: "admin", LedgerTag: [32]byte{7}, MaterialID: newUID(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(name), KeyUID: uid, CommandID: newUID(t), Operation: "CreateKey", Caller: testCaller(t), GrantedBy: "admin",
		Time: day, Protection: domain.HSM, LedgerTag: [32]byte{7}, Duration: 1234 * time.Microsecond, Events: events,
	}
}

// nextCommit is a commit without events that continues c.
func nextCommit(t testing.TB, c eventstore.Commit) eventstore.Commit {
	t.Helper()
	c.Prev, c.CommandID, c.Operation, c.Events = c.Hash, newUID(t), "DisableKey", []domain.Event{domain.KeyDisabled{}}
	c.Revision, c.Hash = 0, [32]byte{}
	return c
}

func testCaller(t testing.TB) domain.Caller {
	t.Helper()
	return domain.Caller{
		Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, Address: netip.MustParseAddr("192.0.2.1"),
		UserAgent: "connect-go/1.21.1 (go1.26.0)", RequestID: newUID(t),
	}
}

func record(t testing.TB, id string) domain.ActivityRecord {
	t.Helper()
	return domain.ActivityRecord{
		Time: day, Project: "default", Location: "local", KeyUID: newUID(t), KeyName: keyName(id).String(), Version: 3, Operation: "Encrypt",
		Category: domain.CategoryCrypto, Outcome: domain.OutcomeOK, Caller: testCaller(t), GrantedBy: "admin", Protection: domain.HSM,
		LedgerTag: [32]byte{1, 2}, BytesIn: 32, BytesOut: 93, Duration: 321 * time.Microsecond,
	}
}

var commitOptions = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreFields(eventstore.Commit{}, "StoredTime")}

func collect(t testing.TB, s *eventstore.Store, a eventstore.Aggregate, after eventstore.Revision) []eventstore.Commit {
	t.Helper()
	var all []eventstore.Commit
	for c, err := range s.Load(t.Context(), a, after) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

func TestAppendAndLoad(t *testing.T) {
	s := eventstoretest.New(t)
	c1, err := s.Append(t.Context(), 0, createKey(t, "k"))
	if err != nil {
		t.Fatal(err)
	}
	c2, err := s.Append(t.Context(), c1.Revision, nextCommit(t, c1))
	if err != nil {
		t.Fatal(err)
	}
	if c1.Lineage != s.Lineage() || c1.Lineage.IsZero() {
		t.Errorf("lineage of the commit is %s, of the store %s", c1.Lineage, s.Lineage())
	}
	if diff := cmp.Diff([]eventstore.Commit{c1, c2}, collect(t, s, c1.Aggregate, 0), commitOptions); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]eventstore.Commit{c2}, collect(t, s, c1.Aggregate, c1.Revision), commitOptions); diff != "" {
		t.Errorf("loaded the tail (-want +got):\n%s", diff)
	}
	var state eventstore.KeyState
	for c, err := range s.LoadConfirmed(t.Context(), c1.Aggregate, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if state, err = state.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if state.Key.State != domain.KeyStateDisabled || state.Revision != c2.Revision || state.CreateRevision != c1.Revision {
		t.Errorf("state = %s at %d, created at %d", state.Key.State, state.Revision, state.CreateRevision)
	}
}

func TestRecordAndRead(t *testing.T) {
	s := eventstoretest.New(t)
	want := []domain.ActivityRecord{record(t, "a"), record(t, "b"), record(t, "c")}
	want[1].KeyName, want[1].Outcome, want[1].Reason, want[1].Message = "whatever", domain.OutcomeFailed, domain.ReasonBadName, "bad name"
	receipt, err := s.Record(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range s.ReadRecords(t.Context(), receipt.Stream, receipt.Seq-1) {
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, r.Records, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		if r.Lineage != s.Lineage() || r.Writer == "" || r.StoredTime.IsZero() {
			t.Errorf("lineage %s, writer %q, stored %s", r.Lineage, r.Writer, r.StoredTime)
		}
		break
	}
}
