package domain

import "encoding/binary"

// Binding is everything that a wrapped key is bound to. It is not stored beside the wrapped key: the event log supplies
// it, so that a blob put in another's place, or used for anything but what its key was made for, is refused.
type Binding struct {
	Project    string
	KeyUID     UID
	Version    Version
	MaterialID UID
	Algorithm  Algorithm
	Purpose    Purpose
	Protection ProtectionLevel
	Origin     Origin
}

// Bytes is the canonical encoding of b: every text preceded by its length, so that no two bindings share an encoding.
func (b Binding) Bytes() []byte {
	out := make([]byte, 0, 128)
	for _, s := range []string{b.Project, string(b.Algorithm), string(b.Purpose), string(b.Protection), string(b.Origin)} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // names are at most 63 bytes
		out = append(out, s...)
	}
	out = append(out, b.KeyUID[:]...)
	out = append(out, b.MaterialID[:]...)
	return binary.BigEndian.AppendUint32(out, uint32(b.Version)) //nolint:gosec // versions are positive
}

// WrappedKey is key material as it leaves the token: wrapped under a root that never does.
type WrappedKey struct {
	// Blob is the wrapped key with its header and binding MAC. It goes to the material store only, never into an event.
	Blob []byte
	// Fingerprint tells two keys apart without telling anything about them: a keyed check value made in the token, or,
	// for a key pair, the SHA-256 of its public key. It does not depend on the root.
	Fingerprint []byte
	// PublicKey is the DER SubjectPublicKeyInfo of a key pair; nil for secret keys.
	PublicKey []byte
	// RootID names the root it is wrapped under.
	RootID string
}
