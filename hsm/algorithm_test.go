package hsm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"
)

// TestPrivately: tokens without public secret keys get the same template but for that, and other errors are not tried again.
func TestPrivately(t *testing.T) {
	for code, again := range map[uint]bool{
		pkcs11.CKR_TEMPLATE_INCONSISTENT: true, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID: true, pkcs11.CKR_ATTRIBUTE_READ_ONLY: true,
		pkcs11.CKR_GENERAL_ERROR: false, pkcs11.CKR_OK: false,
	} {
		var tried [][]*pkcs11.Attribute
		_, err := privately(aes256GCM.inUse, func(template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
			if tried = append(tried, template); len(tried) > 1 || code == pkcs11.CKR_OK {
				return 1, nil
			}
			return 0, pkcs11.Error(code)
		})
		if again != (len(tried) == 2) || again && err != nil || code == pkcs11.CKR_GENERAL_ERROR && !errors.Is(err, pkcs11.Error(code)) {
			t.Errorf("after %#x: %d attempts, %v", code, len(tried), err)
		}
		if !again {
			continue
		}
		for i, at := range tried[1] {
			want := aes256GCM.inUse[i].Value
			if at.Type == pkcs11.CKA_PRIVATE {
				want = attr(pkcs11.CKA_PRIVATE, true).Value
			}
			if at.Type != aes256GCM.inUse[i].Type || !bytes.Equal(at.Value, want) {
				t.Errorf("attribute %#x is %x, want %x", at.Type, at.Value, want)
			}
		}
	}
}
