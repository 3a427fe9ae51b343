package hsm

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"github.com/keyledger/kms/domain"
)

// ephemeralSize is the bytes of the AES key that material is wrapped under for import.
const ephemeralSize = 32

// Import unwraps material that was wrapped for the import job and returns it wrapped under the root in use, bound to b.
//
// With the methods that name AES, wrapped is the RSA-OAEP of an AES-256 key and behind it the material, wrapped under that
// key by RFC 5649: a secret key's bytes, or a private key's PKCS#8 in DER. Only the AES key, which serves once, is ever
// outside the token, and that only on tokens that can't do OAEP with SHA-256 themselves. With the other methods wrapped is
// the RSA-OAEP of the material, which is then in this process for a moment.
//
// It is ErrMaterial if it can't be unwrapped, and a *MaterialError if it is no material for the algorithm of b.
func (t *Token) Import(ctx context.Context, job domain.Binding, wrapped []byte, b domain.Binding) (domain.WrappedKey, error) {
	jobAlg, err := algorithmOf(job)
	if err != nil {
		return domain.WrappedKey{}, err
	}
	block := jobAlg.size / 8
	direct := !domain.ImportMethod(job.Algorithm).WrapsAES()
	rest := len(wrapped) - block
	if direct && rest != 0 || !direct && (rest < 24 || rest%8 != 0 || rest > maxWrapped) {
		return domain.WrappedKey{}, ErrMaterial
	}
	return t.makeKey(ctx, opImport, "importing", b, func(ctx context.Context, c *conn, until time.Time, alg *algorithm) (get maker, err error) {
		if !direct && alg.public == nil && rest != alg.size+8 { // all sizes are multiples of 8, so RFC 5649 adds 8 bytes
			return nil, alg.wrongSize()
		}
		key, err := t.unwrap(ctx, c, until, jobAlg, job)
		if err != nil {
			return nil, err
		}
		defer c.destroy(key)
		var opened oaepMessage
		err = c.with(ctx, until, func(s pkcs11.SessionHandle) (err error) {
			opened, err = c.openOAEP(s, key, wrapped[:block])
			return err
		})
		defer opened.clear()
		if err != nil {
			return nil, err
		}
		if !direct {
			return c.underEphemeral(alg, opened.exactly(ephemeralSize), wrapped[block:]), nil
		}
		material, ok := opened.all()
		if !ok {
			return nil, ErrMaterial
		}
		return c.clearly(alg, material)
	})
}

// ImportClear takes material as it is: a secret key's bytes, or a private key's PKCS#8 in DER. The caller clears it.
func (t *Token) ImportClear(ctx context.Context, material []byte, b domain.Binding) (domain.WrappedKey, error) {
	return t.makeKey(ctx, opImport, "importing", b, func(_ context.Context, c *conn, _ time.Time, alg *algorithm) (maker, error) {
		return c.clearly(alg, material)
	})
}

// clearly brings material into the token that is known here, on the way of wrapped material: tokens take private keys in
// no form but their single numbers otherwise.
func (c *conn) clearly(alg *algorithm, material []byte) (maker, error) {
	if alg.public == nil && len(material) != alg.size {
		return nil, alg.wrongSize()
	}
	if len(material) < 16 || len(material) > subtle.MaxWrapSize {
		return nil, &MaterialError{fmt.Sprintf("it has %d bytes, and no private key has; send its PKCS#8 in DER", len(material))}
	}
	ephemeral := make([]byte, ephemeralSize)
	_, _ = rand.Read(ephemeral) // never fails
	kwp, err := subtle.NewKWP(ephemeral)
	if err != nil {
		return nil, fmt.Errorf("wrapping material: %w", err)
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		return nil, fmt.Errorf("wrapping material: %w", err)
	}
	return c.underEphemeral(alg, ephemeral, wrapped), nil
}

// underEphemeral unwraps material in the token under a key that is known here, and cleared then: it serves once.
func (c *conn) underEphemeral(alg *algorithm, ephemeral, wrapped []byte) maker {
	return func(s pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) {
		defer clear(ephemeral)
		var key pkcs11.ObjectHandle
		err := c.withKnown(s, pkcs11.CKK_AES, ephemeral, []uint{pkcs11.CKA_UNWRAP}, func(kek pkcs11.ObjectHandle) (err error) {
			key, err = privately(alg.imported(), func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
				return c.raw.UnwrapKey(s, wrapPad, kek, wrapped, template)
			})
			return err
		})
		return key, blames("C_UnwrapKey", err, ErrMaterial)
	}
}

// rejectsMaterial reports whether a token that is well uses the code for unwrapped bytes that make no key of the template.
// What SoftHSM says of a wrong key, GENERAL_ERROR, is not among them: it may be ill.
func rejectsMaterial(rv pkcs11.Error) bool {
	switch rv {
	case pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE:
		return true
	}
	return false
}

// imported is the template of a key that is imported: that of a fresh one, whose length the bytes decide.
func (a *algorithm) imported() []*pkcs11.Attribute {
	var out []*pkcs11.Attribute
	for _, at := range a.fresh {
		if at.Type != pkcs11.CKA_VALUE_LEN {
			out = append(out, at)
		}
	}
	return out
}
