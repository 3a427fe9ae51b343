package hsm

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"
)

// curve is what is needed to find the public key of a private one whose owner did not say it.
type curve struct {
	name    string
	params  []byte   // the OID in DER, as CKA_EC_PARAMS has it
	p, a, b *big.Int // y² = x³ + ax + b mod p
	gx, gy  *big.Int // the base point
	size    int      // bytes of a coordinate
}

var (
	p256 = nist("P-256", elliptic.P256(), 1, 2, 840, 10045, 3, 1, 7)
	p384 = nist("P-384", elliptic.P384(), 1, 3, 132, 0, 34)
	p521 = nist("P-521", elliptic.P521(), 1, 3, 132, 0, 35)
	// secp256k1 is as SEC 2 (version 2.0) section 2.4.1 has it.
	secp256k1 = newCurve("secp256k1", asn1.ObjectIdentifier{1, 3, 132, 0, 10},
		number("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"), big.NewInt(0), big.NewInt(7),
		number("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
		number("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"))
)

func number(hex string) *big.Int { return new(big.Int).SetBytes(unhex(hex)) }

func nist(name string, c elliptic.Curve, oid ...int) *curve {
	p := c.Params()
	return newCurve(name, oid, p.P, big.NewInt(-3), p.B, p.Gx, p.Gy)
}

func newCurve(name string, oid asn1.ObjectIdentifier, p, a, b, gx, gy *big.Int) *curve {
	params, err := asn1.Marshal(oid)
	if err != nil {
		panic(err) // the OIDs above are fixed
	}
	return &curve{name: name, params: params, p: p, a: a, b: b, gx: gx, gy: gy, size: (p.BitLen() + 7) / 8}
}

// point is the uncompressed form of SEC 1 section 2.3.3.
func (c *curve) point(x, y *big.Int) []byte {
	out := make([]byte, 1+2*c.size)
	out[0] = 4
	x.FillBytes(out[1 : 1+c.size])
	y.FillBytes(out[1+c.size:])
	return out
}

// ys are the two y of the points with this x; none if there is no such point.
func (c *curve) ys(x *big.Int) []*big.Int {
	y2 := new(big.Int).Exp(x, big.NewInt(3), c.p)
	y2.Add(y2, new(big.Int).Mul(c.a, x))
	y2.Add(y2, c.b).Mod(y2, c.p)
	y := new(big.Int).ModSqrt(y2, c.p)
	if y == nil {
		return nil
	}
	return []*big.Int{y, new(big.Int).Sub(c.p, y)}
}

// spki is the SubjectPublicKeyInfo of a point (RFC 5480 section 2). The standard library does not write secp256k1.
func (c *curve) spki(point []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: c.params}},
		asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
}

func sum256(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// look makes the fingerprint of a fresh key, and the DER SubjectPublicKeyInfo of a pair. It is a *MaterialError if the
// key is not of the algorithm; one that the token made itself always is.
func (c *conn) look(s pkcs11.SessionHandle, alg *algorithm, key pkcs11.ObjectHandle) (fingerprint, public []byte, err error) {
	switch {
	case alg.public == nil:
		fingerprint, err = c.lookSecret(s, alg, key)
		return fingerprint, nil, err
	case alg.curve != nil:
		public, err = c.ecPublic(s, alg.curve, key)
	default:
		public, err = c.rsaPublic(s, alg, key)
	}
	return sum256(public), public, err
}

// lookSecret makes the fingerprint, which at once shows that the key is not too short: tokens refuse such keys. That it is
// not too long, its wrapped form has shown. Not all tokens know the length of a key that they have unwrapped.
func (c *conn) lookSecret(s pkcs11.SessionHandle, alg *algorithm, key pkcs11.ObjectHandle) ([]byte, error) {
	fingerprint, err := alg.check(func(m []*pkcs11.Mechanism, text []byte) ([]byte, error) { return sign(c.raw, s, key, m, text) })
	rv, ok := errors.AsType[pkcs11.Error](err)
	switch {
	case !ok:
	case rv == pkcs11.CKR_MECHANISM_INVALID: // SoftHSM, of an AES key of 31 bytes; that it has the mechanism was seen at start
		return nil, alg.wrongSize()
	case rejectsMaterial(rv), aboutInput(rv):
		return nil, blames("C_Sign", rv, alg.wrongSize())
	}
	return fingerprint, err
}

func (c *conn) read(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, attributes ...uint) ([][]byte, error) {
	wanted := make([]*pkcs11.Attribute, len(attributes))
	for i, a := range attributes {
		wanted[i] = attr(a, nil)
	}
	got, err := c.raw.GetAttributeValue(s, key, wanted)
	if err != nil {
		return nil, failed("C_GetAttributeValue", err)
	}
	out := make([][]byte, len(got))
	for i, a := range got {
		out[i] = a.Value
	}
	return out, nil
}

// rsaPublic reads the public numbers and proves by a signature that the private ones belong to them.
func (c *conn) rsaPublic(s pkcs11.SessionHandle, alg *algorithm, key pkcs11.ObjectHandle) ([]byte, error) {
	parts, err := c.read(s, key, pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	n := new(big.Int).SetBytes(parts[0])
	if n.BitLen() != alg.size {
		return nil, alg.wrongSize()
	}
	if !bytes.Equal(bytes.TrimLeft(parts[1], "\x00"), exponent) {
		return nil, &MaterialError{fmt.Sprintf("its public exponent is %d, and keys here have 65537; make the key anew with that exponent", new(big.Int).SetBytes(parts[1]))}
	}
	public := &rsa.PublicKey{N: n, E: 65537}
	digest := sum256([]byte(fingerprintText))
	signature, err := signPKCS1(c.raw, s, key, digest)
	if err != nil {
		return nil, err
	}
	if rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature) != nil {
		return nil, errNoPair
	}
	return x509.MarshalPKIXPublicKey(public)
}

var errNoPair = &MaterialError{"its private and public numbers don't belong together; export the key anew"}

// ecPublic finds the public key of a private one, which does not have it as an attribute: ECDH with the base point gives
// its x, and a signature, which the token verifies, tells which of the two y is its.
func (c *conn) ecPublic(s pkcs11.SessionHandle, curve *curve, key pkcs11.ObjectHandle) ([]byte, error) {
	params, err := c.read(s, key, pkcs11.CKA_EC_PARAMS)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(params[0], curve.params) {
		return nil, &MaterialError{"it is a key on another curve than " + curve.name + "; import it into a key with the algorithm of its curve"}
	}
	x, err := c.timesBase(s, curve, key)
	if err != nil {
		return nil, err
	}
	digest := sum256([]byte(fingerprintText))
	signature, err := sign(c.raw, s, key, mechanism(pkcs11.CKM_ECDSA), digest)
	if err != nil {
		return nil, err
	}
	for _, y := range curve.ys(x) {
		point := curve.point(x, y)
		switch ok, err := c.verifies(s, curve, point, digest, signature); {
		case err != nil:
			return nil, err
		case ok:
			return curve.spki(point)
		}
	}
	return nil, errNoPair
}

// timesBase is the x of the private key times the base point.
func (c *conn) timesBase(s pkcs11.SessionHandle, curve *curve, key pkcs11.ObjectHandle) (x *big.Int, err error) {
	params := pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, curve.point(curve.gx, curve.gy))
	shared, err := c.raw.DeriveKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, params)}, key, []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), attr(pkcs11.CKA_VALUE_LEN, curve.size),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false), attr(pkcs11.CKA_SENSITIVE, false), attr(pkcs11.CKA_EXTRACTABLE, true),
	})
	if err != nil {
		return nil, blames("C_DeriveKey", err, errNoPair)
	}
	defer func() {
		if end := c.raw.DestroyObject(s, shared); err == nil {
			err = failed("C_DestroyObject", end)
		}
	}()
	value, err := c.read(s, shared, pkcs11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(value[0]), nil
}

// verifies has the token verify a signature by the public key that a point is.
func (c *conn) verifies(s pkcs11.SessionHandle, curve *curve, point, digest, signature []byte) (ok bool, err error) {
	octets, err := asn1.Marshal(point) // CKA_EC_POINT is an OCTET STRING
	if err != nil {
		return false, err
	}
	public, err := c.raw.CreateObject(s, []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC), attr(pkcs11.CKA_TOKEN, false),
		attr(pkcs11.CKA_PRIVATE, false), attr(pkcs11.CKA_EC_PARAMS, curve.params), attr(pkcs11.CKA_EC_POINT, octets), attr(pkcs11.CKA_VERIFY, true),
	})
	if err != nil {
		return false, failed("C_CreateObject", err)
	}
	defer func() {
		if end := c.raw.DestroyObject(s, public); err == nil {
			err = failed("C_DestroyObject", end)
		}
	}()
	if err := c.raw.VerifyInit(s, mechanism(pkcs11.CKM_ECDSA), public); err != nil {
		return false, failed("C_VerifyInit", err)
	}
	err = c.raw.Verify(s, digest, signature)
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_SIGNATURE_INVALID)) {
		return false, nil
	}
	return err == nil, failed("C_Verify", err)
}

// wrongSize says that a key is none of the algorithm.
func (a *algorithm) wrongSize() error {
	unit := "bytes"
	if a.public != nil {
		unit = "bits"
	}
	return &MaterialError{fmt.Sprintf("keys with %s have %d %s, and it has not; import it into a key with an algorithm of its size", a.name, a.size, unit)}
}
