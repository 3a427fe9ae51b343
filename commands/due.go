package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// dueInterval is how often a node looks for due work at least. It looks when something falls due as well; this is for
	// clocks that are set, and machines that were asleep.
	dueInterval = time.Minute
	// eraseInterval is how often it tries again to erase what could not be erased.
	eraseInterval = time.Minute
	// firstRetry is how long work that failed waits for its next try, which doubles with each one up to lastRetry.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
	// workTimeout bounds one piece of work, so that one that hangs does not keep the others waiting for long.
	workTimeout = 30 * time.Second
)

// The operations that no RPC is for: the service does them by itself. What else it does is recorded as the RPC of that name.
const (
	OperationExpireKey         = "ExpireKey"
	OperationDestroyKeyVersion = "DestroyKeyVersion"
	OperationEraseMaterial     = "EraseMaterial"
	OperationLeaseUses         = "LeaseUses"
	OperationExpireImportJob   = "ExpireImportJob"
	OperationUseImportJob      = "UseImportJob"
	OperationCompleteImport    = "CompleteImport"
)

// RunDue does due work until ctx ends: it rotates, expires and destroys keys and versions whose time has come, and erases
// what they left. Every node runs it; there is no leader. Due work is done by ordinary commands, so of several nodes one
// wins and the others find it done. What fell due while no node ran is done at once, and once.
func (s *Service) RunDue(ctx context.Context) error {
	work := dueWork{s: s, failed: map[domain.UID]retry{}}
	var lastErase time.Time
	for {
		next := work.round(ctx)
		if now := time.Now(); now.Sub(lastErase) >= eraseInterval {
			lastErase = now
			s.eraseDue(ctx)
		}
		wait := time.NewTimer(min(next, dueInterval))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		case <-s.cfg.Keys.DueSooner():
			wait.Stop()
		}
	}
}

// dueWork is what one node remembers of the work that failed.
type dueWork struct {
	s      *Service
	failed map[domain.UID]retry
}

// retry says when work that failed is tried again.
type retry struct {
	at   time.Time
	wait time.Duration
}

// round does what is due and returns how long nothing else will be.
func (w *dueWork) round(ctx context.Context) time.Duration {
	due, _ := w.s.cfg.Keys.Due(w.s.now())
	// In another order on each node, so that they seldom try the same at once.
	rand.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] }) //nolint:gosec // nothing secret hangs on it
	failed := map[domain.UID]retry{}                                           // only of keys that are still due
	tokenAway := false
	for _, uid := range due {
		last, failing := w.failed[uid]
		if ctx.Err() != nil {
			break
		}
		if failing && w.s.now().Before(last.at) {
			failed[uid] = last
			continue
		}
		err := w.s.workOn(ctx, uid, tokenAway)
		if err == nil || othersWon(err) {
			continue
		}
		tokenAway = tokenAway || errors.Is(err, &domain.Error{Reason: domain.ReasonTokenUnavailable})
		wait := min(max(2*last.wait, firstRetry), lastRetry)
		failed[uid] = retry{at: w.s.now().Add(wait), wait: wait}
		if !errors.Is(err, errTokenAway) {
			w.s.cfg.Log.ErrorContext(ctx, "doing due work on a key; it will be tried again",
				slog.String("key_uid", uid.String()), slog.Duration("in", wait), slog.Any("error", err))
		}
	}
	w.failed = failed
	now := w.s.now()
	left, next := w.s.cfg.Keys.Due(now)
	for _, uid := range left {
		again, failing := failed[uid]
		if !failing { // it fell due meanwhile, or another node is at it
			again.at = now.Add(firstRetry)
		}
		if next.IsZero() || again.at.Before(next) {
			next = again.at
		}
	}
	if next.IsZero() {
		return dueInterval
	}
	return max(next.Sub(now), 0)
}

// errTokenAway is why a rotation was not tried.
var errTokenAway = errors.New("the token did not answer for another key")

// workOn does all that is due for one key, most pressing first. What needs the token is left out while it is away.
func (s *Service) workOn(ctx context.Context, uid domain.UID, tokenAway bool) error {
	for {
		state, ok := s.cfg.Keys.GetByUID(uid)
		if !ok {
			return fmt.Errorf("key %s is due and not there", uid)
		}
		due := state.Key.Due(s.now())
		if len(due) == 0 {
			return nil
		}
		if tokenAway && due[0] == domain.WorkRotation {
			return errTokenAway
		}
		after, err := s.work(ctx, state, due[0])
		if err != nil {
			return err
		}
		if after.Revision == state.Revision { // another node was faster, or the clock was set back
			return nil
		}
	}
}

// work does one due piece of work by the system's own command, and erases what it destroyed.
func (s *Service) work(ctx context.Context, state eventstore.KeyState, w domain.Work) (eventstore.KeyState, error) {
	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	id, err := newUID()
	if err != nil {
		return eventstore.KeyState{}, fmt.Errorf("making a request id: %w", err)
	}
	ch := change{ref: domain.KeyRef{Name: state.Key.Name}, due: true}
	switch w {
	case domain.WorkDeletion:
		ch.operation, ch.permission, ch.command = "DeleteKey", domain.PermissionKeysDelete, always(domain.DeleteDueKey{})
	case domain.WorkDestruction:
		ch.operation, ch.permission, ch.command = OperationDestroyKeyVersion, domain.PermissionVersionsDestroy, always(domain.DestroyDueVersions{})
	case domain.WorkExpiry:
		ch.operation, ch.permission, ch.command = OperationExpireKey, domain.PermissionKeysUpdate, always(domain.ExpireKey{})
	case domain.WorkRotation:
		ch.operation, ch.permission = "RotateKey", domain.PermissionKeysRotate
		ch.command = func(material domain.UID) (domain.Command, error) {
			return domain.RotateDueKey{MaterialID: material}, nil
		}
	}
	after, err := s.execute(ctx, domain.System(id), ch)
	if err == nil && after.Revision != state.Revision && after.Key.Unerased > state.Key.Unerased {
		if err := s.erase(ctx, after); err != nil {
			s.cfg.Log.ErrorContext(ctx, "erasing destroyed material; it will be tried again",
				slog.String("key_uid", after.Key.UID.String()), slog.Any("error", err))
		}
	}
	return after, err
}

func (s *Service) eraseDue(ctx context.Context) {
	for _, state := range s.cfg.Keys.Unerased() {
		if ctx.Err() != nil {
			return
		}
		if err := s.erase(ctx, state); err != nil && !othersWon(err) {
			s.cfg.Log.ErrorContext(ctx, "erasing destroyed material", slog.String("key_uid", state.Key.UID.String()), slog.Any("error", err))
		}
	}
}

// othersWon reports whether the key was changed by somebody else meanwhile: another node did the work, or a person made it
// unnecessary.
func othersWon(err error) bool {
	refusal, ok := errors.AsType[*domain.Error](err)
	return ok && (refusal.Reason == domain.ReasonKeyDestroyed || refusal.Reason == domain.ReasonContention)
}
