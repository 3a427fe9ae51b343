package projections_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
)

// history makes commits as the log would yield them.
type history struct {
	commits []eventstore.Commit
	hashes  map[string][32]byte
}

// add appends a commit with this one event, or with none.
func (h *history) add(a eventstore.Aggregate, event any) eventstore.Revision {
	rev := eventstore.Revision(len(h.commits) + 1)
	c := eventstore.Commit{Aggregate: a, Revision: rev, Prev: h.hashes[a.Name], Hash: [32]byte{1, byte(rev), byte(rev >> 8)}, Time: start.Add(time.Duration(rev) * time.Second), Caller: domain.Caller{Principal: "admin"}, RequestID: domain.UID{15: byte(rev)}}
	switch e := event.(type) {
	case domain.Event:
		c.Events = []domain.Event{e}
	case domain.RingEvent:
		c.Ring = []domain.RingEvent{e}
	case domain.AliasEvent:
		c.Alias = []domain.AliasEvent{e}
	case domain.ImportJobEvent:
		c.ImportJob = []domain.ImportJobEvent{e}
	}
	if h.hashes == nil {
		h.hashes = map[string][32]byte{}
	}
	h.hashes[a.Name] = c.Hash
	h.commits = append(h.commits, c)
	return rev
}

// projected is the projection of a history.
func projected(t interface {
	Helper()
	Fatal(args ...any)
	Context() context.Context
}, commits []eventstore.Commit,
) *projections.Keys {
	t.Helper()
	k := projections.NewKeys(quiet(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := brokenLog{commits, func() (eventstore.Head, error) { return eventstore.Head{}, nil }}
	if err := k.Run(ctx, log, cancel); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestAliases follows random histories with a model: which key each alias stands for, and what each key was called at
// every moment. Keys are destroyed, and named by those who do not know it yet.
func TestAliases(t *testing.T) {
	place := domain.RingName{Project: "p", Location: "local", Ring: "default"}
	rapid.Check(t, func(t *rapid.T) {
		var h history
		var names []domain.KeyName
		uids := map[domain.KeyName]domain.UID{}
		destroyed := map[domain.KeyName]bool{}
		holder := map[string]domain.KeyName{}
		var then []map[domain.KeyName]string // the aliases of each key after each revision
		for i := range 3 {
			name := place.Key(fmt.Sprint("k", i))
			names, uids[name] = append(names, name), domain.UID{1, byte(i)}
			h.add(eventstore.KeyAggregate(name), domain.KeyCreated{UID: uids[name], Name: name})
			then = append(then, nil)
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			alias, key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "alias"), rapid.SampledFrom(names).Draw(t, "key")
			name := domain.AliasName{Project: "p", Location: "local", ID: alias}
			step := rapid.SampledFrom([]string{"set", "set", "set", "remove", "destroy", "nothing"}).Draw(t, "step")
			if _, set := holder[alias]; !set && step != "destroy" { // what is not set is not decided to be removed
				step = "set"
			}
			switch step {
			case "set":
				h.add(eventstore.AliasAggregate(name), domain.KeyAliasSet{Name: name, KeyUID: uids[key], Key: key})
				holder[alias] = key
			case "remove":
				h.add(eventstore.AliasAggregate(name), domain.KeyAliasRemoved{})
				delete(holder, alias)
			case "destroy":
				h.add(eventstore.KeyAggregate(key), domain.KeyDestroyed{})
				destroyed[key] = true
			case "nothing":
				h.add(eventstore.AliasAggregate(name), nil)
			}
			now := map[domain.KeyName]string{}
			for _, alias := range slices.Sorted(maps.Keys(holder)) {
				if key := holder[alias]; !destroyed[key] {
					now[key] += alias
				}
			}
			then = append(then, now)
		}
		k := projected(t, h.commits)
		for _, key := range names {
			state, _ := k.Get(key.String())
			if got, want := strings.Join(state.Aliases, ""), then[len(then)-1][key]; got != want {
				t.Fatalf("%s has aliases %q, want %q", key.ID, got, want)
			}
			for i, want := range then {
				rev := eventstore.Revision(i + 1)
				aliases, changed := k.AliasesAt(uids[key], rev)
				if got := strings.Join(aliases, ""); got != want[key] || changed > rev {
					t.Fatalf("%s at %d: aliases %q of %d, want %q", key.ID, rev, got, changed, want[key])
				}
				then, changedThen := k.AliasesAsOf(uids[key], eventstore.Moment{Time: start.Add(time.Duration(rev)*time.Second + time.Millisecond)})
				if !slices.Equal(then, aliases) || changedThen != changed {
					t.Fatalf("%s at the time of %d: aliases %q of %d, want %q of %d", key.ID, rev, then, changedThen, aliases, changed)
				}
			}
		}
		for _, alias := range []string{"a", "b", "c"} {
			state, ok := k.GetByAlias(domain.AliasName{Project: "p", Location: "local", ID: alias})
			if want, set := holder[alias]; ok != (set && !destroyed[want]) || (ok && state.Key.Name != want) {
				t.Fatalf("%s stands for %s, %t", alias, state.Key.Name, ok)
			}
		}
	})
}

// TestAliasIsOfItsPlace: the same alias elsewhere is another one.
func TestAliasIsOfItsPlace(t *testing.T) {
	var h history
	for i, project := range []string{"p", "q"} {
		key := domain.RingName{Project: project, Location: "local", Ring: "default"}.Key("k")
		name := domain.AliasName{Project: project, Location: "local", ID: "a"}
		h.add(eventstore.KeyAggregate(key), domain.KeyCreated{UID: domain.UID{1, byte(i)}, Name: key})
		h.add(eventstore.AliasAggregate(name), domain.KeyAliasSet{Name: name, KeyUID: domain.UID{1, byte(i)}, Key: key})
	}
	k := projected(t, h.commits)
	for _, project := range []string{"p", "q"} {
		if state, ok := k.GetByAlias(domain.AliasName{Project: project, Location: "local", ID: "a"}); !ok || state.Key.Name.Project != project {
			t.Errorf("in %s: %s, %t", project, state.Key.Name, ok)
		}
	}
	if _, ok := k.GetByAlias(domain.AliasName{Project: "p", Location: "elsewhere", ID: "a"}); ok {
		t.Error("an alias of another location is known")
	}
	if rev, _, ok := k.Request("projects/q/locations/local/aliases/a", "admin", domain.UID{15: 4}); !ok || rev != 4 {
		t.Errorf("the request is at %d, %t", rev, ok)
	}
}

func TestRings(t *testing.T) {
	var h history
	ring := func(id string) domain.RingName { return domain.RingName{Project: "p", Location: "local", Ring: id} }
	for _, id := range []string{"z", "a"} {
		h.add(eventstore.RingAggregate(ring(id)), domain.KeyRingCreated{Name: ring(id), Creator: "admin"})
	}
	elsewhere := domain.RingName{Project: "q", Location: "local", Ring: "x"}
	h.add(eventstore.RingAggregate(elsewhere), domain.KeyRingCreated{Name: elsewhere})
	archived := h.add(eventstore.RingAggregate(ring("a")), domain.KeyRingArchived{})
	list := func(k *projections.Keys) (out []string) {
		for _, s := range k.Rings("p", "local") {
			out = append(out, fmt.Sprintf("%s %s %d", s.Ring.Name.Ring, s.Ring.State, s.Revision))
		}
		return out
	}
	k := projected(t, h.commits)
	if diff := cmp.Diff([]string{"a ARCHIVED 4", "default ACTIVE 0", "z ACTIVE 1"}, list(k)); diff != "" {
		t.Errorf("rings (-want +got):\n%s", diff)
	}
	if s := k.Ring(ring("a")); s.Ring.State != domain.RingStateArchived || s.Revision != archived || s.CreateRevision != 2 || s.Ring.Creator != "admin" {
		t.Errorf("ring a is %+v", s)
	}
	if s := k.Ring(ring("default")); s.Revision != 0 || s.Ring.State != domain.RingStateAbsent {
		t.Errorf("something is recorded of default: %+v", s)
	}
	if rev, _, ok := k.Request(ring("a").String(), "admin", domain.UID{15: 4}); !ok || rev != archived {
		t.Errorf("the request is at %d, %t", rev, ok)
	}
	h.add(eventstore.RingAggregate(ring("default")), domain.KeyRingCreated{Name: ring("default")})
	h.add(eventstore.RingAggregate(ring("default")), domain.KeyRingArchived{})
	if diff := cmp.Diff([]string{"a ARCHIVED 4", "default ARCHIVED 6", "z ACTIVE 1"}, list(projected(t, h.commits))); diff != "" {
		t.Errorf("rings (-want +got):\n%s", diff)
	}
}

// TestUnknownKind: what a newer version of the program recorded can't be left out of what is decided on.
func TestUnknownKind(t *testing.T) {
	var h history
	h.add(eventstore.Aggregate{Project: "p", Name: "projects/p/locations/local/others/o"}, nil)
	log := brokenLog{h.commits, func() (eventstore.Head, error) { return eventstore.Head{}, nil }}
	if err := projections.NewKeys(quiet(), nil).Run(t.Context(), log, func() {}); err == nil || !strings.Contains(err.Error(), "others/o") {
		t.Errorf("a commit of an unknown kind: %v", err)
	}
}
