package commands

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// CreateKey is a request for a new key.
type CreateKey struct {
	Mutation    `json:"-"`
	Parent      domain.RingName
	KeyID       string
	Purpose     domain.Purpose
	Algorithm   domain.Algorithm       // empty: the purpose's default
	Protection  domain.ProtectionLevel // empty: HSM
	DisplayName string
	Memo        string
	Labels      map[string]string
	// SkipInitialVersion makes the key without material; RotateKey adds the first version.
	SkipInitialVersion bool
	// ImportOnly makes it without material too; only ImportKeyVersion adds versions.
	ImportOnly bool `json:",omitempty"`
}

// CreateKey makes a key, and its first version unless that is skipped. An id that was ever used is refused with
// ReasonKeyExists, a ring that was never made with ReasonRingNotFound, and an archived one with ReasonRingArchived.
func (s *Service) CreateKey(ctx context.Context, c domain.Caller, r CreateKey) (eventstore.KeyState, error) {
	name := r.Parent.Key(r.KeyID)
	if r.Algorithm == "" {
		r.Algorithm = domain.DefaultAlgorithm(r.Purpose)
	}
	if r.Protection == "" {
		r.Protection = domain.HSM
	}
	return s.execute(ctx, c, change{
		operation: "CreateKey", permission: domain.PermissionKeysCreate, ref: domain.KeyRef{Name: name}, mutation: r.Mutation, arguments: r,
		command: func(material domain.UID) (domain.Command, error) {
			if err := s.takesKeys(ctx, r.Parent); err != nil {
				return nil, err
			}
			uid, err := newUID()
			if err != nil {
				return nil, fmt.Errorf("making the key's uid: %w", err)
			}
			if r.SkipInitialVersion || r.ImportOnly {
				material = domain.UID{}
			}
			create := domain.CreateKey{
				UID: uid, Name: name, Purpose: r.Purpose, Algorithm: r.Algorithm, Protection: r.Protection,
				DisplayName: r.DisplayName, Memo: r.Memo, Labels: r.Labels, Creator: c.Principal, MaterialID: material, ImportOnly: r.ImportOnly,
			}
			_, err = rand.Read(create.LedgerTag[:])
			return create, err
		},
	})
}
