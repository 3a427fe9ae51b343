package hsm

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// hLen is the bytes of the hash that OAEP is used with here.
const hLen = sha256.Size

// oaepParams are those of OAEP with SHA-256, MGF1 with SHA-256 and an empty label.
func oaepParams() []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP,
		pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil))}
}

// openOAEP decrypts a block of RSA-OAEP with SHA-256: in the token, if it can do that, else with the RSA in the token and
// the padding here. ok is 1, and the message in out, if the block is one; else ok is 0. It is not an error, so that nobody
// can be told of a bad padding by another way, or after another time, than of whatever is wrong with what comes next.
func (c *conn) openOAEP(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, block []byte) (out oaepMessage, err error) {
	if c.oaep256 {
		if err := c.raw.DecryptInit(s, oaepParams(), key); err != nil {
			return out, failed("C_DecryptInit", err)
		}
		message, err := c.raw.Decrypt(s, block)
		if rv, ok := errors.AsType[pkcs11.Error](err); ok && aboutInput(rv) {
			return out, nil
		}
		return oaepMessage{db: message, ok: 1}, failed("C_Decrypt", err)
	}
	if err := c.raw.DecryptInit(s, mechanism(pkcs11.CKM_RSA_X_509), key); err != nil {
		return out, failed("C_DecryptInit", err)
	}
	em, err := c.raw.Decrypt(s, block)
	if rv, ok := errors.AsType[pkcs11.Error](err); ok && aboutInput(rv) {
		return out, nil // the block is not below the modulus, which anybody can see
	}
	if err != nil {
		return out, failed("C_Decrypt", err)
	}
	if len(em) != len(block) {
		clear(em)
		return out, fmt.Errorf("%w: raw RSA of %d bytes gives %d", ErrUnsupported, len(block), len(em))
	}
	return unpadOAEP(em), nil
}

// oaepMessage is what unpadding found: the message is the end of db from start on, if ok is 1.
type oaepMessage struct {
	db    []byte
	start int
	ok    int
}

// all is the message, of whatever length. Whether there is one must be known to the caller, by its answer, in any case.
func (m oaepMessage) all() ([]byte, bool) {
	if m.ok != 1 {
		return nil, false
	}
	return m.db[m.start:], true
}

// exactly is the message if there is one and it has n bytes, else n random bytes. Neither the time nor the memory that it
// takes depends on which it is.
func (m oaepMessage) exactly(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out) // never fails
	if len(m.db) < n {    // their sizes are those of the key and of the method, and no secret
		return out
	}
	ok := m.ok & subtle.ConstantTimeEq(int32(m.start), int32(len(m.db)-n)) //nolint:gosec // at most 512
	subtle.ConstantTimeCopy(ok, out, m.db[len(m.db)-n:])
	return out
}

// clear overwrites what was decrypted.
func (m oaepMessage) clear() { clear(m.db) }

// unpadOAEP is EME-OAEP decoding (RFC 8017 section 7.1.2, step 3) with SHA-256 and an empty label, in place. It takes the
// same time whatever em holds: the one who sends the blocks must not learn which of the checks fails (Manger, CRYPTO 2001).
func unpadOAEP(em []byte) oaepMessage {
	if len(em) < 2*hLen+2 { // no size of RSA key that is used here
		return oaepMessage{}
	}
	ok := subtle.ConstantTimeByteEq(em[0], 0)
	seed, db := em[1:1+hLen], em[1+hLen:]
	mgf1(db, seed)
	mgf1(seed, db)
	label := sha256.Sum256(nil)
	ok &= subtle.ConstantTimeCompare(label[:], db[:hLen])
	// What follows is zeros, a one, and the message. Every byte is looked at, also behind the one.
	padding, start := 1, 0
	for i, b := range db[hLen:] {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		start = subtle.ConstantTimeSelect(padding&one, hLen+i+1, start)
		ok &= 1 ^ padding&(1^zero)&(1^one)
		padding &= 1 ^ one
	}
	return oaepMessage{db: db, start: start, ok: ok & (1 ^ padding)}
}

// mgf1 changes to by the mask that from makes (RFC 8017 appendix B.2.1).
func mgf1(from, to []byte) {
	in := make([]byte, len(from)+4)
	copy(in, from)
	defer clear(in)
	for i := 0; i*hLen < len(to); i++ {
		binary.BigEndian.PutUint32(in[len(from):], uint32(i))
		mask := sha256.Sum256(in)
		part := to[i*hLen : min((i+1)*hLen, len(to))]
		subtle.XORBytes(part, part, mask[:])
	}
}
