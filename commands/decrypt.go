package commands

import (
	"context"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// DecryptRequest asks to decrypt what Encrypt or GenerateDataKey made.
type DecryptRequest struct {
	// Ref must fit the key that the ciphertext names; the zero Ref takes whatever key that is.
	Ref                      domain.KeyRef
	Ciphertext, AAD, Context []byte
}

// DecryptResult is a plaintext and the version that had encrypted it.
type DecryptResult struct {
	Plaintext []byte
	Name      domain.KeyName
	Version   domain.Version
	IsPrimary bool // false: encrypting it again would use a newer version
}

// Decrypt decrypts in the token.
func (s *Service) Decrypt(ctx context.Context, c domain.Caller, r DecryptRequest) (DecryptResult, error) {
	return use(ctx, s, s.begin(c, "Decrypt", domain.CategoryCrypto, r.Ref), domain.PermissionDecrypt,
		func(ctx context.Context, a *attempt) (DecryptResult, error) {
			e, key, err := s.opened(a, r.Ref, r.Ciphertext)
			if err != nil {
				return DecryptResult{}, err
			}
			plaintext, err := s.decrypt(ctx, a, key, e, r.AAD, r.Context)
			if err != nil {
				return DecryptResult{}, err
			}
			return DecryptResult{Plaintext: plaintext, Name: key.Name, Version: e.Version, IsPrimary: e.Version == key.Primary}, nil
		})
}

// opened reads an envelope and finds its key. The caller is authorized already: for the key it names, or, naming none,
// for whatever key this is; the record names the key that it turned out to be.
func (s *Service) opened(a *attempt, ref domain.KeyRef, ciphertext []byte) (domain.Envelope, domain.Key, error) {
	a.record.BytesIn = uint32(len(ciphertext)) //nolint:gosec // bounded by the request size
	if err := s.cfg.Keys.Fresh(); err != nil {
		return domain.Envelope{}, domain.Key{}, err
	}
	var named domain.Key
	if ref.Name.ID != "" { // the key that is named must exist, whatever the ciphertext says
		state, err := s.key(ref)
		if err != nil {
			return domain.Envelope{}, domain.Key{}, err
		}
		named = state.Key
		a.about(named, ref.Version)
	}
	e, err := domain.ParseEnvelope(ciphertext)
	if err != nil {
		return domain.Envelope{}, domain.Key{}, err
	}
	if e.Location != s.cfg.Location {
		return domain.Envelope{}, domain.Key{}, &domain.Error{
			Reason:  domain.ReasonWrongLocation,
			Message: fmt.Sprintf("the ciphertext was made in location %s, this server serves %s; send it to a server of that location", e.Location, s.cfg.Location),
		}
	}
	state, ok := s.cfg.Keys.GetByUID(e.KeyUID)
	switch {
	case !ok,
		!named.UID.IsZero() && named.UID != e.KeyUID,
		ref.Version != 0 && ref.Version != e.Version,
		ref.Name.Project != "" && ref.Name.Project != state.Key.Name.Project:
		return domain.Envelope{}, domain.Key{}, domain.ErrCiphertext
	}
	a.about(state.Key, e.Version)
	return e, state.Key, nil
}

func (s *Service) decrypt(ctx context.Context, a *attempt, key domain.Key, e domain.Envelope, aad, context []byte) ([]byte, error) {
	version, err := key.VersionFor(domain.Opening, domain.EncryptDecrypt, e.Version, a.started)
	if err != nil {
		return nil, err
	}
	if e.Algorithm != version.Algorithm {
		return nil, domain.ErrCiphertext
	}
	plaintext, err := s.cfg.Token.Decrypt(ctx, key.Binding(e.Version), e.IV, e.Ciphertext, e.AdditionalData(context, aad))
	if err != nil {
		return nil, fmt.Errorf("decrypting in the token: %w", err)
	}
	a.record.BytesOut = uint32(len(plaintext)) //nolint:gosec // at most 64 KiB
	return plaintext, nil
}
