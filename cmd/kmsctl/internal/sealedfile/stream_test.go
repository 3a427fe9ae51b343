package sealedfile

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// keyService stands for the service: it encrypts a data key and refuses what it didn't encrypt.
type keyService struct{ cipher.AEAD }

func newKeyService(t testing.TB) keyService {
	t.Helper()
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return keyService{aead}
}

func (s keyService) encrypt(dataKey []byte) []byte {
	nonce := make([]byte, s.NonceSize())
	_, _ = rand.Read(nonce)
	return s.Seal(nonce, nonce, dataKey, nil)
}

var errKeyService = errors.New("the service refuses the encrypted data key")

func (s keyService) decrypt(b []byte) ([]byte, error) {
	if len(b) < s.NonceSize() {
		return nil, errKeyService
	}
	dataKey, err := s.Open(nil, b[:s.NonceSize()], b[s.NonceSize():], nil)
	if err != nil {
		return nil, errKeyService
	}
	return dataKey, nil
}

func (s keyService) seal(t fataler, content []byte, chunkSize uint32) []byte {
	t.Helper()
	dataKey := make([]byte, DataKeySize)
	_, _ = rand.Read(dataKey)
	var file bytes.Buffer
	w, err := newWriter(&file, dataKey, s.encrypt(dataKey), chunkSize)
	if err != nil {
		t.Fatal(err)
	}
	clear(dataKey)
	if n, err := w.Write(content); err != nil || n != len(content) {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// open returns what a reader gives out, also before an error.
func (s keyService) open(file io.Reader) ([]byte, error) {
	h, err := ReadHeader(file)
	if err != nil {
		return nil, err
	}
	dataKey, err := s.decrypt(h.EncryptedDataKey)
	if err != nil {
		return nil, err
	}
	r, err := h.NewReader(file, dataKey)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestRoundTrip(t *testing.T) {
	s := newKeyService(t)
	for _, chunks := range []int{0, 1, 2, 5} {
		for _, more := range []int{-1, 0, 1} {
			size := chunks*ChunkSize + more
			if size < 0 {
				continue
			}
			content := randomBytes(size)
			file := s.seal(t, content, ChunkSize)
			if !Detect(file) {
				t.Errorf("%d bytes: a file is not detected as one", size)
			}
			wantChunks := max(1, (size+ChunkSize-1)/ChunkSize)
			edk := len(s.encrypt(make([]byte, DataKeySize)))
			if want := fixedSize + 2 + edk + size + wantChunks*tagSize; len(file) != want {
				t.Errorf("%d bytes make a file of %d, want %d", size, len(file), want)
			}
			got, err := s.open(bytes.NewReader(file))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes: read %d bytes, same = %t, error %v", size, len(got), bytes.Equal(got, content), err)
			}
		}
	}
}

// TestAnySplit checks that neither the sizes of writes nor those of reads matter.
func TestAnySplit(t *testing.T) {
	s := newKeyService(t)
	rapid.Check(t, func(t *rapid.T) {
		chunkSize := rapid.Uint32Range(1, 40).Draw(t, "chunk size")
		dataKey := randomBytes(DataKeySize)
		var file, content bytes.Buffer
		w, err := newWriter(&file, dataKey, s.encrypt(dataKey), chunkSize)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 100)).Draw(t, "writes") {
			content.Write(p)
			if n, err := w.Write(p); err != nil || n != len(p) {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]io.Reader{
			"whole":      bytes.NewReader(file.Bytes()),
			"one byte":   iotest.OneByteReader(bytes.NewReader(file.Bytes())),
			"half":       iotest.HalfReader(bytes.NewReader(file.Bytes())),
			"data + EOF": iotest.DataErrReader(bytes.NewReader(file.Bytes())),
		} {
			got, err := s.open(r)
			if err != nil || !bytes.Equal(got, content.Bytes()) {
				t.Fatalf("%s: read %x, %v, want %x", name, got, err, content.Bytes())
			}
		}
	})
}

func TestReaderContract(t *testing.T) {
	s := newKeyService(t)
	content := randomBytes(1000)
	file := bytes.NewReader(s.seal(t, content, 64))
	h, err := ReadHeader(file)
	if err != nil {
		t.Fatal(err)
	}
	dataKey, err := s.decrypt(h.EncryptedDataKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := h.NewReader(file, dataKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, content); err != nil {
		t.Error(err)
	}
}

// TestTampering checks that no damaged file is read to its end, and that whatever was given out before is genuine.
func TestTampering(t *testing.T) {
	s := newKeyService(t)
	const chunkSize = 16
	rapid.Check(t, func(t *rapid.T) {
		content := randomBytes(rapid.IntRange(0, 100).Draw(t, "size"))
		file := s.seal(t, content, chunkSize)
		chunks := len(file) - sealedLength(len(content), chunkSize)
		var damaged []byte
		switch kind := rapid.SampledFrom([]string{"flip", "truncate", "append", "drop", "swap", "repeat"}).Draw(t, "damage"); kind {
		case "flip":
			damaged = bytes.Clone(file)
			bit := rapid.IntRange(0, 8*len(file)-1).Draw(t, "bit")
			damaged[bit/8] ^= 1 << (bit % 8)
		case "truncate":
			damaged = file[:rapid.IntRange(0, len(file)-1).Draw(t, "length")]
		case "append":
			damaged = append(bytes.Clone(file), rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "tail")...)
		default:
			damaged = rearrange(t, kind, file[:chunks], cut(file[chunks:], chunkSize+tagSize))
		}
		if bytes.Equal(damaged, file) {
			t.Skip("nothing changed")
		}
		got, err := s.open(bytes.NewReader(damaged))
		if err == nil {
			t.Fatalf("a damaged file was read: %x, want %x", got, content)
		}
		if !bytes.HasPrefix(content, got) {
			t.Fatalf("%x was given out before %q, which is not the start of %x", got, err, content)
		}
	})
}

func sealedLength(content, chunkSize int) int {
	return content + max(1, (content+chunkSize-1)/chunkSize)*tagSize
}

func cut(b []byte, size int) (pieces [][]byte) {
	for len(b) > 0 {
		n := min(size, len(b))
		pieces, b = append(pieces, b[:n]), b[n:]
	}
	return pieces
}

func rearrange(t *rapid.T, kind string, header []byte, chunks [][]byte) []byte {
	i := rapid.IntRange(0, len(chunks)-1).Draw(t, "chunk")
	j := rapid.IntRange(0, len(chunks)-1).Draw(t, "other chunk")
	switch kind {
	case "drop":
		chunks = append(chunks[:i:i], chunks[i+1:]...)
	case "swap":
		chunks[i], chunks[j] = chunks[j], chunks[i]
	case "repeat":
		chunks = append(append(chunks[:i+1:i+1], chunks[j]), chunks[i+1:]...)
	}
	return append(bytes.Clone(header), bytes.Join(chunks, nil)...)
}

// TestWhatIsWrong checks that the errors say what happened where that can be known.
func TestWhatIsWrong(t *testing.T) {
	s := newKeyService(t)
	const chunk = 64 + tagSize
	full := s.seal(t, randomBytes(3*64), 64) // the last chunk is full
	other := s.seal(t, randomBytes(3*64), 64)
	chunks := len(full) - 3*chunk
	flipped := bytes.Clone(full)
	flipped[len(flipped)-1] ^= 1
	wrongSalt := bytes.Clone(full)
	wrongSalt[20] ^= 1
	newer := bytes.Clone(full)
	newer[len(magic)-1]++
	for name, tt := range map[string]struct {
		file []byte
		read int // bytes of content given out before the error
		err  error
	}{
		"nothing":                 {nil, 0, ErrTruncated},
		"something else":          {[]byte("hello"), 0, ErrFormat},
		"newer format":            {newer, 0, ErrFormat},
		"half a header":           {full[:40], 0, ErrTruncated},
		"no chunk":                {full[:chunks], 0, ErrTruncated},
		"one chunk of three":      {full[:chunks+chunk], 0, ErrTruncated},
		"two chunks of three":     {full[:chunks+2*chunk], 64, ErrTruncated},
		"in the middle of a tag":  {full[:chunks+2*chunk+5], 2 * 64, ErrTruncated},
		"in the middle of one":    {full[:chunks+2*chunk+50], 2 * 64, ErrCorrupt},
		"one byte more":           {append(bytes.Clone(full), 0), 2 * 64, ErrTrailing},
		"a chunk of another file": {append(bytes.Clone(full[:chunks+chunk]), other[chunks+chunk:]...), 64, ErrCorrupt},
		"the other's data key":    {append(append(bytes.Clone(full[:fixedSize]), other[fixedSize:chunks]...), full[chunks:]...), 0, ErrWrongKey},
		"bit of the last chunk":   {flipped, 2 * 64, ErrCorrupt},
		"bit of the salt":         {wrongSalt, 0, ErrWrongKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.open(bytes.NewReader(tt.file))
			if !errors.Is(err, tt.err) || len(got) != tt.read {
				t.Errorf("gave out %d bytes and %v, want %d and %v", len(got), err, tt.read, tt.err)
			}
		})
	}
}

// TestEmptyLastChunk builds what only a holder of the data key could: content followed by an empty last chunk, a second
// spelling of the same content.
func TestEmptyLastChunk(t *testing.T) {
	s := newKeyService(t)
	dataKey := randomBytes(DataKeySize)
	var file bytes.Buffer
	w, err := newWriter(&file, dataKey, s.encrypt(dataKey), 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(randomBytes(8)); err != nil {
		t.Fatal(err)
	}
	if err := w.flush(false); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(&file); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error = %v, want %v", err, ErrCorrupt)
	}
}

func TestNewDataKeyEncryption(t *testing.T) {
	s := newKeyService(t)
	content := randomBytes(100)
	file := bytes.NewReader(s.seal(t, content, 16))
	h, err := ReadHeader(file)
	if err != nil {
		t.Fatal(err)
	}
	dataKey, err := s.decrypt(h.EncryptedDataKey)
	if err != nil {
		t.Fatal(err)
	}
	h.EncryptedDataKey = s.encrypt(dataKey)
	renewed, err := h.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.open(io.MultiReader(bytes.NewReader(renewed), file))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %x, %v, want %x", got, err, content)
	}
}

func TestTooManyChunks(t *testing.T) {
	s := newKeyService(t)
	dataKey := randomBytes(DataKeySize)
	w, err := newWriter(io.Discard, dataKey, s.encrypt(dataKey), 1)
	if err != nil {
		t.Fatal(err)
	}
	w.number = math.MaxUint32 - 1
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Fatalf("the last two chunks that can be counted: %v", err)
	}
	if _, err := w.Write([]byte("c")); err != nil {
		t.Fatalf("filling the last chunk that can be counted: %v", err)
	}
	if _, err := w.Write([]byte("d")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one more: error = %v, want %v", err, ErrTooLarge)
	}
	if err := w.Close(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Close after an error = %v, want it again", err)
	}
}

func TestWriteAfterClose(t *testing.T) {
	s := newKeyService(t)
	dataKey := randomBytes(DataKeySize)
	w, err := NewWriter(io.Discard, dataKey, s.encrypt(dataKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("more")); err == nil {
		t.Error("a closed Writer took more content")
	}
}

func TestFailingDisk(t *testing.T) {
	s := newKeyService(t)
	errDisk := errors.New("disk full")
	dataKey := randomBytes(DataKeySize)
	if _, err := NewWriter(failAfter{new(int), errDisk}, dataKey, s.encrypt(dataKey)); !errors.Is(err, errDisk) {
		t.Errorf("writing the header: error = %v, want %v", err, errDisk)
	}
	left := 1
	w, err := NewWriter(failAfter{&left, errDisk}, dataKey, s.encrypt(dataKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 2*ChunkSize)); !errors.Is(err, errDisk) {
		t.Errorf("writing a chunk: error = %v, want %v", err, errDisk)
	}
	file := s.seal(t, randomBytes(100), 16)
	if _, err := s.open(io.MultiReader(bytes.NewReader(file[:len(file)-20]), iotest.ErrReader(errDisk))); !errors.Is(err, errDisk) {
		t.Errorf("reading: error = %v, want %v", err, errDisk)
	}
}

// failAfter fails after as many writes as left says.
type failAfter struct {
	left *int
	err  error
}

func (f failAfter) Write(p []byte) (int, error) {
	if *f.left == 0 {
		return 0, f.err
	}
	*f.left--
	return len(p), nil
}

// TestGolden reads files that were written from the package comment alone, by the program in testdata, which shares no
// code with this package. They must be readable for ever: add to them, never change one.
func TestGolden(t *testing.T) {
	dataKey := make([]byte, DataKeySize)
	for i := range dataKey {
		dataKey[i] = byte(i)
	}
	for name, content := range map[string][]byte{
		"empty.v1.hex":  {},
		"hello.v1.hex":  []byte("hello, world\n"),
		"chunks.v1.hex": bytes.Repeat([]byte("0123456789abcdef"), 20),
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			file, err := hex.DecodeString(string(bytes.TrimSpace(text)))
			if err != nil {
				t.Fatal(err)
			}
			from := bytes.NewReader(file)
			h, err := ReadHeader(from)
			if err != nil {
				t.Fatal(err)
			}
			if string(h.EncryptedDataKey) != "encrypted data key" {
				t.Errorf("encrypted data key = %q", h.EncryptedDataKey)
			}
			r, err := h.NewReader(from, dataKey)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %q, %v, want %q", got, err, content)
			}
		})
	}
}

// FuzzHeader: what is accepted is written again as the same bytes.
func FuzzHeader(f *testing.F) {
	s := newKeyService(f)
	f.Add(s.seal(f, []byte("hello"), ChunkSize))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, file []byte) {
		r := bytes.NewReader(file)
		h, err := ReadHeader(r)
		if err != nil {
			return
		}
		again, err := h.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, file[:len(file)-r.Len()]) {
			t.Errorf("header %x was written again as %x, %v", file[:len(file)-r.Len()], again, err)
		}
		if !Detect(file) {
			t.Error("an accepted file was not detected as one")
		}
		cr, err := h.NewReader(r, make([]byte, DataKeySize))
		if err == nil {
			_, err = io.ReadAll(cr)
		}
		if err == nil {
			t.Error("a file of unknown origin was opened with the zero key")
		}
	})
}
