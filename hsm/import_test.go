package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
	"pgregory.net/rapid"

	"github.com/keyledger/kms/domain"
)

// purposeOf is the purpose of keys with an algorithm.
func purposeOf(a domain.Algorithm) domain.Purpose {
	for _, o := range domain.Offers() {
		if slices.Contains(o.Algorithms, a) {
			return o.Purpose
		}
	}
	return ""
}

func bindingFor(a domain.Algorithm, origin domain.Origin) domain.Binding {
	b := newBinding()
	b.Algorithm, b.Purpose, b.Origin = a, purposeOf(a), origin
	return b
}

// TestEveryAlgorithmIsOffered: the rows are those of the domain, each with a kind of its own, and SoftHSM can do all.
func TestEveryAlgorithmIsOffered(t *testing.T) {
	kinds := map[byte]domain.Algorithm{}
	for _, a := range slices.Concat(algorithms, importers) {
		if other, twice := kinds[a.kind]; twice {
			t.Errorf("%s and %s are both of kind %d", a.name, other, a.kind)
		}
		kinds[a.kind] = a.name
	}
	rows := 0
	for _, o := range domain.Offers() {
		for _, a := range o.Algorithms {
			rows++
			if err := shared.Capabilities().Supports(a, domain.HSM); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
	if rows != len(algorithms) {
		t.Errorf("%d algorithms are offered, %d have rows", rows, len(algorithms))
	}
	for _, a := range importers {
		if why, no := shared.Capabilities().Unsupported[a.name]; no {
			t.Errorf("%s: %s", a.name, why)
		}
	}
}

// use tries a stored key once, as the probe does.
func use(t *testing.T, b domain.Binding, public []byte) {
	t.Helper()
	alg, err := algorithmOf(b)
	if err != nil {
		t.Fatal(err)
	}
	if alg.mode == nil {
		iv, ct, err := shared.Encrypt(t.Context(), b, []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := shared.Decrypt(t.Context(), b, iv, ct, nil); err != nil || string(got) != "x" {
			t.Errorf("decrypted %q, %v", got, err)
		}
		return
	}
	err = shared.do(t.Context(), opUnwrap, func(ctx context.Context, c *conn, until time.Time) error {
		p, err := c.ownPair(ctx, until, testRoot)
		if err != nil {
			return err
		}
		key, err := shared.unwrap(ctx, c, until, alg, b)
		if err != nil {
			return err
		}
		defer c.destroy(key)
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			if err := alg.mode.try(c, s, key, alg, public); err != nil {
				return err
			}
			if _, err := c.raw.WrapKey(s, wrapPad, p.kek, key); err == nil {
				t.Error("a key in use can be wrapped")
			}
			if err := c.raw.SetAttributeValue(s, key, []*pkcs11.Attribute{attr(pkcs11.CKA_DERIVE, true)}); err == nil {
				t.Error("a key in use can be given more uses")
			}
			if alg.curve != nil {
				if _, err := c.timesBase(s, alg.curve, key); err == nil {
					t.Error("a key that signs derives")
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Errorf("using a key with %s: %v", b.Algorithm, err)
	}
}

// TestGenerateEveryKind makes keys of every kind, and uses what was stored of it.
func TestGenerateEveryKind(t *testing.T) {
	for _, a := range algorithms {
		if a.isRSA() && a.size > 2048 && a.mode != oaepSHA1 {
			continue // making these takes long, and they are used as those of 2048 bits are
		}
		t.Run(string(a.name), func(t *testing.T) {
			b := bindingFor(a.name, domain.Generated)
			w, err := shared.Generate(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			blobs.put(b, w.Blob)
			if (w.PublicKey != nil) != (a.public != nil) || len(w.Fingerprint) < 16 {
				t.Errorf("a public key of %d bytes, a fingerprint of %d", len(w.PublicKey), len(w.Fingerprint))
			}
			use(t, b, w.PublicKey)
		})
	}
}

// newJob makes the key of an import job.
func newJob(t *testing.T, m domain.ImportMethod) (domain.Binding, *rsa.PublicKey) {
	t.Helper()
	b := newBinding()
	b.Algorithm, b.Purpose = domain.Algorithm(m), domain.Import
	w, err := shared.Generate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	blobs.put(b, w.Blob)
	public, err := rsaKey(w.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b, public
}

func oaep(t *testing.T, to *rsa.PublicKey, message []byte) []byte {
	t.Helper()
	block, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, to, message, nil)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

// wrapFor is what a caller sends for import by RSA-OAEP and AES.
func wrapFor(t *testing.T, to *rsa.PublicKey, material []byte) []byte {
	t.Helper()
	ephemeral := randomBytes(32)
	kwp, err := subtle.NewKWP(ephemeral)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	return append(oaep(t, to, ephemeral), wrapped...)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaPrivate(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// secp256k1PKCS8 is a private key on secp256k1, which the standard library does not write.
func secp256k1PKCS8(t *testing.T, d []byte) []byte {
	t.Helper()
	inner, err := asn1.Marshal(struct {
		Version int
		Key     []byte
	}{1, d})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Version   int
		Algorithm struct {
			OID    asn1.ObjectIdentifier
			Params asn1.RawValue
		}
		Key []byte
	}{0, struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue
	}{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.RawValue{FullBytes: secp256k1.params}}, inner})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestImport brings keys of every kind in, through a job of each method that can, and in the clear, and uses them.
func TestImport(t *testing.T) {
	p256, p384, p521, rsa2048 := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521()), rsaPrivate(t, 2048)
	one := make([]byte, 32)
	one[31] = 1 // the private key 1, whose public key is the base point
	materials := []struct {
		alg      domain.Algorithm
		material []byte
		public   any
		point    []byte
	}{
		{alg: domain.AES256GCM, material: randomBytes(32)},
		{alg: domain.HMACSHA256, material: randomBytes(32)},
		{alg: domain.HMACSHA384, material: randomBytes(48)},
		{alg: domain.HMACSHA512, material: randomBytes(64)},
		{alg: domain.ECP256SHA256, material: pkcs8(t, p256), public: p256.Public()},
		{alg: domain.ECP384SHA384, material: pkcs8(t, p384), public: p384.Public()},
		{alg: domain.ECP521SHA512, material: pkcs8(t, p521), public: p521.Public()},
		{alg: domain.ECSecp256k1SHA256, material: secp256k1PKCS8(t, one), point: secp256k1.point(secp256k1.gx, secp256k1.gy)},
		{alg: domain.RSA2048PSSSHA512, material: pkcs8(t, rsa2048), public: rsa2048.Public()},
		{alg: domain.RSA2048OAEPSHA256, material: pkcs8(t, rsa2048), public: rsa2048.Public()},
	}
	for _, method := range []domain.ImportMethod{"", domain.RSAOAEP3072SHA256AES256, domain.RSAOAEP4096SHA256AES256, domain.RSAOAEP3072SHA256, domain.RSAOAEP4096SHA256} {
		var job domain.Binding
		var to *rsa.PublicKey
		origin := domain.ImportedClear
		if method != "" {
			job, to = newJob(t, method)
			origin = method.Origin()
		}
		for _, m := range materials {
			t.Run(fmt.Sprintf("%s/%s", method, m.alg), func(t *testing.T) {
				b := bindingFor(m.alg, origin)
				var w domain.WrappedKey
				var err error
				switch {
				case method == "":
					w, err = shared.ImportClear(t.Context(), m.material, b)
				case method.WrapsAES():
					w, err = shared.Import(t.Context(), job, wrapFor(t, to, m.material), b)
				case len(m.material) > to.Size()-2*hLen-2:
					t.Skip("too large to be wrapped by itself")
				default:
					w, err = shared.Import(t.Context(), job, oaep(t, to, m.material), b)
				}
				if err != nil {
					t.Fatal(err)
				}
				blobs.put(b, w.Blob)
				want := []byte(nil)
				if m.public != nil {
					if want, err = x509.MarshalPKIXPublicKey(m.public); err != nil {
						t.Fatal(err)
					}
				}
				if m.point != nil {
					if want, err = secp256k1.spki(m.point); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(w.PublicKey, want) {
					t.Errorf("public key %x, want %x", w.PublicKey, want)
				}
				use(t, b, w.PublicKey)
				again, err := shared.ImportClear(t.Context(), m.material, b)
				if err != nil || !bytes.Equal(again.Fingerprint, w.Fingerprint) {
					t.Errorf("the same material has another fingerprint: %v", err)
				}
			})
		}
	}
}

// TestImportRefuses: whatever is wrong with a wrapped key is one error, and what is no material for the key is told.
func TestImportRefuses(t *testing.T) {
	job, to := newJob(t, domain.RSAOAEP3072SHA256AES256)
	_, another := newJob(t, domain.RSAOAEP3072SHA256AES256)
	directJob, directTo := newJob(t, domain.RSAOAEP3072SHA256)
	good := wrapFor(t, to, randomBytes(32))
	flipped := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	shortEphemeral := func() []byte {
		kwp, _ := subtle.NewKWP(randomBytes(16))
		wrapped, _ := kwp.Wrap(randomBytes(32))
		return append(oaep(t, to, randomBytes(16)), wrapped...)
	}
	for name, wrapped := range map[string][]byte{
		"first bit":           flipped(0),
		"in the OAEP":         flipped(100),
		"end of the OAEP":     flipped(383),
		"start of the AES":    flipped(384),
		"end":                 flipped(len(good) - 1),
		"for another job":     wrapFor(t, another, randomBytes(32)),
		"cut":                 good[:len(good)-8],
		"cut to bytes":        good[:len(good)-1],
		"longer":              append(bytes.Clone(good), make([]byte, 8)...),
		"only OAEP":           good[:384],
		"nothing":             nil,
		"above the modulus":   append(bytes.Repeat([]byte{0xff}, 384), good[384:]...),
		"zeros":               make([]byte, len(good)),
		"short ephemeral key": shortEphemeral(),
		"label": func() []byte {
			block, _ := rsa.EncryptOAEP(sha256.New(), rand.Reader, to, randomBytes(32), []byte("label"))
			return append(block, good[384:]...)
		}(),
	} {
		w, err := shared.Import(t.Context(), job, wrapped, bindingFor(domain.AES256GCM, domain.Imported))
		_, size := errors.AsType[*MaterialError](err) // told by the length of the blob alone, which is no secret
		if !errors.Is(err, ErrMaterial) && (!size || len(wrapped) == len(good)) || w.Blob != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := oaep(t, directTo, randomBytes(32))
	bad[7] ^= 1
	if _, err := shared.Import(t.Context(), directJob, bad, bindingFor(domain.AES256GCM, domain.ImportedClear)); !errors.Is(err, ErrMaterial) {
		t.Errorf("direct: %v", err)
	}

	small, third := rsaPrivate(t, 1024), rsaPrivate(t, 2048)
	oddly := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: third.N, E: 3}, D: third.D, Primes: third.Primes}
	mixed := &rsa.PrivateKey{PublicKey: third.PublicKey, Primes: rsaPrivate(t, 2048).Primes}
	mixed.D = new(big.Int).Add(third.D, big.NewInt(2))
	for _, m := range []struct {
		name     string
		alg      domain.Algorithm
		material []byte
	}{
		{"AES-128", domain.AES256GCM, randomBytes(16)},
		{"AES of 31 bytes", domain.AES256GCM, randomBytes(31)},
		{"AES of 64 bytes", domain.AES256GCM, randomBytes(64)},
		{"short HMAC", domain.HMACSHA512, randomBytes(32)},
		{"long HMAC", domain.HMACSHA256, randomBytes(33)},
		{"EC for AES", domain.AES256GCM, pkcs8(t, ecKey(t, elliptic.P256()))},
		{"AES for EC", domain.ECP256SHA256, randomBytes(32)},
		{"RSA for EC", domain.ECP256SHA256, pkcs8(t, third)},
		{"EC for RSA", domain.RSA2048PSSSHA256, pkcs8(t, ecKey(t, elliptic.P256()))},
		{"another curve", domain.ECP256SHA256, pkcs8(t, ecKey(t, elliptic.P384()))},
		{"secp256k1 for P-256", domain.ECP256SHA256, secp256k1PKCS8(t, randomBytes(32))},
		{"EC key 0", domain.ECSecp256k1SHA256, secp256k1PKCS8(t, make([]byte, 32))},
		{"RSA-1024", domain.RSA2048PSSSHA256, pkcs8(t, small)},
		{"RSA-2048 for 3072", domain.RSA3072PSSSHA256, pkcs8(t, third)},
		{"noise", domain.RSA2048PSSSHA256, randomBytes(1200)},
		{"PKCS#1", domain.RSA2048PSSSHA256, x509.MarshalPKCS1PrivateKey(third)},
		{"parts of two keys", domain.RSA2048PSSSHA256, pkcs8Raw(t, mixed)},
		{"other exponent", domain.RSA2048PSSSHA256, pkcs8Raw(t, oddly)},
	} {
		_, err := shared.Import(t.Context(), job, wrapFor(t, to, m.material), bindingFor(m.alg, domain.Imported))
		_, told := errors.AsType[*MaterialError](err)
		if !told && !errors.Is(err, ErrMaterial) {
			t.Errorf("%s: %v", m.name, err)
		}
		_, err = shared.ImportClear(t.Context(), m.material, bindingFor(m.alg, domain.ImportedClear))
		if _, clear := errors.AsType[*MaterialError](err); !clear && !errors.Is(err, ErrMaterial) {
			t.Errorf("%s in the clear: %v", m.name, err)
		}
		t.Logf("%s: %v", m.name, err)
	}
	if err := shared.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := shared.Import(t.Context(), job, good, bindingFor(domain.AES256GCM, domain.Imported)); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// pkcs8Raw writes the numbers as they are.
func pkcs8Raw(t *testing.T, k *rsa.PrivateKey) []byte {
	t.Helper()
	p, q := k.Primes[0], k.Primes[1]
	one := big.NewInt(1)
	inner, err := asn1.Marshal(struct {
		Version                  int
		N                        *big.Int
		E                        int
		D, P, Q, Dp, Dq, Inverse *big.Int
	}{
		0, k.N, k.E, k.D, p, q,
		new(big.Int).Mod(k.D, new(big.Int).Sub(p, one)), new(big.Int).Mod(k.D, new(big.Int).Sub(q, one)), new(big.Int).ModInverse(q, p),
	})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		Version   int
		Algorithm struct {
			OID  asn1.ObjectIdentifier
			Null asn1.RawValue
		}
		Key []byte
	}{0, struct {
		OID  asn1.ObjectIdentifier
		Null asn1.RawValue
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, asn1.NullRawValue}, inner})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestJobKeyEnforced: what a job's key decrypts is for nothing but import, and the key itself can't be had.
func TestJobKeyEnforced(t *testing.T) {
	job, _ := newJob(t, domain.RSAOAEP3072SHA256AES256)
	alg, err := algorithmOf(job)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := shared.Encrypt(t.Context(), job, []byte("x"), nil); err == nil {
		t.Error("a job's key encrypts")
	}
	asKey := job
	asKey.Purpose, asKey.Algorithm = domain.AsymmetricDecrypt, domain.RSA3072OAEPSHA256
	blob, err := blobs.Blob(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	blobs.put(asKey, blob)
	err = shared.do(t.Context(), opUnwrap, func(ctx context.Context, c *conn, until time.Time) error {
		if of, err := algorithmOf(asKey); err != nil {
			return err
		} else if _, err := shared.unwrap(ctx, c, until, of, asKey); !errors.Is(err, ErrBlob) {
			t.Errorf("as another key: %v", err)
		}
		key, err := shared.unwrap(ctx, c, until, alg, job)
		if err != nil {
			return err
		}
		defer c.destroy(key)
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			p, err := c.raw.GetAttributeValue(s, key, []*pkcs11.Attribute{attr(pkcs11.CKA_PRIVATE_EXPONENT, nil)})
			if err == nil && len(p[0].Value) > 0 {
				t.Error("its private exponent can be read")
			}
			if _, err := sign(c.raw, s, key, mechanism(pkcs11.CKM_RSA_PKCS), sum256(nil)); err == nil {
				t.Error("it signs")
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnpadOAEP compares with the standard library's OAEP, and breaks each of the checks.
func TestUnpadOAEP(t *testing.T) {
	key := rsaPrivate(t, 1024)
	pad := func(message []byte) []byte {
		block := oaep(t, &key.PublicKey, message)
		em := make([]byte, key.Size())
		return new(big.Int).Exp(new(big.Int).SetBytes(block), key.D, key.N).FillBytes(em)
	}
	for n := range key.Size() - 2*hLen - 1 {
		message := randomBytes(n)
		if got, ok := unpadOAEP(pad(message)).all(); !ok || !bytes.Equal(got, message) {
			t.Errorf("%d bytes: %x, %v", n, got, ok)
		}
	}
	want := randomBytes(32)
	if got := unpadOAEP(pad(want)).exactly(32); !bytes.Equal(got, want) {
		t.Errorf("exactly 32 bytes: %x, want %x", got, want)
	}
	for _, n := range []int{0, 16, 31, 33, 62} {
		message := randomBytes(n)
		if got := unpadOAEP(pad(message)).exactly(32); len(got) != 32 || bytes.HasSuffix(append(make([]byte, 32), message...), got) {
			t.Errorf("a message of %d bytes passes as one of 32", n)
		}
	}
	if bad := unpadOAEP(make([]byte, 128)); bytes.Equal(bad.exactly(32), bad.exactly(32)) {
		t.Error("what is put in the place of no message is not random")
	}
	rapid.Check(t, func(r *rapid.T) {
		em := pad(rapid.SliceOfN(rapid.Byte(), 0, 62).Draw(r, "message"))
		bit := rapid.IntRange(0, 8*len(em)-1).Draw(r, "bit")
		em[bit/8] ^= 1 << (bit % 8)
		if _, ok := unpadOAEP(em).all(); ok {
			r.Fatalf("bit %d changed, and it opens", bit)
		}
	})
}

// TestUnpadOAEPStructure breaks one rule of the padding at a time, with everything else right.
func TestUnpadOAEPStructure(t *testing.T) {
	label := sha256.Sum256(nil)
	for name, c := range map[string]struct {
		first byte
		db    func(db []byte)
		ok    bool
	}{
		"right":                  {0, func(db []byte) { db[40] = 1 }, true},
		"empty message":          {0, func(db []byte) { db[len(db)-1] = 1 }, true},
		"no padding":             {0, func(db []byte) { db[32] = 1 }, true},
		"a message of ones":      {0, func(db []byte) { copy(db[40:], bytes.Repeat([]byte{1}, len(db)-40)) }, true},
		"first byte":             {1, func(db []byte) { db[40] = 1 }, false},
		"first byte 128":         {128, func(db []byte) { db[40] = 1 }, false},
		"label":                  {0, func(db []byte) { db[40] = 1; db[0] ^= 1 }, false},
		"end of label":           {0, func(db []byte) { db[40] = 1; db[31] ^= 128 }, false},
		"no one":                 {0, func([]byte) {}, false},
		"two for one":            {0, func(db []byte) { db[40] = 2 }, false},
		"noise in the padding":   {0, func(db []byte) { db[40] = 1; db[35] = 7 }, false},
		"noise at its start":     {0, func(db []byte) { db[40] = 1; db[32] = 255 }, false},
		"another label's digest": {0, func(db []byte) { other := sha256.Sum256([]byte("x")); copy(db, other[:]); db[40] = 1 }, false},
	} {
		em := make([]byte, 384)
		em[0] = c.first
		seed, db := em[1:1+hLen], em[1+hLen:]
		copy(seed, randomBytes(hLen))
		copy(db, label[:])
		c.db(db)
		want := bytes.Clone(db)
		mgf1(seed, db) // as RFC 8017 section 7.1.1 masks: db by the seed, then the seed by that
		mgf1(db, seed)
		got, ok := unpadOAEP(em).all()
		if ok != c.ok {
			t.Errorf("%s: accepted = %v", name, ok)
		}
		if ok && !bytes.HasSuffix(want, got) {
			t.Errorf("%s: another message", name)
		}
	}
	if _, ok := unpadOAEP(make([]byte, 65)).all(); ok {
		t.Error("a block that is too short opens")
	}
}

// TestPoints: the arithmetic of curves against the standard library's.
func TestPoints(t *testing.T) {
	for _, c := range []struct {
		curve *curve
		std   elliptic.Curve
	}{{p256, elliptic.P256()}, {p384, elliptic.P384()}, {p521, elliptic.P521()}} {
		for range 20 {
			key := ecKey(t, c.std)
			point, err := key.PublicKey.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			x := new(big.Int).SetBytes(point[1 : 1+c.curve.size])
			found := false
			for _, y := range c.curve.ys(x) {
				found = found || bytes.Equal(c.curve.point(x, y), point)
			}
			der, err := c.curve.spki(point)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := x509.ParsePKIXPublicKey(der)
			if err != nil || !found || !key.PublicKey.Equal(parsed.(crypto.PublicKey)) {
				t.Errorf("%s: found = %v, %v", c.curve.name, found, err)
			}
		}
	}
	if ys := secp256k1.ys(secp256k1.gx); len(ys) != 2 || ys[0].Cmp(secp256k1.gy) != 0 && ys[1].Cmp(secp256k1.gy) != 0 {
		t.Error("the base point of secp256k1 is not on it")
	}
	if ys := secp256k1.ys(big.NewInt(5)); ys != nil {
		t.Error("secp256k1 has no point with x = 5")
	}
}
