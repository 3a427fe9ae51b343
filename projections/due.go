package projections

import (
	"container/heap"
	"time"

	"github.com/keyledger/kms/domain"
)

// dueHeap has the keys for which the service will have something to do, the earliest first.
type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].dueIndex, h[j].dueIndex = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e := x.(*entry) //nolint:forcetypeassert // nothing else is pushed
	e.dueIndex = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}

// first is when the earliest is due; zero if none will be.
func (h dueHeap) first() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].due
}

// schedule puts the key where its next due time belongs, and tells the receiver of DueSooner if that is before all others.
func (k *Keys) schedule(e *entry) {
	before, next := k.due.first(), e.state.Key.NextDue()
	scheduled := !e.due.IsZero()
	e.due = next
	switch {
	case scheduled && next.IsZero():
		heap.Remove(&k.due, e.dueIndex)
	case scheduled:
		heap.Fix(&k.due, e.dueIndex)
	case !next.IsZero():
		heap.Push(&k.due, e)
	}
	if first := k.due.first(); !first.IsZero() && (before.IsZero() || first.Before(before)) {
		select {
		case k.dueSooner <- struct{}{}:
		default: // told already
		}
	}
}

// Due returns the keys for which the service has something to do at that time, in no order, and when the next of the others
// is due; zero if none will be unless a key changes. It looks only at those that are due and at a few more.
func (k *Keys) Due(at time.Time) (due []domain.UID, next time.Time) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	look := []int{0} // in the heap: none below one that is not due is
	for len(look) > 0 {
		i := look[len(look)-1]
		look = look[:len(look)-1]
		if i >= len(k.due) {
			continue
		}
		e := k.due[i]
		if e.due.After(at) {
			if next.IsZero() || e.due.Before(next) {
				next = e.due
			}
			continue
		}
		due = append(due, e.state.Key.UID)
		look = append(look, 2*i+1, 2*i+2)
	}
	return due, next
}

// DueSooner receives when a change lets something fall due earlier than all that was known of. It is for one receiver.
func (k *Keys) DueSooner() <-chan struct{} { return k.dueSooner }
