package hsm

import (
	"bytes"
	"testing"
)

// TestDerive: the same label gives the same secret, another label another one, and neither is what the key MACs elsewhere.
func TestDerive(t *testing.T) {
	first, err := shared.Derive(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := shared.Derive(t.Context(), "a")
	if err != nil || !bytes.Equal(first, again) || len(first) != 32 {
		t.Errorf("derived %x, then %x: %v", first, again, err)
	}
	if other, err := shared.Derive(t.Context(), "b"); err != nil || bytes.Equal(first, other) {
		t.Errorf("another label gives the same secret: %v", err)
	}
}
