package hsm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keyledger/kms/domain"
)

// newRoot makes a root with an id of its own and uses it until the test ends.
func newRoot(t *testing.T) string {
	t.Helper()
	id := "test-" + strings.ToLower(rand.Text()[:20])
	info, err := shared.CreateRoot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.VerifyRoot(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	if err := shared.UseRoot(id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.UseRoot(testRoot); err != nil {
			t.Error(err)
		}
		if err := errors.Join(shared.ReleaseRoot(id), shared.DestroyRoot(t.Context(), id)); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return id
}

// TestRewrapEveryKind: keys of every kind and size, also those of import jobs, can be wrapped anew and then be opened.
func TestRewrapEveryKind(t *testing.T) {
	type made struct {
		b    domain.Binding
		blob []byte
	}
	var all []made
	type kind struct { // RSA keys take long to make: one of each size
		generator uint
		size      int
		curve     *curve
	}
	seen := map[kind]bool{}
	for _, rows := range [][]*algorithm{algorithms, importers} {
		for _, a := range rows {
			k := kind{a.generator[0].Mechanism, a.size, a.curve}
			if seen[k] {
				continue
			}
			seen[k] = true
			b := newBinding()
			b.Algorithm = a.name
			if slices.Contains(importers, a) {
				b.Purpose = domain.Import
			}
			w, err := shared.Generate(t.Context(), b)
			if err != nil {
				t.Errorf("%s: %v", a.name, err)
				continue
			}
			all = append(all, made{b, w.Blob})
		}
	}
	newRoot(t)
	for _, m := range all {
		blob, err := shared.Rewrap(t.Context(), m.b, m.blob)
		if err != nil {
			t.Errorf("%s: %v", m.b.Algorithm, err)
			continue
		}
		blobs.put(m.b, blob)
		if err := shared.use(t.Context(), opUnwrap, m.b, func(*pkcs11.Ctx, pkcs11.SessionHandle, pkcs11.ObjectHandle) error { return nil }); err != nil {
			t.Errorf("%s, wrapped anew: %v", m.b.Algorithm, err)
		}
		shared.Evict(m.b.KeyUID, 0)
	}
}

// TestRewrap: a key wrapped anew is the same key, in the same place and no other, and is under the new root.
func TestRewrap(t *testing.T) {
	b, w := newKey(t)
	iv, sealed, err := shared.Encrypt(t.Context(), b, []byte("plaintext"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := shared.Rewrap(t.Context(), b, w.Blob); err != nil || !bytes.Equal(same, w.Blob) {
		t.Errorf("under the root in use already: %v", err)
	}
	id := newRoot(t)
	blob, err := shared.Rewrap(t.Context(), b, w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := BlobRoot(blob); err != nil || root != id {
		t.Errorf("it is under root %q, want %q: %v", root, id, err)
	}
	blobs.put(b, blob)
	shared.Evict(b.KeyUID, 0)
	if got, err := shared.Decrypt(t.Context(), b, iv, sealed, nil); err != nil || string(got) != "plaintext" {
		t.Errorf("decrypting with the key wrapped anew: %q, %v", got, err)
	}
	other, otherKey := newKey(t)
	blobs.put(other, blob)
	if _, _, err := shared.Encrypt(t.Context(), other, nil, nil); !errors.Is(err, ErrBlob) {
		t.Errorf("in another key's place: %v", err)
	}
	blobs.put(other, otherKey.Blob)

	if err := shared.UseRoot(testRoot); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Rewrap(t.Context(), other, blob); !errors.Is(err, ErrBlob) {
		t.Errorf("wrapping anew for another binding: %v", err)
	}
	for i := range blob {
		broken := bytes.Clone(blob)
		broken[i] ^= 1
		if _, err := shared.Rewrap(t.Context(), b, broken); err == nil {
			t.Errorf("a blob with another byte %d is wrapped anew", i)
		}
	}
	if err := shared.UseRoot(id); err != nil {
		t.Fatal(err)
	}
}

// TestMovingKeyEnforced: what is extractable for a moment can do nothing but be wrapped.
func TestMovingKeyEnforced(t *testing.T) {
	_, w := newKey(t)
	bl, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	insidePair(t, bl, func(c *conn, s pkcs11.SessionHandle, p *pair) error {
		key, err := c.raw.UnwrapKey(s, wrapPad, p.kek, bl.wrapped, aes256GCM.moving())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range uses {
			if got, err := c.raw.GetAttributeValue(s, key, []*pkcs11.Attribute{attr(a, nil)}); err != nil || !bytes.Equal(got[0].Value, attr(a, false).Value) {
				t.Errorf("attribute %#x: %v, %v", a, got, err)
			}
		}
		if got, err := c.raw.GetAttributeValue(s, key, []*pkcs11.Attribute{attr(pkcs11.CKA_VALUE, nil)}); err == nil && len(got[0].Value) > 0 {
			t.Error("it can be read")
		}
		if _, err := c.raw.WrapKey(s, wrapPad, p.kek, key); err != nil {
			t.Errorf("it can't be wrapped: %v", err)
		}
		return errReplace
	})
}

// TestReleaseAndDestroyRoot: after a root is destroyed what was wrapped under it is lost for ever, the token is well, and
// nothing of the root is left in the token's files.
func TestReleaseAndDestroyRoot(t *testing.T) {
	ctx := t.Context()
	before := objectFiles(t)
	id := newRoot(t)
	made := objectFiles(t)
	for path := range before {
		delete(made, path)
	}
	if len(made) != len(parts) {
		t.Fatalf("a root is %d files, want %d", len(made), len(parts))
	}
	b, w := newKey(t)
	if _, _, err := shared.Encrypt(ctx, b, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := shared.ReleaseRoot(id); err == nil {
		t.Error("the root in use is released")
	}
	if err := shared.UseRoot(testRoot); err != nil {
		t.Fatal(err)
	}
	if err := shared.DestroyRoot(ctx, id); err == nil {
		t.Error("a root is destroyed that is not released")
	}
	fresh, err := shared.Rewrap(ctx, b, w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := shared.ReleaseRoot(id); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := shared.Encrypt(ctx, b, nil, nil); !errors.Is(err, ErrBlob) {
		t.Errorf("with a released root a key can be used: %v", err)
	}
	for range 2 {
		if err := shared.DestroyRoot(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := shared.Health(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
	if _, err := shared.InspectRoot(ctx, id); !errors.Is(err, ErrRootMissing) {
		t.Errorf("inspecting: %v", err)
	}
	if _, err := shared.Rewrap(ctx, b, w.Blob); !errors.Is(err, ErrBlob) {
		t.Errorf("wrapping anew what was under it: %v", err)
	}
	blobs.put(b, fresh)
	if _, _, err := shared.Encrypt(ctx, b, nil, nil); err != nil {
		t.Errorf("the key that was wrapped anew in time: %v", err)
	}
	for path, content := range made {
		wantNowhere(t, sharedDir, path, content)
	}
}

// TestWipeLeftFiles: what a process left that died while it destroyed a root is overwritten by the next.
func TestWipeLeftFiles(t *testing.T) {
	objects := filepath.Join(t.TempDir(), "objects")
	write := func(name, text string) string {
		path := filepath.Join(objects, "t", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gone, kept := write("1.object", "destroyed secret"), write("2.object", "kept")
	write(softHSMTokenFile, "token")
	if err := holdObjectFiles(objects); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(gone)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close() //nolint:errcheck // only read
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if err := wipeLeftFiles(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if n, err := open.ReadAt(b, 0); err != nil || !bytes.Equal(b[:n], make([]byte, 16)) {
		t.Errorf("the destroyed file holds %q, %v", b[:n], err)
	}
	if b, err := os.ReadFile(kept); err != nil || string(b) != "kept" {
		t.Errorf("the other file holds %q, %v", b, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(objects), softHSMDoomed, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// objectFiles reads the files of the objects in the shared token.
func objectFiles(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(sharedDir, softHSMToken, softHSMObjects, "*", "*.object"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, path := range files {
		if filepath.Base(path) == softHSMTokenFile {
			continue
		}
		if out[path], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// wantNowhere looks for pieces of the content that no other file could have: those without long runs of one byte.
func wantNowhere(t *testing.T, dir, what string, content []byte) {
	t.Helper()
	var pieces [][]byte
	for piece := range slices.Chunk(content, 24) {
		if distinct := slices.Compact(slices.Sorted(slices.Values(piece))); len(distinct) > 16 {
			pieces = append(pieces, piece)
		}
	}
	if len(pieces) == 0 {
		t.Fatalf("%s has nothing to look for", what)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, piece := range pieces {
			if bytes.Contains(data, piece) {
				t.Errorf("a piece of %s is in %s", what, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
