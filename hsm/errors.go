package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Why the token can't be opened, or not be trusted. None of these goes away by trying again.
var (
	// ErrModuleMissing: the PKCS#11 library is not there, or is none.
	ErrModuleMissing = errors.New("PKCS#11 module missing")
	// ErrTokenMissing: the library shows no token, or more than one, of the configured label.
	ErrTokenMissing = errors.New("token missing")
	// ErrWrongPIN: the token refuses the PIN. It is tried once only, because tokens lock themselves after a few.
	ErrWrongPIN = errors.New("wrong PIN")
	// ErrTokenInUse: this process has the library open already, or another process is making the token.
	ErrTokenInUse = errors.New("token in use")
	// ErrSelfTest: the token computes wrongly, or does not enforce what the keys' safety stands on.
	ErrSelfTest = errors.New("token fails its self-test")
	// ErrTokenChanged: a root is not the one that was recorded, as after a re-initialisation under the same label.
	ErrTokenChanged = errors.New("token changed")
	// ErrRootExists: the root is complete already; InspectRoot describes it.
	ErrRootExists = errors.New("root exists")
	// ErrRootMissing: the token has no complete root of that id.
	ErrRootMissing = errors.New("root missing")
	// ErrRootUnsafe: a root's attributes allow what they must not.
	ErrRootUnsafe = errors.New("root unsafe")
)

// Why a use of the token failed.
var (
	// ErrDecrypt is the one answer to every ciphertext, IV or additional data that does not authenticate.
	ErrDecrypt = errors.New("ciphertext does not authenticate")
	// ErrBlob: a wrapped key is damaged, or does not belong to the binding that it was read for.
	ErrBlob = errors.New("wrapped key damaged or misplaced")
	// ErrMaterial is the one answer to every wrapped key to import that can't be unwrapped: it was changed, was wrapped for
	// another job, or is no key of the kind that it is to be.
	ErrMaterial = errors.New("wrapped key to import can't be unwrapped")
	// ErrUnsupported: the token can't do this; the text says what.
	ErrUnsupported = errors.New("unsupported by the token")
	// ErrUnavailable: the token is away or overloaded. Trying later may help; nothing was returned or changed.
	ErrUnavailable = errors.New("token unavailable")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("token closed")
)

// MaterialError says why material that was unwrapped rightly is not imported. It tells nothing secret.
type MaterialError struct{ Why string }

func (e *MaterialError) Error() string { return "the material does not fit the key: " + e.Why }

// errEpochOver is the answer to those who wait for a session of an epoch that is being taken down.
var errEpochOver = errors.New("epoch over")

// callError is one failed PKCS#11 call.
type callError struct {
	call string
	err  error
	// means is what the caller is to be told when the token is well and the code is one about input; nil for err itself.
	means error
}

func (e *callError) Error() string { return e.call + ": " + e.err.Error() }

func (e *callError) Unwrap() error { return e.err }

// failed names the PKCS#11 call that err comes from; no error stays none.
func failed(call string, err error) error {
	if err == nil {
		return nil
	}
	return &callError{call: call, err: err}
}

// blames is like failed for a call whose ordinary failure is the fault of its input.
func blames(call string, err, means error) error {
	if err == nil {
		return nil
	}
	return &callError{call: call, err: err, means: means}
}

// class says what a failure asks for.
type class int

const (
	ours        class = iota // nothing: the failure is the answer
	ambiguous                // find out whether the token is well: the same code is used for bad input and for a sick token
	staleHandle              // forget every handle of the epoch and try again
	epochLost                // start a new epoch and try again
	changed                  // start a new epoch, which will not come up before the right token is back
	exhausted                // nothing to do but to try later
)

// classify sorts an error by what PKCS#11 v2.40 section 5.1.6 says about its code and by what tokens were seen to do.
func classify(err error) class {
	switch {
	case errors.Is(err, ErrBlob):
		return ours
	case errors.Is(err, errEpochOver):
		return epochLost
	case errors.Is(err, ErrTokenChanged):
		return changed
	case errors.Is(err, ErrRootMissing):
		return ambiguous // a session that has lost its login finds no private object, and reports no error
	}
	rv, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return ours
	}
	switch rv {
	case pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT: // seen when sessions vanish under a running call
		return staleHandle
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
		pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_OPERATION_ACTIVE: // a session came back into the pool with an operation in progress
		return epochLost
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED:
		return ambiguous
	case pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_SESSION_COUNT:
		return exhausted
	}
	return ours
}

// ckrAEADDecryptFailed is what tokens of PKCS#11 3.0 say of a wrong tag.
const ckrAEADDecryptFailed = 0x42

// aboutInput reports whether a well token uses the code for ciphertexts and wrapped keys that are not what they should be.
func aboutInput(rv pkcs11.Error) bool {
	switch rv {
	case pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, ckrAEADDecryptFailed,
		pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED: // what SoftHSM says
		return true
	}
	return false
}

// answer is what the caller of a well token gets to see of err.
func answer(err error) error {
	ce, ok := errors.AsType[*callError](err)
	if !ok {
		return err
	}
	rv, _ := errors.AsType[pkcs11.Error](err)
	if ce.means != nil && (aboutInput(rv) || rejectsMaterial(rv)) {
		return ce.means
	}
	switch rv {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
