package hsm

import (
	"bytes"
	"errors"
	"testing"
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
			got, err := shared.Decrypt(t.Context(), b, iv, ct, aad)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%s, %d bytes of aad: got %d bytes, %v", name, len(aad), len(got), err)
			}
		}
	}
	if !errors.Is(shared.Health(t.Context()), nil) {
		t.Error("unhealthy")
	}
}
