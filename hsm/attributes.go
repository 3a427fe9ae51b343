package hsm

import (
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"unsafe"

	"github.com/miekg/pkcs11"
)

const (
	sessionFlags = pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION

	// stateLoggedIn is CKS_RW_USER_FUNCTIONS, the state of a session that can use private keys.
	stateLoggedIn = 3

	// mechWrap wraps by RFC 5649. The number stands for other things at some vendors, so the self-test proves it.
	mechWrap = pkcs11.CKM_AES_KEY_WRAP_PAD
)

func attr(typ uint, value any) *pkcs11.Attribute { return pkcs11.NewAttribute(typ, value) }

func mechanism(m uint) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)}
}

// mechanisms is the value of CKA_ALLOWED_MECHANISMS.
func mechanisms(list ...uint) []byte {
	var out []byte
	for _, m := range list {
		out = binary.NativeEndian.AppendUint64(out, uint64(m))
	}
	return out
}

// template is the value of an array attribute such as CKA_UNWRAP_TEMPLATE: a list of CK_ATTRIBUTE, which point to their
// values. They are pinned; the caller unpins them after the call that uses the template.
func template(pin *runtime.Pinner, attrs ...*pkcs11.Attribute) []byte {
	var out []byte
	for _, a := range attrs {
		value := append([]byte(nil), a.Value...)
		pin.Pin(&value[0])
		out = binary.NativeEndian.AppendUint64(out, uint64(a.Type))
		out = binary.NativeEndian.AppendUint64(out, uint64(uintptr(unsafe.Pointer(&value[0])))) //nolint:gosec // the layout is C's
		out = binary.NativeEndian.AppendUint64(out, uint64(len(value)))
	}
	return out
}

// wrapTemplate is what a wrapping key demands of every key that is unwrapped with it: nobody who is logged in can
// unwrap a data key into the open, or into an object that outlives its session.
func wrapTemplate(pin *runtime.Pinner) *pkcs11.Attribute {
	return attr(pkcs11.CKA_UNWRAP_TEMPLATE, template(pin, attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_TOKEN, false)))
}

// wrapping is the template of the wrapping key of a working pair: a session key with the root's rules.
func wrapping(pin *runtime.Pinner) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, false),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, false),
		attr(pkcs11.CKA_ENCRYPT, false), attr(pkcs11.CKA_DECRYPT, false),
		attr(pkcs11.CKA_WRAP, true), attr(pkcs11.CKA_UNWRAP, true),
		attr(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(mechWrap)), wrapTemplate(pin),
	}
}

// privately calls f with a template for a public object and, if the token refuses that, for a private one: there are
// tokens that have no public secret keys. Why ours are public stands at algorithm.inUse.
func privately(template []*pkcs11.Attribute, f func([]*pkcs11.Attribute) (pkcs11.ObjectHandle, error)) (pkcs11.ObjectHandle, error) {
	h, err := f(template)
	if rv, ok := errors.AsType[pkcs11.Error](err); !ok || rv != pkcs11.CKR_TEMPLATE_INCONSISTENT &&
		rv != pkcs11.CKR_ATTRIBUTE_VALUE_INVALID && rv != pkcs11.CKR_ATTRIBUTE_READ_ONLY { // PKCS#11 v2.40 section 4.1.1
		return h, err
	}
	private := slices.Clone(template)
	for i, a := range private {
		if a.Type == pkcs11.CKA_PRIVATE {
			private[i] = attr(pkcs11.CKA_PRIVATE, true)
		}
	}
	return f(private)
}
