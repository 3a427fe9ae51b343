package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

const (
	ivSize  = 12 // bytes of a GCM IV: NIST SP 800-38D recommends 96 bits, and other lengths are hashed down to them
	tagSize = 16 // bytes of a GCM tag

	// MaxRandom is the most bytes that one call of Random gives.
	MaxRandom = 64 << 10
)

// Mechanisms without parameters are only read by the calls that they are passed to.
var (
	hmacSHA256 = mechanism(pkcs11.CKM_SHA256_HMAC)
	aesCMAC    = mechanism(pkcs11.CKM_AES_CMAC)
	wrapPad    = mechanism(mechWrap)
)

// Generate makes new key material for b in the token and returns it wrapped under the root in use; nothing of it stays
// in the token. The fingerprint of an AES key is its AES-CMAC of a fixed text, made in the token: a pseudo-random
// value that depends on the key alone, as ANSI X9.24-1 (2017) has check values. It is 16 bytes long. That of a MAC key is
// the SHA-256 of a MAC of the text, and that of a pair the SHA-256 of its public key.
// ErrUnsupported if the token can't have keys for b.
func (t *Token) Generate(ctx context.Context, b domain.Binding) (domain.WrappedKey, error) {
	return t.makeKey(ctx, opGenerate, "generating", b, func(_ context.Context, c *conn, _ time.Time, alg *algorithm) (maker, error) {
		return func(s pkcs11.SessionHandle) (pkcs11.ObjectHandle, error) { return c.fresh(s, alg) }, nil
	})
}

// maker brings a key into the token, as algorithm.fresh says.
type maker func(s pkcs11.SessionHandle) (pkcs11.ObjectHandle, error)

// makeKey brings key material for b into the token, by what prepare returns, and returns it wrapped under the root in use.
func (t *Token) makeKey(ctx context.Context, op operation, doing string, b domain.Binding,
	prepare func(context.Context, *conn, time.Time, *algorithm) (maker, error),
) (domain.WrappedKey, error) {
	alg, err := algorithmOf(b)
	if err != nil {
		return domain.WrappedKey{}, err
	}
	if why, no := t.caps.Unsupported[b.Algorithm]; no {
		return domain.WrappedKey{}, fmt.Errorf("%w: %s: %s", ErrUnsupported, b.Algorithm, why)
	}
	t.mu.Lock()
	rootID := t.root
	t.mu.Unlock()
	if rootID == "" {
		return domain.WrappedKey{}, fmt.Errorf("%s a key: %w: none is in use", doing, ErrRootMissing)
	}
	out := domain.WrappedKey{RootID: rootID}
	err = t.do(ctx, op, func(ctx context.Context, c *conn, until time.Time) error {
		p, err := c.ownPair(ctx, until, rootID)
		if err != nil {
			return err
		}
		get, err := prepare(ctx, c, until, alg)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			out.Blob, out.Fingerprint, out.PublicKey, err = c.wrapNew(s, alg, rootID, p, b, get)
			return err
		})
	})
	if err != nil {
		return domain.WrappedKey{}, fmt.Errorf("%s a key: %w", doing, err)
	}
	return out, nil
}

// wrapNew gets one key, its fingerprint, public key and blob, and destroys the key.
func (c *conn) wrapNew(s pkcs11.SessionHandle, alg *algorithm, rootID string, p *pair, b domain.Binding, get maker) (blob, fingerprint, public []byte, err error) {
	key, err := get(s)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if end := c.raw.DestroyObject(s, key); err == nil {
			err = failed("C_DestroyObject", end) // else the session is closed, and the key with it
		}
	}()
	if fingerprint, public, err = c.look(s, alg, key); err != nil {
		return nil, nil, nil, err
	}
	wrapped, err := c.raw.WrapKey(s, wrapPad, p.kek, key)
	if err != nil {
		return nil, nil, nil, failed("C_WrapKey", err)
	}
	header := blobHeader(alg.kind, rootID, p.sealed, len(wrapped))
	mac, err := sign(c.raw, s, p.mac, hmacSHA256, boundMessage(header, wrapped, b))
	if err != nil {
		return nil, nil, nil, err
	}
	return append(append(header, wrapped...), mac...), fingerprint, public, nil
}

// fresh makes a key.
func (c *conn) fresh(s pkcs11.SessionHandle, alg *algorithm) (pkcs11.ObjectHandle, error) {
	var public pkcs11.ObjectHandle
	key, err := privately(alg.fresh, func(template []*pkcs11.Attribute) (key pkcs11.ObjectHandle, err error) {
		if alg.public == nil {
			return c.raw.GenerateKey(s, alg.generator, template)
		}
		public, key, err = c.raw.GenerateKeyPair(s, alg.generator, alg.public, template)
		return key, err
	})
	if alg.public == nil {
		return key, failed("C_GenerateKey", err)
	}
	if err != nil {
		return 0, failed("C_GenerateKeyPair", err)
	}
	return key, failed("C_DestroyObject", c.raw.DestroyObject(s, public)) // on an error the session is closed, and the key with it
}

// Encrypt encrypts by AES-GCM under the key of b. The IV is 12 random bytes, new for each call; the ciphertext ends with
// the 16 bytes of the tag. One key must not encrypt more than 2^32 times (NIST SP 800-38D section 8.3), which is for the
// caller to count.
func (t *Token) Encrypt(ctx context.Context, b domain.Binding, plaintext, aad []byte) (iv, ciphertext []byte, err error) {
	err = t.use(ctx, opEncrypt, b, func(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) (err error) {
		iv = make([]byte, ivSize)
		_, _ = rand.Read(iv) // never fails
		ciphertext, iv, err = gcmSeal(raw, s, key, iv, plaintext, aad)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return iv, ciphertext, nil
}

// Decrypt reverses Encrypt. Everything that is wrong with iv, ciphertext or aad is ErrDecrypt.
func (t *Token) Decrypt(ctx context.Context, b domain.Binding, iv, ciphertext, aad []byte) (plaintext []byte, err error) {
	if len(iv) != ivSize || len(ciphertext) < tagSize {
		return nil, ErrDecrypt
	}
	err = t.use(ctx, opDecrypt, b, func(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) (err error) {
		plaintext, err = gcmOpen(raw, s, key, iv, ciphertext, aad)
		return err
	})
	if err != nil {
		return nil, err
	}
	return plaintext, nil
}

// gcmSeal encrypts. It gives back the IV, because there are tokens that take one of their own choice instead.
func gcmSeal(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, iv, plaintext, aad []byte) (out, used []byte, err error) {
	params := pkcs11.NewGCMParams(iv, aad, tagSize*8)
	defer params.Free()
	if err := raw.EncryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, nil, failed("C_EncryptInit", err)
	}
	out, err = raw.Encrypt(s, plaintext)
	if err != nil {
		return nil, nil, failed("C_Encrypt", err)
	}
	used = params.IV()
	if len(used) != ivSize || len(out) != len(plaintext)+tagSize {
		return nil, nil, fmt.Errorf("%w: the token made %d bytes with an IV of %d from %d", ErrUnsupported, len(out), len(used), len(plaintext))
	}
	return out, used, nil
}

func gcmOpen(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, iv, ciphertext, aad []byte) ([]byte, error) {
	params := pkcs11.NewGCMParams(iv, aad, tagSize*8)
	defer params.Free()
	if err := raw.DecryptInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, failed("C_DecryptInit", err)
	}
	out, err := raw.Decrypt(s, ciphertext)
	return out, blames("C_Decrypt", err, ErrDecrypt)
}

// use runs f with the unwrapped key of b, from the cache or by unwrapping its blob.
func (t *Token) use(ctx context.Context, op operation, b domain.Binding, f func(*pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) error) error {
	alg, err := algorithmOf(b)
	if err != nil {
		return err
	}
	return t.do(ctx, op, func(ctx context.Context, c *conn, until time.Time) error {
		e, err := c.cache.get(ctx, b, time.Now(), func() (pkcs11.ObjectHandle, error) { return t.unwrap(ctx, c, until, alg, b) })
		if err != nil {
			return err
		}
		defer c.cache.put(e)
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error { return f(c.raw, s, e.handle) })
	})
}

// unwrap reads the blob of b, checks that it belongs to b, and only then lets the token unwrap it.
func (t *Token) unwrap(ctx context.Context, c *conn, until time.Time, alg *algorithm, b domain.Binding) (key pkcs11.ObjectHandle, err error) {
	stored, err := t.readBlob(ctx, b)
	if err != nil {
		return 0, fmt.Errorf("reading wrapped key %s: %w", b.MaterialID, err)
	}
	start := time.Now()
	ctx, span := t.inst.begin(ctx, opUnwrap)
	defer func() { t.inst.end(ctx, opUnwrap, start, span, err) }()
	bl, err := parseBlob(stored)
	if err != nil {
		return 0, err
	}
	p, err := t.checked(ctx, c, until, alg, bl, b)
	if err != nil {
		return 0, err
	}
	err = c.unwrapping(ctx, until, func(s pkcs11.SessionHandle) (err error) {
		key, err = privately(alg.inUse, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			return c.raw.UnwrapKey(s, wrapPad, p.kek, bl.wrapped, template)
		})
		return blames("C_UnwrapKey", err, ErrBlob)
	})
	return key, err
}

// blobReads is how often a blob is read whose root is not there, and blobPause how long to wait in between.
const (
	blobReads = 4
	blobPause = 100 * time.Millisecond
)

// readBlob is the wrapped key of b. One that was read just before it was wrapped anew, or from a server of the store that
// is a little behind, may name a root that was released meanwhile: it is read again.
func (t *Token) readBlob(ctx context.Context, b domain.Binding) ([]byte, error) {
	for read := 1; ; read++ {
		stored, err := t.blobs.Blob(ctx, b)
		if err != nil || read == blobReads {
			return stored, err
		}
		if root, err := BlobRoot(stored); err != nil || t.isLive(root) || pause(ctx, blobPause) != nil {
			return stored, nil // what is wrong with it is said where it is opened
		}
	}
}

// Random gives n bytes of the token's random generator, 1 to MaxRandom.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > MaxRandom {
		return nil, fmt.Errorf("random bytes: %d is not within 1 to %d", n, MaxRandom)
	}
	out := make([]byte, n)
	err := t.do(ctx, opRandom, func(ctx context.Context, c *conn, until time.Time) error {
		// crypto11 has sessions of its own for this. One of ours, unused meanwhile, is the permit that makes the wait bounded.
		return c.with(ctx, until, func(pkcs11.SessionHandle) error {
			source, err := c.c11.NewRandomReader()
			if err != nil {
				return fmt.Errorf("random bytes: %w", err)
			}
			_, err = io.ReadFull(source, out)
			return failed("C_GenerateRandom", err)
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Evict forgets the unwrapped key of a version, or of all versions if v is 0. A call that runs meanwhile still ends with
// it; the next one reads the blob again. It does nothing else, so that it is safe, if costly, to call once too often.
func (t *Token) Evict(key domain.UID, v domain.Version) {
	c := t.tryLease()
	if c == nil {
		return // nothing is unwrapped while the token is away
	}
	defer t.release(c)
	c.cache.evictKey(key, v)
	if c.broken.Load() {
		t.lose(c, errors.New("a key could not be destroyed in the token"))
	}
}
