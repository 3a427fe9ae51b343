package commands_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
)

// world is a site without its parts: the log of the site, the material, the token and the keys of all nodes, in memory. A
// blob is "root/secret". The tests run in the fake time of synctest.
type world struct {
	t  *testing.T
	mu sync.Mutex

	commits  []eventstore.Commit
	material []eventstore.StoredMaterial
	next     uint64
	keys     map[domain.UID]eventstore.KeyState
	roots    map[string]bool // in the token
	nodes    map[domain.UID]eventstore.Node
	shared   bool
	problems []string

	// blocked, if not nil, holds back what is to be stored: until two messages, or the end, of the channel.
	blocked chan struct{}
	erased  int
}

func newWorld(t *testing.T, shared bool) *world {
	t.Helper()
	w := &world{
		t: t, keys: map[domain.UID]eventstore.KeyState{}, roots: map[string]bool{"1": true}, nodes: map[domain.UID]eventstore.Node{}, shared: shared,
	}
	w.append(eventstore.Commit{}, eventstore.SiteCreated{Lineage: newID()}, eventstore.RootCreated{Root: eventstore.Root{ID: "1"}})
	return w
}

func (w *world) problem(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// site folds the commits. Its callers hold mu.
func (w *world) site() eventstore.Site {
	var site eventstore.Site
	for _, c := range w.commits {
		var err error
		if site, err = site.Apply(c); err != nil {
			w.problem("the site's log: %v", err)
		}
	}
	return site
}

func (w *world) append(c eventstore.Commit, events ...eventstore.SiteEvent) {
	tip := w.site().Tip
	c.Aggregate, c.Site, c.Prev, c.Time = eventstore.SiteAggregate, events, tip.Hash, time.Now()
	c.Revision = tip.Revision + 1
	c.Hash = sha256.Sum256(fmt.Append(nil, c.Revision, tip.Hash))
	w.commits = append(w.commits, c)
}

// key makes a key of one version with material under the root.
func (w *world) key(root string, events ...domain.Event) domain.Binding {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := ring.Key("k" + newID().String())
	created := []domain.Event{
		domain.KeyCreated{UID: newID(), Name: name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM},
		domain.KeyVersionAdded{Version: 1, MaterialID: newID(), Algorithm: domain.AES256GCM, Origin: domain.Generated},
		domain.PrimaryVersionSet{Version: 1},
	}
	k := domain.Fold(domain.Key{}, time.Now(), append(created, events...)...)
	w.keys[k.UID] = eventstore.KeyState{Key: k, Tip: eventstore.Tip{Revision: 1}}
	b := k.Binding(1)
	w.store(b, root+"/"+b.MaterialID.String())
	return b
}

// store is called with mu held, or before anything runs.
func (w *world) store(b domain.Binding, blob string) {
	w.next++
	w.material = append(w.material, eventstore.StoredMaterial{
		Project: eventstore.ProjectHash(b.Project), KeyUID: b.KeyUID, MaterialID: b.MaterialID, StoredTime: time.Now(), Sequence: w.next, Blob: []byte(blob),
	})
}

// blobs are what is stored under a material id, oldest first.
func (w *world) blobs(id domain.UID) (blobs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.material {
		if m.MaterialID == id {
			blobs = append(blobs, string(m.Blob))
		}
	}
	return blobs
}

func (w *world) state() eventstore.Site {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.site()
}

// node is one process. At its n-th call that changes something it dies: before that is done, or just after.
type node struct {
	*world
	*commands.Roots
	commands.History // nobody looks at the past here

	service *commands.Service
	dies    int
	after   bool
	calls   int
	stop    context.CancelFunc
	ended   sync.WaitGroup
	silent  atomic.Bool // its signs of life get lost
	root    string      // that it uses for new keys
}

var errDied = errors.New("the process died")

// change does something that changes the world, unless the process is dead.
func (n *node) change(f func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	dies := n.dies > 0 && n.calls >= n.dies
	if n.calls > n.dies && n.dies > 0 || dies && !n.after {
		n.stop()
		return errDied
	}
	err := f()
	if dies {
		n.stop()
		return errDied
	}
	return err
}

func (w *world) start(t *testing.T, change func(*node)) *node {
	t.Helper()
	n := &node{world: w, root: "1", stop: func() {}}
	if change != nil {
		change(n)
	}
	log := slog.New(slog.DiscardHandler)
	n.service = commands.New(commands.Config{
		Location: "local", Keys: worldKeys{projections.NewKeys(log, nil), w}, Events: n, Material: n, Activity: n, Token: worldToken{n: n}, Log: log,
	})
	var err error
	if n.Roots, err = commands.NewRoots(n.service, worldSite{n}, worldToken{n: n}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	n.stop = stop
	if err := n.Join(ctx); err != nil {
		if n.dies == 0 {
			t.Fatal(err)
		}
		return n
	}
	n.ended.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) end() {
	n.stop()
	n.ended.Wait()
}

// shredded asks for a shred and waits for its end, or for that of the process.
func (n *node) shredded(t *testing.T) {
	t.Helper()
	err := n.Shred(t.Context(), admin, domain.UID{}, true, func(commands.ShredProgress) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.dies > 0 && n.calls >= n.dies {
			return errDied
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDied) {
		t.Error(err)
	}
}

type worldKeys struct {
	*projections.Keys
	w *world
}

func (k worldKeys) WaitFor(context.Context, eventstore.Revision) error { return nil }

func (k worldKeys) GetByUID(uid domain.UID) (eventstore.KeyState, bool) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	state, ok := k.w.keys[uid]
	return state, ok
}

func (n *node) Append(_ context.Context, _ eventstore.Revision, c eventstore.Commit) (eventstore.Commit, error) {
	return c, n.change(func() error {
		c.Revision = 1
		state, err := eventstore.KeyState{}.Apply(c)
		n.keys[state.Key.UID] = state
		return err
	})
}

func (n *node) LoadConfirmed(context.Context, eventstore.Aggregate, eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	return func(func(eventstore.Commit, error) bool) {}
}

func (n *node) Record(context.Context, []domain.ActivityRecord) (eventstore.Receipt, error) {
	return eventstore.Receipt{}, nil
}

func (n *node) PutMaterial(_ context.Context, b domain.Binding, blob []byte) error {
	if n.blocked != nil {
		<-n.blocked
		<-n.blocked
	}
	return n.change(func() error { n.store(b, string(blob)); return nil })
}

func (n *node) EraseMaterial(_ context.Context, b domain.Binding) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erased++
	n.material = slices.DeleteFunc(n.material, func(m eventstore.StoredMaterial) bool { return m.MaterialID == b.MaterialID })
	return nil
}

// worldSite is the site's log and material as one node reaches it.
type worldSite struct{ n *node }

func (s worldSite) Site(context.Context) (eventstore.Site, error) { return s.n.state(), nil }

func (s worldSite) SiteRevision(context.Context) (eventstore.Revision, error) {
	return s.n.state().Revision, nil
}

func (s worldSite) ChangeSite(_ context.Context, c eventstore.Commit, decide func(eventstore.Site) ([]eventstore.SiteEvent, error)) (site eventstore.Site, err error) {
	err = s.n.change(func() error {
		events, err := decide(s.n.site())
		if err == nil && len(events) > 0 {
			s.n.append(c, events...)
		}
		site = s.n.site()
		return err
	})
	return site, err
}

func (s worldSite) Head(context.Context) (eventstore.Head, error) { return eventstore.Head{}, nil }
func (s worldSite) Shared() bool                                  { return s.n.shared }

func (s worldSite) Beat(_ context.Context, n eventstore.Node) error {
	if s.n.silent.Load() {
		return eventstore.ErrUnavailable
	}
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.n.nodes[n.ID] = n
	return nil
}

func (s worldSite) Leave(_ context.Context, n eventstore.Node) error {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	delete(s.n.nodes, n.ID)
	return nil
}

func (s worldSite) Nodes(context.Context) (nodes []eventstore.Node, err error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	for _, n := range s.n.nodes {
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (s worldSite) Materials(context.Context, uint64) iter.Seq2[eventstore.StoredMaterial, error] {
	s.n.mu.Lock()
	all := slices.Clone(s.n.material)
	s.n.mu.Unlock()
	return func(yield func(eventstore.StoredMaterial, error) bool) {
		for _, m := range all {
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (s worldSite) MaterialCount(context.Context) (uint64, error) { return 1, nil }

// ReplaceMaterial is two changes, so that a process can die between them.
func (s worldSite) ReplaceMaterial(_ context.Context, old eventstore.StoredMaterial, blob []byte) error {
	of := func(m eventstore.StoredMaterial) bool {
		return m.MaterialID == old.MaterialID && m.Sequence > old.Sequence
	}
	err := s.n.change(func() error {
		if !slices.ContainsFunc(s.n.material, of) {
			s.n.next++
			fresh := old
			fresh.Sequence, fresh.Blob = s.n.next, blob
			s.n.material = append(s.n.material, fresh)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.n.change(func() error {
		s.n.material = slices.DeleteFunc(s.n.material, func(m eventstore.StoredMaterial) bool { return m.Sequence == old.Sequence })
		return nil
	})
}

// worldToken is the token as one node reaches it.
type worldToken struct {
	commands.Token // for what a shred does not ask of it
	n              *node
}

func (k worldToken) CreateRoot(_ context.Context, id string) (root eventstore.Root, err error) {
	return eventstore.Root{ID: id}, k.n.change(func() error { k.n.roots[id] = true; return nil })
}

func (k worldToken) AdoptRoot(_ context.Context, r eventstore.Root) error {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	if !k.n.roots[r.ID] {
		return fmt.Errorf("root %s is not in the token", r.ID)
	}
	k.n.root = r.ID
	return nil
}

func (k worldToken) ReleaseRoot(id string) error {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	if k.n.root == id {
		k.n.problem("root %s is released while it is used", id)
	}
	return nil
}

// DestroyRoot notes what must never be lost.
func (k worldToken) DestroyRoot(_ context.Context, id string) error {
	return k.n.change(func() error {
		if slices.ContainsFunc(k.n.site().Roots, func(r eventstore.Root) bool { return r.ID == id }) {
			k.n.problem("root %s is destroyed and not retired", id)
		}
		delete(k.n.roots, id)
		return nil
	})
}

func (k worldToken) Rewrap(_ context.Context, _ domain.Binding, blob []byte) ([]byte, error) {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	root, secret, _ := strings.Cut(string(blob), "/")
	if !k.n.roots[root] {
		return nil, fmt.Errorf("root %s is not in the token", root)
	}
	return []byte(k.n.root + "/" + secret), nil
}

func (k worldToken) BlobRoot(blob []byte) (string, error) {
	root, _, ok := strings.Cut(string(blob), "/")
	if !ok {
		return "", errors.New("damaged")
	}
	return root, nil
}

func (k worldToken) Generate(_ context.Context, b domain.Binding) (domain.WrappedKey, error) {
	k.n.mu.Lock()
	defer k.n.mu.Unlock()
	return domain.WrappedKey{Blob: []byte(k.n.root + "/" + b.MaterialID.String()), RootID: k.n.root, Fingerprint: []byte{1}}, nil
}

func (worldToken) Encrypt(context.Context, domain.Binding, []byte, []byte) (iv, ciphertext []byte, err error) {
	return nil, nil, errors.ErrUnsupported
}

func (worldToken) Decrypt(context.Context, domain.Binding, []byte, []byte, []byte) ([]byte, error) {
	return nil, errors.ErrUnsupported
}
func (worldToken) Random(context.Context, int) ([]byte, error) { return nil, errors.ErrUnsupported }
func (worldToken) Evict(domain.UID, domain.Version)            {}

// wantShredded fails the test unless the shred is done, all living material is under one new root alone, and the token has
// no other root.
func (w *world) wantShredded(t *testing.T, living []domain.Binding) {
	t.Helper()
	site := w.state()
	if site.Shred.Step() != eventstore.ShredDone || len(site.Roots) != 1 || site.Roots[0].ID == "1" {
		t.Fatalf("the site after the shred: %+v", site)
	}
	root := site.Roots[0].ID
	for _, b := range living {
		if got, want := w.blobs(b.MaterialID), []string{root + "/" + b.MaterialID.String()}; !slices.Equal(got, want) {
			t.Errorf("living material is %v, want %v", got, want)
		}
	}
	if site.Shred.Living != uint64(len(living)) {
		t.Errorf("%d versions are recorded as living, want %d", site.Shred.Living, len(living))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.roots) != 1 || !w.roots[root] {
		t.Errorf("the token has roots %v, want %s", w.roots, root)
	}
	for _, p := range w.problems {
		t.Error(p)
	}
}

// TestShredDies lets the process die before and after each change that a shred makes, and starts another: whatever was
// half-done, the shred comes to its end, nothing that lives is lost, and nothing is left of what does not.
func TestShredDies(t *testing.T) {
	for _, after := range []bool{false, true} {
		for dies := 1; ; dies++ {
			completed := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, false)
				living := []domain.Binding{w.key("1"), w.key("1", domain.KeyDisabled{}), w.key("1")}
				destroyed := w.key("1", domain.KeyDestroyed{})
				w.store(domain.Binding{Project: "p", KeyUID: newID(), MaterialID: newID()}, "1/orphan")
				time.Sleep(time.Hour) // it grows old
				n := w.start(t, func(n *node) { n.dies, n.after = dies, after })
				n.shredded(t)
				n.end()
				if completed = w.state().Shred.Step() == eventstore.ShredDone && n.calls < dies; completed {
					return
				}
				again := w.start(t, nil)
				if w.state().Shred.Step() == eventstore.ShredNone {
					again.shredded(t) // nobody was told that it had begun
				}
				for w.state().Shred.Running() {
					time.Sleep(time.Second)
				}
				again.end()
				w.wantShredded(t, living)
				if got := w.blobs(destroyed.MaterialID); len(got) != 1 || !strings.HasPrefix(got[0], "1/") {
					t.Errorf("the destroyed key's material: %v", got)
				}
				if o := w.state().Shred.Orphans; o != 1 {
					t.Errorf("%d orphans, want 1", o)
				}
			})
			if t.Failed() {
				t.Fatalf("dying at change %d, after it: %t", dies, after)
			}
			if completed {
				if dies < 12 {
					t.Errorf("a shred makes only %d changes", dies)
				}
				break
			}
		}
	}
}

// TestShredWaitsForNodes: the old root stays until every node that is alive has taken the new one, and goes only when all
// have given it up.
func TestShredWaitsForNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		living := []domain.Binding{w.key("1")}
		first := w.start(t, nil)
		other := eventstore.Node{ID: newID(), Site: w.state().Revision} // a node that follows when the test says so
		w.nodes[other.ID] = other
		var wg sync.WaitGroup
		wg.Go(func() { first.shredded(t) })
		at := func(step eventstore.ShredStep) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := w.state().Shred.Step(); got != step {
				t.Fatalf("the shred is at step %d, want %d", got, step)
			}
		}
		follow := func() {
			other.Site = w.state().Revision
			w.mu.Lock()
			defer w.mu.Unlock()
			w.nodes[other.ID] = other
		}
		at(eventstore.ShredAdopt)
		if b := w.blobs(living[0].MaterialID); b[0] != "1/"+living[0].MaterialID.String() {
			t.Errorf("material is wrapped anew before all nodes have the new root: %v", b)
		}
		follow()
		at(eventstore.ShredRelease)
		if !w.roots["1"] {
			t.Fatal("the old root is destroyed before a node has given it up")
		}
		follow()
		wg.Wait()
		first.end()
		w.wantShredded(t, living)
	})
}

// TestShredOfTwo: of two nodes the older one does the work, whichever is asked; when it is gone the other goes on.
func TestShredOfTwo(t *testing.T) {
	for _, dies := range []int{0, 2, 4, 6, 8} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, true)
			living := []domain.Binding{w.key("1"), w.key("1")}
			older := w.start(t, func(n *node) { n.dies = dies })
			younger := w.start(t, nil)
			if dies > 0 {
				w.mu.Lock()
				older.calls = 0
				w.mu.Unlock()
				go func() { // others forget it some time after it died
					older.ended.Wait()
					w.mu.Lock()
					defer w.mu.Unlock()
					clear(w.nodes)
				}()
			}
			younger.shredded(t)
			younger.end()
			older.end()
			w.wantShredded(t, living)
			w.mu.Lock()
			defer w.mu.Unlock()
			if dies == 0 && younger.calls != 1 {
				t.Errorf("the younger node made %d changes, want the start alone", younger.calls)
			}
		})
	}
}

// TestShredPlansAnew: a root that another node planned is not waited for, even if that node lives, and does not stay.
func TestShredPlansAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		living := []domain.Binding{w.key("1")}
		w.append(eventstore.Commit{}, eventstore.ShredStarted{ID: newID(), NoBackupOK: true}, eventstore.RootPlanned{ID: "left", Node: newID()})
		w.roots["left"] = true
		n := w.start(t, nil)
		time.Sleep(time.Minute) // nobody asks
		n.end()
		w.wantShredded(t, living)
		if planned := w.state().Shred.Planned; len(planned) != 2 || w.state().Shred.Root == "left" {
			t.Errorf("planned roots %v", planned)
		}
	})
}

// TestShredWaitsForYoungOrphans: material that no event names yet may belong to a change that is being made.
func TestShredWaitsForYoungOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		young := w.key("1")
		key := w.keys[young.KeyUID]
		delete(w.keys, young.KeyUID)
		n := w.start(t, nil)
		waited := ""
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := n.Shred(t.Context(), admin, domain.UID{}, true, func(p commands.ShredProgress) error { waited += p.Waiting; return nil }); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(5 * time.Minute)
		if got := w.state().Shred.Step(); got != eventstore.ShredRewrap {
			t.Errorf("the shred is at step %d, want %d", got, eventstore.ShredRewrap)
		}
		w.mu.Lock()
		w.keys[young.KeyUID] = key // the event comes after all
		w.mu.Unlock()
		wg.Wait()
		n.end()
		w.wantShredded(t, []domain.Binding{young})
		if !strings.Contains(waited, "1 pieces of material") {
			t.Errorf("it said that it waits for %q", waited)
		}
	})
}

// TestShredStopsAtDamage: the old root may be what a repair needs.
func TestShredStopsAtDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		sound, broken := w.key("1"), w.key("1")
		w.material[1].Blob = []byte("damaged")
		n := w.start(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		waiting := ""
		if err := n.Shred(ctx, admin, domain.UID{}, true, func(p commands.ShredProgress) error { waiting = p.Waiting; return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shredding over damaged material: %v", err)
		}
		if !w.state().Shred.Running() || !w.roots["1"] || !strings.Contains(waiting, "is damaged") {
			t.Errorf("site %+v, it waits for %q", w.state().Shred, waiting)
		}
		w.mu.Lock()
		w.material = slices.DeleteFunc(w.material, func(m eventstore.StoredMaterial) bool { return string(m.Blob) == "damaged" })
		w.store(broken, "1/"+broken.MaterialID.String())
		w.mu.Unlock()
		time.Sleep(time.Minute)
		n.end()
		w.wantShredded(t, []domain.Binding{sound, broken})
	})
}

// TestShredRefused: without a word about backups, and without the permission; nothing is changed.
func TestShredRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		n := w.start(t, nil)
		before := w.state().Revision
		report := func(commands.ShredProgress) error { t.Error("reported"); return nil }
		refused(t, n.Shred(t.Context(), admin, domain.UID{}, false, report), domain.ReasonNoBackup)
		refused(t, n.Shred(t.Context(), nobody, domain.UID{}, true, report), domain.ReasonPermissionDenied)
		_, _, err := n.ListOrphans(t.Context(), nobody, commands.Read{Permission: domain.PermissionOrphansList}, 0, 10)
		refused(t, err, domain.ReasonPermissionDenied)
		if got := w.state().Revision; got != before {
			t.Errorf("the site is at revision %d, before it was at %d", got, before)
		}
		n.end()
	})
}

// TestShredOnce: a request that is repeated with its id begins no other shred, however long ago it was.
func TestShredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		n := w.start(t, nil)
		id := newID()
		for _, again := range []domain.UID{id, id, {}, id} {
			done := false
			if err := n.Shred(t.Context(), admin, again, true, func(p commands.ShredProgress) error {
				done = p.Shred.Step() == eventstore.ShredDone
				if !again.IsZero() && p.Shred.ID != again {
					t.Errorf("told of shred %s, want %s", p.Shred.ID, again)
				}
				return nil
			}); err != nil || !done {
				t.Errorf("done: %t, %v", done, err)
			}
		}
		n.end()
		if site := w.state(); len(site.Earlier) != 1 || len(site.Retired) != 2 {
			t.Errorf("%d shreds, retired roots %v; want two", len(site.Earlier)+1, site.Retired)
		}
	})
}

// TestShredWaitsForChanges: a change that makes a key under the old root is over before this node says that it has the new
// one, so that its key is found and wrapped anew.
func TestShredWaitsForChanges(t *testing.T) {
	w := newWorld(t, false) // in real time: a lock is waited for
	n := w.start(t, nil)
	w.blocked = make(chan struct{})
	var state eventstore.KeyState
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if state, err = n.service.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: "slow", Purpose: domain.EncryptDecrypt}); err != nil {
			t.Error(err)
		}
	})
	w.blocked <- struct{}{} // it has made its key, and stores it after the next
	wg.Go(func() { n.shredded(t) })
	for w.state().Shred.Root == "" {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	if got := w.state().Shred.Step(); got != eventstore.ShredAdopt {
		t.Errorf("the shred is at step %d, want %d", got, eventstore.ShredAdopt)
	}
	close(w.blocked)
	wg.Wait()
	n.end()
	w.wantShredded(t, []domain.Binding{state.Key.Binding(1)})
}

// TestSilentNodeMakesNoKeys: the others may not wait for it any more.
func TestSilentNodeMakesNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		n := w.start(t, nil)
		create := func(id string) error {
			_, err := n.service.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: id, Purpose: domain.EncryptDecrypt})
			return err
		}
		if err := create("heard"); err != nil {
			t.Error(err)
		}
		n.silent.Store(true)
		time.Sleep(eventstore.NodeLease + time.Second)
		stored := len(w.material)
		refused(t, create("silent"), domain.ReasonStoreAway)
		if len(w.material) != stored || w.erased == 0 {
			t.Error("what it made is left in the store")
		}
		n.silent.Store(false)
		time.Sleep(eventstore.NodeInterval + time.Second)
		if err := create("again"); err != nil {
			t.Error(err)
		}
		n.end()
		if len(w.nodes) != 0 {
			t.Error("a node that ended is still among the nodes")
		}
	})
}

// TestListOrphans shows what no event names, page by page, and nothing else.
func TestListOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, false)
		w.key("1")
		w.key("1", domain.KeyDestroyed{})
		orphans := []domain.Binding{{Project: "p", KeyUID: newID(), MaterialID: newID()}, {Project: "p", KeyUID: newID(), MaterialID: newID()}}
		for _, b := range orphans {
			w.store(b, "1/orphan")
		}
		n := w.start(t, nil)
		read := commands.Read{Operation: "ListOrphans", Permission: domain.PermissionOrphansList, Category: domain.CategoryManagement}
		got, next, err := n.ListOrphans(t.Context(), admin, read, 0, 10)
		if err != nil || len(got) != 2 || next != 0 || got[0].MaterialID != orphans[0].MaterialID || got[1].MaterialID != orphans[1].MaterialID {
			t.Errorf("orphans: %v, next %d, %v", got, next, err)
		}
		if got, next, err := n.ListOrphans(t.Context(), admin, read, 0, 1); err != nil || len(got) != 1 || next != got[0].Sequence {
			t.Errorf("the first page: %v, next %d, %v", got, next, err)
		}
		n.end()
	})
}
