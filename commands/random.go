package commands

import (
	"context"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// DataKeyRequest asks for a key to encrypt data with outside of this service.
type DataKeyRequest struct {
	Ref           domain.KeyRef
	Bytes         int // 1 to 1024
	WithPlaintext bool
	AAD, Context  []byte
}

// DataKeyResult is a data key encrypted under a key of the service, and in the clear if that was asked for.
type DataKeyResult struct {
	EncryptResult
	Plaintext []byte
}

// GenerateDataKey takes random bytes from the token and encrypts them.
func (s *Service) GenerateDataKey(ctx context.Context, c domain.Caller, r DataKeyRequest) (DataKeyResult, error) {
	return use(ctx, s, s.begin(c, "GenerateDataKey", domain.CategoryCrypto, r.Ref), domain.PermissionGenerateDataKey,
		func(ctx context.Context, a *attempt) (DataKeyResult, error) {
			key, err := s.usable(a, r.Ref)
			if err != nil {
				return DataKeyResult{}, err
			}
			plaintext, err := s.random(ctx, r.Bytes)
			if err != nil {
				return DataKeyResult{}, err
			}
			encrypted, err := s.encrypt(ctx, a, key, r.Ref.Version, plaintext, r.AAD, r.Context)
			if err != nil || !r.WithPlaintext {
				clear(plaintext)
				return DataKeyResult{EncryptResult: encrypted}, err
			}
			return DataKeyResult{EncryptResult: encrypted, Plaintext: plaintext}, nil
		})
}

// GenerateRandomBytes returns 1 to 1024 bytes of the token's random generator.
func (s *Service) GenerateRandomBytes(ctx context.Context, c domain.Caller, project string, n int) ([]byte, error) {
	where := domain.KeyRef{Name: domain.KeyName{Project: project, Location: s.cfg.Location}}
	return use(ctx, s, s.begin(c, "GenerateRandomBytes", domain.CategoryCrypto, where), domain.PermissionGenerateRandom,
		func(ctx context.Context, a *attempt) ([]byte, error) {
			a.record.BytesOut = uint32(max(n, 0)) //nolint:gosec // at most 1024
			return s.random(ctx, n)
		})
}

const maxRandom = 1024

func (s *Service) random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > maxRandom {
		return nil, &domain.Error{Reason: domain.ReasonBadField, Message: fmt.Sprintf("the number of random bytes must be 1 to %d, not %d", maxRandom, n)}
	}
	b, err := s.cfg.Token.Random(ctx, n)
	if err != nil {
		return nil, fmt.Errorf("taking random bytes from the token: %w", err)
	}
	return b, nil
}
