package main

import (
	"context"
	"errors"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/hsm"
)

// token is the HSM as commands see it: what can go wrong is told by the reasons of the API.
type token struct{ *hsm.Token }

func (t token) Generate(ctx context.Context, b domain.Binding) (domain.WrappedKey, error) {
	w, err := t.Token.Generate(ctx, b)
	return w, tokenError(err)
}

func (t token) Import(ctx context.Context, job domain.Binding, wrapped []byte, b domain.Binding) (domain.WrappedKey, error) {
	w, err := t.Token.Import(ctx, job, wrapped, b)
	return w, tokenError(err)
}

func (t token) ImportClear(ctx context.Context, material []byte, b domain.Binding) (domain.WrappedKey, error) {
	w, err := t.Token.ImportClear(ctx, material, b)
	return w, tokenError(err)
}

func (t token) Encrypt(ctx context.Context, b domain.Binding, plaintext, aad []byte) (iv, ciphertext []byte, err error) {
	iv, ciphertext, err = t.Token.Encrypt(ctx, b, plaintext, aad)
	return iv, ciphertext, tokenError(err)
}

func (t token) Decrypt(ctx context.Context, b domain.Binding, iv, ciphertext, aad []byte) ([]byte, error) {
	p, err := t.Token.Decrypt(ctx, b, iv, ciphertext, aad)
	return p, tokenError(err)
}

func (t token) Random(ctx context.Context, n int) ([]byte, error) {
	b, err := t.Token.Random(ctx, n)
	return b, tokenError(err)
}

func (t token) CreateRoot(ctx context.Context, id string) (eventstore.Root, error) {
	info, err := t.Token.CreateRoot(ctx, id)
	if errors.Is(err, hsm.ErrRootExists) {
		info, err = t.InspectRoot(ctx, id)
	}
	return eventstore.Root{ID: info.ID, Sentinel: info.Sentinel, TokenSerial: info.TokenSerial}, tokenError(err)
}

func (t token) AdoptRoot(ctx context.Context, r eventstore.Root) error {
	err := t.VerifyRoot(ctx, hsm.RootInfo{ID: r.ID, Sentinel: r.Sentinel, TokenSerial: r.TokenSerial})
	if err == nil {
		err = t.UseRoot(r.ID)
	}
	return tokenError(err)
}

func (t token) DestroyRoot(ctx context.Context, id string) error {
	return tokenError(t.Token.DestroyRoot(ctx, id))
}

func (t token) Rewrap(ctx context.Context, b domain.Binding, blob []byte) ([]byte, error) {
	out, err := t.Token.Rewrap(ctx, b, blob)
	return out, tokenError(err)
}

func (token) BlobRoot(blob []byte) (string, error) {
	root, err := hsm.BlobRoot(blob)
	return root, tokenError(err)
}

// tokenError joins err with what a caller is told about it.
func tokenError(err error) error {
	if unfit, ok := errors.AsType[*hsm.MaterialError](err); ok {
		return &domain.Error{Reason: domain.ReasonBadMaterial, Message: unfit.Error()}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hsm.ErrMaterial):
		return &domain.Error{
			Reason: domain.ReasonBadMaterial, Message: "the wrapped key can't be unwrapped: it was changed, was wrapped for another import job or by another method, or is no key of the kind that this key's algorithm needs; wrap it anew",
		}
	case errors.Is(err, hsm.ErrDecrypt):
		return domain.ErrCiphertext
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, hsm.ErrClosed):
		return errors.Join(&domain.Error{Reason: domain.ReasonTokenUnavailable, Message: "the HSM does not answer; try again"}, err)
	case errors.Is(err, hsm.ErrUnsupported):
		return errors.Join(&domain.Error{Reason: domain.ReasonUnsupported, Message: "the HSM of this server can't do this (" + err.Error() + "); see GetServerInfo for what it can"}, err)
	case errors.Is(err, hsm.ErrBlob), errors.Is(err, eventstore.ErrMaterialMissing):
		return errors.Join(&domain.Error{
			Reason: domain.ReasonMaterialMissing, Message: "the key's material is missing from the store or damaged; an operator must restore it from a backup",
		}, err)
	case errors.Is(err, eventstore.ErrUnavailable):
		return errors.Join(&domain.Error{Reason: domain.ReasonStoreAway, Message: "the store of key material does not answer; try again"}, err)
	}
	return err
}
