package eventstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
)

// readLineage learns the lineage from the site's first commit. The error is ErrNotProvisioned if there is none.
func (s *Store) readLineage(ctx context.Context) error {
	m, err := s.retryGet(ctx, streamEvents, getRequest{Seq: 1, NextFor: SiteAggregate.subject()})
	if errors.Is(err, errNoMessage) {
		return ErrNotProvisioned
	}
	if err != nil {
		return fmt.Errorf("reading the site's lineage: %w", err)
	}
	c, err := decodeCommit(m)
	if err != nil {
		return err
	}
	for _, e := range c.Site {
		if created, ok := e.(SiteCreated); ok {
			s.lineage.Store(&created.Lineage)
			return nil
		}
	}
	return &IntegrityError{Stream: streamEvents, Message: "the first commit of the site does not begin a lineage"}
}

// createSite begins the lineage of a new site. Of several that try at once, one succeeds and the others take its lineage.
func (s *Store) createSite(ctx context.Context) error {
	if err := s.readLineage(ctx); !errors.Is(err, ErrNotProvisioned) {
		return err
	}
	head, err := s.Head(ctx)
	if err != nil {
		return err
	}
	if head.Last != 0 {
		return &IntegrityError{Stream: streamEvents, Message: "it has commits but not the site's first; restore the event store from a backup"}
	}
	lineage, err := newUID()
	if err != nil {
		return err
	}
	c, err := s.siteCommit("CreateSite", SiteCreated{Lineage: lineage})
	if err != nil {
		return err
	}
	if _, err := s.append(ctx, lineage, 0, c); err != nil && !errors.Is(err, ErrConflict) {
		return err
	}
	return s.readLineage(ctx)
}

// siteCommit is a commit of the site made by this service itself.
func (s *Store) siteCommit(operation string, e SiteEvent) (Commit, error) {
	command, err := newUID()
	if err != nil {
		return Commit{}, err
	}
	request, err := newUID()
	if err != nil {
		return Commit{}, err
	}
	return Commit{
		Aggregate: SiteAggregate, CommandID: command, Operation: operation, Caller: domain.System(request), GrantedBy: "system",
		Time: time.Now().UTC().Truncate(time.Microsecond), Site: []SiteEvent{e},
	}, nil
}

// Roots are the roots of the site's token, oldest first, as the leader of the stream knows them.
func (s *Store) Roots(ctx context.Context) ([]Root, error) {
	roots, _, err := s.site(ctx)
	return roots, err
}

// AddRoot records a root that was made in the token. It is idempotent; another root under the same id is ErrConflict. Further
// errors are those of Append.
func (s *Store) AddRoot(ctx context.Context, r Root) error {
	if err := s.usable(); err != nil {
		return err
	}
	c, err := s.siteCommit("CreateRoot", RootCreated{Root: r})
	if err != nil {
		return err
	}
	for {
		roots, last, err := s.site(ctx)
		if err != nil {
			return err
		}
		for _, known := range roots {
			if known.ID != r.ID {
				continue
			}
			if bytes.Equal(known.Sentinel, r.Sentinel) && known.TokenSerial == r.TokenSerial {
				return nil
			}
			return fmt.Errorf("adding root %s: %w", r.ID, ErrConflict)
		}
		c.Prev = last.Hash
		if c.Time.Before(last.Time) {
			c.Time = last.Time
		}
		if _, err = s.append(ctx, s.Lineage(), last.Revision, c); !errors.Is(err, ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
	}
}

// site folds the site's own commits and returns the last one too.
func (s *Store) site(ctx context.Context) (roots []Root, last Commit, err error) {
	for c, err := range s.LoadConfirmed(ctx, SiteAggregate, 0) {
		if err != nil {
			return nil, last, err
		}
		if c.Prev != last.Hash {
			return nil, last, &ChainError{SiteAggregate, c.Revision, "the hash of the previous commit is not the one it names; restore the event store from a backup"}
		}
		for _, e := range c.Site {
			if created, ok := e.(RootCreated); ok {
				roots = append(roots, created.Root)
			}
		}
		last = c
	}
	if last.Revision == 0 {
		return nil, last, ErrNotProvisioned
	}
	return roots, last, nil
}

func newUID() (domain.UID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return domain.UID{}, fmt.Errorf("making an identifier: %w", err)
	}
	return domain.UID(u), nil
}
