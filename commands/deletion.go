package commands

import (
	"context"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// ScheduleKeyDeletion stops every use of the key at once and destroys it after the wait: 24 hours to 120 days, zero
// means 72 hours.
func (s *Service) ScheduleKeyDeletion(ctx context.Context, c domain.Caller, ref domain.KeyRef, wait time.Duration, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "ScheduleKeyDeletion", permission: domain.PermissionKeysScheduleDelete, ref: ref, mutation: m, arguments: wait,
		command: always(domain.ScheduleKeyDeletion{Wait: wait}),
	})
}

// CancelKeyDeletion keeps the key: disabled, or enabled when asked.
func (s *Service) CancelKeyDeletion(ctx context.Context, c domain.Caller, ref domain.KeyRef, enable bool, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "CancelKeyDeletion", permission: domain.PermissionKeysCancelDelete, ref: ref, mutation: m, arguments: enable,
		command: always(domain.CancelKeyDeletion{Enable: enable}),
	})
}

// DeleteKey destroys the key for ever, while its deletion is pending or at once with skipWait, and erases its material.
// The deletion stands once it is recorded; erasing what is left is tried until it succeeds, after a restart too.
func (s *Service) DeleteKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, skipWait bool, m Mutation) (eventstore.KeyState, error) {
	state, err := s.execute(ctx, c, change{
		operation: "DeleteKey", permission: domain.PermissionKeysDelete, ref: ref, mutation: m, arguments: skipWait,
		command: always(domain.DeleteKey{SkipWait: skipWait}),
	})
	if err != nil {
		return eventstore.KeyState{}, err
	}
	s.eraseSoon(ctx, state)
	return state, nil
}
