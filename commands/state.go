package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// EnableKey lets a disabled key be used again; each version returns to its own state.
func (s *Service) EnableKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "EnableKey", permission: domain.PermissionKeysEnable, ref: ref, mutation: m,
		command: always(domain.EnableKey{}),
	})
}

// DisableKey stops every use of the key until it is enabled.
func (s *Service) DisableKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "DisableKey", permission: domain.PermissionKeysDisable, ref: ref, mutation: m,
		command: always(domain.DisableKey{}),
	})
}

// EnableKeyVersion lets a disabled version be used again. ref names the version.
func (s *Service) EnableKeyVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "EnableKeyVersion", permission: domain.PermissionVersionsEnable, ref: ref, mutation: m,
		command: always(domain.EnableKeyVersion{Version: ref.Version}),
	})
}

// DisableKeyVersion stops every use of one version. ref names the version; the primary needs allowPrimary.
func (s *Service) DisableKeyVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, allowPrimary bool, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "DisableKeyVersion", permission: domain.PermissionVersionsDisable, ref: ref, mutation: m, arguments: allowPrimary,
		command: always(domain.DisableKeyVersion{Version: ref.Version, AllowPrimary: allowPrimary}),
	})
}

// UpdateKey changes what describes the key and what limits it.
func (s *Service) UpdateKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, u domain.UpdateKey, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "UpdateKey", permission: domain.PermissionKeysUpdate, ref: ref, mutation: m, arguments: u,
		command: always(u),
	})
}

// always is for commands that need no material.
func always(cmd domain.Command) func(domain.UID) (domain.Command, error) {
	return func(domain.UID) (domain.Command, error) { return cmd, nil }
}
