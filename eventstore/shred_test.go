package eventstore_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// materials reads all that is stored.
func materials(t *testing.T, s *eventstore.Store, after uint64) (all []eventstore.StoredMaterial) {
	t.Helper()
	for m, err := range s.Materials(t.Context(), after) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// TestReplaceMaterial: a reader finds the new form, the old one is in no file any more, and repeating it is harmless.
func TestReplaceMaterial(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	b := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
	other := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
	old, fresh := randomBlob(t, 200), randomBlob(t, 200)
	for _, put := range []struct {
		b    domain.Binding
		blob []byte
	}{{b, old}, {other, randomBlob(t, 200)}} {
		if err := s.PutMaterial(t.Context(), put.b, put.blob); err != nil {
			t.Fatal(err)
		}
	}
	all := materials(t, s, 0)
	if len(all) != 2 || !all[0].IsOf(b) || all[0].IsOf(other) || !slices.Equal(all[0].Blob, old) || all[0].KeyUID != b.KeyUID || all[0].MaterialID != b.MaterialID ||
		all[0].Project != eventstore.ProjectHash("p") || all[0].StoredTime.IsZero() {
		t.Fatalf("stored: %+v", all)
	}
	if n, err := s.MaterialCount(t.Context()); err != nil || n != 2 {
		t.Errorf("%d pieces, %v", n, err)
	}
	if after := materials(t, s, all[0].Sequence); len(after) != 1 || !after[0].IsOf(other) {
		t.Errorf("after the first: %+v", after)
	}
	for range 2 {
		if err := s.ReplaceMaterial(t.Context(), all[0], fresh); err != nil {
			t.Fatal(err)
		}
	}
	if blob, err := s.Blob(t.Context(), b); err != nil || !slices.Equal(blob, fresh) {
		t.Errorf("afterwards: %v", err)
	}
	if n := occurrences(t, dir, old[100:164]); n != 0 {
		t.Errorf("the old form is in %d files", n)
	}
	if now := materials(t, s, 0); len(now) != 2 || now[0].Sequence != 2 || now[1].Sequence != 3 {
		t.Errorf("stored afterwards: %+v", now)
	}

	// What another node has replaced meanwhile stays as it is, and what was erased stays erased.
	if err := s.ReplaceMaterial(t.Context(), all[0], []byte("late")); err != nil {
		t.Fatal(err)
	}
	if blob, err := s.Blob(t.Context(), b); err != nil || !slices.Equal(blob, fresh) {
		t.Errorf("after a late replacement: %q, %v", blob, err)
	}
	if err := s.EraseMaterial(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceMaterial(t.Context(), all[1], []byte("late")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(t.Context(), other); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("erased material after a late replacement: %v", err)
	}
	if err := s.ReplaceMaterial(t.Context(), all[0], nil); !errors.Is(err, eventstore.ErrTooLarge) {
		t.Errorf("by nothing: %v", err)
	}
}

// TestReplaceMaterialRace: of several that replace and one that erases, nobody brings back what is erased.
func TestReplaceMaterialRace(t *testing.T) {
	s := eventstoretest.New(t)
	for range 20 {
		b := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
		if err := s.PutMaterial(t.Context(), b, []byte("old")); err != nil {
			t.Fatal(err)
		}
		all := materials(t, s, 0)
		if len(all) != 1 {
			t.Fatalf("%d pieces are stored, want 1", len(all))
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := s.ReplaceMaterial(t.Context(), all[0], []byte("new")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := s.EraseMaterial(t.Context(), b); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if left := materials(t, s, 0); len(left) != 0 {
			t.Fatalf("after it was erased: %+v", left)
		}
	}
}

// TestLostReplacement: an acknowledgement that gets lost makes no second replacement.
func TestLostReplacement(t *testing.T) {
	srv := listen(t, nil)
	net := &lossy{}
	cfg := eventstore.Config{URL: srv.ClientURL(), DataDir: t.TempDir(), Logger: eventstoretest.Config(t, "").Logger}
	eventstore.SetDialer(&cfg, net)
	s := openExternal(t, cfg, 1)
	b := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
	if err := s.PutMaterial(t.Context(), b, []byte("old")); err != nil {
		t.Fatal(err)
	}
	net.arm("kms.material.")
	if err := s.ReplaceMaterial(t.Context(), materials(t, s, 0)[0], []byte("new")); err != nil {
		t.Fatal(err)
	}
	if net.lost.Load() != 1 {
		t.Errorf("%d acknowledgements were lost, want 1", net.lost.Load())
	}
	if all := materials(t, s, 0); len(all) != 1 || string(all[0].Blob) != "new" || all[0].Sequence != 2 {
		t.Errorf("stored: %+v", all)
	}
}

// TestChangeSite: decisions are made on what is stored, and of several at once each counts.
func TestChangeSite(t *testing.T) {
	s := eventstoretest.New(t)
	c := eventstore.Commit{Operation: "Shred", Caller: testCaller(t), GrantedBy: "admin"}
	before, err := s.Site(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if rev, err := s.SiteRevision(t.Context()); err != nil || rev != before.Revision {
		t.Errorf("revision %d, want %d: %v", rev, before.Revision, err)
	}
	refusal := errors.New("refused")
	if _, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) { return nil, refusal }); !errors.Is(err, refusal) {
		t.Errorf("a refused change: %v", err)
	}
	if same, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) { return nil, nil }); err != nil || same.Revision != before.Revision {
		t.Errorf("no change: revision %d, %v", same.Revision, err)
	}
	id := newUID(t)
	started, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) {
		return []eventstore.SiteEvent{eventstore.ShredStarted{ID: id, NoBackupOK: true}}, nil
	})
	if err != nil || started.Shred.ID != id || started.Shred.Caller != c.Caller.Principal || !started.Shred.NoBackupOK || started.Shred.StartTime.IsZero() {
		t.Fatalf("a started shred: %+v, %v", started.Shred, err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) {
				return []eventstore.SiteEvent{eventstore.RootPlanned{ID: "r", Node: newUID(t)}}, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	after, err := s.Site(t.Context())
	if err != nil || len(after.Shred.Planned) != 8 {
		t.Errorf("%d changes are stored, want 8: %v", len(after.Shred.Planned), err)
	}
}

// TestShredSteps folds a whole shred.
func TestShredSteps(t *testing.T) {
	s := eventstoretest.New(t)
	if err := s.AddRoot(t.Context(), eventstore.Root{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	id := newUID(t)
	c := eventstore.Commit{Operation: "Shred", Caller: testCaller(t), GrantedBy: "admin"}
	for _, step := range []struct {
		events  []eventstore.SiteEvent
		want    eventstore.ShredStep
		roots   string
		retired int
	}{
		{nil, eventstore.ShredNone, "1", 0},
		{[]eventstore.SiteEvent{eventstore.ShredStarted{ID: id}}, eventstore.ShredMakeRoot, "1", 0},
		{[]eventstore.SiteEvent{eventstore.RootPlanned{ID: "2"}}, eventstore.ShredMakeRoot, "1", 0},
		{[]eventstore.SiteEvent{eventstore.RootCreated{Root: eventstore.Root{ID: "2"}}}, eventstore.ShredAdopt, "12", 0},
		{[]eventstore.SiteEvent{eventstore.RootAdopted{ID: "2"}}, eventstore.ShredRewrap, "12", 0},
		{[]eventstore.SiteEvent{eventstore.MaterialRewrapped{Living: 3, Orphans: 4}, eventstore.RootRetired{ID: "1"}}, eventstore.ShredRelease, "2", 1},
		{[]eventstore.SiteEvent{eventstore.RootDestroyed{ID: "1"}, eventstore.ShredCompleted{ID: id}}, eventstore.ShredDone, "2", 1},
	} {
		site, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) { return step.events, nil })
		if err != nil {
			t.Fatal(err)
		}
		var roots strings.Builder
		for _, r := range site.Roots {
			roots.WriteString(r.ID)
		}
		running := step.want != eventstore.ShredNone && step.want != eventstore.ShredDone
		if site.Shred.Step() != step.want || roots.String() != step.roots || len(site.Retired) != step.retired || site.Shred.Running() != running {
			t.Errorf("after %v: step %d, roots %s, retired %v", step.events, site.Shred.Step(), roots.String(), site.Retired)
		}
	}
	site, err := s.ChangeSite(t.Context(), c, func(eventstore.Site) ([]eventstore.SiteEvent, error) {
		return []eventstore.SiteEvent{eventstore.ShredStarted{ID: newUID(t)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	first, known := site.ShredByID(id)
	if !known || first.Living != 3 || first.Orphans != 4 || first.Root != "2" || first.EndTime.IsZero() || !slices.Equal(first.Retired, []string{"1"}) {
		t.Errorf("the first of two shreds: %+v", first)
	}
	if _, known := site.ShredByID(domain.UID{}); known {
		t.Error("no id is that of a shred")
	}
	if err := s.AddRoot(t.Context(), eventstore.Root{ID: "1"}); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("adding a retired root again: %v", err)
	}
}

// TestNodes: nodes that share streams know of each other, and a seat that is given up is taken by the next.
func TestNodes(t *testing.T) {
	srv := listen(t, func(*server.Options) {})
	open := func() (*eventstore.Store, eventstore.Node) {
		return openExternal(t, eventstore.Config{URL: srv.ClientURL(), DataDir: t.TempDir(), Logger: eventstoretest.Config(t, "").Logger}, 1), eventstore.Node{ID: newUID(t), Site: 1}
	}
	one, a := open()
	two, b := open()
	if !one.Shared() || eventstoretest.New(t).Shared() {
		t.Error("streams on a server of their own are shared, those in the process are not")
	}
	want := func(nodes ...eventstore.Node) {
		t.Helper()
		got, err := two.Nodes(t.Context())
		if err != nil || !slices.Equal(got, nodes) {
			t.Errorf("nodes are %v, want %v: %v", got, nodes, err)
		}
	}
	want()
	beat := func(s *eventstore.Store, n eventstore.Node) {
		t.Helper()
		if err := s.Beat(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
	beat(one, a)
	beat(two, b)
	a.Site = 2
	beat(one, a)
	want(a, b)
	if err := one.Leave(t.Context(), a); err != nil {
		t.Error(err)
	}
	want(b)
	three, c := open()
	beat(three, c)
	want(c, b)
	beat(one, a) // it is back, and its seat has another
	want(c, b, a)

	// Those that begin at once find seats of their own.
	var wg sync.WaitGroup
	stores, nodes := make([]*eventstore.Store, 4), make([]eventstore.Node, 4)
	for i := range stores {
		stores[i], nodes[i] = open()
	}
	for i := range stores {
		wg.Go(func() { beat(stores[i], nodes[i]) })
	}
	wg.Wait()
	if got, err := two.Nodes(t.Context()); err != nil || len(got) != 7 {
		t.Errorf("%d nodes, want 7: %v", len(got), err)
	}
}
