package eventstore_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

func randomBlob(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMaterial(t *testing.T) {
	s := eventstoretest.New(t)
	b := domain.Binding{Project: "p", KeyUID: newUID(t), Version: 1, MaterialID: newUID(t)}
	if _, err := s.Blob(t.Context(), b); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("before it is stored: error = %v", err)
	}
	for range 2 { // storing the same again is what a retry does
		if err := s.PutMaterial(t.Context(), b, []byte("wrapped")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutMaterial(t.Context(), b, []byte("other")); !errors.Is(err, eventstore.ErrMaterialExists) {
		t.Errorf("other material under the same id: error = %v", err)
	}
	if blob, err := s.Blob(t.Context(), b); err != nil || string(blob) != "wrapped" {
		t.Errorf("blob = %q, %v", blob, err)
	}
	other := b
	other.Project = "q"
	if _, err := s.Blob(t.Context(), other); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("in another project: error = %v", err)
	}
	for range 2 {
		if err := s.EraseMaterial(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Blob(t.Context(), b); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("after it is erased: error = %v", err)
	}
	for _, blob := range [][]byte{nil, make([]byte, 64<<10)} {
		if err := s.PutMaterial(t.Context(), b, blob); !errors.Is(err, eventstore.ErrTooLarge) {
			t.Errorf("%d bytes: error = %v", len(blob), err)
		}
	}
}

// TestErasedBytesAreGone looks for erased material in the files of the server: in the block that is being written and in one
// that is full.
func TestErasedBytesAreGone(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	const blobs, size = 400, 40 << 10 // more than one block
	bindings, contents := make([]domain.Binding, blobs), make([][]byte, blobs)
	for i := range blobs {
		bindings[i] = domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
		contents[i] = randomBlob(t, size)
		if err := s.PutMaterial(t.Context(), bindings[i], contents[i]); err != nil {
			t.Fatal(err)
		}
	}
	erased := []int{3, blobs - 3}
	for _, i := range erased {
		if n := occurrences(t, dir, contents[i][1000:1064]); n == 0 {
			t.Fatal("the test does not see material that is stored")
		}
		if err := s.EraseMaterial(t.Context(), bindings[i]); err != nil {
			t.Fatal(err)
		}
		if n := occurrences(t, dir, contents[i][1000:1064]); n != 0 {
			t.Errorf("erased material %d is in %d files", i, n)
		}
	}
	closeStore(t, s)
	s = eventstoretest.Open(t, dir)
	for i := range blobs {
		blob, err := s.Blob(t.Context(), bindings[i])
		if i == erased[0] || i == erased[1] {
			if !errors.Is(err, eventstore.ErrMaterialMissing) {
				t.Errorf("erased material %d after a restart: %v", i, err)
			}
		} else if err != nil || !bytes.Equal(blob, contents[i]) {
			t.Fatalf("material %d beside what was erased: %s, %v", i, hex.EncodeToString(blob[:min(8, len(blob))]), err)
		}
	}
}

// TestErasedTwiceAtOnce: several nodes may erase the same material at once, and all of them succeed.
func TestErasedTwiceAtOnce(t *testing.T) {
	s := eventstoretest.New(t)
	bindings := make([]domain.Binding, 50)
	for i := range bindings {
		bindings[i] = domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
		if err := s.PutMaterial(t.Context(), bindings[i], randomBlob(t, 100)); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range bindings {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := s.EraseMaterial(t.Context(), b); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func occurrences(t *testing.T, dir string, pattern []byte) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, pattern) {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCheckpoints(t *testing.T) {
	s := eventstoretest.New(t)
	if data, rev, err := s.LoadCheckpoint(t.Context(), "activity"); err != nil || data != nil || rev != 0 {
		t.Errorf("before any: %q, %d, %v", data, rev, err)
	}
	rev, err := s.SaveCheckpoint(t.Context(), "activity", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveCheckpoint(t.Context(), "activity", []byte("x"), 0); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("saving over one unseen: error = %v", err)
	}
	if _, err := s.SaveCheckpoint(t.Context(), "activity", []byte("x"), rev+7); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("saving over a future one: error = %v", err)
	}
	if _, err := s.SaveCheckpoint(t.Context(), "other", []byte("x"), 5); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("saving over one that never was: error = %v", err)
	}
	for _, name := range []string{"", "a.b", "a>", "Ä", "a b"} {
		if _, err := s.SaveCheckpoint(t.Context(), name, nil, 0); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	// Of several that save over the same one, one wins.
	var wins atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, err := s.SaveCheckpoint(t.Context(), "activity", []byte("racer "+strconv.Itoa(i)), rev)
			if err == nil {
				wins.Add(1)
			} else if !errors.Is(err, eventstore.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d of 16 won", wins.Load())
	}
	if _, last, err := s.LoadCheckpoint(t.Context(), "activity"); err != nil || last <= rev {
		t.Errorf("revision %d after %d, %v", last, rev, err)
	}
}
