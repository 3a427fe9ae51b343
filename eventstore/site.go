package eventstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
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

// Roots are the roots of the site's token that keys may be wrapped under, oldest first, as the leader of the stream knows
// them.
func (s *Store) Roots(ctx context.Context) ([]Root, error) {
	site, err := s.Site(ctx)
	return site.Roots, err
}

// AddRoot records a root that was made in the token. It is idempotent; another root under the same id, and one that was
// retired, is ErrConflict. Further errors are those of Append.
func (s *Store) AddRoot(ctx context.Context, r Root) error {
	c, err := s.siteCommit("CreateRoot", RootCreated{Root: r})
	if err != nil {
		return err
	}
	_, err = s.ChangeSite(ctx, c, func(site Site) ([]SiteEvent, error) {
		for _, known := range site.Roots {
			if known.ID != r.ID {
				continue
			}
			if bytes.Equal(known.Sentinel, r.Sentinel) && known.TokenSerial == r.TokenSerial {
				return nil, nil
			}
			return nil, fmt.Errorf("adding root %s: %w", r.ID, ErrConflict)
		}
		if slices.Contains(site.Retired, r.ID) {
			return nil, fmt.Errorf("adding root %s: it was retired: %w", r.ID, ErrConflict)
		}
		return c.Site, nil
	})
	return err
}

// Site folds the site's own commits, as the leader of the stream knows them. The error is ErrNotProvisioned if there are
// none.
func (s *Store) Site(ctx context.Context) (Site, error) {
	var site Site
	for c, err := range s.LoadConfirmed(ctx, SiteAggregate, 0) {
		if err == nil {
			site, err = site.Apply(c)
		}
		if err != nil {
			return Site{}, err
		}
	}
	if site.Revision == 0 {
		return Site{}, ErrNotProvisioned
	}
	return site, nil
}

// SiteRevision is that of the site's last commit, as the leader of the stream knows it.
func (s *Store) SiteRevision(ctx context.Context) (Revision, error) {
	m, err := s.retryGet(ctx, streamEvents, getRequest{LastFor: SiteAggregate.subject()})
	if errors.Is(err, errNoMessage) {
		return 0, ErrNotProvisioned
	}
	if err != nil {
		return 0, fmt.Errorf("reading the site's last commit: %w", err)
	}
	return Revision(m.seq), nil
}

// ChangeSite appends a commit of the site with the events that decide returns, and returns the site after it. Decide is
// called again with the newer state when another commit came first; with neither events nor an error nothing is appended,
// and its error is returned as it is. Of the commit c who asked for what is taken: its operation, caller and what granted
// it. Further errors are those of Append.
func (s *Store) ChangeSite(ctx context.Context, c Commit, decide func(Site) ([]SiteEvent, error)) (Site, error) {
	if err := s.usable(); err != nil {
		return Site{}, err
	}
	command, err := newUID()
	if err != nil {
		return Site{}, err
	}
	c.CommandID, c.Aggregate = command, SiteAggregate
	for {
		site, err := s.Site(ctx)
		if err != nil {
			return Site{}, err
		}
		if c.Site, err = decide(site); err != nil || len(c.Site) == 0 {
			return site, err
		}
		c.Prev, c.Time = site.Hash, time.Now().UTC().Truncate(time.Microsecond)
		if c.Time.Before(site.Time) {
			c.Time = site.Time
		}
		stored, err := s.append(ctx, s.Lineage(), site.Revision, c)
		if err == nil {
			return site.Apply(stored)
		}
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return Site{}, err
		}
	}
}

func newUID() (domain.UID, error) {
	u, err := uuid.NewV7()
	if err != nil {
		return domain.UID{}, fmt.Errorf("making an identifier: %w", err)
	}
	return domain.UID(u), nil
}
