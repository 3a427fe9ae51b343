package commands

import (
	"context"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// CreateKeyVersion makes a new version with new material, and encrypts with it from then on if it is to be primary. The
// new version is the last one of the answer. The key must be enabled.
func (s *Service) CreateKeyVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, makePrimary bool, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "CreateKeyVersion", permission: domain.PermissionVersionsCreate, ref: ref, mutation: m, arguments: makePrimary,
		command: func(material domain.UID) (domain.Command, error) {
			return domain.CreateKeyVersion{MaterialID: material, MakePrimary: makePrimary}, nil
		},
	})
}

// SetPrimaryVersion encrypts with an enabled version from then on. ref names the version.
func (s *Service) SetPrimaryVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "SetPrimaryVersion", permission: domain.PermissionKeysSetPrimary, ref: ref, mutation: m,
		command: always(domain.SetPrimaryVersion{Version: ref.Version}),
	})
}

// ScheduleKeyVersionDestruction stops every use of one version at once and destroys it after the wait: 24 hours to 120
// days, zero means the key's own, or 72 hours. ref names the version; the primary needs allowPrimary.
func (s *Service) ScheduleKeyVersionDestruction(ctx context.Context, c domain.Caller, ref domain.KeyRef, wait time.Duration, allowPrimary bool, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "ScheduleKeyVersionDestruction", permission: domain.PermissionVersionsDestroy, ref: ref, mutation: m, arguments: []any{wait, allowPrimary},
		command: always(domain.ScheduleKeyVersionDestruction{Version: ref.Version, Wait: wait, AllowPrimary: allowPrimary}),
	})
}

// RestoreKeyVersion keeps a version whose destruction is scheduled and not yet due, and leaves it disabled. ref names the
// version.
func (s *Service) RestoreKeyVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "RestoreKeyVersion", permission: domain.PermissionVersionsRestore, ref: ref, mutation: m,
		command: always(domain.RestoreKeyVersion{Version: ref.Version}),
	})
}
