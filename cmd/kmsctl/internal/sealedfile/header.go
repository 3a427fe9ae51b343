// Package sealedfile is the format in which kmsctl keeps what is too large for one call of Encrypt. A file is encrypted
// with a data key of its own; the data key stands in the file's header, encrypted by the service.
//
// The package knows nothing of the service: it is handed the data key twice, in the clear and encrypted. Nor does it
// hide how long a file is.
//
// # Format 1
//
// All numbers are big-endian.
//
//	offset  bytes
//	     0      8  magic: CB 00 6B 6D 73 66 6C 01; the last byte is the format
//	     8      4  chunk size, 1 to 1,048,576; writers use 65,536
//	    12     32  salt, random
//	    44     32  commitment
//	    76      2  length of the encrypted data key, 1 to 4,096
//	    78      …  encrypted data key: a ciphertext of the service, whose plaintext is 32 bytes
//	     …      …  chunks
//
// HKDF-SHA-256 (RFC 5869) makes 71 bytes of the data key, with the salt, and with "keyledger sealed file 1" and the four
// bytes of the chunk size as info: 32 are the key of AES-256-GCM, the next 32 the commitment, the last 7 the prefix of
// the nonces. A reader compares the commitment before it opens a chunk. As it depends on the data key, no file can be
// made that opens under two data keys with two contents, which AES-GCM alone would allow.
//
// The chunks are the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption and its
// Nonce-Reuse Misuse-Resistance, 2015). The content is cut into pieces of the chunk size, of which only the last may be
// shorter; it is empty only if the content is. Each is sealed with AES-256-GCM: the nonce is the prefix, the number of
// the chunk from 0 in four bytes, and a byte that is 1 for the last chunk and 0 for all others; the additional data are
// the header's first 76 bytes. A chunk that was changed, moved, repeated, left out or taken from another file doesn't
// open, and neither does the last one of a file that was cut short or appended to.
//
// The encrypted data key is not part of what the chunks authenticate: the service authenticates it, with the key and
// with the caller's aad and context, and the commitment holds it to this file. So the key can be rotated, and the data
// key of a file of any size encrypted again, without touching the chunks.
//
// Files of format 1 will always be readable. A change of the format gets another last byte of the magic.
package sealedfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// DataKeySize is the size of a data key in bytes.
	DataKeySize = 32
	// ChunkSize is how many bytes of content a Writer puts into a chunk.
	ChunkSize = 64 << 10

	maxChunkSize        = 1 << 20
	maxEncryptedDataKey = 4096

	saltSize       = 32
	commitmentSize = 32
	prefixSize     = 7
	tagSize        = 16

	fixedSize = len(magic) + 4 + saltSize + commitmentSize // what every chunk authenticates
)

// magic begins a file of format 1. The second byte tells it from a ciphertext of the service, where it is the number of
// the ciphertext's format, which begin at 1.
const magic = "\xCB\x00kmsfl\x01"

// What is wrong with a file that can't be read. Nothing that a Reader returned before one of these is in doubt.
var (
	// ErrFormat means that this is no file of a format that is known here.
	ErrFormat = errors.New("not an encrypted file of kmsctl, or of a newer format")
	// ErrWrongKey means that the header was changed, or belongs to another data key.
	ErrWrongKey = errors.New("the file's header is damaged or belongs to another file")
	// ErrCorrupt means that a chunk was changed, moved or left out.
	ErrCorrupt = errors.New("the file is damaged or was tampered with")
	// ErrTruncated means that the end of the file is missing.
	ErrTruncated = errors.New("the file is incomplete: its end is missing")
	// ErrTrailing means that something was appended to the file.
	ErrTrailing = errors.New("something was appended to the file")
	// ErrTooLarge means that there are more than 2^32 chunks, 256 TiB in those of a Writer.
	ErrTooLarge = errors.New("the content is too large for one file")
)

// Header is what stands before the chunks.
type Header struct {
	chunkSize  uint32
	salt       [saltSize]byte
	commitment [commitmentSize]byte

	// EncryptedDataKey is what the service must decrypt to read the file. It may be replaced by another encryption of
	// the same data key.
	EncryptedDataKey []byte
}

// Detect reports whether a file that begins with these bytes is one of this package; eight bytes are enough to say.
func Detect(start []byte) bool { return bytes.HasPrefix(start, []byte(magic[:len(magic)-1])) }

// ReadHeader reads the header and nothing after it. It verifies the form only: the rest is up to NewReader.
func ReadHeader(r io.Reader) (Header, error) {
	var fixed [fixedSize + 2]byte
	n, err := io.ReadFull(r, fixed[:])
	if start := min(n, len(magic)); string(fixed[:start]) != magic[:start] {
		return Header{}, ErrFormat
	}
	if err != nil {
		return Header{}, headerError(err)
	}
	var h Header
	rest := fixed[len(magic):]
	h.chunkSize, rest = binary.BigEndian.Uint32(rest), rest[4:]
	rest = rest[copy(h.salt[:], rest):]
	rest = rest[copy(h.commitment[:], rest):]
	length := int(binary.BigEndian.Uint16(rest))
	if h.chunkSize < 1 || h.chunkSize > maxChunkSize || length < 1 || length > maxEncryptedDataKey {
		return Header{}, ErrFormat
	}
	h.EncryptedDataKey = make([]byte, length)
	if _, err := io.ReadFull(r, h.EncryptedDataKey); err != nil {
		return Header{}, headerError(err)
	}
	return h, nil
}

func headerError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return fmt.Errorf("reading the file's header: %w", err)
}

// AppendBinary appends the header as it stands in a file. It implements encoding.BinaryAppender.
func (h Header) AppendBinary(b []byte) ([]byte, error) {
	n := len(h.EncryptedDataKey)
	if n < 1 || n > maxEncryptedDataKey {
		return b, fmt.Errorf("the encrypted data key must have 1 to %d bytes, not %d", maxEncryptedDataKey, n)
	}
	b = append(b, h.fixed()...)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return append(b, h.EncryptedDataKey...), nil
}

// fixed is the part of the header that never changes.
func (h Header) fixed() []byte {
	b := append(make([]byte, 0, fixedSize), magic...)
	b = binary.BigEndian.AppendUint32(b, h.chunkSize)
	b = append(b, h.salt[:]...)
	return append(b, h.commitment[:]...)
}

// derived is what a data key gives for one file.
type derived struct {
	aead       cipher.AEAD
	commitment [commitmentSize]byte
	prefix     [prefixSize]byte
}

func (h Header) derive(dataKey []byte) (derived, error) {
	if len(dataKey) != DataKeySize {
		return derived{}, fmt.Errorf("a data key must have %d bytes, not %d", DataKeySize, len(dataKey))
	}
	info := binary.BigEndian.AppendUint32([]byte("keyledger sealed file 1"), h.chunkSize)
	b, err := hkdf.Key(sha256.New, dataKey, h.salt[:], string(info), 32+commitmentSize+prefixSize)
	if err != nil {
		return derived{}, fmt.Errorf("deriving the file's key: %w", err)
	}
	defer clear(b)
	block, err := aes.NewCipher(b[:32])
	if err != nil {
		return derived{}, fmt.Errorf("deriving the file's key: %w", err)
	}
	var d derived
	if d.aead, err = cipher.NewGCM(block); err != nil {
		return derived{}, fmt.Errorf("deriving the file's key: %w", err)
	}
	copy(d.commitment[:], b[32:])
	copy(d.prefix[:], b[32+commitmentSize:])
	return d, nil
}

// open derives the keys and compares the commitment.
func (h Header) open(dataKey []byte) (derived, error) {
	d, err := h.derive(dataKey)
	if err != nil {
		return derived{}, err
	}
	if subtle.ConstantTimeCompare(d.commitment[:], h.commitment[:]) != 1 {
		return derived{}, ErrWrongKey
	}
	return d, nil
}

// nonce is the nonce of chunk number n.
func (d *derived) nonce(n uint32, last bool) []byte {
	b := append(make([]byte, 0, prefixSize+5), d.prefix[:]...)
	b = binary.BigEndian.AppendUint32(b, n)
	if last {
		return append(b, 1)
	}
	return append(b, 0)
}
