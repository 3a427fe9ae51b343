// Package projections builds what this node knows of the site from the event log. Keys holds every key in memory, with
// the rings and aliases; it is never asked to decide anything on its own: what is decided on it is guarded by the append, and plain reads are refused
// once it may be too old.
package projections

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// StalenessBound is how old the projection may be for plain reads and for uses, best effort: it is refreshed by asking
	// the leader of the log for its head, so a node that is cut off notices after this time.
	StalenessBound = 2 * time.Second
	// headInterval is how often the head is asked for.
	headInterval = 500 * time.Millisecond
)

// Log is the event log that is projected.
type Log interface {
	Subscribe(ctx context.Context, after eventstore.Revision, caughtUp func(), f func(eventstore.Commit) error) error
	Head(ctx context.Context) (eventstore.Head, error)
}

// Keys is every key of the site with its rings and aliases, as of the newest commit this node has seen. Its methods may be
// called by any number of goroutines.
type Keys struct {
	log      *slog.Logger
	onChange func(eventstore.KeyState, eventstore.Commit)

	freshAt atomic.Int64 // Unix nanoseconds at which the projection was known to have everything

	mu         sync.RWMutex // guards what follows
	byName     map[string]*entry
	byUID      map[domain.UID]*entry
	rings      map[domain.RingName]*ring
	recorded   map[string]*ringEntry  // rings of which something is recorded, by name
	aliases    map[string]*aliasEntry // by name
	importJobs map[string]*jobEntry   // by name
	jobsByUID  map[domain.UID]*jobEntry
	openJobs   map[*jobEntry]struct{} // their private keys are not known to be erased
	due        dueHeap
	unerased   map[*entry]struct{} // have material that shall be erased and is not known to be
	applied    eventstore.Revision
	headTime   time.Time
	waiting    map[eventstore.Revision][]chan struct{}

	dueSooner chan struct{}
}

// entry is one key.
type entry struct {
	state    *eventstore.KeyState // replaced, never changed: readers keep it
	requests requests
	named    []aliasChange // oldest first
	due      time.Time     // when the service has something to do; zero: never, and not in the heap
	dueIndex int           // in the heap
}

// requests are those that an aggregate's commits carried out. They are never forgotten: a request id is good for ever.
type requests map[request]answer

type request struct {
	principal string
	id        domain.UID
}

type answer struct {
	revision eventstore.Revision
	hash     [32]byte
}

// remember notes the request that c carried out, if it has one.
func (r *requests) remember(c eventstore.Commit) {
	if c.RequestID.IsZero() {
		return
	}
	if *r == nil {
		*r = requests{}
	}
	(*r)[request{c.Caller.Principal, c.RequestID}] = answer{c.Revision, c.RequestHash}
}

// ring keeps the entries of one key ring for listing. New ones are put in order when somebody lists.
type ring struct {
	entries []*entry
	sorted  bool
}

// NewKeys returns an empty projection. onChange, if not nil, is called with each key's new state and the commit that made
// it, in order, before any reader sees it; it must not call back.
func NewKeys(log *slog.Logger, onChange func(eventstore.KeyState, eventstore.Commit)) *Keys {
	return &Keys{
		log: log, onChange: onChange,
		byName: map[string]*entry{}, byUID: map[domain.UID]*entry{}, rings: map[domain.RingName]*ring{},
		recorded: map[string]*ringEntry{}, aliases: map[string]*aliasEntry{},
		importJobs: map[string]*jobEntry{}, jobsByUID: map[domain.UID]*jobEntry{}, openJobs: map[*jobEntry]struct{}{},
		unerased: map[*entry]struct{}{}, waiting: map[eventstore.Revision][]chan struct{}{}, dueSooner: make(chan struct{}, 1),
	}
}

// Run follows the log until ctx ends; caughtUp is called once everything is applied that the log held at the start. An
// error means that this node must stop serving: the log is damaged, or can't be read.
func (k *Keys) Run(ctx context.Context, log Log, caughtUp func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel() // before Wait
	watching.Go(func() { k.watchHead(ctx, log) })
	if err := log.Subscribe(ctx, 0, caughtUp, k.apply); err != nil && ctx.Err() == nil {
		return fmt.Errorf("projecting the event log: %w", err)
	}
	return nil
}

// apply is called with every commit, in order.
func (k *Keys) apply(c eventstore.Commit) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.applyTo(c); err != nil {
		return err
	}
	k.applied = c.Revision
	if c.Time.After(k.headTime) {
		k.headTime = c.Time
	}
	for rev, waiters := range k.waiting {
		if rev <= c.Revision {
			for _, w := range waiters {
				close(w)
			}
			delete(k.waiting, rev)
		}
	}
	return nil
}

// applyTo applies the commit to the aggregate that it is of. One of an unknown kind can't be left out of what is decided on.
func (k *Keys) applyTo(c eventstore.Commit) error {
	switch c.Aggregate.Kind() {
	case eventstore.KindSite:
		return nil
	case eventstore.KindKey:
		return k.applyKey(c)
	case eventstore.KindRing:
		return k.applyRing(c)
	case eventstore.KindAlias:
		return k.applyAlias(c)
	case eventstore.KindImportJob:
		return k.applyImportJob(c)
	case eventstore.KindUnknown:
	}
	return fmt.Errorf("commit %d is of %s, which is of a kind that this version of the program does not know", c.Revision, c.Aggregate.Name)
}

func (k *Keys) applyKey(c eventstore.Commit) error {
	e, known := k.byName[c.Aggregate.Name]
	if !known {
		e = &entry{state: &eventstore.KeyState{}}
	}
	state, err := e.state.Apply(c)
	if err != nil {
		return err
	}
	if state.Key.State == domain.KeyStateDestroyed {
		state = e.withoutAliases(state)
	}
	if k.onChange != nil {
		k.onChange(state, c)
	}
	e.state = &state
	if !known {
		k.byName[c.Aggregate.Name], k.byUID[state.Key.UID] = e, e
		name := state.Key.Name.RingName()
		if k.rings[name] == nil {
			k.rings[name] = &ring{}
		}
		k.rings[name].entries, k.rings[name].sorted = append(k.rings[name].entries, e), false
	}
	e.requests.remember(c)
	k.schedule(e)
	if state.Key.Unerased > 0 {
		k.unerased[e] = struct{}{}
	} else {
		delete(k.unerased, e)
	}
	return nil
}

// watchHead notes when the projection was last known to be complete.
func (k *Keys) watchHead(ctx context.Context, log Log) {
	tick := time.NewTicker(headInterval)
	defer tick.Stop()
	for {
		asked := time.Now()
		if err := k.reachHead(ctx, log); err == nil {
			k.freshAt.Store(asked.UnixNano())
		} else if ctx.Err() == nil {
			k.log.DebugContext(ctx, "the projection's freshness is not known", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Keys) reachHead(ctx context.Context, log Log) error {
	ctx, cancel := context.WithTimeout(ctx, StalenessBound)
	defer cancel()
	head, err := log.Head(ctx)
	if err != nil {
		return fmt.Errorf("asking for the head of the log: %w", err)
	}
	return k.WaitFor(ctx, head.Last)
}

// Age is how long ago the projection was last known to be complete.
func (k *Keys) Age() time.Duration { return time.Since(time.Unix(0, k.freshAt.Load())) }

// Fresh returns a *domain.Error when the projection may be older than StalenessBound.
func (k *Keys) Fresh() error {
	if k.Age() <= StalenessBound {
		return nil
	}
	return &domain.Error{
		Reason: domain.ReasonStaleProjection, Message: "this node has not heard from the event log for too long to know the state of keys; try again, or another node",
	}
}

// Get returns the key with this resource name, whatever its state, and whether it was ever made.
func (k *Keys) Get(name string) (eventstore.KeyState, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e, ok := k.byName[name]
	if !ok {
		return eventstore.KeyState{}, false
	}
	return *e.state, true
}

// GetByUID is Get for a key named by its uid.
func (k *Keys) GetByUID(uid domain.UID) (eventstore.KeyState, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e, ok := k.byUID[uid]
	if !ok {
		return eventstore.KeyState{}, false
	}
	return *e.state, true
}

// Request returns the revision of the commit that carried out this principal's request on the aggregate, and the request's
// hash.
func (k *Keys) Request(aggregate, principal string, id domain.UID) (eventstore.Revision, [32]byte, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a, ok := k.requestsOf(aggregate)[request{principal, id}]
	return a.revision, a.hash, ok
}

func (k *Keys) requestsOf(aggregate string) requests {
	if e, ok := k.byName[aggregate]; ok {
		return e.requests
	}
	if r, ok := k.recorded[aggregate]; ok {
		return r.requests
	}
	if a, ok := k.aliases[aggregate]; ok {
		return a.requests
	}
	if j, ok := k.importJobs[aggregate]; ok {
		return j.requests
	}
	return nil
}

// Revision is the newest one applied.
func (k *Keys) Revision() eventstore.Revision {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.applied
}

// HeadTime is the newest effective time of any commit.
func (k *Keys) HeadTime() time.Time {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.headTime
}

// Len is the number of keys, destroyed ones included.
func (k *Keys) Len() int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return len(k.byName)
}

// WaitFor returns when the revision is applied, or with ctx's error.
func (k *Keys) WaitFor(ctx context.Context, rev eventstore.Revision) error {
	k.mu.Lock()
	if k.applied >= rev {
		k.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	k.waiting[rev] = append(k.waiting[rev], done)
	k.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		k.mu.Lock()
		defer k.mu.Unlock()
		if left := slices.DeleteFunc(k.waiting[rev], func(c chan struct{}) bool { return c == done }); len(left) > 0 {
			k.waiting[rev] = left
		} else {
			delete(k.waiting, rev)
		}
		return ctx.Err()
	}
}

// listChunk is how many keys a list takes at once while the projection stands still for it.
const listChunk = 256

// Keys yields the keys of a ring in the order of their ids, destroyed ones included; with domain.AnyRing those of all
// rings of the location, by ring and then id. Each is as new as a moment before it is yielded, and must not be changed.
func (k *Keys) Keys(name domain.RingName) iter.Seq[*eventstore.KeyState] {
	return func(yield func(*eventstore.KeyState) bool) {
		var chunk [listChunk]*eventstore.KeyState
		for _, entries := range k.listed(name) {
			for some := range slices.Chunk(entries, listChunk) {
				k.mu.RLock()
				for i, e := range some {
					chunk[i] = e.state
				}
				k.mu.RUnlock()
				fetch(chunk[:len(some)])
				for _, state := range chunk[:len(some)] {
					if !yield(state) {
						return
					}
				}
			}
		}
	}
}

// fetch reads a little of every state. They are all over the memory, which answers many such reads at once, while whoever
// looks closer at one state after the other would wait for each: with 100,000 keys that is most of the time of a list. The
// sum keeps the compiler from leaving the reads out.
//
//go:noinline
func fetch(states []*eventstore.KeyState) (sum int) {
	for _, s := range states {
		sum += len(s.Key.State) + len(s.Key.Memo) + s.Key.ExpireTime.Nanosecond() + s.Key.CreateTime.Nanosecond()
	}
	for _, s := range states {
		sum += len(s.Key.Labels)
	}
	return sum
}

// listed returns the sorted entries of each ring that name stands for. The slices are never changed in place.
func (k *Keys) listed(name domain.RingName) [][]*entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []domain.RingName
	for n := range k.rings {
		if n == name || name.Ring == domain.AnyRing && n.Project == name.Project && n.Location == name.Location {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b domain.RingName) int { return cmp.Compare(a.Ring, b.Ring) })
	lists := make([][]*entry, len(names))
	for i, n := range names {
		r := k.rings[n]
		if !r.sorted {
			r.entries, r.sorted = slices.Clone(r.entries), true
			slices.SortFunc(r.entries, func(a, b *entry) int { return cmp.Compare(a.state.Key.Name.ID, b.state.Key.Name.ID) })
		}
		lists[i] = slices.Clip(r.entries) // an append to it makes a copy
	}
	return lists
}

// Unerased returns the keys with material that shall be erased and is not known to be.
func (k *Keys) Unerased() []eventstore.KeyState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var states []eventstore.KeyState
	for e := range k.unerased {
		states = append(states, *e.state)
	}
	return states
}
