package commands

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keyledger/kms/domain"
)

const (
	// dueInterval is how often a node looks for due work in its projection.
	dueInterval = time.Second
	// eraseInterval is how often it tries again to erase what could not be erased.
	eraseInterval = time.Minute
)

// RunDue does due work until ctx ends: it destroys keys whose deletion is due and erases what destroyed keys left. Every
// node runs it; there is no leader. Due work is done by ordinary commands, so of several nodes one wins and the others
// find it done. What fell due while no node ran is done at once.
func (s *Service) RunDue(ctx context.Context) error {
	tick := time.NewTicker(dueInterval)
	defer tick.Stop()
	var lastErase time.Time
	for {
		s.deleteDue(ctx)
		if now := time.Now(); now.Sub(lastErase) >= eraseInterval {
			lastErase = now
			s.eraseDue(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) deleteDue(ctx context.Context) {
	for _, state := range s.cfg.Keys.Due(s.now()) {
		if ctx.Err() != nil {
			return
		}
		id, err := newUID()
		if err == nil {
			_, err = s.DeleteKey(ctx, domain.System(id), domain.KeyRef{Name: state.Key.Name}, false, Mutation{Etag: Etag(state.Tip)})
		}
		if err != nil && !othersWon(err) {
			s.cfg.Log.ErrorContext(ctx, "destroying a key whose deletion is due", slog.String("key_uid", state.Key.UID.String()), slog.Any("error", err))
		}
	}
}

func (s *Service) eraseDue(ctx context.Context) {
	for _, state := range s.cfg.Keys.Unerased() {
		if ctx.Err() != nil {
			return
		}
		if err := s.erase(ctx, state); err != nil && !othersWon(err) {
			s.cfg.Log.ErrorContext(ctx, "erasing the material of a destroyed key", slog.String("key_uid", state.Key.UID.String()), slog.Any("error", err))
		}
	}
}

// othersWon reports whether the key was changed by somebody else meanwhile: another node did the work, or a person
// canceled the deletion.
func othersWon(err error) bool {
	refusal, ok := errors.AsType[*domain.Error](err)
	if !ok {
		return false
	}
	switch refusal.Reason { //nolint:exhaustive // everything else is a failure
	case domain.ReasonEtagMismatch, domain.ReasonKeyDestroyed, domain.ReasonNotPendingDeletion, domain.ReasonContention:
		return true
	}
	return false
}
