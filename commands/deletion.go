package commands

import (
	"context"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// ScheduleKeyDeletion stops every use of the key at once and destroys it after the wait: 24 hours to 120 days, zero
// means the key's own wait, or 72 hours. With unusedFor it is refused with ReasonKeyRecentlyUsed if the key was used
// within that time, and with ReasonActivityAway if that can't be told; see UsesLog. Without, the answer tells what is known.
func (s *Service) ScheduleKeyDeletion(ctx context.Context, c domain.Caller, ref domain.KeyRef, wait, unusedFor time.Duration, m Mutation) (ScheduledDeletion, error) {
	check := func(context.Context, eventstore.KeyState, time.Time, eventstore.Commit) error { return nil }
	if unusedFor > 0 {
		check = func(ctx context.Context, state eventstore.KeyState, at time.Time, _ eventstore.Commit) error {
			return s.mustBeUnused(ctx, state.Key, at, unusedFor)
		}
	}
	state, err := s.executeAs(ctx, c, checkedKind{keyKind{s}, check}, change{
		operation: "ScheduleKeyDeletion", permission: domain.PermissionKeysScheduleDelete, ref: ref, mutation: m,
		arguments: []time.Duration{wait, unusedFor}, command: always(domain.ScheduleKeyDeletion{Wait: wait}),
	})
	if err != nil {
		return ScheduledDeletion{}, err
	}
	scheduled := ScheduledDeletion{KeyState: state}
	s.addLastUse(ctx, &scheduled)
	return scheduled, nil
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
