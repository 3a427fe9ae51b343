package hsm

import (
	"encoding/binary"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// A blob is
//
//	"KMB1" | how it is wrapped (1) | kind of key (1) | length of root id (1) | root id | working pair (112) | length of wrapped (4) | wrapped | MAC (32)
//
// with big-endian lengths. The key is wrapped under the pair's wrapping key, and the MAC is HMAC-SHA256 under its binding
// key, made in the token, over
//
//	"kms-blob-v1\0" | everything before wrapped | length of binding (4) | binding | wrapped
//
// AES key wrap has no associated data, so that without the MAC one key's blob would unwrap in another's place. The
// binding itself is not in the blob: who reads it says what it must be.
const (
	blobMagic  = "KMB1"
	blobDomain = "kms-blob-v1\x00"
	blobMAC    = 32

	// wrapRFC5649 is a name of ours, because the mechanism's number means other things at some vendors.
	wrapRFC5649 byte = 1

	maxRootID  = 32
	maxWrapped = 16 << 10
)

// blob is a parsed one. The slices share memory with the bytes it was parsed from.
type blob struct {
	kind    byte
	root    string
	pair    sealedPair
	header  []byte
	wrapped []byte
	mac     []byte
}

// blobHeader is the part of a blob before the wrapped key.
func blobHeader(kind byte, root string, pair sealedPair, wrapped int) []byte {
	out := make([]byte, 0, len(blobMagic)+3+len(root)+len(pair)+4+wrapped+blobMAC)
	out = append(out, blobMagic...)
	out = append(out, wrapRFC5649, kind, byte(len(root))) //nolint:gosec // a root id has at most 32 bytes
	out = append(out, root...)
	out = append(out, pair[:]...)
	return binary.BigEndian.AppendUint32(out, uint32(wrapped)) //nolint:gosec // a wrapped key has at most 16 KiB
}

// parseBlob accepts exactly what blobHeader and Generate make, so that no two byte strings are the same blob.
func parseBlob(b []byte) (blob, error) {
	const fixed = len(blobMagic) + 3
	if len(b) < fixed || string(b[:len(blobMagic)]) != blobMagic {
		return blob{}, fmt.Errorf("%w: no blob of a known kind", ErrBlob)
	}
	if b[4] != wrapRFC5649 {
		return blob{}, fmt.Errorf("%w: wrapped by the unknown method %d", ErrBlob, b[4])
	}
	idLen := int(b[6])
	head := fixed + idLen + len(sealedPair{}) + 4
	if idLen > maxRootID || len(b) < head {
		return blob{}, fmt.Errorf("%w: cut short", ErrBlob)
	}
	n := int(binary.BigEndian.Uint32(b[head-4:]))
	if n < 16 || n > maxWrapped || n%8 != 0 || len(b) != head+n+blobMAC {
		return blob{}, fmt.Errorf("%w: %d bytes do not match the stated length", ErrBlob, len(b))
	}
	root := string(b[fixed : fixed+idLen])
	if !validRootID(root) {
		return blob{}, fmt.Errorf("%w: bad root id", ErrBlob)
	}
	return blob{
		kind: b[5], root: root, pair: sealedPair(b[fixed+idLen : head-4]),
		header: b[:head], wrapped: b[head : head+n], mac: b[head+n:],
	}, nil
}

// boundMessage is what a blob's MAC is over.
func boundMessage(header, wrapped []byte, b domain.Binding) []byte {
	binding := b.Bytes()
	out := make([]byte, 0, len(blobDomain)+len(header)+4+len(binding)+len(wrapped))
	out = append(out, blobDomain...)
	out = append(out, header...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(binding))) //nolint:gosec // a binding has some hundred bytes
	out = append(out, binding...)
	return append(out, wrapped...)
}
