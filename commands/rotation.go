package commands

import (
	"context"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// UpdateRotationPeriod gives automatic rotation another period, 1 to 730 whole days, which begins now.
func (s *Service) UpdateRotationPeriod(ctx context.Context, c domain.Caller, ref domain.KeyRef, period time.Duration, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "UpdateRotationPeriod", permission: domain.PermissionKeysRotation, ref: ref, mutation: m, arguments: period,
		command: always(domain.UpdateRotationPeriod{Period: period}),
	})
}

// EnableAutoRotation starts automatic rotation, the first time after the period: 1 to 730 whole days, zero means the key's
// last one, or 90 days. It goes on while the key is disabled and stops while its deletion is pending.
func (s *Service) EnableAutoRotation(ctx context.Context, c domain.Caller, ref domain.KeyRef, period time.Duration, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "EnableAutoRotation", permission: domain.PermissionKeysRotation, ref: ref, mutation: m, arguments: period,
		command: always(domain.EnableAutoRotation{Period: period}),
	})
}

// DisableAutoRotation ends automatic rotation. The period is kept for the next time it is enabled.
func (s *Service) DisableAutoRotation(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "DisableAutoRotation", permission: domain.PermissionKeysRotation, ref: ref, mutation: m,
		command: always(domain.DisableAutoRotation{}),
	})
}
