package hsm

import (
	"context"
	"crypto/hmac"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// pair is a working pair: what stands between a root and the keys of protection level HSM. Roots are objects of the
// token itself, which are costly to use (SoftHSM opens, locks and stats three files for each use) and worth using
// seldom. So each epoch makes a pair of its own, wraps new keys under that, and writes the pair, wrapped under the root,
// into each of their blobs: a blob needs nothing but its root to be opened, and destroying the root ends it.
//
// Pairs stay open until the epoch ends. There are no more of them than epochs that made keys which still live.
type pair struct {
	sealed sealedPair
	kek    pkcs11.ObjectHandle // wraps and unwraps keys
	mac    pkcs11.ObjectHandle // makes the MACs that bind blobs
}

// sealedPair is a pair as blobs carry it: both keys wrapped under the root by RFC 5649, and the HMAC-SHA256 under the
// root's binding key over
//
//	"kms-pair-v1\0" | length of root id (1) | root id | the wrapped keys
//
// Without the MAC, any other key of which somebody knows the value, if only it was ever wrapped under the root, could be
// passed off as the binding key.
type sealedPair [2*wrappedSize + blobMAC]byte

// pairID names a pair that was opened: as what a blob says it is.
type pairID struct {
	root   string
	sealed sealedPair
}

const (
	pairDomain  = "kms-pair-v1\x00"
	wrappedSize = 40 // bytes of a key of 32, wrapped by RFC 5649
)

func (p *sealedPair) kek() []byte { return p[:wrappedSize] }
func (p *sealedPair) mac() []byte { return p[wrappedSize : 2*wrappedSize] }
func (p *sealedPair) tag() []byte { return p[2*wrappedSize:] }

func (p *sealedPair) message(rootID string) []byte {
	return slices.Concat([]byte(pairDomain), []byte{byte(len(rootID))}, []byte(rootID), p[:2*wrappedSize]) //nolint:gosec // a root id has at most 32 bytes
}

// binding is the template of the binding key of a pair: a session key for HMAC and nothing else.
var binding = []*pkcs11.Attribute{
	attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
	attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
	attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false),
	attr(pkcs11.CKA_SIGN, true), attr(pkcs11.CKA_VERIFY, false),
	attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(pkcs11.CKM_SHA256_HMAC)),
}

// ownPair is the pair that this epoch wraps new keys under.
func (c *conn) ownPair(ctx context.Context, until time.Time, rootID string) (*pair, error) {
	c.rootMu.Lock()
	p := c.own[rootID]
	c.rootMu.Unlock()
	if p != nil {
		return p, nil
	}
	sealed, err := c.makePair(ctx, until, rootID)
	if err != nil {
		return nil, err
	}
	if p, err = c.openPair(ctx, until, rootID, sealed); err != nil {
		return nil, err
	}
	c.rootMu.Lock()
	defer c.rootMu.Unlock()
	if first := c.own[rootID]; first != nil { // another caller was faster
		return first, nil
	}
	c.own[rootID] = p
	return p, nil
}

// makePair makes the keys of a pair, wraps them and destroys them again: what is used is never extractable.
func (c *conn) makePair(ctx context.Context, until time.Time, rootID string) (sealed sealedPair, err error) {
	r, err := c.liveRoot(ctx, until, rootID)
	if err != nil {
		return sealed, err
	}
	err = c.with(ctx, until, func(s pkcs11.SessionHandle) error {
		for _, part := range []struct {
			to        []byte
			generator uint
			keyType   uint
		}{
			{sealed.kek(), pkcs11.CKM_AES_KEY_GEN, pkcs11.CKK_AES},
			{sealed.mac(), pkcs11.CKM_GENERIC_SECRET_KEY_GEN, pkcs11.CKK_GENERIC_SECRET},
		} {
			wrapped, err := c.wrapFresh(s, r, part.generator, part.keyType)
			if err != nil {
				return err
			}
			if len(wrapped) != len(part.to) {
				return fmt.Errorf("%w: the token wraps 32 bytes into %d", ErrUnsupported, len(wrapped))
			}
			copy(part.to, wrapped)
		}
		tag, err := sign(c.raw, s, r.mac, hmacSHA256, sealed.message(rootID))
		copy(sealed.tag(), tag)
		return err
	})
	return sealed, err
}

// wrapFresh makes a key of 32 bytes that can only be wrapped, wraps it under the root and destroys it.
func (c *conn) wrapFresh(s pkcs11.SessionHandle, r *root, generator, keyType uint) (wrapped []byte, err error) {
	template := []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, keyType), attr(pkcs11.CKA_VALUE_LEN, 32),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true),
	}
	for _, use := range uses {
		template = append(template, attr(use, false))
	}
	key, err := c.raw.GenerateKey(s, mechanism(generator), template)
	if err != nil {
		return nil, failed("C_GenerateKey", err)
	}
	defer func() {
		if end := c.raw.DestroyObject(s, key); err == nil {
			err = failed("C_DestroyObject", end) // else the session is closed, and the key with it
		}
	}()
	wrapped, err = c.raw.WrapKey(s, wrapPad, r.kek, key)
	return wrapped, failed("C_WrapKey", err)
}

// openPair is a pair ready for use, opened once per epoch, after its MAC has shown that it was made under the root.
func (c *conn) openPair(ctx context.Context, until time.Time, rootID string, sealed sealedPair) (*pair, error) {
	id := pairID{rootID, sealed}
	c.rootMu.Lock()
	p := c.pairs[id]
	c.rootMu.Unlock()
	if p != nil {
		return p, nil
	}
	r, err := c.liveRoot(ctx, until, rootID)
	if err != nil {
		return nil, err
	}
	err = c.with(ctx, until, func(s pkcs11.SessionHandle) error {
		tag, err := sign(c.raw, s, r.mac, hmacSHA256, sealed.message(rootID))
		if err == nil && !hmac.Equal(tag, sealed.tag()) {
			err = fmt.Errorf("%w: its working pair was not made under root %s", ErrBlob, rootID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	p = &pair{sealed: sealed}
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, part := range []struct {
		to       *pkcs11.ObjectHandle
		wrapped  []byte
		template []*pkcs11.Attribute
	}{{&p.kek, sealed.kek(), wrapping(&pin)}, {&p.mac, sealed.mac(), binding}} {
		err := c.unwrapping(ctx, until, func(s pkcs11.SessionHandle) (err error) {
			*part.to, err = privately(part.template, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
				return c.raw.UnwrapKey(s, wrapPad, r.kek, part.wrapped, template)
			})
			return blames("C_UnwrapKey", err, ErrBlob)
		})
		if err != nil {
			c.closePair(p)
			return nil, err
		}
	}
	c.rootMu.Lock()
	first := c.pairs[id]
	_, gone := c.gone[rootID]
	if first == nil && !gone {
		c.pairs[id] = p
	}
	c.rootMu.Unlock()
	switch {
	case gone:
		c.closePair(p)
		return nil, fmt.Errorf("%w: %w: root %s was released", ErrBlob, ErrRootMissing, rootID)
	case first != nil: // another caller was faster; nobody else knows of ours
		c.closePair(p)
		return first, nil
	}
	return p, nil
}

// closePair destroys the keys of a pair that nobody uses.
func (c *conn) closePair(p *pair) {
	for _, h := range []pkcs11.ObjectHandle{p.kek, p.mac} {
		if h != 0 { // zero is no handle: CK_INVALID_HANDLE
			c.destroy(h)
		}
	}
}
