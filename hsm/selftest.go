package hsm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// Capabilities is what the token was seen to do when it was opened, not what it lists.
type Capabilities struct {
	Manufacturer, Model, Firmware, Serial, Label string
	// Unsupported says, for each algorithm of this package that the token can't be used for, why.
	Unsupported map[domain.Algorithm]string
}

// Algorithms is what keys of protection level HSM can be made for, in alphabetical order.
func (c Capabilities) Algorithms() []domain.Algorithm {
	var out []domain.Algorithm
	for _, a := range algorithms {
		if _, no := c.Unsupported[a.name]; !no {
			out = append(out, a.name)
		}
	}
	slices.Sort(out)
	return out
}

// Supports is nil if keys of the algorithm can be made at the protection level, else ErrUnsupported with the reason.
func (c Capabilities) Supports(a domain.Algorithm, p domain.ProtectionLevel) error {
	if _, err := algorithmOf(domain.Binding{Algorithm: a, Protection: p}); err != nil {
		return err
	}
	if why, no := c.Unsupported[a]; no {
		return fmt.Errorf("%w: %s: %s", ErrUnsupported, a, why)
	}
	return nil
}

// Capabilities is what the token was seen to do when it was opened.
func (t *Token) Capabilities() Capabilities {
	caps := t.caps
	caps.Unsupported = maps.Clone(caps.Unsupported)
	return caps
}

// vector is a known answer.
type vector struct{ key, iv, aad, in, out []byte }

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

var (
	// gcmVector is test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B.
	gcmVector = vector{
		key: unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
		iv:  unhex("cafebabefacedbaddecaf888"),
		aad: unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
		in: unhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525" +
			"b16aedf5aa0de657ba637b39"),
		out: unhex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838" +
			"c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"),
	}
	// wrapVector is of our own making: a key of 32 bytes, as all are that this package wraps. The tests compute it again
	// by RFC 5649. (The examples of the RFC are no use here: SoftHSM 2.6.1 pads keys to a multiple of 8 bytes before it
	// wraps them, and so states a wrong length for others.)
	wrapVector = vector{
		key: unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
		in:  sentinelKey,
		out: unhex("df4cd6b60f4c71bdedd78f36a03e8da8c7bfa1a79b27bffbfa8aa488b307705211a99fb0ab8c4df1"),
	}
	// hmacVector is test case 2 of RFC 4231, with a key padded by zeros, which HMAC does anyway: tokens refuse short ones.
	hmacVector = vector{
		key: append([]byte("Jefe"), make([]byte, 28)...),
		in:  []byte("what do ya want for nothing?"),
		out: unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
	}
	// cmacVector is D.3, example 2, of NIST SP 800-38B.
	cmacVector = vector{
		key: unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
		in:  unhex("6bc1bee22e409f96e93d7e117393172a"),
		out: unhex("28a7023f452e8f82bd4bf28d8c37c35c"),
	}
)

// selfTest proves with session objects that the token computes rightly and refuses what it must. What every key stands
// on is ErrSelfTest; what single algorithms need is noted in the capabilities.
func (c *conn) selfTest() (Capabilities, error) {
	caps := Capabilities{
		Manufacturer: c.token.ManufacturerID, Model: c.token.Model, Serial: c.token.SerialNumber, Label: c.token.Label,
		Firmware:    fmt.Sprintf("%d.%d", c.token.FirmwareVersion.Major, c.token.FirmwareVersion.Minor),
		Unsupported: make(map[domain.Algorithm]string),
	}
	until := time.Now().Add(5 * time.Second)
	for _, test := range []struct {
		what string
		run  func(pkcs11.SessionHandle) error
	}{
		{"logging in", c.testState},
		{"HMAC-SHA256", c.testHMAC},
		{"AES key wrap with padding", c.testWrap},
		{"AES-GCM", c.testGCM},
		{"keeping keys inside", c.testRefusals},
	} {
		if err := c.with(context.Background(), until, test.run); err != nil {
			return Capabilities{}, fmt.Errorf("%w: %s: %w", ErrSelfTest, test.what, err)
		}
	}
	if err := c.with(context.Background(), until, c.testCMAC); err != nil {
		caps.Unsupported[domain.AES256GCM] = "no fingerprint by AES-CMAC: " + err.Error()
	}
	return caps, nil
}

var errMismatch = errors.New("wrong answer")

func equal(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return errMismatch
	}
	return nil
}

// withKnown runs f with a session key of a value that is no secret.
func (c *conn) withKnown(s pkcs11.SessionHandle, keyType uint, value []byte, may []uint, f func(pkcs11.ObjectHandle) error) error {
	h, err := c.raw.CreateObject(s, known(keyType, value, may...))
	if err != nil {
		return failed("C_CreateObject", err)
	}
	err = f(h)
	if end := c.raw.DestroyObject(s, h); err == nil {
		err = failed("C_DestroyObject", end)
	}
	return err
}

func (c *conn) testState(s pkcs11.SessionHandle) error {
	info, err := c.raw.GetSessionInfo(s)
	if err != nil {
		return failed("C_GetSessionInfo", err)
	}
	if info.State != stateLoggedIn {
		return fmt.Errorf("the session is in state %d, not %d", info.State, stateLoggedIn)
	}
	return nil
}

func (c *conn) testHMAC(s pkcs11.SessionHandle) error {
	return c.testMAC(s, pkcs11.CKK_GENERIC_SECRET, hmacVector, hmacSHA256)
}

func (c *conn) testCMAC(s pkcs11.SessionHandle) error {
	return c.testMAC(s, pkcs11.CKK_AES, cmacVector, aesCMAC)
}

func (c *conn) testMAC(s pkcs11.SessionHandle, keyType uint, v vector, m []*pkcs11.Mechanism) error {
	return c.withKnown(s, keyType, v.key, []uint{pkcs11.CKA_SIGN}, func(key pkcs11.ObjectHandle) error {
		mac, err := sign(c.raw, s, key, m, v.in)
		if err != nil {
			return err
		}
		return equal(mac, v.out)
	})
}

func (c *conn) testWrap(s pkcs11.SessionHandle) error {
	return c.withKnown(s, pkcs11.CKK_AES, wrapVector.key, []uint{pkcs11.CKA_WRAP}, func(kek pkcs11.ObjectHandle) error {
		return c.withKnown(s, pkcs11.CKK_AES, wrapVector.in, nil, func(key pkcs11.ObjectHandle) error {
			wrapped, err := c.raw.WrapKey(s, wrapPad, kek, key)
			if err != nil {
				return failed("C_WrapKey", err)
			}
			return equal(wrapped, wrapVector.out)
		})
	})
}

func (c *conn) testGCM(s pkcs11.SessionHandle) error {
	v := gcmVector
	return c.withKnown(s, pkcs11.CKK_AES, v.key, []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}, func(key pkcs11.ObjectHandle) error {
		out, _, err := gcmSeal(c.raw, s, key, v.iv, v.in, v.aad)
		if err != nil {
			return err
		}
		if err := equal(out, v.out); err != nil {
			return err
		}
		in, err := gcmOpen(c.raw, s, key, v.iv, out, v.aad)
		if err != nil {
			return err
		}
		if err := equal(in, v.in); err != nil {
			return err
		}
		out[len(out)-1] ^= 1
		if _, err := gcmOpen(c.raw, s, key, v.iv, out, v.aad); err == nil {
			return errors.New("a wrong tag is accepted")
		}
		return nil
	})
}

// testRefusals tries to get keys out. There are tokens that let them go in spite of their attributes.
func (c *conn) testRefusals(s pkcs11.SessionHandle) (err error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	kek, err := c.raw.GenerateKey(s, mechanism(pkcs11.CKM_AES_KEY_GEN), append(wrapping(&pin), attr(pkcs11.CKA_VALUE_LEN, 32)))
	if err != nil {
		return failed("C_GenerateKey", err)
	}
	defer func() { err = errors.Join(err, failed("C_DestroyObject", c.raw.DestroyObject(s, kek))) }()
	if _, err := c.raw.WrapKey(s, wrapPad, kek, kek); err == nil {
		return errors.New("a key that must not be extractable is")
	}
	return c.withKnown(s, pkcs11.CKK_AES, sentinelKey, nil, func(key pkcs11.ObjectHandle) error {
		if _, err := c.raw.WrapKey(s, mechanism(pkcs11.CKM_AES_KEY_WRAP), kek, key); err == nil {
			return errors.New("a key can be used with mechanisms that it is not allowed for")
		}
		if got, err := c.raw.GetAttributeValue(s, key, []*pkcs11.Attribute{attr(pkcs11.CKA_VALUE, nil)}); err == nil && len(got[0].Value) > 0 {
			return errors.New("a sensitive key can be read")
		}
		wrapped, err := c.raw.WrapKey(s, wrapPad, kek, key)
		if err != nil {
			return failed("C_WrapKey", err)
		}
		return c.refusesOpenUnwrap(s, kek, wrapped, errors.New("unwrap template not enforced"))
	})
}
