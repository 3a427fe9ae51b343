package hsm

import (
	"bytes"
	"testing"

	"github.com/miekg/pkcs11"
)

// TestPrivateTemplate: tokens without public secret keys get the same template but for that.
func TestPrivateTemplate(t *testing.T) {
	for _, a := range algorithms {
		private := a.inUsePrivate()
		if len(private) != len(a.inUse) {
			t.Fatalf("%s: %d attributes, want %d", a.name, len(private), len(a.inUse))
		}
		for i, at := range private {
			want := a.inUse[i].Value
			if at.Type == pkcs11.CKA_PRIVATE {
				want = attr(pkcs11.CKA_PRIVATE, true).Value
			}
			if at.Type != a.inUse[i].Type || !bytes.Equal(at.Value, want) {
				t.Errorf("%s: attribute %#x is %x, want %x", a.name, at.Type, at.Value, want)
			}
		}
	}
	for code, want := range map[uint]bool{pkcs11.CKR_TEMPLATE_INCONSISTENT: true, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID: true, pkcs11.CKR_GENERAL_ERROR: false} {
		if got := wantsPrivate(pkcs11.Error(code)); got != want {
			t.Errorf("wantsPrivate(%#x) = %t", code, got)
		}
	}
}
