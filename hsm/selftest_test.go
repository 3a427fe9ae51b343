package hsm

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

// wrapRef is RFC 5649 section 4.1, for keys of more than 8 bytes.
func wrapRef(t *testing.T, kek, key []byte) []byte {
	t.Helper()
	c, err := aes.NewCipher(kek)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.BigEndian.AppendUint32([]byte{0xa6, 0x59, 0x59, 0xa6}, uint32(len(key)))
	out = append(out, key...)
	for len(out)%8 != 0 {
		out = append(out, 0)
	}
	n := len(out)/8 - 1
	var block [16]byte
	a := binary.BigEndian.Uint64(out)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			binary.BigEndian.PutUint64(block[:], a)
			copy(block[8:], out[8*i:8*i+8])
			c.Encrypt(block[:], block[:])
			a = binary.BigEndian.Uint64(block[:]) ^ uint64(n*j+i)
			copy(out[8*i:], block[8:])
		}
	}
	binary.BigEndian.PutUint64(out, a)
	return out
}

// The known answers of the self-test against other implementations than the token's.
func TestVectors(t *testing.T) {
	rfcKEK, _ := hex.DecodeString("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	rfcKey, _ := hex.DecodeString("c37b7e6492584340bed12207808941155068f738")
	if got := hex.EncodeToString(wrapRef(t, rfcKEK, rfcKey)); got != "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a" {
		t.Errorf("the reference gives %s for the example of RFC 5649", got)
	}
	if got := wrapRef(t, wrapVector.key, wrapVector.in); !bytes.Equal(got, wrapVector.out) {
		t.Errorf("key wrap: %x", got)
	}
	block, err := aes.NewCipher(gcmVector.key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	if got := gcm.Seal(nil, gcmVector.iv, gcmVector.in, gcmVector.aad); !bytes.Equal(got, gcmVector.out) {
		t.Errorf("GCM: %x", got)
	}
	mac := hmac.New(sha256.New, hmacVector.key)
	mac.Write(hmacVector.in)
	if got := mac.Sum(nil); !bytes.Equal(got, hmacVector.out) {
		t.Errorf("HMAC: %x", got)
	}
}

// A token that gives any other answer than the known one must not be opened.
func TestSelfTestNotices(t *testing.T) {
	for name, v := range map[string]*vector{"GCM": &gcmVector, "wrap": &wrapVector, "HMAC": &hmacVector} {
		t.Run(name, func(t *testing.T) {
			right := v.out
			v.out = append([]byte{right[0] ^ 1}, right[1:]...)
			defer func() { v.out = right }()
			if err := selfTestShared(t.Context()); !errors.Is(err, ErrSelfTest) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := selfTestShared(t.Context()); err != nil {
		t.Error(err)
	}
}

func selfTestShared(ctx context.Context) error {
	c, err := shared.lease(ctx, time.Now().Add(time.Second))
	if err != nil {
		return err
	}
	defer shared.release(c)
	_, err = c.selfTest()
	return err
}
