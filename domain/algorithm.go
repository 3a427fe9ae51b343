package domain

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
	EncryptDecrypt Purpose = "ENCRYPT_DECRYPT"

	AES256GCM Algorithm = "AES_256_GCM"

	HSM      ProtectionLevel = "HSM"
	Software ProtectionLevel = "SOFTWARE"

	Generated     Origin = "GENERATED"
	Imported      Origin = "IMPORTED"       // wrapped, and unwrapped inside the token
	ImportedClear Origin = "IMPORTED_CLEAR" // handed over in the clear
)

// CheckAlgorithm refuses an algorithm that keys of this purpose can't have.
func CheckAlgorithm(p Purpose, a Algorithm) error {
	if p == EncryptDecrypt && a == AES256GCM {
		return nil
	}
	return refuse(ReasonUnsupported, "purpose %s with algorithm %s is not offered by this server; use ENCRYPT_DECRYPT with AES_256_GCM", p, a)
}

// DefaultAlgorithm is the algorithm of keys made without naming one.
func DefaultAlgorithm(Purpose) Algorithm { return AES256GCM }

// DefaultMaxUses is how many encryptions a version of a key with this algorithm may make unless its owner decides
// otherwise; zero means any number. For AES-GCM with random IVs it is the 2³² of NIST SP 800-38D section 8.3.
func DefaultMaxUses(a Algorithm) uint64 {
	if a == AES256GCM {
		return 1 << 32
	}
	return 0
}
