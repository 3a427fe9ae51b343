package domain

import (
	"slices"
	"strings"
)

// Purpose is what a key may be used for. It never changes in a key's life.
type Purpose string

// Algorithm is how a key is used; it fixes the kind and the size of its material.
type Algorithm string

// ProtectionLevel says where the clear key may be: in the token only (HSM), or for moments in this process (SOFTWARE).
type ProtectionLevel string

// Origin says where a version's material came from.
type Origin string

// The purposes, algorithms and levels that exist so far. Their names are those of the API and of the stored events.
const (
	EncryptDecrypt    Purpose = "ENCRYPT_DECRYPT"
	MAC               Purpose = "MAC"
	SignVerify        Purpose = "SIGN_VERIFY"
	AsymmetricDecrypt Purpose = "ASYMMETRIC_DECRYPT"

	AES256GCM Algorithm = "AES_256_GCM"

	HMACSHA256 Algorithm = "HMAC_SHA256"
	HMACSHA384 Algorithm = "HMAC_SHA384"
	HMACSHA512 Algorithm = "HMAC_SHA512"

	ECP256SHA256       Algorithm = "EC_P256_SHA256"
	ECP384SHA384       Algorithm = "EC_P384_SHA384"
	ECP521SHA512       Algorithm = "EC_P521_SHA512"
	ECSecp256k1SHA256  Algorithm = "EC_SECP256K1_SHA256"
	RSA2048PSSSHA256   Algorithm = "RSA_2048_PSS_SHA256"
	RSA2048PSSSHA384   Algorithm = "RSA_2048_PSS_SHA384"
	RSA2048PSSSHA512   Algorithm = "RSA_2048_PSS_SHA512"
	RSA2048PKCS1SHA256 Algorithm = "RSA_2048_PKCS1_SHA256"
	RSA2048PKCS1SHA384 Algorithm = "RSA_2048_PKCS1_SHA384"
	RSA2048PKCS1SHA512 Algorithm = "RSA_2048_PKCS1_SHA512"
	RSA3072PSSSHA256   Algorithm = "RSA_3072_PSS_SHA256"
	RSA3072PSSSHA384   Algorithm = "RSA_3072_PSS_SHA384"
	RSA3072PSSSHA512   Algorithm = "RSA_3072_PSS_SHA512"
	RSA3072PKCS1SHA256 Algorithm = "RSA_3072_PKCS1_SHA256"
	RSA3072PKCS1SHA384 Algorithm = "RSA_3072_PKCS1_SHA384"
	RSA3072PKCS1SHA512 Algorithm = "RSA_3072_PKCS1_SHA512"
	RSA4096PSSSHA256   Algorithm = "RSA_4096_PSS_SHA256"
	RSA4096PSSSHA384   Algorithm = "RSA_4096_PSS_SHA384"
	RSA4096PSSSHA512   Algorithm = "RSA_4096_PSS_SHA512"
	RSA4096PKCS1SHA256 Algorithm = "RSA_4096_PKCS1_SHA256"
	RSA4096PKCS1SHA384 Algorithm = "RSA_4096_PKCS1_SHA384"
	RSA4096PKCS1SHA512 Algorithm = "RSA_4096_PKCS1_SHA512"

	RSA3072OAEPSHA256 Algorithm = "RSA_3072_OAEP_SHA256"
	RSA3072OAEPSHA1   Algorithm = "RSA_3072_OAEP_SHA1"
	RSA2048OAEPSHA256 Algorithm = "RSA_2048_OAEP_SHA256"
	RSA2048OAEPSHA1   Algorithm = "RSA_2048_OAEP_SHA1"
	RSA4096OAEPSHA256 Algorithm = "RSA_4096_OAEP_SHA256"
	RSA4096OAEPSHA1   Algorithm = "RSA_4096_OAEP_SHA1"

	HSM      ProtectionLevel = "HSM"
	Software ProtectionLevel = "SOFTWARE"

	Generated     Origin = "GENERATED"
	Imported      Origin = "IMPORTED"       // wrapped, and unwrapped inside the token
	ImportedClear Origin = "IMPORTED_CLEAR" // handed over in the clear
)

// Offer is a purpose that keys may have, with the algorithms for it; the first is that of keys made without naming one.
type Offer struct {
	Purpose    Purpose
	Algorithms []Algorithm
}

// Offers are the purposes and algorithms that keys may have, as far as the token is able to. The caller may change what
// it gets.
func Offers() []Offer {
	return []Offer{
		{EncryptDecrypt, []Algorithm{
			AES256GCM,
		}},
		{MAC, []Algorithm{
			HMACSHA256, HMACSHA384, HMACSHA512,
		}},
		{SignVerify, []Algorithm{
			ECP256SHA256, ECP384SHA384, ECP521SHA512, ECSecp256k1SHA256, RSA2048PSSSHA256, RSA2048PSSSHA384,
			RSA2048PSSSHA512, RSA2048PKCS1SHA256, RSA2048PKCS1SHA384, RSA2048PKCS1SHA512, RSA3072PSSSHA256, RSA3072PSSSHA384,
			RSA3072PSSSHA512, RSA3072PKCS1SHA256, RSA3072PKCS1SHA384, RSA3072PKCS1SHA512, RSA4096PSSSHA256, RSA4096PSSSHA384,
			RSA4096PSSSHA512, RSA4096PKCS1SHA256, RSA4096PKCS1SHA384, RSA4096PKCS1SHA512,
		}},
		{AsymmetricDecrypt, []Algorithm{
			RSA3072OAEPSHA256, RSA3072OAEPSHA1, RSA2048OAEPSHA256, RSA2048OAEPSHA1, RSA4096OAEPSHA256, RSA4096OAEPSHA1,
		}},
	}
}

// CheckAlgorithm refuses an algorithm that keys of this purpose can't have.
func CheckAlgorithm(p Purpose, a Algorithm) error {
	for _, o := range Offers() {
		if o.Purpose != p {
			continue
		}
		if slices.Contains(o.Algorithms, a) {
			return nil
		}
		return refuse(ReasonUnsupported, "purpose %s with algorithm %s is not offered by this server; use one of %s", p, a, listed(o.Algorithms))
	}
	return refuse(ReasonUnsupported, "purpose %s is not offered by this server; GetServerInfo lists what is", p)
}

func listed(algorithms []Algorithm) string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	return strings.Join(names, ", ")
}

// DefaultAlgorithm is the algorithm of keys made without naming one; empty for a purpose that is not offered.
func DefaultAlgorithm(p Purpose) Algorithm {
	for _, o := range Offers() {
		if o.Purpose == p {
			return o.Algorithms[0]
		}
	}
	return ""
}

// DefaultMaxUses is how many encryptions a version of a key with this algorithm may make unless its owner decides
// otherwise; zero means any number. For AES-GCM with random IVs it is the 2³² of NIST SP 800-38D section 8.3.
func DefaultMaxUses(a Algorithm) uint64 {
	if a == AES256GCM {
		return 1 << 32
	}
	return 0
}
