package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// ArchiveKey lets the key only decrypt.
func (s *Service) ArchiveKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "ArchiveKey", permission: domain.PermissionKeysArchive, ref: ref, mutation: m,
		command: always(domain.ArchiveKey{}),
	})
}

// UnarchiveKey ends that and leaves the key disabled, or enabled when asked.
func (s *Service) UnarchiveKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, enable bool, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "UnarchiveKey", permission: domain.PermissionKeysUnarchive, ref: ref, mutation: m, arguments: enable,
		command: always(domain.UnarchiveKey{Enable: enable}),
	})
}
