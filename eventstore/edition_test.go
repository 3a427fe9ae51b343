package eventstore_test

import (
	"testing"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// TestEdition: a commit that only leases uses leaves the edition as it was, and any other moves it, an empty one too.
func TestEdition(t *testing.T) {
	name := domain.RingName{Project: "p", Location: "local", Ring: "default"}.Key("k")
	lease := domain.UsesLeased{Version: 1, Uses: 1}
	var state eventstore.KeyState
	for i, tt := range []struct {
		events []domain.Event
		want   eventstore.Revision
	}{
		{[]domain.Event{domain.KeyCreated{Name: name}, domain.KeyVersionAdded{Version: 1}}, 1},
		{[]domain.Event{lease}, 1},
		{[]domain.Event{lease, lease}, 1},
		{nil, 4},
		{[]domain.Event{lease}, 4},
		{[]domain.Event{lease, domain.KeyDisabled{}}, 6},
	} {
		c := eventstore.Commit{Aggregate: eventstore.KeyAggregate(name), Revision: eventstore.Revision(i + 1), Prev: state.Hash, Hash: [32]byte{byte(i + 1)}, Events: tt.events}
		next, err := state.Apply(c)
		if err != nil {
			t.Fatal(err)
		}
		if state = next; state.Edition != tt.want || state.Revision != c.Revision {
			t.Errorf("after commit %d: edition %d, revision %d, want edition %d", c.Revision, state.Edition, state.Revision, tt.want)
		}
	}
}
