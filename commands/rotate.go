package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// RotateKey makes a new version with new material and encrypts with it from then on. Older versions go on decrypting
// what they encrypted. The key must be enabled.
func (s *Service) RotateKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	return s.execute(ctx, c, change{
		operation: "RotateKey", permission: domain.PermissionKeysRotate, ref: ref, mutation: m,
		command: func(material domain.UID) (domain.Command, error) {
			return domain.RotateKey{MaterialID: material}, nil
		},
	})
}
