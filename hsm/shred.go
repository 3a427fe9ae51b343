package hsm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// Rewrap returns the wrapped key of b anew: wrapped under the root in use, and bound to the same place. The key does not
// leave the token on the way, and nothing of it stays there. A blob that is under the root in use already is returned as it
// is. A blob that does not belong to b is ErrBlob, as one under a root that VerifyRoot has not proved.
func (t *Token) Rewrap(ctx context.Context, b domain.Binding, stored []byte) ([]byte, error) {
	alg, err := algorithmOf(b)
	if err != nil {
		return nil, err
	}
	bl, err := parseBlob(stored)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	rootID := t.root
	t.mu.Unlock()
	if bl.root == rootID {
		return stored, nil
	}
	if rootID == "" {
		return nil, fmt.Errorf("wrapping a key anew: %w: none is in use", ErrRootMissing)
	}
	var out []byte
	err = t.do(ctx, opRewrap, func(ctx context.Context, c *conn, until time.Time) error {
		old, err := t.checked(ctx, c, until, alg, bl, b)
		if err != nil {
			return err
		}
		own, err := c.ownPair(ctx, until, rootID)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			out, err = c.rewrap(s, alg, rootID, bl, old, own, b)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("wrapping a key anew: %w", err)
	}
	return out, nil
}

// rewrap unwraps a key into an object that can only be wrapped, wraps it under another pair, and destroys the object.
func (c *conn) rewrap(s pkcs11.SessionHandle, alg *algorithm, rootID string, bl blob, old, own *pair, b domain.Binding) (out []byte, err error) {
	key, err := privately(alg.moving(), func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		return c.raw.UnwrapKey(s, wrapPad, old.kek, bl.wrapped, template)
	})
	if err != nil {
		return nil, blames("C_UnwrapKey", err, ErrBlob)
	}
	defer func() {
		if end := c.raw.DestroyObject(s, key); err == nil {
			err = failed("C_DestroyObject", end) // else the session is closed, and the key with it
		}
	}()
	wrapped, err := c.raw.WrapKey(s, wrapPad, own.kek, key)
	if err != nil {
		return nil, failed("C_WrapKey", err)
	}
	if err := c.proveSame(s, alg, bl, old, own, wrapped); err != nil {
		return nil, err
	}
	header := blobHeader(alg.kind, rootID, own.sealed, len(wrapped))
	mac, err := sign(c.raw, s, own.mac, hmacSHA256, boundMessage(header, wrapped, b))
	if err != nil {
		return nil, err
	}
	return append(append(header, wrapped...), mac...), nil
}

// proveSame unwraps what was wrapped anew and wraps it as it was: RFC 5649 gives the same bytes for the same key. The old
// form is about to be overwritten, so a token that wraps wrongly must be found out now.
func (c *conn) proveSame(s pkcs11.SessionHandle, alg *algorithm, bl blob, old, own *pair, wrapped []byte) (err error) {
	key, err := privately(alg.moving(), func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		return c.raw.UnwrapKey(s, wrapPad, own.kek, wrapped, template)
	})
	if err != nil {
		return failed("C_UnwrapKey", err)
	}
	defer func() {
		if end := c.raw.DestroyObject(s, key); err == nil {
			err = failed("C_DestroyObject", end)
		}
	}()
	again, err := c.raw.WrapKey(s, wrapPad, old.kek, key)
	if err != nil {
		return failed("C_WrapKey", err)
	}
	if !bytes.Equal(again, bl.wrapped) {
		return fmt.Errorf("%w: a key that was wrapped anew comes back as another", ErrUnsupported)
	}
	return nil
}

// moving is the template of a key that is on its way from one wrapping to another: it can be wrapped and nothing else, and
// lives for the fraction of a millisecond that this takes.
func (a *algorithm) moving() []*pkcs11.Attribute {
	template := []*pkcs11.Attribute{
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true),
	}
	may := uses
	for _, of := range a.inUse {
		switch of.Type {
		case pkcs11.CKA_CLASS:
			if bytes.Equal(of.Value, attr(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY).Value) {
				may = privateUses
			}
			template = append(template, of)
		case pkcs11.CKA_KEY_TYPE:
			template = append(template, of)
		}
	}
	for _, use := range may { // also those that nobody would ask for: a token may allow what is not forbidden
		template = append(template, attr(use, false))
	}
	return template
}

// privateUses are the uses that a private key can have (PKCS#11 v2.40 section 4.9).
var privateUses = []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}

// BlobRoot is the id of the root that a wrapped key is under, as it says itself; ErrBlob if it is none.
func BlobRoot(stored []byte) (string, error) {
	bl, err := parseBlob(stored)
	return bl.root, err
}

// ReleaseRoot ends the use of a root in this process, before it is destroyed: its working pairs and the keys that were
// unwrapped with them are given up, and the token is healthy without it. The root in use can't be released. It may be
// called again.
func (t *Token) ReleaseRoot(id string) error {
	t.mu.Lock()
	if t.root == id {
		t.mu.Unlock()
		return fmt.Errorf("releasing root %s: it is the one in use", id)
	}
	delete(t.live, id)
	t.mu.Unlock()
	c := t.tryLease()
	if c == nil {
		return nil // away: the next epoch opens nothing of a root that is not live
	}
	defer t.release(c)
	c.dropRoot(id)
	if c.broken.Load() {
		t.lose(c, errors.New("a key could not be destroyed in the token"))
	}
	return nil
}

// dropRoot gives up every handle that comes from the root, for the rest of the epoch.
func (c *conn) dropRoot(id string) {
	c.rootMu.Lock()
	c.gone[id] = struct{}{}
	delete(c.roots, id)
	delete(c.own, id)
	var pairs []*pair
	for of, p := range c.pairs {
		if of.root == id {
			pairs = append(pairs, p)
			delete(c.pairs, of)
		}
	}
	c.rootMu.Unlock()
	c.cache.clear()           // those under other roots too: they are unwrapped again when they are used
	for _, p := range pairs { // an unwrapping that still runs finds its handle gone, and begins again
		c.closePair(p)
	}
}

// DestroyRoot destroys the keys of a root in the token, for ever: whatever is wrapped under it can never be unwrapped
// again. One that is verified must be released first, in every process. What is not there, or only in part, is no error.
// Its id is never to be used again. The files that a token made of files keeps them in are overwritten.
func (t *Token) DestroyRoot(ctx context.Context, id string) error {
	if t.isLive(id) {
		return fmt.Errorf("destroying root %s: it is not released", id)
	}
	if t.cfg.TokenDir == "" {
		return t.destroyRoot(ctx, id)
	}
	unlock, err := lockFile(ctx, filepath.Join(filepath.Dir(t.cfg.TokenDir), softHSMLock))
	if err != nil {
		return fmt.Errorf("destroying root %s: %w", id, err)
	}
	defer unlock()
	if err := holdObjectFiles(t.cfg.TokenDir); err != nil {
		return fmt.Errorf("destroying root %s: keeping hold of its files: %w", id, err)
	}
	err = t.destroyRoot(ctx, id)
	if end := wipeHeldFiles(t.cfg.TokenDir); err == nil && end != nil {
		err = fmt.Errorf("destroying root %s: overwriting its files: %w", id, end)
	}
	return err
}

func (t *Token) destroyRoot(ctx context.Context, id string) error {
	err := t.do(ctx, opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		c.rootMu.Lock() // of one that was only looked at, the handles are known too
		c.gone[id] = struct{}{}
		delete(c.roots, id)
		c.rootMu.Unlock()
		if err := c.alive(ctx, until); err != nil { // not logged in, no root would be seen
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			for _, p := range parts {
				found, err := find(c.raw, s, p.labelled(id))
				if err != nil {
					return err
				}
				for _, h := range found {
					if err := c.raw.DestroyObject(s, h); err != nil {
						return failed("C_DestroyObject", err)
					}
				}
				if found, err = find(c.raw, s, p.labelled(id)); err != nil {
					return err
				}
				if len(found) > 0 {
					return fmt.Errorf("%w: the token keeps %s%s after it was destroyed", ErrUnsupported, p.prefix, id)
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("destroying root %s: %w", id, err)
	}
	return nil
}

// checked opens the pair of a blob and proves that the blob belongs to b.
func (t *Token) checked(ctx context.Context, c *conn, until time.Time, alg *algorithm, bl blob, b domain.Binding) (*pair, error) {
	if bl.kind != alg.kind {
		return nil, fmt.Errorf("%w: it is of kind %d, not %d", ErrBlob, bl.kind, alg.kind)
	}
	if !t.isLive(bl.root) {
		return nil, fmt.Errorf("%w: %w: it names root %s", ErrBlob, ErrRootMissing, bl.root)
	}
	p, err := c.openPair(ctx, until, bl.root, bl.pair)
	if err != nil {
		return nil, err
	}
	err = c.with(ctx, until, func(s pkcs11.SessionHandle) error {
		mac, err := sign(c.raw, s, p.mac, hmacSHA256, boundMessage(bl.header, bl.wrapped, b))
		if err == nil && !hmac.Equal(mac, bl.mac) {
			err = fmt.Errorf("%w: its MAC is not that of the binding", ErrBlob)
		}
		return err
	})
	return p, err
}
