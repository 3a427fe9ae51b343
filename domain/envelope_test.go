package domain_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

func sampleEnvelope() Envelope {
	return Envelope{
		Location: "local", KeyUID: UID{0x01, 0x90, 0xb3, 0xa5, 0x7c, 0x1e, 0x7d, 0x2a, 0x9c, 0x35, 0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f},
		Version: 258, Algorithm: AES256GCM, IV: []byte("0123456789ab"), Ciphertext: []byte("secret+sixteen bytes tag"),
	}
}

// goldenEnvelopes are ciphertexts as they are stored by callers, and what they must be read as for ever. Add to them,
// never change one.
var goldenEnvelopes = map[string]Envelope{
	"format1.hex": sampleEnvelope(),
	"format1_empty.hex": {
		Location: strings.Repeat("x", 63), KeyUID: UID{15: 1}, Version: 1<<31 - 1, Algorithm: AES256GCM, IV: make([]byte, 12), Ciphertext: make([]byte, 16),
	},
}

func TestEnvelopeGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/envelope/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(goldenEnvelopes) {
		t.Errorf("there are %d golden files for %d envelopes", len(files), len(goldenEnvelopes))
	}
	for name, want := range goldenEnvelopes {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "envelope", name))
			if err != nil {
				t.Fatal(err)
			}
			golden, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseEnvelope(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
			if written := want.Marshal(); !bytes.Equal(written, golden) {
				t.Errorf("written as\n%x, want\n%x", written, golden)
			}
		})
	}
}

// TestAdditionalDataGolden: what the AEAD authenticates is as much a promise as the ciphertext's format.
func TestAdditionalDataGolden(t *testing.T) {
	e := sampleEnvelope()
	header := "cb01" + "05" + hex.EncodeToString([]byte("local")) + "0190b3a57c1e7d2a9c350a1b2c3d4e5f" + "00000102" + "01"
	if got := hex.EncodeToString(e.Header()); got != header {
		t.Errorf("header %s, want %s", got, header)
	}
	want := "0000001d" + header + "00000002" + "c0c1" + "00000003" + "a0a1a2"
	if got := hex.EncodeToString(e.AdditionalData([]byte{0xc0, 0xc1}, []byte{0xa0, 0xa1, 0xa2})); got != want {
		t.Errorf("additional data\n%s, want\n%s", got, want)
	}
}

func drawEnvelope(t *rapid.T) Envelope {
	return Envelope{
		Location:   rapid.StringMatching(`[a-zA-Z0-9_-]{1,63}`).Draw(t, "location"),
		KeyUID:     UID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uid")),
		Version:    Version(rapid.Int32Range(1, 1<<31-1).Draw(t, "version")),
		Algorithm:  AES256GCM,
		IV:         rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "iv"),
		Ciphertext: rapid.SliceOfN(rapid.Byte(), 16, 100).Draw(t, "ciphertext"),
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawEnvelope(t)
		got, err := ParseEnvelope(want.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
		if !bytes.HasPrefix(want.Marshal(), want.Header()) {
			t.Fatal("the header is not the front of the ciphertext")
		}
	})
}

// TestEnvelopeMutations: a change of any one byte, to any value, either is no ciphertext or changes what the AEAD checks:
// the additional data, the IV or the encrypted bytes. Nothing in the envelope is malleable.
func TestEnvelopeMutations(t *testing.T) {
	original := sampleEnvelope()
	whole := original.Marshal()
	for i := range whole {
		for v := range 256 {
			if byte(v) == whole[i] {
				continue
			}
			mutant := bytes.Clone(whole)
			mutant[i] = byte(v)
			e, err := ParseEnvelope(mutant)
			if err != nil {
				if !errors.Is(err, ErrCiphertext) {
					t.Fatalf("byte %d set to %#x: %v, want ErrCiphertext", i, v, err)
				}
				continue
			}
			if bytes.Equal(e.AdditionalData(nil, nil), original.AdditionalData(nil, nil)) && bytes.Equal(e.IV, original.IV) && bytes.Equal(e.Ciphertext, original.Ciphertext) {
				t.Fatalf("byte %d set to %#x is not seen by the AEAD", i, v)
			}
		}
	}
}

func TestEnvelopeTruncations(t *testing.T) {
	whole := Envelope{Location: "local", KeyUID: keyUID, Version: 1, Algorithm: AES256GCM, IV: make([]byte, 12), Ciphertext: make([]byte, 16)}.Marshal()
	if _, err := ParseEnvelope(whole); err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if e, err := ParseEnvelope(whole[:n]); !errors.Is(err, ErrCiphertext) {
			t.Errorf("the first %d of %d bytes were read as %v, %v", n, len(whole), e, err)
		}
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	change := func(f func(*Envelope)) []byte {
		e := sampleEnvelope()
		f(&e)
		return e.Marshal()
	}
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"text":                 []byte(strings.Repeat("no ciphertext at all ", 10)),
		"another format":       append([]byte{0xCB, 2}, sampleEnvelope().Marshal()[2:]...),
		"version 0":            change(func(e *Envelope) { e.Version = 0 }),
		"a negative version":   change(func(e *Envelope) { e.Version = -1 }),
		"no location":          change(func(e *Envelope) { e.Location = "" }),
		"a location of 64":     change(func(e *Envelope) { e.Location = strings.Repeat("x", 64) }),
		"a location with a /":  change(func(e *Envelope) { e.Location = "a/b" }),
		"an unknown algorithm": change(func(e *Envelope) { e.Algorithm = "ROT13" }),
		"an IV of 11":          change(func(e *Envelope) { e.IV = e.IV[:11] }),
		"an IV of 13":          change(func(e *Envelope) { e.IV = append(e.IV, 0) }),
		"a tag of 15":          change(func(e *Envelope) { e.Ciphertext = e.Ciphertext[:15] }),
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseEnvelope(b)
			if !errors.Is(err, ErrCiphertext) {
				t.Errorf("error = %v, want ErrCiphertext", err)
			}
			if diff := cmp.Diff(Envelope{}, e); diff != "" {
				t.Errorf("a refused ciphertext gave %s", diff)
			}
		})
	}
}

// TestLargestEnvelope: the bound that Decrypt is given lets through what Encrypt can make, and not one byte more.
func TestLargestEnvelope(t *testing.T) {
	e := sampleEnvelope()
	e.Location = strings.Repeat("x", 63)
	e.Ciphertext = make([]byte, MaxPlaintext+16)
	if got := len(e.Marshal()); got != MaxEnvelope {
		t.Errorf("the largest ciphertext has %d bytes, MaxEnvelope is %d", got, MaxEnvelope)
	}
}

// TestAdditionalDataIsInjective: header, context and aad can be read back from what the AEAD authenticates, so no byte can
// move from one to another.
func TestAdditionalDataIsInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawEnvelope(t)
		context := rapid.SliceOf(rapid.Byte()).Draw(t, "context")
		aad := rapid.SliceOf(rapid.Byte()).Draw(t, "aad")
		rest := e.AdditionalData(context, aad)
		for _, want := range [][]byte{e.Header(), context, aad} {
			if len(rest) < 4 {
				t.Fatalf("no length before %x", want)
			}
			n := binary.BigEndian.Uint32(rest)
			rest = rest[4:]
			if uint64(n) > uint64(len(rest)) || !bytes.Equal(rest[:n], want) {
				t.Fatalf("read %d bytes of %x, want %x", n, rest, want)
			}
			rest = rest[n:]
		}
		if len(rest) > 0 {
			t.Fatalf("%x is left over", rest)
		}
	})
}

// FuzzParseEnvelope: what is read is written as the same bytes, so a ciphertext can't be changed into another that means
// the same.
func FuzzParseEnvelope(f *testing.F) {
	for _, e := range goldenEnvelopes {
		f.Add(e.Marshal())
	}
	f.Add([]byte{})
	f.Add([]byte{0xCB, 1, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnvelope(b)
		if err != nil {
			if !errors.Is(err, ErrCiphertext) {
				t.Fatalf("error = %v, want ErrCiphertext", err)
			}
			return
		}
		if got := e.Marshal(); !bytes.Equal(got, b) {
			t.Fatalf("%x was read and written as %x", b, got)
		}
		again, err := ParseEnvelope(e.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Fatalf("read again (-first +second):\n%s", diff)
		}
	})
}
