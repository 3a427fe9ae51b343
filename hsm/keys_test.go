package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

func TestRoundTrip(t *testing.T) {
	b, _ := newKey(t)
	for name, plaintext := range map[string][]byte{
		"empty": {}, "one byte": {7}, "a block": make([]byte, 16), "64 KiB": bytes.Repeat([]byte("x"), 64<<10),
	} {
		for _, aad := range [][]byte{nil, []byte("aad"), make([]byte, 4096)} {
			iv, ct, err := shared.Encrypt(t.Context(), b, plaintext, aad)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(ct) != len(plaintext)+tagSize || len(iv) != ivSize {
				t.Errorf("%s: %d bytes of ciphertext, %d of IV", name, len(ct), len(iv))
			}
			got, err := shared.Decrypt(t.Context(), b, iv, ct, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s, %d bytes of aad: got %d bytes, %v", name, len(aad), len(got), err)
			}
		}
	}
}

func TestDecryptRefuses(t *testing.T) {
	b, _ := newKey(t)
	other, _ := newKey(t)
	iv, ct, err := shared.Encrypt(t.Context(), b, []byte("hello"), []byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(b []byte, bit int) []byte {
		b = bytes.Clone(b)
		b[bit/8] ^= 1 << (bit % 8)
		return b
	}
	type attempt struct {
		b           domain.Binding
		iv, ct, aad []byte
	}
	attempts := map[string]attempt{
		"other key":     {other, iv, ct, []byte("aad")},
		"no aad":        {b, iv, ct, nil},
		"other aad":     {b, iv, ct, []byte("AAD")},
		"cut":           {b, iv, ct[:len(ct)-1], []byte("aad")},
		"shorter":       {b, iv, ct[:tagSize-1], []byte("aad")},
		"tag only":      {b, iv, ct[len(ct)-tagSize:], []byte("aad")},
		"empty":         {b, iv, nil, []byte("aad")},
		"longer":        {b, iv, append(bytes.Clone(ct), 0), []byte("aad")},
		"no iv":         {b, nil, ct, []byte("aad")},
		"iv of 16":      {b, append(bytes.Clone(iv), 0, 0, 0, 1), ct, []byte("aad")},
		"all zero iv":   {b, make([]byte, ivSize), ct, []byte("aad")},
		"aad in the ct": {b, iv, append([]byte("aad"), ct...), nil},
	}
	for bit := range len(ct) * 8 {
		attempts[fmt.Sprintf("ciphertext bit %d", bit)] = attempt{b, iv, flipped(ct, bit), []byte("aad")}
	}
	for bit := range len(iv) * 8 {
		attempts[fmt.Sprintf("iv bit %d", bit)] = attempt{b, flipped(iv, bit), ct, []byte("aad")}
	}
	for name, a := range attempts {
		got, err := shared.Decrypt(t.Context(), a.b, a.iv, a.ct, a.aad)
		if !errors.Is(err, ErrDecrypt) || got != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if err != nil && err.Error() != ErrDecrypt.Error() {
			t.Errorf("%s: the text %q tells failures apart", name, err)
		}
	}
	if got, err := shared.Decrypt(t.Context(), b, iv, ct, []byte("aad")); err != nil || string(got) != "hello" {
		t.Errorf("after all of that: %q, %v", got, err)
	}
}

// A blob must work with its own binding only, unchanged only.
func TestBlobRefused(t *testing.T) {
	b, w := newKey(t)
	_, otherKey := newKey(t)
	use := func(b domain.Binding, blob []byte) error {
		blobs.put(b, blob)
		shared.Evict(b.KeyUID, 0)
		_, _, err := shared.Encrypt(t.Context(), b, nil, nil)
		return err
	}
	t.Run("swapped", func(t *testing.T) {
		if err := use(b, otherKey.Blob); !errors.Is(err, ErrBlob) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("binding", func(t *testing.T) {
		for name, change := range map[string]func(*domain.Binding){
			"project":  func(b *domain.Binding) { b.Project = "q" },
			"key":      func(b *domain.Binding) { b.KeyUID = randomUID() },
			"version":  func(b *domain.Binding) { b.Version++ },
			"material": func(b *domain.Binding) { b.MaterialID = randomUID() },
			"purpose":  func(b *domain.Binding) { b.Purpose = "SIGN_VERIFY" },
			"origin":   func(b *domain.Binding) { b.Origin = domain.Imported },
			"moved text": func(b *domain.Binding) {
				b.Project, b.Purpose = b.Project+string(b.Purpose[:1]), b.Purpose[1:]
			},
		} {
			bad := b
			change(&bad)
			if err := use(bad, w.Blob); !errors.Is(err, ErrBlob) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
	t.Run("bits", func(t *testing.T) {
		for bit := range len(w.Blob) * 8 {
			bad := bytes.Clone(w.Blob)
			bad[bit/8] ^= 1 << (bit % 8)
			if err := use(b, bad); !errors.Is(err, ErrBlob) || errors.Is(err, ErrUnavailable) {
				t.Errorf("bit %d: got %v", bit, err)
			}
		}
	})
	t.Run("length", func(t *testing.T) {
		for n := range len(w.Blob) {
			if err := use(b, w.Blob[:n]); !errors.Is(err, ErrBlob) {
				t.Errorf("%d bytes: got %v", n, err)
			}
		}
		if err := use(b, append(bytes.Clone(w.Blob), 0)); !errors.Is(err, ErrBlob) {
			t.Errorf("longer: got %v", err)
		}
	})
	if err := use(b, w.Blob); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

func TestBlobError(t *testing.T) {
	if _, _, err := shared.Encrypt(t.Context(), newBinding(), nil, nil); !errors.Is(err, errNoBlob) {
		t.Errorf("got %v, want the store's own error", err)
	}
}

func FuzzParseBlob(f *testing.F) {
	_, w := newKey(f)
	f.Add(w.Blob)
	f.Add([]byte(blobMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		bl, err := parseBlob(b)
		if err != nil {
			if !errors.Is(err, ErrBlob) {
				t.Errorf("got %v", err)
			}
			return
		}
		again := append(append(blobHeader(bl.kind, bl.root, bl.pair, len(bl.wrapped)), bl.wrapped...), bl.mac...)
		if !bytes.Equal(again, b) {
			t.Errorf("%x was read as %x", b, again)
		}
	})
}

func TestUnsupported(t *testing.T) {
	for name, change := range map[string]func(*domain.Binding){
		"algorithm":  func(b *domain.Binding) { b.Algorithm = "ED25519" },
		"protection": func(b *domain.Binding) { b.Protection = domain.Software },
	} {
		b := newBinding()
		change(&b)
		if _, err := shared.Generate(t.Context(), b); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: generate: %v", name, err)
		}
		if _, _, err := shared.Encrypt(t.Context(), b, nil, nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: encrypt: %v", name, err)
		}
		if err := shared.Capabilities().Supports(b.Algorithm, b.Protection); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: capabilities: %v", name, err)
		}
	}
	if got := shared.Capabilities().Algorithms(); len(got) != len(algorithms) || !slices.IsSorted(got) {
		t.Errorf("algorithms: %v", got)
	}
}

func TestIVsDiffer(t *testing.T) {
	b, _ := newKey(t)
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2500 {
				iv, _, err := shared.Encrypt(t.Context(), b, nil, nil)
				mu.Lock()
				if err != nil || seen[string(iv)] {
					t.Errorf("iv %x, %v", iv, err)
				}
				seen[string(iv)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestRandom(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range []int{16, 32, 33, 1024, MaxRandom} {
		for range 3 {
			got, err := shared.Random(t.Context(), n)
			if err != nil || len(got) != n || seen[string(got[:16])] {
				t.Fatalf("%d bytes: got %d, %v", n, len(got), err)
			}
			seen[string(got[:16])] = true
		}
	}
	for _, n := range []int{-1, 0, MaxRandom + 1} {
		if _, err := shared.Random(t.Context(), n); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
}

// The fingerprint is that of the key inside the blob, not of anything else that Generate handled.
func TestFingerprint(t *testing.T) {
	b, w := newKey(t)
	_, other := newKey(t)
	if len(w.Fingerprint) != 16 || bytes.Equal(w.Fingerprint, other.Fingerprint) {
		t.Errorf("%x and %x", w.Fingerprint, other.Fingerprint)
	}
	bl, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	insidePair(t, bl, func(c *conn, s pkcs11.SessionHandle, p *pair) error {
		key, err := c.raw.UnwrapKey(s, wrapPad, p.kek, bl.wrapped, []*pkcs11.Attribute{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_SIGN, true),
		})
		if err != nil {
			return err
		}
		got, err := sign(c.raw, s, key, aesCMAC, []byte(fingerprintText))
		if !bytes.Equal(got, w.Fingerprint) {
			t.Errorf("the key in the blob of %s has fingerprint %x, not %x", b.KeyUID, got, w.Fingerprint)
		}
		return errors.Join(err, c.raw.DestroyObject(s, key))
	})
}

// inside runs f with a session and the root of the shared token.
func inside(t *testing.T, f func(c *conn, s pkcs11.SessionHandle, r *root) error) {
	t.Helper()
	err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		r, err := c.root(ctx, until, testRoot)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error { return f(c, s, r) })
	})
	if err != nil && !errors.Is(err, errReplace) {
		t.Fatal(err)
	}
}

// insidePair runs f with a session of the shared token and the working pair of a blob.
func insidePair(t *testing.T, bl blob, f func(c *conn, s pkcs11.SessionHandle, p *pair) error) {
	t.Helper()
	err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		p, err := c.openPair(ctx, until, bl.root, bl.pair)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error { return f(c, s, p) })
	})
	if err != nil && !errors.Is(err, errReplace) {
		t.Fatal(err)
	}
}

// Many keys, callers and evictions through a cache far too small: every plaintext must come back, and no object stay.
func TestManyAtOnce(t *testing.T) {
	type sealed struct {
		b      domain.Binding
		iv, ct []byte
	}
	before := strays(t)
	keys := make([]sealed, 64)
	for i := range keys {
		b, _ := newKey(t)
		iv, ct, err := shared.Encrypt(t.Context(), b, []byte(b.KeyUID.String()), nil)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = sealed{b, iv, ct}
	}
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 150 {
				k := keys[(g*31+i*7)%len(keys)]
				got, err := shared.Decrypt(t.Context(), k.b, k.iv, k.ct, nil)
				if err != nil || string(got) != k.b.KeyUID.String() {
					t.Errorf("got %q, %v", got, err)
					return
				}
				if i%20 == 0 {
					shared.Evict(k.b.KeyUID, k.b.Version)
				}
			}
		})
	}
	wg.Wait()
	if after := strays(t); after != before {
		t.Errorf("%d objects that nobody knows, %d before", after, before)
	}
}

// strays is how many session objects there are beside the cached keys and the working pairs: those that other tests left when
// they made the epoch forget its handles.
func strays(t *testing.T) (n int) {
	t.Helper()
	inside(t, func(c *conn, s pkcs11.SessionHandle, _ *root) error {
		if err := c.raw.FindObjectsInit(s, []*pkcs11.Attribute{attr(pkcs11.CKA_TOKEN, false)}); err != nil {
			return err
		}
		found, _, err := c.raw.FindObjects(s, 1000)
		_, cached := c.cache.snapshot()
		if cached > 16 {
			t.Errorf("%d keys are cached, 16 is the limit", cached)
		}
		n = len(found) - cached - 2*len(c.pairs)
		return errors.Join(err, c.raw.FindObjectsFinal(s))
	})
	return n
}

func TestEvict(t *testing.T) {
	b, _ := newKey(t)
	reads := func() int {
		blobs.mu.Lock()
		defer blobs.mu.Unlock()
		return blobs.reads
	}
	encrypt := func() {
		t.Helper()
		if _, _, err := shared.Encrypt(t.Context(), b, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	encrypt()
	for _, step := range []struct {
		what  string
		do    func()
		reads int
	}{
		{"nothing", func() {}, 0},
		{"another version", func() { shared.Evict(b.KeyUID, 2) }, 0},
		{"another key", func() { shared.Evict(randomUID(), 0) }, 0},
		{"no key", func() { shared.Evict(domain.UID{}, 0) }, 0},
		{"the version", func() { shared.Evict(b.KeyUID, 1) }, 1},
		{"all versions", func() { shared.Evict(b.KeyUID, 0) }, 1},
	} {
		before := reads()
		step.do()
		encrypt()
		if got := reads() - before; got != step.reads {
			t.Errorf("after evicting %s the blob was read %d times, not %d", step.what, got, step.reads)
		}
	}
}

func TestCancelled(t *testing.T) {
	b, _ := newKey(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := shared.Encrypt(ctx, b, nil, nil)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// A panic, as miekg/pkcs11 has for some inputs, costs neither the session nor the epoch.
func TestPanicInside(t *testing.T) {
	sessions := len(shared.conn.sessions)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		inside(t, func(*conn, pkcs11.SessionHandle, *root) error { panic("in the library") })
	}()
	shared.mu.Lock()
	leases := shared.conn.leases
	shared.mu.Unlock()
	if len(shared.conn.sessions) != sessions || leases != 0 {
		t.Errorf("%d of %d sessions, %d leases", len(shared.conn.sessions), sessions, leases)
	}
}
