package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// shredPause is how long a shred waits before it looks again whether something has happened that it needs.
	shredPause = 500 * time.Millisecond
	// orphanAge is how old material must be that no event names before a shred lets it end with its root. Younger material
	// may belong to a change that is being made by a node which has fallen silent.
	orphanAge = 10 * time.Minute
	// reportInterval is how often the caller of a shred hears of it.
	reportInterval = 200 * time.Millisecond
)

// ShredProgress is how far a shred is.
type ShredProgress struct {
	Shred eventstore.Shred
	// Done is how many of Total pieces of stored material were looked at in this pass; zero where another node does the work.
	Done, Total uint64
	// Waiting says what the shred is waiting for; empty: nothing.
	Waiting string
}

// Shred makes everything that was erased impossible to restore: all living material is wrapped under a new root, and the
// old ones are destroyed. It returns when that is done, and calls report now and then; the work goes on if report fails or
// ctx ends, after a restart too. A shred that runs already is joined. Without a backup of the newly wrapped material it
// needs noBackupOK; it is refused with ReasonNoBackup otherwise. The request id, if not zero, becomes that of the shred; one
// that did so before begins no other.
func (r *Roots) Shred(ctx context.Context, c domain.Caller, requestID domain.UID, noBackupOK bool, report func(ShredProgress) error) error {
	s := r.s
	a := s.begin(c, "Shred", domain.CategoryManagement, domain.KeyRef{})
	if err := s.authorize(&a, domain.PermissionSiteShred); err != nil {
		return s.refused(ctx, &a, err)
	}
	id, started, err := r.start(ctx, &a, requestID, noBackupOK)
	if err != nil {
		return s.refused(ctx, &a, err)
	}
	if !started { // else its own commit says who began it
		if err := s.succeeded(ctx, &a); err != nil {
			return err
		}
	}
	return r.watch(ctx, id, report)
}

// start begins a shred, or finds the one that is meant.
func (r *Roots) start(ctx context.Context, a *attempt, id domain.UID, noBackupOK bool) (_ domain.UID, started bool, err error) {
	if id.IsZero() {
		if id, err = newUID(); err != nil {
			return id, false, fmt.Errorf("making an id for the shred: %w", err)
		}
	}
	commit := eventstore.Commit{Operation: a.record.Operation, Caller: a.record.Caller, GrantedBy: a.record.GrantedBy}
	site, err := r.site.ChangeSite(ctx, commit, func(site eventstore.Site) ([]eventstore.SiteEvent, error) {
		started = false
		if _, known := site.ShredByID(id); known || site.Shred.Running() {
			return nil, nil
		}
		if !noBackupOK {
			return nil, &domain.Error{
				Reason:  domain.ReasonNoBackup,
				Message: "no backup target is registered that could hold the newly wrapped keys before the old root is destroyed; make a backup of your own afterwards and say that this is meant: no_backup_ok, or --no-backup-ok",
			}
		}
		started = true
		return []eventstore.SiteEvent{eventstore.ShredStarted{ID: id, NoBackupOK: noBackupOK}}, nil
	})
	if _, refused := errors.AsType[*domain.Error](err); refused {
		return id, false, err
	}
	if err != nil {
		return id, false, appendError(err)
	}
	r.wake()
	if _, known := site.ShredByID(id); !known {
		id = site.Shred.ID // the one that runs
	}
	return id, started, nil
}

// watch reports until the shred is done.
func (r *Roots) watch(ctx context.Context, id domain.UID, report func(ShredProgress) error) error {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		site, err := r.site.Site(ctx)
		if err != nil {
			return fmt.Errorf("reading how far the shred is: %w", storeError(err))
		}
		r.mu.Lock()
		p := r.progress
		r.mu.Unlock()
		if p.Shred.ID != id {
			p = ShredProgress{}
		}
		p.Shred, _ = site.ShredByID(id)
		if err := report(p); err != nil {
			return err
		}
		if !p.Shred.Running() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// work carries out shreds until ctx ends.
func (r *Roots) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kick:
		}
		for ctx.Err() == nil {
			done, err := r.shred(ctx)
			if err != nil && ctx.Err() == nil {
				r.s.cfg.Log.WarnContext(ctx, "the shred could not go on and will be tried again", slog.Any("error", err))
				r.waitingFor("an error to go away, see the server's log: " + reasonOf(err))
			}
			if done {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(shredPause):
			}
		}
	}
}

// reasonOf is what may be told of an error to who asked for the shred.
func reasonOf(err error) string {
	if refusal, ok := errors.AsType[*domain.Error](err); ok {
		return refusal.Message
	}
	return "internal error"
}

func (r *Roots) waitingFor(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress.Waiting = what
}

// shred takes the steps that can be taken now. Each begins with what is recorded, and ends with recording what it did, so
// that it can be cut off anywhere and begun again by whoever comes next; doing a step twice, or on two nodes at once, is
// harmless.
func (r *Roots) shred(ctx context.Context) (done bool, err error) {
	for {
		if err := r.follow(ctx); err != nil {
			return false, err
		}
		site := r.State()
		r.mu.Lock()
		if r.progress.Shred.ID != site.Shred.ID {
			r.progress = ShredProgress{}
		}
		r.progress.Shred = site.Shred
		r.mu.Unlock()
		if !site.Shred.Running() {
			return true, nil
		}
		nodes, err := r.alive(ctx)
		if err != nil {
			return false, err
		}
		if nodes[0].ID != r.node {
			r.waitingFor("node " + nodes[0].ID.String() + ", which does the work")
			return false, nil
		}
		again, err := r.step(ctx, site, nodes)
		if err != nil || !again {
			return false, err
		}
		r.waitingFor("")
	}
}

// step takes the next step, and reports whether it could.
func (r *Roots) step(ctx context.Context, site eventstore.Site, nodes []eventstore.Node) (took bool, err error) {
	switch shred := site.Shred; shred.Step() {
	case eventstore.ShredMakeRoot:
		return true, r.makeRoot(ctx, shred)
	case eventstore.ShredAdopt:
		if !r.acknowledged(nodes, shred.RootRevision) {
			return false, nil
		}
		adopted := eventstore.RootAdopted{ID: shred.Root}
		for _, n := range nodes {
			adopted.Nodes = append(adopted.Nodes, n.ID)
		}
		return true, r.record(ctx, shred, adopted)
	case eventstore.ShredRewrap:
		return r.rewrap(ctx, site)
	case eventstore.ShredRelease:
		if !r.acknowledged(nodes, shred.RetireRevision) {
			return false, nil
		}
		return true, r.destroy(ctx, shred)
	case eventstore.ShredNone, eventstore.ShredDone:
	}
	return false, nil
}

// acknowledged reports whether all nodes have carried out the site's commits up to a revision.
func (r *Roots) acknowledged(nodes []eventstore.Node, rev eventstore.Revision) bool {
	var missing []string
	for _, n := range nodes {
		if n.Site < rev {
			missing = append(missing, n.ID.String())
		}
	}
	if len(missing) > 0 {
		r.waitingFor("the nodes " + strings.Join(missing, ", "))
	}
	return len(missing) == 0
}

// record appends events of the shred, if it still is at the step that it was at.
func (r *Roots) record(ctx context.Context, at eventstore.Shred, events ...eventstore.SiteEvent) error {
	request, err := newUID()
	if err != nil {
		return fmt.Errorf("making a request id: %w", err)
	}
	commit := eventstore.Commit{Operation: "Shred", Caller: domain.System(request), GrantedBy: "system"}
	_, err = r.site.ChangeSite(ctx, commit, func(site eventstore.Site) ([]eventstore.SiteEvent, error) {
		if site.Shred.ID != at.ID || site.Shred.Step() != at.Step() || len(site.Shred.Planned) != len(at.Planned) {
			return nil, nil // another node was faster
		}
		return events, nil
	})
	if err != nil {
		return fmt.Errorf("recording a step of the shred: %w", err)
	}
	return nil
}

// makeRoot makes the new root under an id that is recorded before, so that one which a dying node left behind in the token
// is known. Only the process that planned a root makes it; whoever does the work after it plans another, and then the root of
// the earlier plan is not recorded any more.
func (r *Roots) makeRoot(ctx context.Context, shred eventstore.Shred) error {
	if n := len(shred.Planned); n > 0 && shred.Planned[n-1].Node == r.node {
		root, err := r.token.CreateRoot(ctx, shred.Planned[n-1].ID)
		if err != nil {
			return fmt.Errorf("making the new root: %w", err)
		}
		return r.record(ctx, shred, eventstore.RootCreated{Root: root})
	}
	id, err := newUID()
	if err != nil {
		return fmt.Errorf("making an id for the new root: %w", err)
	}
	return r.record(ctx, shred, eventstore.RootPlanned{ID: strings.ReplaceAll(id.String(), "-", ""), Node: r.node})
}

// rewrap wraps all living material under the new root, and retires the old ones once a whole pass has found nothing to do.
func (r *Roots) rewrap(ctx context.Context, site eventstore.Site) (took bool, err error) {
	p, err := r.pass(ctx, site)
	if err != nil {
		return false, err
	}
	switch {
	case p.moved > 0:
		return true, nil // and once more
	case p.young > 0:
		r.waitingFor(fmt.Sprintf("%d pieces of material that no event names yet; each is waited for until it is %s old", p.young, orphanAge))
		return false, nil
	}
	events := []eventstore.SiteEvent{eventstore.MaterialRewrapped{Living: p.living, Orphans: p.orphans}}
	for _, root := range site.Roots {
		if root.ID != site.Shred.Root {
			events = append(events, eventstore.RootRetired{ID: root.ID})
		}
	}
	return true, r.record(ctx, site.Shred, events...)
}

// passed is what one pass over all stored material has found.
type passed struct {
	moved   uint64 // wrapped under the new root now
	living  uint64 // under it already
	orphans uint64
	young   uint64 // orphans, perhaps, that are to be waited for
}

// pass looks at all material that is stored when it begins. Every node has acknowledged the new root before, so that
// nothing comes to be under an old one later. Its projection knows of all events that were stored before.
func (r *Roots) pass(ctx context.Context, site eventstore.Site) (p passed, err error) {
	head, err := r.site.Head(ctx)
	if err != nil {
		return p, fmt.Errorf("asking for the head of the log: %w", err)
	}
	if err := r.s.cfg.Keys.WaitFor(ctx, head.Last); err != nil {
		return p, fmt.Errorf("waiting for the projection: %w", err)
	}
	total, err := r.site.MaterialCount(ctx)
	if err != nil {
		return p, fmt.Errorf("counting the stored material: %w", err)
	}
	r.mu.Lock()
	r.progress.Done, r.progress.Total, r.progress.Waiting = 0, total, ""
	r.mu.Unlock()
	for m, err := range r.site.Materials(ctx, 0) {
		if err == nil {
			err = r.look(ctx, site, m, &p)
		}
		if err != nil {
			return p, err
		}
		r.mu.Lock()
		r.progress.Done++
		r.mu.Unlock()
	}
	return p, nil
}

// look deals with one piece of material.
func (r *Roots) look(ctx context.Context, site eventstore.Site, m eventstore.StoredMaterial, p *passed) error {
	b, named, living := r.s.binding(m)
	root, err := r.token.BlobRoot(m.Blob)
	switch {
	case named && !living:
		return nil // it is being erased, and ends with the old root if that fails
	case err != nil && living:
		return damaged(b, err)
	case living && root == site.Shred.Root:
		p.living++
		return nil
	case !slices.ContainsFunc(site.Roots, func(known eventstore.Root) bool { return known.ID == root }):
		if living {
			return damaged(b, fmt.Errorf("it is under root %q, which the site does not have", root))
		}
		return nil // it has ended with an earlier root
	case !named && root != site.Shred.Root:
		if r.s.now().Sub(m.StoredTime) < orphanAge {
			p.young++
		} else {
			p.orphans++
		}
		return nil
	case !living:
		return nil
	}
	blob, err := r.token.Rewrap(ctx, b, m.Blob)
	if err != nil {
		return fmt.Errorf("wrapping material %s of key %s anew: %w", m.MaterialID, m.KeyUID, err)
	}
	if err := r.site.ReplaceMaterial(ctx, m, blob); err != nil {
		return err
	}
	p.moved++
	return nil
}

// damaged stops a shred: the old root may be what a repair needs.
func damaged(b domain.Binding, err error) error {
	return errors.Join(&domain.Error{
		Reason:  domain.ReasonMaterialMissing,
		Message: fmt.Sprintf("the material of version %d of key %s is damaged; restore it from a backup, or destroy the version", b.Version, b.KeyUID),
	}, err)
}

// binding is what the material is bound to, if an event names it, and whether it shall live: be there and open.
func (s *Service) binding(m eventstore.StoredMaterial) (b domain.Binding, named, living bool) {
	state, ok := s.cfg.Keys.GetByUID(m.KeyUID)
	if !ok {
		job := s.cfg.Keys.ImportJobByUID(m.KeyUID).Job
		b = job.Binding()
		named = job.MaterialID == m.MaterialID && m.IsOf(b)
		return b, named, named && job.State == domain.ImportJobStateActive
	}
	for kv := range state.Key.Versions.All() {
		if kv.MaterialID == m.MaterialID {
			b = state.Key.Binding(kv.Version)
			return b, m.IsOf(b), m.IsOf(b) && kv.Erasure != domain.Erased && !kv.MustErase()
		}
	}
	return domain.Binding{}, false, false
}

// destroy destroys the retired roots, and those that were planned and never recorded, in the token.
func (r *Roots) destroy(ctx context.Context, shred eventstore.Shred) error {
	var events []eventstore.SiteEvent
	for _, id := range shred.Retired {
		if err := r.token.DestroyRoot(ctx, id); err != nil {
			return err
		}
		events = append(events, eventstore.RootDestroyed{ID: id})
	}
	for _, plan := range shred.Planned {
		if plan.ID == shred.Root {
			continue
		}
		if err := r.token.DestroyRoot(ctx, plan.ID); err != nil {
			return err
		}
	}
	return r.record(ctx, shred, append(events, eventstore.ShredCompleted{ID: shred.ID})...)
}
