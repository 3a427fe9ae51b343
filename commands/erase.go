package commands

import (
	"context"
	"log/slog"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// erasuresPerCommit bounds the events of one commit.
	erasuresPerCommit = 500
	// eraseTimeout bounds the erasure that follows a deletion; what is left then is done by due work.
	eraseTimeout = 30 * time.Second
)

// eraseSoon erases the material of a key that was just destroyed. The caller's deadline does not stop it, since the
// deletion stands already.
func (s *Service) eraseSoon(ctx context.Context, state eventstore.KeyState) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eraseTimeout)
	defer cancel()
	if now, ok := s.cfg.Keys.GetByUID(state.Key.UID); ok && now.Revision > state.Revision {
		state = now // the answer to a repeated request is of then; nothing may be left to erase
	}
	if err := s.erase(ctx, state); err != nil {
		s.cfg.Log.ErrorContext(ctx, "erasing destroyed material; it will be tried again",
			slog.String("key_uid", state.Key.UID.String()), slog.Any("error", err))
	}
}

// erase removes by name the wrapped keys of all versions that were destroyed, and of imported ones whose material was
// deleted, and records what came of it as the system's own commits. Doing it twice is harmless.
func (s *Service) erase(ctx context.Context, state eventstore.KeyState) error {
	var done domain.RecordErasure
	flush := func() error {
		if len(done.Erased)+len(done.Failed) == 0 {
			return nil
		}
		outcome := done
		done = domain.RecordErasure{}
		return s.recordErasure(ctx, state.Key.Name, outcome)
	}
	for kv := range state.Key.Versions.All() {
		if !kv.MustErase() {
			continue
		}
		s.cfg.Token.Evict(state.Key.UID, kv.Version)
		material := domain.Material{Version: kv.Version, ID: kv.MaterialID}
		if err := s.cfg.Material.EraseMaterial(ctx, state.Key.Binding(kv.Version)); err != nil {
			s.cfg.Log.ErrorContext(ctx, "erasing the material of a version",
				slog.String("key_uid", state.Key.UID.String()), slog.Int("version", int(kv.Version)), slog.Any("error", err))
			done.Failed, done.Cause = append(done.Failed, material), "the material store did not erase it"
		} else {
			done.Erased = append(done.Erased, material)
		}
		if len(done.Erased)+len(done.Failed) == erasuresPerCommit {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func (s *Service) recordErasure(ctx context.Context, name domain.KeyName, outcome domain.RecordErasure) error {
	id, err := newUID()
	if err != nil {
		return err
	}
	_, err = s.execute(ctx, domain.System(id), change{
		operation: OperationEraseMaterial, permission: domain.PermissionKeysDelete, ref: domain.KeyRef{Name: name}, command: always(outcome), due: true,
	})
	return err
}
