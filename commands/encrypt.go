package commands

import (
	"context"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// EncryptRequest asks to encrypt a plaintext of at most domain.MaxPlaintext bytes. AAD and Context are authenticated, not
// stored: Decrypt needs the same again.
type EncryptRequest struct {
	Ref                     domain.KeyRef // of a key (its primary version encrypts) or of a version
	Plaintext, AAD, Context []byte
}

// EncryptResult is a ciphertext and the version that made it.
type EncryptResult struct {
	Ciphertext []byte // domain.Envelope
	Name       domain.KeyName
	Version    domain.Version
}

// Encrypt encrypts in the token.
func (s *Service) Encrypt(ctx context.Context, c domain.Caller, r EncryptRequest) (EncryptResult, error) {
	return use(ctx, s, s.begin(c, "Encrypt", domain.CategoryCrypto, r.Ref), domain.PermissionEncrypt,
		func(ctx context.Context, a *attempt) (EncryptResult, error) {
			key, err := s.usable(a, r.Ref)
			if err != nil {
				return EncryptResult{}, err
			}
			return s.encrypt(ctx, a, key, r.Ref.Version, r.Plaintext, r.AAD, r.Context)
		})
}

// usable returns the key that ref names for a use of it. Its state is checked by encrypt and decrypt.
func (s *Service) usable(a *attempt, ref domain.KeyRef) (domain.Key, error) {
	if err := s.cfg.Keys.Fresh(); err != nil {
		return domain.Key{}, err
	}
	state, err := s.key(ref)
	if err != nil {
		return domain.Key{}, err
	}
	a.about(state.Key, ref.Version)
	return state.Key, nil
}

// encrypt makes an envelope with version v of the key; zero means the primary one. It takes one of the uses that the
// version's budget allows, whatever comes of it then: the token may have made a ciphertext that nobody got.
func (s *Service) encrypt(ctx context.Context, a *attempt, key domain.Key, v domain.Version, plaintext, aad, context []byte) (EncryptResult, error) {
	a.record.BytesIn = uint32(len(plaintext)) //nolint:gosec // at most 64 KiB
	version, err := key.VersionFor(domain.Protecting, domain.EncryptDecrypt, v, a.started)
	if err != nil {
		return EncryptResult{}, err
	}
	a.record.Version = version.Version
	if len(plaintext) > domain.MaxPlaintext { // before a use is taken for it
		return EncryptResult{}, &domain.Error{
			Reason: domain.ReasonTooLarge, Message: fmt.Sprintf("plaintext has %d bytes, more than %d; encrypt the data with a data key (GenerateDataKey)", len(plaintext), domain.MaxPlaintext),
		}
	}
	if !s.allowed(ctx, key, version) {
		if key, version, err = s.awaitUse(ctx, key, version, v, a.started); err != nil {
			return EncryptResult{}, err
		}
		a.record.Version = version.Version
	}
	e := domain.Envelope{Location: key.Name.Location, KeyUID: key.UID, Version: version.Version, Algorithm: version.Algorithm}
	if e.IV, e.Ciphertext, err = s.cfg.Token.Encrypt(ctx, key.Binding(version.Version), plaintext, e.AdditionalData(context, aad)); err != nil {
		return EncryptResult{}, fmt.Errorf("encrypting in the token: %w", err)
	}
	out := e.Marshal()
	a.record.BytesOut = uint32(len(out)) //nolint:gosec // at most 66 KiB
	return EncryptResult{Ciphertext: out, Name: key.Name, Version: version.Version}, nil
}
