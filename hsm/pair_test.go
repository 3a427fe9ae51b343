package hsm

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// The device itself must refuse to give up what a pair's keys stand for.
func TestPairEnforced(t *testing.T) {
	_, w := newKey(t)
	bl, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	insidePair(t, bl, func(c *conn, s pkcs11.SessionHandle, p *pair) error {
		for name, h := range map[string]pkcs11.ObjectHandle{"kek": p.kek, "mac": p.mac} {
			if _, err := c.raw.WrapKey(s, wrapPad, p.kek, h); err == nil {
				t.Errorf("%s can be wrapped", name)
			}
			if got, err := c.raw.GetAttributeValue(s, h, []*pkcs11.Attribute{attr(pkcs11.CKA_VALUE, nil)}); err == nil && len(got[0].Value) > 0 {
				t.Errorf("%s can be read", name)
			}
			if err := c.raw.SetAttributeValue(s, h, []*pkcs11.Attribute{attr(pkcs11.CKA_EXTRACTABLE, true)}); err == nil {
				t.Errorf("%s can be made extractable", name)
			}
		}
		for _, m := range []uint{pkcs11.CKM_AES_ECB, pkcs11.CKM_AES_CMAC} {
			if err := c.raw.DecryptInit(s, mechanism(m), p.kek); err == nil {
				t.Errorf("the wrapping key decrypts with mechanism %#x", m)
			}
			if err := c.raw.SignInit(s, mechanism(m), p.kek); err == nil {
				t.Errorf("the wrapping key signs with mechanism %#x", m)
			}
		}
		if err := c.raw.SignInit(s, mechanism(pkcs11.CKM_SHA512_HMAC), p.mac); err == nil {
			t.Error("the binding key signs with another mechanism")
		}
		return errReplace
	})
}

// A pair of keys that were wrapped under the root, but not as a pair, is refused: who knows one of them could make MACs.
func TestPairOfOtherKeys(t *testing.T) {
	_, w := newKey(t)
	_, other := otherEpochsPair(t)
	bl, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	mixed := map[string]sealedPair{"other mac key": bl.pair, "swapped": bl.pair, "tag of another": bl.pair}
	for name, p := range mixed {
		switch name {
		case "other mac key":
			copy(p.mac(), other.mac())
		case "swapped":
			copy(p.kek(), bl.pair.mac())
			copy(p.mac(), bl.pair.kek())
		case "tag of another":
			copy(p.tag(), other.tag())
		}
		err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) error {
			_, err := c.openPair(ctx, until, testRoot, p)
			return err
		})
		if !errors.Is(err, ErrBlob) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// otherEpochsPair makes a pair as another process would.
func otherEpochsPair(t *testing.T) (p *pair, sealed sealedPair) {
	t.Helper()
	err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) (err error) {
		if sealed, err = c.makePair(ctx, until, testRoot); err != nil {
			return err
		}
		p, err = c.openPair(ctx, until, testRoot, sealed)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, sealed
}

// However many ask at once, a pair is opened once and an epoch has one of its own; what was opened too much is destroyed.
func TestPairOpenedOnce(t *testing.T) {
	_, sealed := otherEpochsPair(t)
	err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		c.rootMu.Lock()
		opened := c.pairs[pairID{testRoot, sealed}]
		delete(c.pairs, pairID{testRoot, sealed})
		c.rootMu.Unlock()
		c.closePair(opened)
		got := make([]*pair, 16)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				p, err := c.openPair(ctx, until, testRoot, sealed)
				if err != nil {
					t.Error(err)
				}
				got[i] = p
			})
		}
		wg.Wait()
		for _, p := range got {
			if p != got[0] {
				t.Error("it was opened more than once")
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
