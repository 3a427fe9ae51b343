package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// AddUsageBinding says that a resource depends on the key: while there is one, the key can't be disabled, archived or
// deleted, nor its versions destroyed. The resource is a name of 1 to 512 bytes, as its owner gives it.
func (s *Service) AddUsageBinding(ctx context.Context, c domain.Caller, ref domain.KeyRef, resource string, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "AddUsageBinding", permission: domain.PermissionBindingsAdd, ref: ref, mutation: m, arguments: resource,
		command: always(domain.AddUsageBinding{Resource: resource, Creator: c.Principal}),
	})
}

// RemoveUsageBinding says that it no longer does.
func (s *Service) RemoveUsageBinding(ctx context.Context, c domain.Caller, ref domain.KeyRef, resource string, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "RemoveUsageBinding", permission: domain.PermissionBindingsRemove, ref: ref, mutation: m, arguments: resource,
		command: always(domain.RemoveUsageBinding{Resource: resource}),
	})
}
