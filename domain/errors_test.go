package domain_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	. "github.com/keyledger/kms/domain"
)

// TestReasonsAreUnique: two names for one reason would make two refusals look the same to every client.
func TestReasonsAreUnique(t *testing.T) {
	form := regexp.MustCompile(`^[A-Z][A-Z_]*[A-Z]$`) // of google.rpc.ErrorInfo, less digits
	names := map[string]string{}
	for name, value := range stringConstants(t, "Reason") {
		if other, taken := names[value]; taken {
			t.Errorf("%s and %s are both %q", name, other, value)
		}
		names[value] = name
		if !form.MatchString(value) || len(value) > 63 {
			t.Errorf("%s is %q, which is no UPPER_SNAKE_CASE of at most 63 letters", name, value)
		}
	}
}

func TestErrorIs(t *testing.T) {
	err := fmt.Errorf("encrypting: %w", &Error{Reason: ReasonKeyDisabled, Message: "key k is DISABLED; enable it first"})
	if !errors.Is(err, &Error{Reason: ReasonKeyDisabled}) {
		t.Error("an error is not found by its reason")
	}
	if errors.Is(err, &Error{Reason: ReasonKeyExpired}) {
		t.Error("an error is found by another reason")
	}
	if errors.Is(err, errors.New("key k is DISABLED; enable it first")) {
		t.Error("an error is found by its text")
	}
	if got := err.Error(); got != "encrypting: key k is DISABLED; enable it first" {
		t.Errorf("text = %q", got)
	}
}

// TestRefusalsSayWhat: every refusal names the key it is about, so that a caller with many can act on it; only where
// there is no key there is no name.
func TestRefusalsSayWhat(t *testing.T) {
	for _, v := range variants {
		for _, s := range states[KeyState](t, "KeyState") {
			_, err := v.decide(v.key(s))
			if err == nil || s == KeyStateAbsent {
				continue
			}
			if text := err.Error(); !strings.Contains(text, keyName.String()) {
				t.Errorf("%s of a key that is %s is refused with %q, which names no key", v.name, s, text)
			}
		}
	}
}

// TestOneAnswerForEveryBadCiphertext: callers may compare, log and meter the error, so it must not say what was wrong.
func TestOneAnswerForEveryBadCiphertext(t *testing.T) {
	for _, b := range [][]byte{nil, {0xCB}, {0xCB, 1, 5}, make([]byte, 100)} {
		if _, err := ParseEnvelope(b); err != error(ErrCiphertext) { //nolint:errorlint // the very same value, not one like it
			t.Errorf("ParseEnvelope(%x) = %v, want ErrCiphertext itself", b, err)
		}
	}
}

// TestAllowed: whoever is not known may do nothing.
func TestAllowed(t *testing.T) {
	for name, value := range stringConstants(t, "Permission") {
		for kind, want := range map[PrincipalKind]string{KindAdmin: "admin", KindSystem: "system", "": "", "GUEST": ""} {
			grantedBy, ok := Allowed(Caller{Kind: kind}, Permission(value))
			if ok != (want != "") || grantedBy != want {
				t.Errorf("%s of a principal of kind %q: %q, %t, want %q", name, kind, grantedBy, ok, want)
			}
		}
	}
}

func TestSystemCaller(t *testing.T) {
	c := System(uid(5))
	if c.Principal != "system" || c.Kind != KindSystem || c.Request != RequestSystem || c.RequestID != uid(5) || c.Address.IsValid() {
		t.Errorf("the service calls itself as %+v", c)
	}
}
