package commands

import (
	"context"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// PublicKey is the public key of one version.
type PublicKey struct {
	Name      domain.KeyName
	Version   domain.Version
	Algorithm domain.Algorithm
	DER       []byte // SubjectPublicKeyInfo
}

// GetPublicKey returns the public key of a version, or of the primary one, in whatever state it is. It is recorded before
// it is answered. Keys that have none are refused with ReasonWrongPurpose.
func (s *Service) GetPublicKey(ctx context.Context, c domain.Caller, r Read) (PublicKey, error) {
	return use(ctx, s, s.begin(c, r.Operation, r.Category, r.Ref), r.Permission,
		func(ctx context.Context, a *attempt) (PublicKey, error) {
			state, err := s.read(ctx, a, r)
			if err != nil {
				return PublicKey{}, err
			}
			key, v := state.Key, r.Ref.Version
			if key.Purpose != domain.SignVerify && key.Purpose != domain.AsymmetricDecrypt {
				return PublicKey{}, &domain.Error{
					Reason: domain.ReasonWrongPurpose, Message: fmt.Sprintf("key %s has purpose %s and no public key; use a key with purpose SIGN_VERIFY or ASYMMETRIC_DECRYPT", key.Name, key.Purpose),
				}
			}
			if v == 0 {
				if v = key.Primary; v == 0 {
					return PublicKey{}, &domain.Error{
						Reason: domain.ReasonNoPrimaryVersion, Message: fmt.Sprintf("key %s has no primary version yet; name one of its versions, or make one by rotating it or importing material", key.Name),
					}
				}
			}
			kv, ok := key.Versions.Get(v)
			if !ok {
				return PublicKey{}, fmt.Errorf("key %s has no version %d", key.Name, v)
			}
			a.record.Version, a.record.BytesOut = v, uint32(len(kv.PublicKey)) //nolint:gosec // below 1 KiB
			return PublicKey{Name: key.Name, Version: v, Algorithm: kv.Algorithm, DER: kv.PublicKey}, nil
		})
}
