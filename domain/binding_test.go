package domain_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

// TestBindingGolden: stored keys carry a MAC over these bytes, so they can never change.
func TestBindingGolden(t *testing.T) {
	b := Binding{
		Project: "shop", KeyUID: keyUID, Version: 258, MaterialID: material1,
		Algorithm: AES256GCM, Purpose: EncryptDecrypt, Protection: HSM, Origin: Generated,
	}
	text := func(s string) string {
		return hex.EncodeToString([]byte{0, 0, 0, byte(len(s))}) + hex.EncodeToString([]byte(s))
	}
	want := text("shop") + text("AES_256_GCM") + text("ENCRYPT_DECRYPT") + text("HSM") + text("GENERATED") +
		"10000000000070008000000000000010" + "21000000000070008000000000000021" + "00000102"
	if got := hex.EncodeToString(b.Bytes()); got != want {
		t.Errorf("bytes\n%s, want\n%s", got, want)
	}
}

// TestBindingIsInjective: two bindings share their bytes only if they are the same.
func TestBindingIsInjective(t *testing.T) {
	// Few values, and such that run together or look like lengths, so that equal and nearly equal ones are drawn often.
	text := rapid.SampledFrom([]string{"", "a", "b", "ab", "ba", "aab", "\x00\x00\x00\x01", "\x00\x00\x00\x01a", strings.Repeat("a", 63)})
	id := rapid.SampledFrom([]UID{{}, {0: 1}, {15: 1}, {15: 2}})
	version := rapid.SampledFrom([]Version{0, 1, 2, 256, 1<<31 - 1})
	draw := func(t *rapid.T) Binding {
		return Binding{
			Project: text.Draw(t, "project"), KeyUID: id.Draw(t, "key"), Version: version.Draw(t, "version"), MaterialID: id.Draw(t, "material"),
			Algorithm: Algorithm(text.Draw(t, "algorithm")), Purpose: Purpose(text.Draw(t, "purpose")),
			Protection: ProtectionLevel(text.Draw(t, "protection")), Origin: Origin(text.Draw(t, "origin")),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a := draw(t)
		b := draw(t)
		if rapid.Bool().Draw(t, "nearly equal") { // differing in one field at most, or with texts run over
			b = a
			switch rapid.IntRange(0, 8).Draw(t, "field") {
			case 0:
				b.Project = text.Draw(t, "other")
			case 1:
				b.KeyUID = id.Draw(t, "other")
			case 2:
				b.Version = version.Draw(t, "other")
			case 3:
				b.MaterialID = id.Draw(t, "other")
			case 4:
				b.Algorithm = Algorithm(text.Draw(t, "other"))
			case 5:
				b.Purpose = Purpose(text.Draw(t, "other"))
			case 6:
				b.Protection = ProtectionLevel(text.Draw(t, "other"))
			case 7:
				b.Origin = Origin(text.Draw(t, "other"))
			case 8:
				joined := string(a.Algorithm) + string(a.Purpose)
				cut := rapid.IntRange(0, len(joined)).Draw(t, "cut")
				b.Algorithm, b.Purpose = Algorithm(joined[:cut]), Purpose(joined[cut:])
			}
		}
		if (a == b) != bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Fatalf("%+v and %+v have bytes %x and %x", a, b, a.Bytes(), b.Bytes())
		}
	})
}
