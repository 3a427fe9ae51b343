package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
)

// ReEncryptRequest asks to decrypt and encrypt again, to a newer version or another key; the plaintext stays inside.
type ReEncryptRequest struct {
	Ciphertext, SourceAAD, SourceContext []byte
	Ref                                  domain.KeyRef // encrypts
	AAD, Context                         []byte
	// OnlyIfStale leaves a ciphertext alone that the key's primary version made.
	OnlyIfStale bool
}

// ReEncryptResult is the new ciphertext, or the old one if nothing changed.
type ReEncryptResult struct {
	EncryptResult
	Source        domain.KeyName
	SourceVersion domain.Version
	Changed       bool
}

// ReEncrypt needs the permission on both keys and records the use of both, in one record if they are the same.
func (s *Service) ReEncrypt(ctx context.Context, c domain.Caller, r ReEncryptRequest) (ReEncryptResult, error) {
	ctx, span := tracer.Start(ctx, "ReEncrypt")
	defer span.End()
	source := s.begin(c, "ReEncrypt", domain.CategoryCrypto, domain.KeyRef{Name: domain.KeyName{Project: r.Ref.Name.Project}})
	target := s.begin(c, "ReEncrypt", domain.CategoryCrypto, r.Ref)
	result, at, err := s.reEncrypt(ctx, &source, &target, r)
	if err != nil { // recorded for the key that refused
		return ReEncryptResult{}, s.refused(ctx, at, err)
	}
	target.record.Outcome, source.record.Outcome = domain.OutcomeOK, domain.OutcomeOK
	target.record.Duration = s.now().Sub(target.started)
	records := []domain.ActivityRecord{target.record}
	if source.record.KeyUID != target.record.KeyUID {
		source.record.Duration = target.record.Duration
		records = append(records, source.record)
	}
	if err := s.record(ctx, records...); err != nil {
		return ReEncryptResult{}, err
	}
	return result, nil
}

// reEncrypt returns, beside the result, the attempt that a refusal belongs to.
func (s *Service) reEncrypt(ctx context.Context, source, target *attempt, r ReEncryptRequest) (ReEncryptResult, *attempt, error) {
	if err := s.authorize(target, domain.PermissionReEncrypt); err != nil {
		return ReEncryptResult{}, target, err
	}
	if err := s.authorize(source, domain.PermissionReEncrypt); err != nil {
		return ReEncryptResult{}, source, err
	}
	to, err := s.usable(target, r.Ref)
	if err != nil {
		return ReEncryptResult{}, target, err
	}
	e, from, err := s.opened(source, domain.KeyRef{}, r.Ciphertext)
	if err != nil {
		return ReEncryptResult{}, source, err
	}
	result := ReEncryptResult{Source: from.Name, SourceVersion: e.Version}
	primary, err := to.VersionFor(domain.Protecting, domain.EncryptDecrypt, r.Ref.Version, target.started)
	if err != nil {
		return ReEncryptResult{}, target, err
	}
	plaintext, err := s.decrypt(ctx, source, from, e, r.SourceAAD, r.SourceContext)
	if err != nil {
		return ReEncryptResult{}, source, err
	}
	defer clear(plaintext)
	if r.OnlyIfStale && from.UID == to.UID && e.Version == primary.Version {
		target.about(to, e.Version)
		result.EncryptResult = EncryptResult{Ciphertext: r.Ciphertext, Name: to.Name, Version: e.Version}
		return result, nil, nil
	}
	result.Changed = true
	if result.EncryptResult, err = s.encrypt(ctx, target, to, r.Ref.Version, plaintext, r.AAD, r.Context); err != nil {
		return ReEncryptResult{}, target, err
	}
	return result, nil, nil
}
