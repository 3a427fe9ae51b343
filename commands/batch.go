package commands

import (
	"context"

	"github.com/keyledger/kms/domain"
)

// EncryptItem is one plaintext of a batch. Err says that the item is malformed: it is answered and recorded as refused.
type EncryptItem struct {
	Plaintext, AAD, Context []byte
	Err                     error
}

// DecryptItem is one ciphertext of a batch.
type DecryptItem struct {
	Ref                      domain.KeyRef // zero: the ciphertext names its key
	Ciphertext, AAD, Context []byte
	Err                      error
}

// Outcome is what came of one item: its answer or its error.
type Outcome[T any] struct {
	OK  T
	Err error
}

// BatchEncrypt encrypts every item with one key. One bad item never fails the others; each has its own record, and all
// records become durable together before any answer.
func (s *Service) BatchEncrypt(ctx context.Context, c domain.Caller, ref domain.KeyRef, items []EncryptItem) ([]Outcome[EncryptResult], error) {
	return batch(ctx, s, c, "BatchEncrypt", domain.PermissionEncrypt, len(items),
		func(int) domain.KeyRef { return ref },
		func(ctx context.Context, a *attempt, i int) (EncryptResult, error) {
			if items[i].Err != nil {
				return EncryptResult{}, items[i].Err
			}
			key, err := s.usable(a, ref)
			if err != nil {
				return EncryptResult{}, err
			}
			return s.encrypt(ctx, a, key, ref.Version, items[i].Plaintext, items[i].AAD, items[i].Context)
		})
}

// BatchDecrypt decrypts every item with the key that it names, or that its ciphertext names; each key must be of the
// project. Otherwise as BatchEncrypt.
func (s *Service) BatchDecrypt(ctx context.Context, c domain.Caller, project string, items []DecryptItem) ([]Outcome[DecryptResult], error) {
	refOf := func(i int) domain.KeyRef {
		ref := items[i].Ref
		if ref.Name.Project == "" {
			ref.Name.Project = project
		}
		return ref
	}
	return batch(ctx, s, c, "BatchDecrypt", domain.PermissionDecrypt, len(items), refOf,
		func(ctx context.Context, a *attempt, i int) (DecryptResult, error) {
			if items[i].Err != nil {
				return DecryptResult{}, items[i].Err
			}
			e, key, err := s.opened(a, refOf(i), items[i].Ciphertext)
			if err != nil {
				return DecryptResult{}, err
			}
			plaintext, err := s.decrypt(ctx, a, key, e, items[i].AAD, items[i].Context)
			return DecryptResult{Plaintext: plaintext, Name: key.Name, Version: e.Version, IsPrimary: e.Version == key.Primary}, err
		})
}

func batch[T any](ctx context.Context, s *Service, c domain.Caller, operation string, p domain.Permission, n int,
	refOf func(int) domain.KeyRef, work func(context.Context, *attempt, int) (T, error),
) ([]Outcome[T], error) {
	ctx, span := tracer.Start(ctx, operation)
	defer span.End()
	outcomes := make([]Outcome[T], n)
	records := make([]domain.ActivityRecord, n)
	for i := range n {
		a := s.begin(c, operation, domain.CategoryCrypto, refOf(i))
		err := s.authorize(&a, p)
		if err == nil {
			outcomes[i].OK, err = work(ctx, &a, i)
		}
		if err != nil {
			outcomes[i] = Outcome[T]{Err: err}
			s.refuse(&a, err)
		} else {
			a.record.Outcome, a.record.Duration = domain.OutcomeOK, s.now().Sub(a.started)
		}
		records[i] = a.record
	}
	if err := s.record(ctx, records...); err != nil {
		return nil, err
	}
	return outcomes, nil
}
