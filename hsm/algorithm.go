package hsm

import (
	"crypto"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// algorithm says how keys of one domain.Algorithm are made and used. A further algorithm is a further row.
type algorithm struct {
	name domain.Algorithm
	// kind names the row in stored blobs; never reuse one.
	kind byte
	// generator and fresh make a key whose only uses are to be wrapped and to be looked at: to give its fingerprint, and
	// the public key of an imported one. It is the only extractable object there is, and lives for the moment that
	// Generate or Import takes.
	generator []*pkcs11.Mechanism
	fresh     []*pkcs11.Attribute
	// public is the template of the public half of a pair that is made; nil for secret keys.
	public []*pkcs11.Attribute
	// size is the bytes of a secret key, or the bits of an RSA modulus.
	size int
	// check makes the fingerprint of a secret key.
	check func(sign func(m []*pkcs11.Mechanism, text []byte) ([]byte, error)) ([]byte, error)
	// curve is that of an EC key.
	curve *curve
	// mode is how pairs and MAC keys are used; nil for AES.
	mode *mode
	// inUse is what an unwrapped key is: a session object that can do the algorithm and nothing else. It is a public
	// object, i.e. one that sessions of this process could use without a login (PKCS#11 v2.40 section 2.6), of which there
	// are none; its value stays secret all the same. SoftHSM keeps the value of a private one encrypted in memory, and
	// decrypts it for each use under one lock: that costs 15 % of all encryptions, and the key to it is in the same memory.
	inUse []*pkcs11.Attribute
}

// fingerprintText is what the check value of a secret key is the CMAC of.
const fingerprintText = "keyledger fingerprint v1"

var aes256GCM = &algorithm{
	name:      domain.AES256GCM,
	kind:      1,
	size:      32,
	generator: mechanism(pkcs11.CKM_AES_KEY_GEN),
	check: func(sign func([]*pkcs11.Mechanism, []byte) ([]byte, error)) ([]byte, error) {
		return sign(aesCMAC, []byte(fingerprintText))
	},
	fresh: []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		attr(pkcs11.CKA_VALUE_LEN, 32), attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true),
		attr(pkcs11.CKA_ENCRYPT, false), attr(pkcs11.CKA_DECRYPT, false),
		attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_VERIFY, false),
		attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(pkcs11.CKM_AES_CMAC)),
	},
	inUse: []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false),
		attr(pkcs11.CKA_ENCRYPT, true), attr(pkcs11.CKA_DECRYPT, true),
		attr(pkcs11.CKA_SIGN, false), attr(pkcs11.CKA_VERIFY, false),
		attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(pkcs11.CKM_AES_GCM)),
		attr(pkcs11.CKA_MODIFIABLE, false), // last: SoftHSM takes the attributes one by one
	},
}

// mode is a way to use the keys of some algorithms: one use, by some mechanisms.
type mode struct {
	may  uint
	with []uint
	// try uses a key once and checks what came of it: by the public key, or, of a MAC key, by its length.
	try func(c *conn, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, of *algorithm, public []byte) error
}

// algorithms are all that keys can have, and importers those of the keys of import jobs. Kinds are given once: new rows go
// to the end, with new numbers.
var (
	algorithms = slices.Concat([]*algorithm{aes256GCM},
		[]*algorithm{
			hmacRow(domain.HMACSHA256, 2, 32, pkcs11.CKM_SHA256_HMAC),
			hmacRow(domain.HMACSHA384, 3, 48, pkcs11.CKM_SHA384_HMAC),
			hmacRow(domain.HMACSHA512, 4, 64, pkcs11.CKM_SHA512_HMAC),
			ecRow(domain.ECP256SHA256, 5, p256),
			ecRow(domain.ECP384SHA384, 6, p384),
			ecRow(domain.ECP521SHA512, 7, p521),
			ecRow(domain.ECSecp256k1SHA256, 8, secp256k1),
		},
		rsaRows(2048, 10, 20, 30), rsaRows(3072, 12, 23, 33), rsaRows(4096, 14, 26, 36))

	importers = []*algorithm{
		rsaRow(domain.Algorithm(domain.RSAOAEP3072SHA256AES256), 50, 3072, importing),
		rsaRow(domain.Algorithm(domain.RSAOAEP4096SHA256AES256), 51, 4096, importing),
		rsaRow(domain.Algorithm(domain.RSAOAEP3072SHA256), 52, 3072, importing),
		rsaRow(domain.Algorithm(domain.RSAOAEP4096SHA256), 53, 4096, importing),
	}
)

// sessionKey is the template of a session object that may do what is listed, and nothing else, by the mechanisms that are
// listed.
func sessionKey(class, keyType uint, extractable bool, may, with []uint, rest ...*pkcs11.Attribute) []*pkcs11.Attribute {
	out := append([]*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, class), attr(pkcs11.CKA_KEY_TYPE, keyType),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, extractable),
	}, rest...)
	for _, use := range []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_DERIVE} {
		out = append(out, attr(use, slices.Contains(may, use)))
	}
	out = append(out, attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(with...)))
	if !extractable {
		out = append(out, attr(pkcs11.CKA_MODIFIABLE, false))
	}
	return out
}

// hmacRow is for MAC keys as long as their hash. The fingerprint is the SHA-256 of a MAC of a fixed text: not the MAC
// itself, which a caller could be shown as one that the key's owner made.
func hmacRow(name domain.Algorithm, kind byte, size int, mech uint) *algorithm {
	m := &mode{may: pkcs11.CKA_SIGN, with: []uint{mech}, try: tryMAC}
	return &algorithm{
		name: name, kind: kind, size: size, mode: m, generator: mechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN),
		fresh: sessionKey(pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET, true, []uint{m.may}, m.with, attr(pkcs11.CKA_VALUE_LEN, size)),
		inUse: sessionKey(pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET, false, []uint{m.may}, m.with),
		check: func(sign func([]*pkcs11.Mechanism, []byte) ([]byte, error)) ([]byte, error) {
			mac, err := sign(mechanism(mech), []byte(fingerprintText))
			return sum256(mac), err
		},
	}
}

func ecRow(name domain.Algorithm, kind byte, c *curve) *algorithm {
	m := &mode{may: pkcs11.CKA_SIGN, with: []uint{pkcs11.CKM_ECDSA}, try: tryECDSA}
	return &algorithm{
		name: name, kind: kind, curve: c, mode: m, generator: mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN),
		public: []*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_VERIFY, false), attr(pkcs11.CKA_EC_PARAMS, c.params)},
		fresh: sessionKey(pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC, true,
			[]uint{pkcs11.CKA_SIGN, pkcs11.CKA_DERIVE}, []uint{pkcs11.CKM_ECDSA, pkcs11.CKM_ECDH1_DERIVE}),
		inUse: sessionKey(pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC, false, []uint{m.may}, m.with),
	}
}

// How RSA keys are used. A token that can't do OAEP with SHA-256 does the RSA of it only; see oaep.go.
var (
	oaepSHA1   = &mode{may: pkcs11.CKA_DECRYPT, with: []uint{pkcs11.CKM_RSA_PKCS_OAEP}, try: tryOAEP(crypto.SHA1)}
	oaepSHA256 = &mode{may: pkcs11.CKA_DECRYPT, with: []uint{pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.CKM_RSA_X_509}, try: tryOAEP(crypto.SHA256)}
	importing  = &mode{may: pkcs11.CKA_DECRYPT, with: []uint{pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.CKM_RSA_X_509}, try: tryOAEP(crypto.SHA256)}
	pkcs1      = &mode{may: pkcs11.CKA_SIGN, with: []uint{pkcs11.CKM_RSA_PKCS}, try: tryPKCS1}
	pss        = map[crypto.Hash]*mode{ //nolint:exhaustive // those that are offered
		crypto.SHA256: {may: pkcs11.CKA_SIGN, with: []uint{pkcs11.CKM_RSA_PKCS_PSS}, try: tryPSS(crypto.SHA256)},
		crypto.SHA384: {may: pkcs11.CKA_SIGN, with: []uint{pkcs11.CKM_RSA_PKCS_PSS}, try: tryPSS(crypto.SHA384)},
		crypto.SHA512: {may: pkcs11.CKA_SIGN, with: []uint{pkcs11.CKM_RSA_PKCS_PSS}, try: tryPSS(crypto.SHA512)},
	}
)

// rsaRows are the algorithms of RSA keys of one size; kinds are counted from the three numbers.
func rsaRows(bits int, oaepKind, pssKind, pkcs1Kind byte) []*algorithm {
	name := func(scheme string) domain.Algorithm { return domain.Algorithm(fmt.Sprintf("RSA_%d_%s", bits, scheme)) }
	out := []*algorithm{rsaRow(name("OAEP_SHA1"), oaepKind, bits, oaepSHA1), rsaRow(name("OAEP_SHA256"), oaepKind+1, bits, oaepSHA256)}
	for i, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		suffix := fmt.Sprintf("SHA%d", 8*h.Size())
		out = append(out, rsaRow(name("PSS_"+suffix), pssKind+byte(i), bits, pss[h]), rsaRow(name("PKCS1_"+suffix), pkcs1Kind+byte(i), bits, pkcs1))
	}
	return out
}

// exponent is the public exponent of every RSA key: 65537.
var exponent = []byte{1, 0, 1}

func rsaRow(name domain.Algorithm, kind byte, bits int, m *mode) *algorithm {
	return &algorithm{
		name: name, kind: kind, size: bits, mode: m, generator: mechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN),
		public: []*pkcs11.Attribute{
			attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_VERIFY, false), attr(pkcs11.CKA_ENCRYPT, false),
			attr(pkcs11.CKA_MODULUS_BITS, bits), attr(pkcs11.CKA_PUBLIC_EXPONENT, exponent),
		},
		fresh: sessionKey(pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA, true, []uint{pkcs11.CKA_SIGN}, []uint{pkcs11.CKM_RSA_PKCS}),
		inUse: sessionKey(pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA, false, []uint{m.may}, m.with),
	}
}

// algorithmOf is the row for keys bound to b.
func algorithmOf(b domain.Binding) (*algorithm, error) {
	if b.Protection != domain.HSM {
		return nil, fmt.Errorf("%w: protection level %q", ErrUnsupported, b.Protection)
	}
	rows := algorithms
	if b.Purpose == domain.Import {
		rows = importers
	}
	for _, a := range rows {
		if a.name == b.Algorithm {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w: algorithm %q", ErrUnsupported, b.Algorithm)
}
