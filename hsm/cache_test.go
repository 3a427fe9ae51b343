package hsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// handles stands in for a token's objects: each may be destroyed once, and not be used after.
type handles struct {
	mu   sync.Mutex
	next pkcs11.ObjectHandle
	live map[pkcs11.ObjectHandle]bool
	bad  int
}

func (h *handles) make() (pkcs11.ObjectHandle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live == nil {
		h.live = map[pkcs11.ObjectHandle]bool{}
	}
	h.next++
	h.live[h.next] = true
	return h.next, nil
}

func (h *handles) destroy(x pkcs11.ObjectHandle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.live[x] {
		h.bad++
	}
	delete(h.live, x)
}

func (h *handles) isLive(x pkcs11.ObjectHandle) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.live[x]
}

func (h *handles) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.live)
}

func TestCacheUnwrapsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handles
		var loads atomic.Int32
		c, b := newCache(8, time.Minute, h.destroy), newBinding()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				e, err := c.get(t.Context(), b, time.Now(), func() (pkcs11.ObjectHandle, error) {
					loads.Add(1)
					time.Sleep(time.Second)
					return h.make()
				})
				if err != nil || !h.isLive(e.handle) {
					t.Errorf("got %v", err)
					return
				}
				c.put(e)
			})
		}
		wg.Wait()
		if loads.Load() != 1 {
			t.Errorf("unwrapped %d times", loads.Load())
		}
		if s, n := c.snapshot(); s.hits != 49 || s.misses != 1 || n != 1 {
			t.Errorf("%+v, %d keys", s, n)
		}
	})
}

func TestCacheKeepsWhatIsUsed(t *testing.T) {
	var h handles
	c := newCache(2, time.Minute, h.destroy)
	now := time.Now()
	get := func(b domain.Binding) *entry {
		e, err := c.get(t.Context(), b, now, h.make)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	used := get(newBinding())
	for range 5 {
		c.put(get(newBinding()))
	}
	if !h.isLive(used.handle) {
		t.Error("a key in use was destroyed to make place")
	}
	c.put(used)
	if h.isLive(used.handle) || h.count() != 2 {
		t.Errorf("%d objects stay, want 2", h.count())
	}

	used = get(newBinding())
	also := get(used.binding)
	c.evictKey(used.binding.KeyUID, 0)
	c.put(also)
	if also != used || !h.isLive(used.handle) {
		t.Error("a key was destroyed by the first of two who used it")
	}
	if again := get(used.binding); again == used {
		t.Error("an evicted key was given out")
	} else {
		c.put(again)
	}
	if !h.isLive(used.handle) {
		t.Error("a key in use was destroyed by an eviction")
	}
	c.put(used)
	c.clear()
	if h.count() != 0 || h.bad != 0 || len(c.byKey) != 0 || c.recent.Len() != 0 {
		t.Errorf("%d objects stay, %d were destroyed twice", h.count(), h.bad)
	}
}

func TestCacheForgetsInTime(t *testing.T) {
	var h handles
	c, b, now := newCache(8, time.Minute, h.destroy), newBinding(), time.Now()
	at := func(d time.Duration) pkcs11.ObjectHandle {
		e, err := c.get(t.Context(), b, now.Add(d), h.make)
		if err != nil {
			t.Fatal(err)
		}
		defer c.put(e)
		return e.handle
	}
	first := at(0)
	if at(time.Minute-1) != first {
		t.Error("unwrapped again too soon")
	}
	if at(time.Minute) == first {
		t.Error("used for too long, since each use prolonged it")
	}
	if h.count() != 1 {
		t.Errorf("%d objects", h.count())
	}
	c.evictExpired(now.Add(2*time.Minute - 1))
	if h.count() != 1 {
		t.Error("expired too soon")
	}
	c.evictExpired(now.Add(2 * time.Minute))
	if h.count() != 0 {
		t.Error("not expired")
	}
}

func TestCacheFailedUnwrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handles
		c, b := newCache(8, time.Minute, h.destroy), newBinding()
		broken := errors.New("broken")
		if _, err := c.get(t.Context(), b, time.Now(), func() (pkcs11.ObjectHandle, error) { return 0, broken }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}

		// The one who unwraps is called off; the one who waits unwraps it then.
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := c.get(ctx, b, time.Now(), func() (pkcs11.ObjectHandle, error) {
				<-ctx.Done()
				return 0, context.Cause(ctx)
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}()
		synctest.Wait()
		go func() { time.Sleep(time.Second); cancel() }()
		e, err := c.get(t.Context(), b, time.Now(), h.make)
		if err != nil || !h.isLive(e.handle) {
			t.Fatalf("got %v", err)
		}
		c.put(e)

		// The one who waits is called off; the one who unwraps is not.
		c.clear()
		release := make(chan struct{})
		done := make(chan error)
		go func() {
			e, err := c.get(t.Context(), b, time.Now(), func() (pkcs11.ObjectHandle, error) { <-release; return h.make() })
			if err == nil {
				c.put(e)
			}
			done <- err
		}()
		synctest.Wait()
		if _, err := c.get(ctx, b, time.Now(), h.make); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		close(release)
		if err := <-done; err != nil || h.count() != 1 {
			t.Errorf("got %v, %d objects", err, h.count())
		}
	})
}

// An erased key that is being unwrapped while it is evicted is not kept.
func TestCacheEvictWhileUnwrapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h handles
		c, b := newCache(8, time.Minute, h.destroy), newBinding()
		go func() {
			e, err := c.get(t.Context(), b, time.Now(), func() (pkcs11.ObjectHandle, error) { time.Sleep(time.Second); return h.make() })
			if err != nil {
				t.Error(err)
				return
			}
			c.put(e)
		}()
		synctest.Wait()
		c.evictKey(b.KeyUID, 0)
		time.Sleep(2 * time.Second)
		if _, n := c.snapshot(); n != 0 || h.count() != 0 || h.next != 1 {
			t.Errorf("%d keys, %d objects", n, h.count())
		}
	})
}

func TestCacheUnwrapPanics(t *testing.T) {
	var h handles
	c, b := newCache(8, time.Minute, h.destroy), newBinding()
	func() {
		defer func() { _ = recover() }()
		_, _ = c.get(t.Context(), b, time.Now(), func() (pkcs11.ObjectHandle, error) { panic("in the library") })
	}()
	e, err := c.get(t.Context(), b, time.Now(), h.make)
	if err != nil {
		t.Fatalf("after a panic: %v", err)
	}
	c.put(e)
}
