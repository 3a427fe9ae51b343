package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// orphanScan bounds how long one ListOrphans looks.
const orphanScan = 10 * time.Second

// Orphan is stored material that no event names: what an attempt left that failed half-way, or lost its race. Material of
// a change that is being made looks the same for a moment.
type Orphan = eventstore.StoredMaterial

// ListOrphans returns stored material that no event names, in the order in which it was stored: at most limit pieces after a
// sequence of the store. More is after next; zero if there is none. It looks for some seconds at most, so that a page may be
// short, even empty, and have a next one. The answer is on the record before it is given.
func (r *Roots) ListOrphans(ctx context.Context, c domain.Caller, read Read, after uint64, limit int) (orphans []Orphan, next uint64, err error) {
	s := r.s
	a := s.begin(c, read.Operation, read.Category, read.Ref)
	if err := s.authorize(&a, read.Permission); err != nil {
		return nil, 0, s.refused(ctx, &a, err)
	}
	if orphans, next, err = r.orphans(ctx, after, limit); err != nil {
		return nil, 0, s.refused(ctx, &a, err)
	}
	if err := s.succeeded(ctx, &a); err != nil {
		return nil, 0, err
	}
	return orphans, next, nil
}

func (r *Roots) orphans(ctx context.Context, after uint64, limit int) (orphans []Orphan, next uint64, err error) {
	head, err := r.site.Head(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("asking for the head of the log: %w", storeError(err))
	}
	wait, cancel := context.WithTimeout(ctx, projectionWait)
	defer cancel()
	if err := r.s.cfg.Keys.WaitFor(wait, head.Last); err != nil {
		return nil, 0, &domain.Error{Reason: domain.ReasonStaleProjection, Message: "this node is behind the event log; try again, or another node"}
	}
	end := time.Now().Add(orphanScan)
	for m, err := range r.site.Materials(ctx, after) {
		if err != nil {
			return nil, 0, storeError(err)
		}
		if _, named, _ := r.s.binding(m); !named {
			orphans = append(orphans, m)
		}
		if len(orphans) == limit || time.Now().After(end) {
			return orphans, m.Sequence, nil
		}
	}
	return orphans, 0, nil
}
