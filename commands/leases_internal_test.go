package commands

import (
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/kms/domain"
)

// TestLeaseIsExact: however many take from a lease at once, while it grows, it gives what was granted and no more, and each
// lease calls for the next one once.
func TestLeaseIsExact(t *testing.T) {
	var l lease
	var taken, calls atomic.Uint64
	var takers sync.WaitGroup
	const grants, size = 100, 64
	var granted atomic.Bool
	for range 8 {
		takers.Go(func() {
			for {
				last := granted.Load() // before the try: then there is nothing to come
				ok, low := l.take()
				if low {
					calls.Add(1)
				}
				if ok {
					taken.Add(1)
				} else if last {
					return
				}
			}
		})
	}
	for range grants {
		l.granted(size)
	}
	granted.Store(true)
	takers.Wait()
	if got := taken.Load(); got != grants*size {
		t.Errorf("%d taken of %d", got, grants*size)
	}
	if got := calls.Load(); got == 0 || got > grants {
		t.Errorf("%d calls for more after %d leases", got, grants)
	}
}

// TestLeaseCallsInTime: with less than a quarter of the last lease left it is time for more; once, and after a failure again
// when half of the rest is used.
func TestLeaseCallsInTime(t *testing.T) {
	var l lease
	calls := func(n int) (at []uint64) {
		for range n {
			if _, low := l.take(); low {
				at = append(at, l.left.Load())
			}
		}
		return at
	}
	if ok, low := l.take(); ok || low {
		t.Errorf("an empty lease gives %t, %t", ok, low)
	}
	l.granted(100)
	if at := calls(80); len(at) != 1 || at[0] != 24 {
		t.Errorf("of 100 called with %d left, want 24", at)
	}
	l.failed()
	if at := calls(15); len(at) != 1 || at[0] != 9 {
		t.Errorf("after a failure with 20 left called with %d, want 9", at)
	}
	l.granted(3) // too small to be worth it
	if at := calls(8); len(at) != 0 || l.left.Load() != 0 {
		t.Errorf("called with %d left", at)
	}
}

// TestNextLease: leases begin small, so that a node that ends soon loses little, and grow to the full size.
func TestNextLease(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.Uint64Range(1, 1<<62).Draw(t, "budget")
		full := domain.LeaseSize(budget)
		last, leases := uint64(0), 0
		for ; last < full; leases++ {
			next := nextLease(budget, last)
			if next <= last || next > full || (last != 0 && next > last*leaseGrowth+leaseGrowth-1) {
				t.Fatalf("after a lease of %d comes one of %d; the full size is %d", last, next, full)
			}
			if last == 0 && next > max(1, full/leaseRamp) {
				t.Fatalf("the first lease is of %d; the full size is %d", next, full)
			}
			last = next
		}
		if leases > 6 || nextLease(budget, full) != full {
			t.Fatalf("%d leases until the full size of %d", leases, full)
		}
	})
	if got := nextLease(100, 1000); got != 1 { // of a budget that was lowered
		t.Errorf("after a larger lease comes one of %d", got)
	}
}

// BenchmarkLease measures what a use with a budget costs more than one without.
func BenchmarkLease(b *testing.B) {
	var all leases
	for i := range 1000 {
		all.of(domain.UID{byte(i), byte(i >> 8)}, 1).granted(1 << 62)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if ok, _ := all.of(domain.UID{1}, 1).take(); !ok {
				b.Fail()
			}
		}
	})
}
