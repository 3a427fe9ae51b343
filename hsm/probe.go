package hsm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RSA_*_OAEP_SHA1 is for what was encrypted elsewhere
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// testRSAKey is testRSA2048 of RFC 9500 section 2.1: no secret. To make a key of each size would take seconds.
const testRSAKey = `-----BEGIN RSA TESTING KEY-----
MIIEowIBAAKCAQEAsPnoGUOnrpiSqt4XynxA+HRP7S+BSObI6qJ7fQAVSPtRkqso
tWxQYLEYzNEx5ZSHTGypibVsJylvCfuToDTfMul8b/CZjP2Ob0LdpYrNH6l5hvFE
89FU1nZQF15oVLOpUgA7wGiHuEVawrGfey92UE68mOyUVXGweJIVDdxqdMoPvNNU
l86BU02vlBiESxOuox+dWmuVV7vfYZ79Toh/LUK43YvJh+rhv4nKuF7iHjVjBd9s
B6iDjj70HFldzOQ9r8SRI+9NirupPTkF5AKNe6kUhKJ1luB7S27ZkvB3tSTT3P59
3VVJvnzOjaA1z6Cz+4+eRvcysqhrRgFlwI9TEwIDAQABAoIBAEEYiyDP29vCzx/+
dS3LqnI5BjUuJhXUnc6AWX/PCgVAO+8A+gZRgvct7PtZb0sM6P9ZcLrweomlGezI
FrL0/6xQaa8bBr/ve/a8155OgcjFo6fZEw3Dz7ra5fbSiPmu4/b/kvrg+Br1l77J
aun6uUAs1f5B9wW+vbR7tzbT/mxaUeDiBzKpe15GwcvbJtdIVMa2YErtRjc1/5B2
BGVXyvlJv0SIlcIEMsHgnAFOp1ZgQ08aDzvilLq8XVMOahAhP1O2A3X8hKdXPyrx
IVWE9bS9ptTo+eF6eNl+d7htpKGEZHUxinoQpWEBTv+iOoHsVunkEJ3vjLP3lyI/
fY0NQ1ECgYEA3RBXAjgvIys2gfU3keImF8e/TprLge1I2vbWmV2j6rZCg5r/AS0u
pii5CvJ5/T5vfJPNgPBy8B/yRDs+6PJO1GmnlhOkG9JAIPkv0RBZvR0PMBtbp6nT
Y3yo1lwamBVBfY6rc0sLTzosZh2aGoLzrHNMQFMGaauORzBFpY5lU50CgYEAzPHl
u5DI6Xgep1vr8QvCUuEesCOgJg8Yh1UqVoY/SmQh6MYAv1I9bLGwrb3WW/7kqIoD
fj0aQV5buVZI2loMomtU9KY5SFIsPV+JuUpy7/+VE01ZQM5FdY8wiYCQiVZYju9X
Wz5LxMNoz+gT7pwlLCsC4N+R8aoBk404aF1gum8CgYAJ7VTq7Zj4TFV7Soa/T1eE
k9y8a+kdoYk3BASpCHJ29M5R2KEA7YV9wrBklHTz8VzSTFTbKHEQ5W5csAhoL5Fo
qoHzFFi3Qx7MHESQb9qHyolHEMNx6QdsHUn7rlEnaTTyrXh3ifQtD6C0yTmFXUIS
CW9wKApOrnyKJ9nI0HcuZQKBgQCMtoV6e9VGX4AEfpuHvAAnMYQFgeBiYTkBKltQ
XwozhH63uMMomUmtSG87Sz1TmrXadjAhy8gsG6I0pWaN7QgBuFnzQ/HOkwTm+qKw
AsrZt4zeXNwsH7QXHEJCFnCmqw9QzEoZTrNtHJHpNboBuVnYcoueZEJrP8OnUG3r
UjmopwKBgAqB2KYYMUqAOvYcBnEfLDmyZv9BTVNHbR2lKkMYqv5LlvDaBxVfilE0
2riO4p6BaAdvzXjKeRrGNEKoHNBpOSfYCOM16NjL8hIZB1CaV3WbT5oY+jp7Mzd5
7d56RZOE+ERK2uz/7JX9VSsM/LbH9pJibd4e8mikDS9ntciqOH/3
-----END RSA TESTING KEY-----`

// probe finds out which algorithms the token can be used for, by doing with a key of each what is done with keys: it is
// made or unwrapped, looked at, wrapped, unwrapped for use, and used. RSA keys are not made, which takes too long: one of
// 2048 bits is unwrapped, and of the sizes the token's word is taken.
func (c *conn) probe(caps *Capabilities) error {
	until := time.Now().Add(5 * time.Second)
	pkcs8, err := testPKCS8()
	if err != nil {
		return err
	}
	c.oaep256 = true // if it does OAEP with SHA-256 itself, as is found out with the key that import jobs have
	c.oaep256 = c.with(context.Background(), until, func(s pkcs11.SessionHandle) error { return c.probeMode(s, importers[0], pkcs8) }) == nil
	done := map[*mode]error{} // RSA keys of all sizes are used alike
	for _, alg := range slices.Concat(algorithms, importers) {
		if alg.mode == nil {
			continue
		}
		err, known := done[alg.mode]
		if !known {
			err = c.with(context.Background(), until, func(s pkcs11.SessionHandle) error { return c.probeMode(s, alg, pkcs8) })
		}
		if alg.isRSA() {
			done[alg.mode] = err
			if err == nil {
				err = c.makesRSA(alg.size)
			}
		}
		if err != nil {
			caps.Unsupported[alg.name] = err.Error()
		}
	}
	return nil
}

func (a *algorithm) isRSA() bool { return a.public != nil && a.curve == nil }

// makesRSA is nil if the token says that it makes keys of this size.
func (c *conn) makesRSA(bits int) error {
	info, err := c.raw.GetMechanismInfo(c.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)})
	if err != nil {
		return failed("C_GetMechanismInfo", err)
	}
	if uint(bits) < info.MinKeySize || uint(bits) > info.MaxKeySize {
		return fmt.Errorf("its RSA keys have %d to %d bits", info.MinKeySize, info.MaxKeySize)
	}
	return nil
}

func testPKCS8() ([]byte, error) {
	block, _ := pem.Decode([]byte(strings.ReplaceAll(testRSAKey, "TESTING KEY", "PRIVATE KEY")))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the RSA key for tests: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

func (c *conn) probeMode(s pkcs11.SessionHandle, alg *algorithm, pkcs8 []byte) error {
	get := maker(func(s pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) { return c.fresh(s, alg) })
	if alg.isRSA() {
		of := *alg
		of.size = 2048
		alg = &of
		kwp, err := subtle.NewKWP(wrapVector.key)
		if err != nil {
			return fmt.Errorf("wrapping a test key: %w", err)
		}
		wrapped, err := kwp.Wrap(pkcs8)
		if err != nil {
			return fmt.Errorf("wrapping a test key: %w", err)
		}
		ephemeral := append([]byte(nil), wrapVector.key...)
		get = c.underEphemeral(alg, ephemeral, wrapped)
	}
	key, err := get(s)
	if err != nil {
		return err
	}
	err = c.probeKey(s, alg, key)
	if end := c.raw.DestroyObject(s, key); err == nil {
		err = failed("C_DestroyObject", end)
	}
	return err
}

func (c *conn) probeKey(s pkcs11.SessionHandle, alg *algorithm, key pkcs11.ObjectHandle) error {
	_, public, err := c.look(s, alg, key)
	if err != nil {
		return err
	}
	return c.withKnown(s, pkcs11.CKK_AES, wrapVector.key, []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}, func(kek pkcs11.ObjectHandle) error {
		wrapped, err := c.raw.WrapKey(s, wrapPad, kek, key)
		if err != nil {
			return failed("C_WrapKey", err)
		}
		used, err := privately(alg.inUse, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			return c.raw.UnwrapKey(s, wrapPad, kek, wrapped, template)
		})
		if err != nil {
			return failed("C_UnwrapKey", err)
		}
		err = alg.mode.try(c, s, used, alg, public)
		if end := c.raw.DestroyObject(s, used); err == nil {
			err = failed("C_DestroyObject", end)
		}
		return err
	})
}

func tryMAC(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, of *algorithm, _ []byte) error {
	mac, err := sign(c.raw, s, key, mechanism(of.mode.with[0]), []byte(fingerprintText))
	if err == nil && len(mac) != of.size {
		err = errMismatch
	}
	return err
}

func tryECDSA(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, of *algorithm, public []byte) error {
	digest := sum256([]byte(fingerprintText))
	signature, err := sign(c.raw, s, key, mechanism(pkcs11.CKM_ECDSA), digest)
	if err != nil {
		return err
	}
	point := public[len(public)-1-2*of.curve.size:]
	if ok, err := c.verifies(s, of.curve, point, digest, signature); err != nil || !ok {
		return errors.Join(err, errMismatch)
	}
	return nil
}

// rsaKey reads the public key that look found.
func rsaKey(public []byte) (*rsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("reading an RSA public key: %w", err)
	}
	out, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, errMismatch
	}
	return out, nil
}

func tryPKCS1(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, _ *algorithm, public []byte) error {
	pub, err := rsaKey(public)
	if err != nil {
		return err
	}
	digest := sum256([]byte(fingerprintText))
	signature, err := signPKCS1(c.raw, s, key, digest)
	if err != nil {
		return err
	}
	return rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest, signature)
}

// digestInfo is RFC 8017 section 9.2, step 2, for SHA-256.
type digestInfo struct {
	Algorithm struct {
		OID  asn1.ObjectIdentifier
		Null asn1.RawValue
	}
	Digest []byte
}

// signPKCS1 signs a SHA-256 by RSASSA-PKCS1-v1_5.
func signPKCS1(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, digest []byte) ([]byte, error) {
	info := digestInfo{Digest: digest}
	info.Algorithm.OID, info.Algorithm.Null = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.NullRawValue
	text, err := asn1.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("making a DigestInfo: %w", err)
	}
	signature, err := sign(raw, s, key, mechanism(pkcs11.CKM_RSA_PKCS), text)
	if rv, ok := errors.AsType[pkcs11.Error](err); ok && aboutInput(rv) {
		return nil, blames("C_Sign", rv, errNoPair)
	}
	return signature, err
}

// pssMechanisms are those of PSS with each hash, MGF1 with the same, and a salt of its length.
var pssMechanisms = map[crypto.Hash][2]uint{ //nolint:exhaustive // those that are offered
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256},
	crypto.SHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384},
	crypto.SHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512},
}

func tryPSS(h crypto.Hash) func(*conn, pkcs11.SessionHandle, pkcs11.ObjectHandle, *algorithm, []byte) error {
	return func(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, _ *algorithm, public []byte) error {
		pub, err := rsaKey(public)
		if err != nil {
			return err
		}
		hash := h.New()
		hash.Write([]byte(fingerprintText))
		digest, m := hash.Sum(nil), pssMechanisms[h]
		signature, err := sign(c.raw, s, key, []*pkcs11.Mechanism{
			pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(m[0], m[1], uint(h.Size()))),
		}, digest)
		if err != nil {
			return err
		}
		return rsa.VerifyPSS(pub, h, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
}

func tryOAEP(h crypto.Hash) func(*conn, pkcs11.SessionHandle, pkcs11.ObjectHandle, *algorithm, []byte) error {
	return func(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, _ *algorithm, public []byte) error {
		pub, err := rsaKey(public)
		if err != nil {
			return err
		}
		text := []byte(fingerprintText)
		if h == crypto.SHA256 {
			block, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, text, nil)
			if err != nil {
				return fmt.Errorf("encrypting to a test key: %w", err)
			}
			opened, err := c.openOAEP(s, key, block)
			if err != nil {
				return err
			}
			got, _ := opened.all()
			return equal(got, text)
		}
		block, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, text, nil) //nolint:gosec // as above
		if err != nil {
			return fmt.Errorf("encrypting to a test key: %w", err)
		}
		if err := c.raw.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP,
			pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil))}, key); err != nil {
			return failed("C_DecryptInit", err)
		}
		got, err := c.raw.Decrypt(s, block)
		if err != nil {
			return failed("C_Decrypt", err)
		}
		return equal(got, text)
	}
}
