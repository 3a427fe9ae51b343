package commands_test

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

func (f faultyEvents) Load(ctx context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	commits := f.theStore().Load(ctx, a, after)
	if f.load != nil {
		return f.load(commits)
	}
	return commits
}

func (f faultyEvents) CommitAt(ctx context.Context, rev eventstore.Revision) (eventstore.Commit, error) {
	return f.theStore().CommitAt(ctx, rev)
}

func (f faultyEvents) Head(ctx context.Context) (eventstore.Head, error) {
	return f.theStore().Head(ctx)
}

func (f faultyEvents) Subscribe(ctx context.Context, after eventstore.Revision, caughtUp func(), each func(eventstore.Commit) error) error {
	return f.theStore().Subscribe(ctx, after, caughtUp, each)
}

// lifeOf changes a key in several ways and returns its state after each.
func lifeOf(t *testing.T, s *commands.Service, ref domain.KeyRef, created eventstore.KeyState) []eventstore.KeyState {
	t.Helper()
	states := []eventstore.KeyState{created}
	for _, change := range []func() (eventstore.KeyState, error){
		func() (eventstore.KeyState, error) {
			return s.RotateKey(t.Context(), admin, ref, commands.Mutation{})
		},
		func() (eventstore.KeyState, error) {
			return s.AddKeyAlias(t.Context(), admin, ref, "a"+ref.Name.ID, false, commands.Mutation{})
		},
		func() (eventstore.KeyState, error) {
			return s.DisableKey(t.Context(), admin, ref, commands.Mutation{})
		},
		func() (eventstore.KeyState, error) {
			return s.RemoveKeyAlias(t.Context(), admin, ref, "a"+ref.Name.ID, commands.Mutation{})
		},
		func() (eventstore.KeyState, error) {
			return s.DeleteKey(t.Context(), admin, ref, true, commands.Mutation{})
		},
	} {
		state, err := change()
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, state)
	}
	return states
}

func getAsOf(ref domain.KeyRef, m commands.Moment) commands.Read {
	return commands.Read{Operation: "GetKey", Permission: domain.PermissionKeysGet, Category: domain.CategoryManagement, Ref: ref, AsOf: m}
}

// moment is just after the state came about, by the revision of whatever changed it last.
func moment(s eventstore.KeyState) commands.Moment {
	return commands.Moment{Revision: max(s.Revision, s.AliasRevision)}
}

// TestGetKeyAsOf: a key is shown as it was after each of its changes, also when the nearest server knows only its beginning.
func TestGetKeyAsOf(t *testing.T) {
	lagging := func(commits iter.Seq2[eventstore.Commit, error]) iter.Seq2[eventstore.Commit, error] {
		return func(yield func(eventstore.Commit, error) bool) {
			for c, err := range commits {
				yield(c, err)
				return
			}
		}
	}
	for name, load := range map[string]func(iter.Seq2[eventstore.Commit, error]) iter.Seq2[eventstore.Commit, error]{"": nil, "lagging": lagging} {
		t.Run(name, func(t *testing.T) {
			f := &faults{load: load}
			s := newService(f)
			ref, created := newKey(t, s)
			for _, want := range lifeOf(t, s, ref, created) {
				at := moment(want)
				got, err := s.GetKey(t.Context(), admin, getAsOf(ref, at))
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("as of revision %d: %v\n%s", at.Revision, err, diff)
				}
				if r := f.last(t); r.Operation != "GetKey" || r.Outcome != domain.OutcomeOK || r.KeyUID != created.Key.UID {
					t.Errorf("recorded as %+v", r)
				}
				commit, err := store.CommitAt(t.Context(), at.Revision)
				if err != nil {
					t.Fatal(err)
				}
				got, err = s.GetKey(t.Context(), admin, getAsOf(ref, commands.Moment{Time: commit.Time}))
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("as of %s: %v\n%s", commit.Time, err, diff)
				}
			}
		})
	}
}

// TestRefusedMoments: each tells what is wrong, and is recorded.
func TestRefusedMoments(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	missing := domain.KeyRef{Name: ring.Key("missing")}
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	version := ref
	version.Version = 2
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		ref    domain.KeyRef
		moment commands.Moment
		want   domain.Reason
		says   string
	}{
		"before it was made":           {ref, commands.Moment{Time: state.Time.Add(-time.Microsecond)}, domain.ReasonKeyNotFound, "it exists since 2"},
		"before its revision":          {ref, commands.Moment{Revision: state.Revision - 1}, domain.ReasonKeyNotFound, "it exists since 2"},
		"before the site":              {ref, commands.Moment{Time: time.Unix(0, 0)}, domain.ReasonKeyNotFound, "it exists since 2"},
		"tomorrow":                     {ref, commands.Moment{Time: time.Now().Add(24 * time.Hour)}, domain.ReasonFutureMoment, "has not come yet"},
		"a revision to come":           {ref, commands.Moment{Revision: head.Last + 1000}, domain.ReasonFutureMoment, "the newest is"},
		"a key that never was":         {missing, commands.Moment{Revision: state.Revision}, domain.ReasonKeyNotFound, "there is no key"},
		"a future of what never was":   {missing, commands.Moment{Revision: head.Last + 1000}, domain.ReasonFutureMoment, "the newest is"},
		"a version that was made then": {version, commands.Moment{Revision: state.Revision}, domain.ReasonVersionNotFound, "its versions are 1 to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.GetKey(t.Context(), admin, getAsOf(tt.ref, tt.moment))
			refused(t, err, tt.want)
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the sentence is %q, want %q in it", err, tt.says)
			}
			if r := f.last(t); r.Reason != tt.want {
				t.Errorf("recorded as %+v", r)
			}
			_, err = s.GetKey(t.Context(), nobody, getAsOf(tt.ref, tt.moment))
			refused(t, err, domain.ReasonPermissionDenied)
		})
	}
	f.record = func([]domain.ActivityRecord) error { return errors.New("no room") }
	_, err = s.GetKey(t.Context(), admin, getAsOf(ref, commands.Moment{Revision: state.Revision}))
	refused(t, err, domain.ReasonNotRecorded)
}

// TestExpiryThen: a key expired at its expire time, not when that was recorded.
func TestExpiryThen(t *testing.T) {
	s := newService(&faults{})
	ref, state := newKey(t, s)
	expiry := state.Time.Add(time.Millisecond)
	commit, err := store.Append(t.Context(), state.Revision, eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(ref.Name), KeyUID: state.Key.UID, CommandID: newID(), Operation: "UpdateKey", Caller: admin,
		Time: state.Time, Prev: state.Hash, Events: []domain.Event{domain.KeyExpiryChanged{ExpireTime: expiry}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.WaitFor(t.Context(), commit.Revision); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	for at, want := range map[time.Time]domain.KeyState{expiry.Add(-time.Microsecond): domain.KeyStateEnabled, expiry: domain.KeyStateExpired} {
		got, err := s.GetKey(t.Context(), admin, getAsOf(ref, commands.Moment{Time: at}))
		if err != nil || got.Key.State != want {
			t.Errorf("at %s the key was %s, want %s: %v", at, got.Key.State, want, err)
		}
	}
	got, err := s.GetKey(t.Context(), admin, getAsOf(ref, commands.Moment{Revision: commit.Revision}))
	if err != nil || got.Key.State != domain.KeyStateEnabled {
		t.Errorf("just after the change the key was %s: %v", got.Key.State, err)
	}
}

// TestListKeysAsOf: the keys of a ring are listed as they all were after each commit: destroyed ones too, later ones not.
func TestListKeysAsOf(t *testing.T) {
	f := &faults{}
	s := newService(f)
	place := domain.RingName{Project: "p", Location: "local", Ring: "r" + newID().String()}
	if _, err := s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: place}); err != nil {
		t.Fatal(err)
	}
	read := commands.Read{Operation: "ListKeys", Permission: domain.PermissionKeysList, Category: domain.CategoryManagement, Ref: domain.KeyRef{Name: place.Key("")}}
	list := func(at commands.Moment) (states []eventstore.KeyState) {
		t.Helper()
		read.AsOf = at
		err := s.ListKeysAsOf(t.Context(), admin, read, keys.Keys(place), func(keys iter.Seq[*eventstore.KeyState]) error {
			for k := range keys {
				states = append(states, *k)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return states
	}
	model := map[string]eventstore.KeyState{}
	type expectation struct {
		at   commands.Moment
		want []eventstore.KeyState
	}
	var then []expectation
	note := func(state eventstore.KeyState, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		model[state.Key.Name.ID] = state
		var want []eventstore.KeyState
		for _, id := range []string{"a", "b", "c"} {
			if k, ok := model[id]; ok {
				want = append(want, k)
			}
		}
		then = append(then, expectation{moment(state), want})
	}
	m := commands.Mutation{}
	ref := func(id string) domain.KeyRef { return domain.KeyRef{Name: place.Key(id)} }
	for _, id := range []string{"b", "c"} {
		note(s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: place, KeyID: id, Purpose: domain.EncryptDecrypt}))
	}
	note(s.RotateKey(t.Context(), admin, ref("c"), m))
	note(s.DeleteKey(t.Context(), admin, ref("b"), true, m))
	erased, _ := keys.Get(ref("b").Name.String()) // by another commit
	note(erased, nil)
	note(s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: place, KeyID: "a", Purpose: domain.EncryptDecrypt}))
	note(s.DisableKey(t.Context(), admin, ref("c"), m))
	note(s.DisableKey(t.Context(), admin, ref("c"), m)) // changes nothing but the revision
	for _, tt := range then {
		if diff := cmp.Diff(tt.want, list(tt.at)); diff != "" {
			t.Errorf("as of %d:\n%s", tt.at.Revision, diff)
		}
		if r := f.last(t); r.Operation != "ListKeys" || r.Outcome != domain.OutcomeOK || r.KeyName != place.String() {
			t.Errorf("recorded as %+v", r)
		}
	}
	// A list that is read no further ends; what fails while it is read fails the whole.
	read.AsOf = then[0].at
	if err := s.ListKeysAsOf(t.Context(), admin, read, keys.Keys(place), func(keys iter.Seq[*eventstore.KeyState]) error {
		for range keys {
			break
		}
		return nil
	}); err != nil {
		t.Errorf("a list that ends early: %v", err)
	}
	f.load = func(iter.Seq2[eventstore.Commit, error]) iter.Seq2[eventstore.Commit, error] {
		return func(yield func(eventstore.Commit, error) bool) { yield(eventstore.Commit{}, eventstore.ErrUnavailable) }
	}
	read.AsOf = then[1].at // c was changed since
	err := s.ListKeysAsOf(t.Context(), admin, read, keys.Keys(place), func(keys iter.Seq[*eventstore.KeyState]) error {
		for range keys { // to the end
		}
		return nil
	})
	refused(t, err, domain.ReasonStoreAway)
	read.AsOf = commands.Moment{Time: time.Now().Add(time.Hour)}
	err = s.ListKeysAsOf(t.Context(), admin, read, keys.Keys(place), func(iter.Seq[*eventstore.KeyState]) error { return errors.New("not to be called") })
	refused(t, err, domain.ReasonFutureMoment)
}

// TestTooManyPastLists: more at once than the node has memory for are refused, and can be tried again.
func TestTooManyPastLists(t *testing.T) {
	s := newService(&faults{})
	read := commands.Read{Operation: "ListKeys", Permission: domain.PermissionKeysList, Ref: domain.KeyRef{Name: ring.Key("")}, AsOf: commands.Moment{Revision: 1}}
	none := func(func(*eventstore.KeyState) bool) {}
	var nested func(depth int) error
	nested = func(depth int) error {
		return s.ListKeysAsOf(t.Context(), admin, read, none, func(iter.Seq[*eventstore.KeyState]) error {
			if depth == 0 {
				return nil
			}
			return nested(depth - 1)
		})
	}
	refused(t, nested(10), domain.ReasonOverloaded)
	if err := nested(1); err != nil {
		t.Errorf("the places are not given back: %v", err)
	}
}

// TestGetKeyHistory: the commits of a key, page by page, are those of the log.
func TestGetKeyHistory(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, created := newKey(t, s)
	lifeOf(t, s, ref, created)
	want := commits(t, ref)
	read := commands.Read{Operation: "GetKeyHistory", Permission: domain.PermissionKeysGetHistory, Category: domain.CategoryManagement, Ref: ref}
	for _, size := range []int{1, 2, 3, len(want), 1000} {
		var got []eventstore.Commit
		for after, more := eventstore.Revision(0), true; more; {
			history, err := s.GetKeyHistory(t.Context(), admin, read, after, size)
			if err != nil || len(history.Commits) > size {
				t.Fatalf("%d commits: %v", len(history.Commits), err)
			}
			got, more = append(got, history.Commits...), history.More
			if r := f.last(t); r.Operation != "GetKeyHistory" || r.Outcome != domain.OutcomeOK || r.KeyUID != created.Key.UID {
				t.Errorf("recorded as %+v", r)
			}
			after = got[len(got)-1].Revision
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("in pages of %d:\n%s", size, diff)
		}
	}
	history, err := s.GetKeyHistory(t.Context(), admin, read, want[len(want)-1].Revision, 10)
	if err != nil || len(history.Commits) != 0 || history.More {
		t.Errorf("behind the end: %+v, %v", history, err)
	}
	_, err = s.GetKeyHistory(t.Context(), nobody, read, 0, 10)
	refused(t, err, domain.ReasonPermissionDenied)
	f.record = func([]domain.ActivityRecord) error { return errors.New("no room") }
	_, err = s.GetKeyHistory(t.Context(), admin, read, 0, 10)
	refused(t, err, domain.ReasonNotRecorded)
}

// told collects what a watch tells.
func told(t *testing.T, s *commands.Service, in domain.RingName, after eventstore.Revision) (updates chan commands.WatchUpdate, end func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	updates, done := make(chan commands.WatchUpdate, 100), make(chan error, 1)
	read := commands.Read{Operation: "WatchKeys", Permission: domain.PermissionKeysWatch, Category: domain.CategoryManagement, Ref: domain.KeyRef{Name: in.Key("")}}
	go func() {
		done <- s.WatchKeys(ctx, admin, read, in, after, func(u commands.WatchUpdate) error {
			updates <- u
			return nil
		})
	}()
	return updates, func() error {
		cancel()
		return <-done
	}
}

// TestWatchKeys: a watch tells every change of its ring, as it was, live or afterwards, and how far it is.
func TestWatchKeys(t *testing.T) {
	s := newService(&faults{})
	place, elsewhere := domain.RingName{Project: "p", Location: "local", Ring: "w" + newID().String()}, domain.RingName{Project: "p", Location: "local", Ring: "x" + newID().String()}
	for _, name := range []domain.RingName{place, elsewhere} {
		if _, err := s.CreateKeyRing(t.Context(), admin, commands.CreateKeyRing{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	live, end := told(t, s, place, 0)
	if u := <-live; !u.CaughtUp || u.Change != nil || u.Revision < head.Last {
		t.Fatalf("at the beginning it tells %+v", u)
	}
	var want []eventstore.KeyState
	for _, in := range []domain.RingName{elsewhere, place} {
		ref := domain.KeyRef{Name: in.Key("k")}
		created, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: in, KeyID: "k", Purpose: domain.EncryptDecrypt})
		if err != nil {
			t.Fatal(err)
		}
		if life := lifeOf(t, s, ref, created); in == place {
			erased, _ := keys.Get(ref.Name.String())
			want = append(life, erased)
		}
	}
	want = slices.DeleteFunc(want, func(s eventstore.KeyState) bool { return s.AliasRevision > s.Revision }) // not told
	check := func(how string, updates chan commands.WatchUpdate) {
		t.Helper()
		var before eventstore.KeyState
		for _, state := range want {
			u := <-updates
			for u.Change == nil { // progress
				u = <-updates
			}
			if u.Revision != state.Revision || u.Change.Commit.Revision != u.Revision || u.Change.Before.Revision != before.Revision {
				t.Fatalf("%s: told revision %d after %d, want %d after %d", how, u.Revision, u.Change.Before.Revision, state.Revision, before.Revision)
			}
			if diff := cmp.Diff(state, u.Change.After); diff != "" {
				t.Errorf("%s: at revision %d:\n%s", how, u.Revision, diff)
			}
			before = u.Change.After
		}
	}
	check("live", live)
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	replayed, end := told(t, s, place, head.Last)
	check("replayed", replayed)
	for u := range replayed {
		if u.CaughtUp {
			if u.Revision < want[len(want)-1].Revision {
				t.Errorf("caught up at %d already", u.Revision)
			}
			break
		}
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	// Taken up in the middle, it knows what was before; any ring is meant by -.
	resumed, end := told(t, s, domain.RingName{Project: "p", Location: "local", Ring: domain.AnyRing}, want[0].Revision)
	if u := <-resumed; u.Change == nil || u.Change.Before.Revision != want[0].Revision || u.Revision != want[1].Revision {
		t.Errorf("resumed with %+v", u)
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// TestWatchRefusals: what can't be watched is refused and recorded, and one that can't go on ends.
func TestWatchRefusals(t *testing.T) {
	f := &faults{}
	s := newService(f)
	read := commands.Read{Operation: "WatchKeys", Permission: domain.PermissionKeysWatch, Category: domain.CategoryManagement, Ref: domain.KeyRef{Name: ring.Key("")}}
	never := func(commands.WatchUpdate) error { return errors.New("told something") }
	refused(t, s.WatchKeys(t.Context(), nobody, read, ring, 0, never), domain.ReasonPermissionDenied)
	refused(t, s.WatchKeys(t.Context(), admin, read, ring, 1<<40, never), domain.ReasonFutureMoment)
	if r := f.last(t); r.Operation != "WatchKeys" || r.Reason != domain.ReasonFutureMoment {
		t.Errorf("recorded as %+v", r)
	}
	gone := errors.New("the caller is gone")
	if err := s.WatchKeys(t.Context(), admin, read, ring, 0, func(commands.WatchUpdate) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("ended with %v", err)
	}
	var ends []func() error
	for range 64 {
		updates, end := told(t, s, ring, 0)
		<-updates
		ends = append(ends, end)
	}
	refused(t, s.WatchKeys(t.Context(), admin, read, ring, 0, never), domain.ReasonOverloaded)
	for _, end := range ends {
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	updates, end := told(t, s, ring, 0)
	<-updates
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v: the places are not given back", err)
	}
}
