package domain_test

import (
	"bytes"
	"strings"
	"testing"

	. "github.com/keyledger/kms/domain"
)

func TestParseUID(t *testing.T) {
	want := UID{0x01, 0x90, 0xb3, 0xa5, 0x7c, 0x1e, 0x7d, 0x2a, 0x9c, 0x35, 0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f}
	for _, s := range []string{uidText, strings.ToUpper(uidText)} {
		if got, err := ParseUID(s); err != nil || got != want {
			t.Errorf("ParseUID(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	if got := want.String(); got != uidText {
		t.Errorf("String = %q, want %q", got, uidText)
	}
	for name, s := range map[string]string{
		"nothing":         "",
		"no dashes":       strings.ReplaceAll(uidText, "-", ""),
		"braces":          "{" + uidText + "}",
		"a URN":           "urn:uuid:" + uidText,
		"a dash moved":    "0190b3a57-c1e-7d2a-9c35-0a1b2c3d4e5f",
		"only dashes":     strings.Repeat("-", 36),
		"not hexadecimal": "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5g",
		"a space":         " " + uidText,
		"a line feed":     uidText + "\n",
		"one less":        uidText[:35],
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseUID(s); err == nil || !got.IsZero() {
				t.Errorf("ParseUID(%q) = %v, %v, want an error", s, got, err)
			}
		})
	}
}

func TestUIDFromBytes(t *testing.T) {
	want := uid(7)
	if got, err := UIDFromBytes(want[:]); err != nil || got != want {
		t.Errorf("UIDFromBytes = %v, %v, want %v", got, err, want)
	}
	if got, err := UIDFromBytes(nil); err != nil || !got.IsZero() {
		t.Errorf("UIDFromBytes(nil) = %v, %v, want the zero UID", got, err)
	}
	for _, n := range []int{1, 15, 17, 36} {
		if got, err := UIDFromBytes(bytes.Repeat([]byte{1}, n)); err == nil || !got.IsZero() {
			t.Errorf("UIDFromBytes of %d bytes = %v, %v, want an error", n, got, err)
		}
	}
}

// FuzzParseUID: each UID has one spelling but for the case of its letters.
func FuzzParseUID(f *testing.F) {
	for _, s := range []string{"", uidText, strings.ToUpper(uidText), "00000000-0000-0000-0000-000000000000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUID(s)
		if err != nil {
			if !u.IsZero() {
				t.Fatalf("a refused UID gave %s", u)
			}
			return
		}
		if got := u.String(); !strings.EqualFold(got, s) || len(got) != len(s) {
			t.Fatalf("%q was read and written as %q", s, got)
		}
		if again, err := ParseUID(u.String()); err != nil || again != u {
			t.Fatalf("read again: %v, %v, want %v", again, err, u)
		}
	})
}
