package commands

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// Edges know what they show of roots and shreds by these names.
type (
	// SiteState is the site's own aggregate as of one commit.
	SiteState = eventstore.Site
	// ShredStep is what a shred is at.
	ShredStep = eventstore.ShredStep
)

// The steps of a shred, as the event store has them.
const (
	ShredNone     = eventstore.ShredNone
	ShredMakeRoot = eventstore.ShredMakeRoot
	ShredAdopt    = eventstore.ShredAdopt
	ShredRewrap   = eventstore.ShredRewrap
	ShredRelease  = eventstore.ShredRelease
	ShredDone     = eventstore.ShredDone
)

// Site is the log of what concerns the whole site, what its nodes know of each other, and all of its material.
type Site interface {
	// Site folds the site's commits, as the leader of the log knows them.
	Site(ctx context.Context) (eventstore.Site, error)
	// SiteRevision is that of the site's last commit.
	SiteRevision(ctx context.Context) (eventstore.Revision, error)
	// ChangeSite appends what decide returns, deciding again if another commit came first.
	ChangeSite(ctx context.Context, c eventstore.Commit, decide func(eventstore.Site) ([]eventstore.SiteEvent, error)) (eventstore.Site, error)
	// Head is the state of the log of events.
	Head(ctx context.Context) (eventstore.Head, error)
	// Shared reports whether there may be other nodes.
	Shared() bool
	// Beat tells the other nodes that this one is there.
	Beat(ctx context.Context, n eventstore.Node) error
	// Leave tells them that it is no more.
	Leave(ctx context.Context, n eventstore.Node) error
	// Nodes are those that are there.
	Nodes(ctx context.Context) ([]eventstore.Node, error)
	// Materials yields all that is stored, superseded forms included, after a sequence.
	Materials(ctx context.Context, after uint64) iter.Seq2[eventstore.StoredMaterial, error]
	// MaterialCount is about how much Materials would yield.
	MaterialCount(ctx context.Context) (uint64, error)
	// ReplaceMaterial stores a new form of material and overwrites the old one.
	ReplaceMaterial(ctx context.Context, old eventstore.StoredMaterial, blob []byte) error
}

// RootToken is the token as its roots are looked after.
type RootToken interface {
	// CreateRoot makes a root, or completes it, and describes it.
	CreateRoot(ctx context.Context, id string) (eventstore.Root, error)
	// AdoptRoot proves that the token has the recorded root, and uses it for new keys.
	AdoptRoot(ctx context.Context, r eventstore.Root) error
	// ReleaseRoot ends all use of a root in this process. It may be repeated.
	ReleaseRoot(id string) error
	// DestroyRoot destroys a released root for ever. It may be repeated.
	DestroyRoot(ctx context.Context, id string) error
	// Rewrap wraps a wrapped key anew, under the root that new keys are wrapped under.
	Rewrap(ctx context.Context, b domain.Binding, blob []byte) ([]byte, error)
	// BlobRoot is the id of the root that a wrapped key is under.
	BlobRoot(blob []byte) (string, error)
}

const (
	// siteInterval is how often a node looks for news of the site.
	siteInterval = time.Second
	// siteTimeout bounds one look.
	siteTimeout = 10 * time.Second
)

// Roots keeps this node at the site's newest root, and carries out shreds: see docs/adr/0020-shred.md. Every node has one;
// of those that are alive the oldest does the work of a shred, and all acknowledge its steps.
type Roots struct {
	s     *Service
	site  Site
	token RootToken
	node  domain.UID
	kick  chan struct{} // something may be to do

	// following is held while something of the site is carried out: in order, and never an older root after a newer one.
	following sync.Mutex
	adopted   string // the root that new keys are wrapped under; guarded by following

	mu       sync.Mutex // guards the rest
	known    eventstore.Site
	lastBeat time.Time // zero: there is news to tell
	progress ShredProgress
}

// NewRoots returns the Roots of a node. Join must succeed before the service makes any key, and Run must be running from
// then on.
func NewRoots(s *Service, site Site, token RootToken) (*Roots, error) {
	node, err := newUID()
	if err != nil {
		return nil, fmt.Errorf("making an id for this node: %w", err)
	}
	return &Roots{s: s, site: site, token: token, node: node, kick: make(chan struct{}, 1)}, nil
}

// Join makes this node one of the site's: it is known to the others before it looks which root is the newest, so that a
// shred either waits for it or is seen by it.
func (r *Roots) Join(ctx context.Context) error {
	if r.site.Shared() {
		if err := r.beat(ctx); err != nil {
			return err
		}
	}
	return r.follow(ctx)
}

// Run follows the site and carries out its shreds until ctx ends.
func (r *Roots) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { r.work(ctx) })
	tick := time.NewTicker(siteInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := r.follow(ctx); err != nil && ctx.Err() == nil {
			r.s.cfg.Log.WarnContext(ctx, "this node is not up to date with the roots of the site", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	work.Wait()
	if !r.site.Shared() {
		return nil
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := r.site.Leave(leaving, eventstore.Node{ID: r.node}); err != nil {
		r.s.cfg.Log.WarnContext(ctx, "leaving the site's nodes", slog.Any("error", err))
	}
	return nil
}

// State is the site as this node knows it.
func (r *Roots) State() SiteState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// follow carries out what is new of the site, and tells the other nodes. What it tells them holds: from the moment of
// a commit that this node has told, it makes no key under an older root than that commit's newest, and uses none that
// the commit has retired.
func (r *Roots) follow(ctx context.Context) error {
	r.following.Lock()
	defer r.following.Unlock()
	ctx, cancel := context.WithTimeout(ctx, siteTimeout)
	defer cancel()
	err := r.carryOut(ctx)
	r.mu.Lock()
	due := time.Since(r.lastBeat) >= eventstore.NodeInterval
	r.mu.Unlock()
	if due && r.site.Shared() {
		err = errors.Join(err, r.beat(ctx))
	}
	return err
}

func (r *Roots) carryOut(ctx context.Context) error {
	revision, err := r.site.SiteRevision(ctx)
	if err != nil {
		return fmt.Errorf("asking for news of the site: %w", err)
	}
	if revision == r.State().Revision {
		return nil
	}
	site, err := r.site.Site(ctx)
	if err != nil {
		return fmt.Errorf("reading the news of the site: %w", err)
	}
	if len(site.Roots) == 0 {
		return errors.New("the site has no root")
	}
	if newest := site.Roots[len(site.Roots)-1]; newest.ID != r.adopted {
		if err := r.token.AdoptRoot(ctx, newest); err != nil {
			return fmt.Errorf("taking the site's newest root: %w", err)
		}
		r.s.making.settle()
		r.adopted = newest.ID
	}
	for _, id := range site.Retired {
		if err := r.token.ReleaseRoot(id); err != nil {
			return fmt.Errorf("giving up a retired root: %w", err)
		}
	}
	r.mu.Lock()
	r.known, r.lastBeat = site, time.Time{}
	r.mu.Unlock()
	if site.Shred.Running() {
		r.wake()
	}
	return nil
}

func (r *Roots) beat(ctx context.Context) error {
	r.mu.Lock()
	node := eventstore.Node{ID: r.node, Site: r.known.Revision}
	r.mu.Unlock()
	began := time.Now()
	if err := r.site.Beat(ctx, node); err != nil {
		return err
	}
	r.s.lease.Store(began.Add(eventstore.NodeLease).UnixNano())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known.Revision == node.Site {
		r.lastBeat = began
	}
	return nil
}

func (r *Roots) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// alive are the nodes that count, this one included, the oldest first.
func (r *Roots) alive(ctx context.Context) ([]eventstore.Node, error) {
	self := eventstore.Node{ID: r.node, Site: r.State().Revision}
	if !r.site.Shared() {
		return []eventstore.Node{self}, nil
	}
	nodes, err := r.site.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(n eventstore.Node) bool { return n.ID == r.node })
	nodes = append(nodes, self)
	slices.SortFunc(nodes, func(a, b eventstore.Node) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return nodes, nil
}

// gate is passed by changes that make material, and lets whoever has changed the root wait for those that may not have
// noticed. It keeps nobody out, so that a change may be part of another one.
type gate struct {
	settling sync.Mutex // held by the one who waits

	mu  sync.Mutex // guards now
	now *sync.WaitGroup
}

// enter begins a change; what it returns ends it.
func (g *gate) enter() (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == nil {
		g.now = &sync.WaitGroup{}
	}
	g.now.Add(1)
	return g.now.Done
}

// settle returns when every change that was begun before is over: appended, or given up.
func (g *gate) settle() {
	g.settling.Lock()
	defer g.settling.Unlock()
	g.mu.Lock()
	begun := g.now
	g.now = nil
	g.mu.Unlock()
	if begun != nil {
		begun.Wait()
	}
}

// mayMake refuses a change that made material when this node was silent for so long that a shred may not wait for it. It
// is asked after the material is stored: so it was stored while the shred still waited, which then finds it.
func (s *Service) mayMake() error {
	until := s.lease.Load()
	if until == 0 || time.Now().UnixNano() < until {
		return nil
	}
	return &domain.Error{
		Reason: domain.ReasonStoreAway, Message: "this node could not tell the others for some seconds that it is there, and so makes no keys; try again, or another node",
	}
}
