package hsm

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/miekg/pkcs11"
)

// library is one loaded PKCS#11 module. What it knows (login, handles, for SoftHSM also the token folder) belongs to the
// whole process, and finalising it ends the work of everybody; so it has one user at a time. It is never unloaded:
// libraries with their own OpenSSL do not survive that reliably.
type library struct {
	path string
	raw  *pkcs11.Ctx
	used bool
}

var libraries = struct {
	sync.Mutex
	byPath map[string]*library
}{byPath: map[string]*library{}}

// claim loads the module at path, if need be, for the caller alone. It does not initialise it.
func claim(path string) (*library, error) {
	libraries.Lock()
	defer libraries.Unlock()
	if lib := libraries.byPath[path]; lib != nil {
		if lib.used {
			return nil, fmt.Errorf("%w: this process has %s open already", ErrTokenInUse, path)
		}
		lib.used = true
		return lib, nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: %w; for SoftHSM run `apt-get install softhsm2`", ErrModuleMissing, err)
	}
	raw := pkcs11.New(path)
	if raw == nil {
		return nil, fmt.Errorf("%w: %s is not a PKCS#11 library for this machine", ErrModuleMissing, path)
	}
	lib := &library{path: path, raw: raw, used: true}
	libraries.byPath[path] = lib
	return lib, nil
}

func (l *library) release() {
	libraries.Lock()
	defer libraries.Unlock()
	l.used = false
}

// slotOf is the slot of the one token that has the label.
func (l *library) slotOf(label string) (uint, pkcs11.TokenInfo, error) {
	slots, err := l.raw.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, failed("C_GetSlotList", err)
	}
	var (
		slot  uint
		token pkcs11.TokenInfo
		n     int
	)
	for _, s := range slots {
		info, err := l.raw.GetTokenInfo(s)
		if err != nil {
			return 0, pkcs11.TokenInfo{}, failed("C_GetTokenInfo", err)
		}
		if info.Label == label {
			slot, token = s, info
			n++
		}
	}
	if n != 1 {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("%w: %d tokens are labelled %q", ErrTokenMissing, n, label)
	}
	return slot, token, nil
}

// find is the handles, at most two, of the objects that have the attributes.
func find(raw *pkcs11.Ctx, s pkcs11.SessionHandle, attrs []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := raw.FindObjectsInit(s, attrs); err != nil {
		return nil, failed("C_FindObjectsInit", err)
	}
	found, _, err := raw.FindObjects(s, 2)
	if end := raw.FindObjectsFinal(s); err == nil {
		err = end
	}
	return found, failed("C_FindObjects", err)
}

// bounded reports whether ctx has ended, as an error that says what was being waited for.
func bounded(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, context.Cause(ctx))
}
