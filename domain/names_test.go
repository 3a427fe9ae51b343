package domain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/keyledger/kms/domain"
)

const (
	ringText = "projects/shop/locations/local/keyRings/default"
	keyText  = ringText + "/keys/orders"
	uidText  = "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"
)

func TestParseKeyRef(t *testing.T) {
	anyUID, err := ParseUID(uidText)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 63)
	for name, tt := range map[string]struct {
		text string
		want KeyRef
	}{
		"key":             {keyText, KeyRef{Name: keyName}},
		"version":         {keyText + "/versions/7", KeyRef{Name: keyName, Version: 7}},
		"highest version": {keyText + "/versions/2147483647", KeyRef{Name: keyName, Version: 1<<31 - 1}},
		"uid":             {"projects/shop/locations/local/keyRings/-/keys/" + uidText, KeyRef{Name: RingName{"shop", "local", "-"}.Key(uidText), UID: anyUID}},
		"version by uid":  {"projects/shop/locations/local/keyRings/-/keys/" + uidText + "/versions/1", KeyRef{Name: RingName{"shop", "local", "-"}.Key(uidText), UID: anyUID, Version: 1}},
		"alias":           {"projects/shop/locations/local/keyRings/-/keys/alias:orders", KeyRef{Name: RingName{"shop", "local", "-"}.Key("alias:orders"), Alias: "orders"}},
		"version of it":   {"projects/shop/locations/local/keyRings/-/keys/alias:a/versions/2", KeyRef{Name: RingName{"shop", "local", "-"}.Key("alias:a"), Alias: "a", Version: 2}},
		"longest alias":   {"projects/shop/locations/local/keyRings/-/keys/alias:" + long, KeyRef{Name: RingName{"shop", "local", "-"}.Key("alias:" + long), Alias: long}},
		"alias as a uid":  {"projects/shop/locations/local/keyRings/-/keys/alias:" + uidText, KeyRef{Name: RingName{"shop", "local", "-"}.Key("alias:" + uidText), Alias: uidText}},
		"uid as an id":    {ringText + "/keys/" + uidText, KeyRef{Name: ring.Key(uidText)}},
		"every character": {"projects/aZ09_-/locations/_/keyRings/0/keys/Z-", KeyRef{Name: KeyName{"aZ09_-", "_", "0", "Z-"}}},
		"longest parts":   {"projects/" + long + "/locations/" + long + "/keyRings/" + long + "/keys/" + long, KeyRef{Name: KeyName{long, long, long, long}}},
		"names of names":  {"projects/keys/locations/versions/keyRings/projects/keys/keyRings", KeyRef{Name: KeyName{"keys", "versions", "projects", "keyRings"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseKeyRef(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("reference (-want +got):\n%s", diff)
			}
			if got.String() != tt.text {
				t.Errorf("String = %q, want %q", got, tt.text)
			}
		})
	}
}

func TestParseKeyRefRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                  "",
		"an id alone":              "orders",
		"a ring":                   ringText,
		"no id":                    ringText + "/keys/",
		"a slash at the end":       keyText + "/",
		"a slash at the front":     "/" + keyText,
		"two slashes":              "projects//shop/locations/local/keyRings/default/keys/orders",
		"an empty project":         "projects//locations/local/keyRings/default/keys/orders",
		"another order":            "locations/local/projects/shop/keyRings/default/keys/orders",
		"lower case":               "projects/shop/locations/local/keyrings/default/keys/orders",
		"a dot":                    ringText + "/keys/or.ders",
		"a space":                  ringText + "/keys/or ders",
		"a line feed":              keyText + "\n",
		"a NUL":                    keyText + "\x00",
		"not ASCII":                ringText + "/keys/ordérs",
		"not UTF-8":                ringText + "/keys/\xff",
		"an id of 64":              ringText + "/keys/" + strings.Repeat("x", 64),
		"a project of 64":          "projects/" + strings.Repeat("x", 64) + "/locations/local/keyRings/default/keys/orders",
		"any project":              "projects/-/locations/local/keyRings/default/keys/orders",
		"any location":             "projects/shop/locations/-/keyRings/default/keys/orders",
		"any ring, no uid":         "projects/shop/locations/local/keyRings/-/keys/orders",
		"any ring, the zero uid":   "projects/shop/locations/local/keyRings/-/keys/00000000-0000-0000-0000-000000000000",
		"any ring, half a uid":     "projects/shop/locations/local/keyRings/-/keys/0190b3a5-7c1e",
		"an alias in a ring":       ringText + "/keys/alias:orders",
		"no alias":                 "projects/shop/locations/local/keyRings/-/keys/alias:",
		"an alias of 64":           "projects/shop/locations/local/keyRings/-/keys/alias:" + strings.Repeat("x", 64),
		"an alias with a colon":    "projects/shop/locations/local/keyRings/-/keys/alias:a:b",
		"an alias in upper case":   "projects/shop/locations/local/keyRings/-/keys/ALIAS:a",
		"no version":               keyText + "/versions/",
		"no version either":        keyText + "/versions",
		"version 0":                keyText + "/versions/0",
		"version -1":               keyText + "/versions/-1",
		"version +1":               keyText + "/versions/+1",
		"version 01":               keyText + "/versions/01",
		"version 1.0":              keyText + "/versions/1.0",
		"version 1e3":              keyText + "/versions/1e3",
		"version 1_000":            keyText + "/versions/1_000",
		"version 2³¹":              keyText + "/versions/2147483648",
		"version 2⁶⁴ + 1":          keyText + "/versions/18446744073709551617",
		"version in other digits":  keyText + "/versions/١",
		"two versions":             keyText + "/versions/1/versions/2",
		"a version and a slash":    keyText + "/versions/1/",
		"something else of a key":  keyText + "/aliases/1",
		"the parent of its parent": keyText + "/../orders",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseKeyRef(text)
			if !errors.Is(err, &Error{Reason: ReasonBadName}) {
				t.Errorf("ParseKeyRef(%q) = %v, %v, want reason BAD_NAME", text, got, err)
			}
			if got != (KeyRef{}) {
				t.Errorf("a refused name gave %v", got)
			}
		})
	}
}

// TestBadNameIsBounded: the refusal of a huge name is not huge itself.
func TestBadNameIsBounded(t *testing.T) {
	for _, c := range []string{"x", "\xff", "é"} {
		_, err := ParseKeyRef(strings.Repeat(c, 1<<20))
		if err == nil || len(err.Error()) > 4096 {
			t.Errorf("a name of 1 MiB of %q is answered with %d bytes", c, len(err.Error()))
		}
	}
}

func TestParseRingName(t *testing.T) {
	for text, want := range map[string]RingName{
		ringText: ring,
		"projects/shop/locations/local/keyRings/-": {"shop", "local", AnyRing},
	} {
		got, err := ParseRingName(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParseRingName(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "shop", keyText, ringText + "/", "projects/-/locations/local/keyRings/default", "projects/shop/locations/local/keyRings/"} {
		if got, err := ParseRingName(text); !errors.Is(err, &Error{Reason: ReasonBadName}) || got != (RingName{}) {
			t.Errorf("ParseRingName(%q) = %v, %v, want reason BAD_NAME", text, got, err)
		}
	}
	if got := keyName.RingName(); got != ring {
		t.Errorf("the ring of %v is %v, want %v", keyName, got, ring)
	}
}

func TestValidID(t *testing.T) {
	for c := range 256 {
		want := strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", rune(c)) && c < 128
		if got := ValidID("a" + string([]byte{byte(c)})); got != want {
			t.Errorf("ValidID with byte %#x = %t", c, got)
		}
	}
	for n, want := range map[int]bool{0: false, 1: true, 63: true, 64: false} {
		if got := ValidID(strings.Repeat("x", n)); got != want {
			t.Errorf("ValidID of %d bytes = %t", n, got)
		}
	}
}

// FuzzParseKeyRef: a name that is taken is written the same way again, so no two names mean the same ring and id.
func FuzzParseKeyRef(f *testing.F) {
	for _, s := range []string{
		"", keyText, keyText + "/versions/1", keyText + "/versions/01", ringText,
		"projects/shop/locations/local/keyRings/-/keys/" + uidText, "projects/shop/locations/local/keyRings/-/keys/alias:a", "projects/p/locations/l/keyRings/r/keys/\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseKeyRef(s)
		if err != nil {
			if !errors.Is(err, &Error{Reason: ReasonBadName}) {
				t.Fatalf("error = %v, want reason BAD_NAME", err)
			}
			return
		}
		if got := ref.String(); got != s {
			t.Fatalf("%q was read and written as %q", s, got)
		}
		if again, err := ParseKeyRef(ref.String()); err != nil || again != ref {
			t.Fatalf("read again: %v, %v, want %v", again, err, ref)
		}
		if (ref.UID.IsZero() && ref.Alias == "") != (ref.Name.Ring != AnyRing) || (!ref.UID.IsZero() && ref.Alias != "") {
			t.Fatalf("%q has uid %s and alias %q", s, ref.UID, ref.Alias)
		}
	})
}
