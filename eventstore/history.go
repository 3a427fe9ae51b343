package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Moment is a point in the history: just after a revision or, if Time is set, at a time. The zero Moment is none.
type Moment struct {
	Revision Revision
	Time     time.Time // compared with the effective times of commits
}

// IsZero reports whether m is no moment.
func (m Moment) IsZero() bool { return m.Revision == 0 && m.Time.IsZero() }

// Covers reports whether a commit with this revision and effective time had happened by then. Both only grow within an
// aggregate, so that what a moment covers of one is the beginning of its history.
func (m Moment) Covers(rev Revision, at time.Time) bool {
	if m.Time.IsZero() {
		return rev <= m.Revision
	}
	return !at.After(m.Time)
}

// CommitAt reads the commit with this revision, of whatever aggregate, from the leader of the log. It is an
// *IntegrityError if there is none: revisions have no gaps.
func (s *Store) CommitAt(ctx context.Context, rev Revision) (Commit, error) {
	m, err := s.retryGet(ctx, streamEvents, getRequest{Seq: uint64(rev)})
	switch {
	case errors.Is(err, errNoMessage):
		return Commit{}, &IntegrityError{Stream: streamEvents, Message: fmt.Sprintf("commit %d is missing; restore the event store from a backup", rev)}
	case err != nil:
		return Commit{}, fmt.Errorf("reading commit %d: %w", rev, err)
	}
	return decodeCommit(m)
}
