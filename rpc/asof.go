package rpc

import (
	"context"
	"iter"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
)

// dated is a request for what is, or for what was at a past moment.
type dated interface {
	GetMinRevision() uint64
	GetAsOfTime() *timestamppb.Timestamp
	GetAsOfRevision() uint64
}

// readOf names what a request reads, and of when.
func readOf(ctx context.Context, ref domain.KeyRef, r dated) (commands.Read, error) {
	read := callFrom(ctx).read(ref)
	read.MinRevision = commands.Revision(r.GetMinRevision())
	read.AsOf.Revision = commands.Revision(r.GetAsOfRevision())
	if at := r.GetAsOfTime(); at != nil {
		if err := at.CheckValid(); err != nil {
			return read, badField("as_of_time must be a time of the years 1 to 9999, like 2026-01-31T09:30:00Z")
		}
		read.AsOf.Time = at.AsTime()
	}
	return read, nil
}

// boundTo is what a page token of the request is bound to beside the query: the pages of a list are of one moment.
func boundTo(r dated) []string {
	switch {
	case r.GetAsOfTime() != nil:
		return []string{"time", r.GetAsOfTime().AsTime().Format(time.RFC3339Nano)}
	case r.GetAsOfRevision() != 0:
		return []string{"revision", strconv.FormatUint(r.GetAsOfRevision(), 10)}
	}
	return nil
}

// shownAt is the time as of which a state is shown. One of the past is by the clock of then already.
func shownAt(state commands.KeyState, asOf commands.Moment) time.Time {
	if asOf.IsZero() {
		return time.Now()
	}
	return state.Time
}

// listKeys passes the gate for reading the keys of a ring, or of any ring, and calls list with them as the request wants
// them. It returns the revision that they were read from. narrow, if not nil, leaves out of the keys as they are what a
// list of the past does not need; what it does not need of those that are, it finds itself.
func (k *keyService) listKeys(ctx context.Context, ring domain.RingName, read commands.Read, narrow func(iter.Seq[*commands.KeyState]) iter.Seq[*commands.KeyState],
	list func(iter.Seq[*commands.KeyState]) error,
) (uint64, error) {
	keys := k.s.cfg.Keys.Keys(ring)
	if read.AsOf.IsZero() {
		if err := k.s.cfg.Commands.Authorize(ctx, callerOf(ctx), read); err != nil {
			return 0, err
		}
		revision := k.s.cfg.Keys.Revision()
		return uint64(revision), list(keys)
	}
	if narrow != nil {
		keys = narrow(keys)
	}
	if err := k.s.cfg.Commands.ListKeysAsOf(ctx, callerOf(ctx), read, keys, list); err != nil {
		return 0, err
	}
	if read.AsOf.Revision != 0 {
		return uint64(read.AsOf.Revision), nil
	}
	return uint64(k.s.cfg.Keys.Revision()), nil
}

// ahead leaves out the items of the pages before, as far as that shows without a look at them: where they are in the
// natural order never changes.
func (l *list[T]) ahead(items iter.Seq[T]) iter.Seq[T] {
	if l.after == nil || l.total || len(l.columns) > 1 || l.columns[0].desc {
		return items
	}
	return func(yield func(T) bool) {
		for item := range items {
			if l.compare(item, l.after) > 0 && !yield(item) {
				return
			}
		}
	}
}
