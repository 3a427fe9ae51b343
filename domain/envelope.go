package domain

import (
	"encoding/binary"
)

// Envelope is what a caller gets as ciphertext: everything needed to find the key again, and the encrypted bytes.
//
// Format 1, all numbers big-endian:
//
//	0xCB 0x01 | u8 length of location | location | 16 bytes key uid | u32 version | u8 algorithm | u8 length of IV | IV | ciphertext and tag
//
// Everything before the IV is the header. The AEAD authenticates the header, the context and the caller's AAD. This
// format will always be readable; a change gets another second byte.
type Envelope struct {
	Location   string
	KeyUID     UID
	Version    Version
	Algorithm  Algorithm
	IV         []byte
	Ciphertext []byte // with the tag
}

const (
	envelopeMagic   = 0xCB
	envelopeFormat1 = 1

	// envelopeFixed is the size of a header less its location.
	envelopeFixed = 2 + 1 + 16 + 4 + 1
	gcmIVSize     = 12
	gcmTagSize    = 16

	// MaxPlaintext is the largest plaintext of one Encrypt, in bytes.
	MaxPlaintext = 64 << 10
	// MaxEnvelope is the largest ciphertext that Decrypt takes, in bytes.
	MaxEnvelope = MaxPlaintext + envelopeFixed + 63 + 1 + gcmIVSize + gcmTagSize
)

// algorithmCodes are stored in ciphertexts: never change or reuse one.
var algorithmCodes = map[Algorithm]byte{AES256GCM: 1} //nolint:exhaustive // the others make no envelopes

func algorithmOf(code byte) (Algorithm, bool) {
	for a, c := range algorithmCodes {
		if c == code {
			return a, true
		}
	}
	return "", false
}

// ErrCiphertext is the one answer to every ciphertext that can't be decrypted, whatever is wrong with it, so that nobody
// learns anything by trying.
var ErrCiphertext = &Error{
	Reason:  ReasonBadCiphertext,
	Message: "the ciphertext can't be decrypted: it is damaged, was made by another key, or the aad or context differ from those it was made with",
}

// Header is the authenticated front of the envelope.
func (e Envelope) Header() []byte {
	return e.appendHeader(make([]byte, 0, envelopeFixed+len(e.Location)))
}

func (e Envelope) appendHeader(b []byte) []byte {
	b = append(b, envelopeMagic, envelopeFormat1, byte(len(e.Location))) //nolint:gosec // a location has at most 63 bytes
	b = append(b, e.Location...)
	b = append(b, e.KeyUID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Version)) //nolint:gosec // versions are positive
	return append(b, algorithmCodes[e.Algorithm])
}

// Marshal is the ciphertext as callers see it.
func (e Envelope) Marshal() []byte {
	b := make([]byte, 0, envelopeFixed+len(e.Location)+1+len(e.IV)+len(e.Ciphertext))
	b = e.appendHeader(b)
	b = append(b, byte(len(e.IV))) //nolint:gosec // an IV has 12 bytes
	b = append(b, e.IV...)
	return append(b, e.Ciphertext...)
}

// ParseEnvelope reads what Marshal wrote. Its parts share b's memory. Every fault is ErrCiphertext.
func ParseEnvelope(b []byte) (Envelope, error) {
	if len(b) < 3 || b[0] != envelopeMagic || b[1] != envelopeFormat1 {
		return Envelope{}, ErrCiphertext
	}
	location, rest := int(b[2]), b[3:]
	if len(rest) < location+16+4+1+1+gcmIVSize+gcmTagSize {
		return Envelope{}, ErrCiphertext
	}
	e := Envelope{Location: string(rest[:location])}
	rest = rest[location:]
	copy(e.KeyUID[:], rest)
	version := binary.BigEndian.Uint32(rest[16:])
	algorithm, ok := algorithmOf(rest[20])
	if !ok || version == 0 || version > 1<<31-1 || rest[21] != gcmIVSize || !ValidID(e.Location) {
		return Envelope{}, ErrCiphertext
	}
	e.Version, e.Algorithm = Version(version), algorithm
	rest = rest[22:]
	e.IV, e.Ciphertext = rest[:gcmIVSize:gcmIVSize], rest[gcmIVSize:]
	return e, nil
}

// AdditionalData is what the AEAD authenticates beside the plaintext: header, context and the caller's aad, each
// preceded by its length, so that bytes can't move from one to the other.
func (e Envelope) AdditionalData(context, aad []byte) []byte {
	b := make([]byte, 0, 12+envelopeFixed+len(e.Location)+len(context)+len(aad))
	b = binary.BigEndian.AppendUint32(b, uint32(envelopeFixed+len(e.Location))) //nolint:gosec // a location has at most 63 bytes
	b = e.appendHeader(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(context))) //nolint:gosec // bounded by the request size
	b = append(b, context...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(aad))) //nolint:gosec // bounded by the request size
	return append(b, aad...)
}
