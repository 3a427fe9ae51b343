package hsm

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// cache holds the handles of the keys that are unwrapped in one epoch. A key is unwrapped once however many ask for it,
// and its object is destroyed when it is evicted and the last user has let go of it.
type cache struct {
	limit   int
	ttl     time.Duration
	destroy func(pkcs11.ObjectHandle)

	mu      sync.Mutex // guards the rest, and the marked fields of entries
	entries map[domain.Binding]*entry
	byKey   map[domain.UID][]*entry
	recent  list.List // of *entry, the least recently used at the back
	stats   cacheStats
}

// cacheStats counts since the epoch began.
type cacheStats struct{ hits, misses, evicted int64 }

// entry is one unwrapped key, or one that is being unwrapped.
type entry struct {
	binding domain.Binding
	ready   chan struct{} // closed when handle and err are set
	handle  pkcs11.ObjectHandle
	err     error

	// Guarded by cache.mu.
	users   int
	evicted bool
	expires time.Time
	place   *list.Element
}

func newCache(limit int, ttl time.Duration, destroy func(pkcs11.ObjectHandle)) *cache {
	return &cache{
		limit: limit, ttl: ttl, destroy: destroy,
		entries: map[domain.Binding]*entry{}, byKey: map[domain.UID][]*entry{},
	}
}

// get is the entry of b, unwrapped by load if it isn't there. The caller gives it back with put. The binding is the key
// of the map, so that a hit can't be for anything but what was checked when it was loaded.
func (c *cache) get(ctx context.Context, b domain.Binding, now time.Time, load func() (pkcs11.ObjectHandle, error)) (*entry, error) {
	for {
		c.mu.Lock()
		e := c.entries[b]
		if e == nil || !now.Before(e.expires) {
			return c.load(b, now, e, load)
		}
		e.users++
		c.stats.hits++
		c.recent.MoveToFront(e.place)
		c.mu.Unlock()
		select {
		case <-e.ready:
		default:
			select {
			case <-e.ready:
			case <-ctx.Done():
				c.put(e)
				return nil, fmt.Errorf("%w: waiting for a key: %w", ErrUnavailable, context.Cause(ctx))
			}
		}
		if e.err == nil {
			return e, nil
		}
		c.put(e)
		// Who was unwrapping it was called off; that is no reason for the others.
		if ctx.Err() == nil && (errors.Is(e.err, context.Canceled) || errors.Is(e.err, context.DeadlineExceeded)) {
			continue
		}
		return nil, e.err
	}
}

// load unwraps b in place of old, if any. It is called with mu held, and returns without.
func (c *cache) load(b domain.Binding, now time.Time, old *entry, load func() (pkcs11.ObjectHandle, error)) (*entry, error) {
	var idle []pkcs11.ObjectHandle
	if old != nil {
		idle = c.evict(old, idle)
	}
	e := &entry{binding: b, ready: make(chan struct{}), users: 1, expires: now.Add(c.ttl)}
	e.place = c.recent.PushFront(e)
	c.entries[b] = e
	c.byKey[b.KeyUID] = append(c.byKey[b.KeyUID], e)
	c.stats.misses++
	for c.recent.Len() > c.limit {
		idle = c.evict(c.recent.Back().Value.(*entry), idle)
	}
	c.mu.Unlock()
	c.destroyAll(idle)

	e.err = errUnwrapPanicked // what the others see should load not return
	defer func() {
		if e.err != nil {
			c.mu.Lock()
			c.evict(e, nil) // nothing to destroy: it has a user, and no handle
			c.mu.Unlock()
		}
		close(e.ready)
	}()
	e.handle, e.err = load()
	if e.err != nil {
		return nil, e.err
	}
	return e, nil
}

var errUnwrapPanicked = errors.New("unwrapping a key panicked")

// put ends a use.
func (c *cache) put(e *entry) {
	c.mu.Lock()
	e.users--
	idle := e.evicted && e.users == 0
	c.mu.Unlock()
	if idle && e.err == nil {
		c.destroy(e.handle)
	}
}

// evict takes e out, and appends its handle to idle if nobody uses it; else the last put destroys it. It is called with
// mu held.
func (c *cache) evict(e *entry, idle []pkcs11.ObjectHandle) []pkcs11.ObjectHandle {
	if e.evicted {
		return idle
	}
	e.evicted = true
	c.stats.evicted++
	c.recent.Remove(e.place)
	delete(c.entries, e.binding)
	of := slices.DeleteFunc(c.byKey[e.binding.KeyUID], func(x *entry) bool { return x == e })
	if len(of) == 0 {
		delete(c.byKey, e.binding.KeyUID)
	} else {
		c.byKey[e.binding.KeyUID] = of
	}
	if e.users > 0 { // one that is being unwrapped has a user
		return idle
	}
	return append(idle, e.handle)
}

// evictIf takes out the entries that drop says; of one key, or of all when key is the zero UID.
func (c *cache) evictIf(key domain.UID, drop func(*entry) bool) {
	var idle []pkcs11.ObjectHandle
	c.mu.Lock()
	if key.IsZero() {
		for _, e := range c.entries {
			if drop(e) {
				idle = c.evict(e, idle)
			}
		}
	} else {
		for _, e := range slices.Clone(c.byKey[key]) {
			if drop(e) {
				idle = c.evict(e, idle)
			}
		}
	}
	c.mu.Unlock()
	c.destroyAll(idle)
}

func (c *cache) evictKey(key domain.UID, v domain.Version) {
	if key.IsZero() {
		return
	}
	c.evictIf(key, func(e *entry) bool { return v == 0 || e.binding.Version == v })
}

func (c *cache) evictExpired(now time.Time) {
	c.evictIf(domain.UID{}, func(e *entry) bool { return !now.Before(e.expires) })
}

func (c *cache) clear() { c.evictIf(domain.UID{}, func(*entry) bool { return true }) }

func (c *cache) destroyAll(handles []pkcs11.ObjectHandle) {
	for _, h := range handles {
		c.destroy(h)
	}
}

func (c *cache) snapshot() (cacheStats, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats, len(c.entries)
}
