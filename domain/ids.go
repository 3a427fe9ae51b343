package domain

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// UID is a UUID in binary form (RFC 9562). Keys, commands, material and requests are identified by version 7, which
// sorts by time. The zero UID means "none".
type UID [16]byte

// IsZero reports whether u names nothing.
func (u UID) IsZero() bool { return u == UID{} }

// String is the canonical lower-case form with dashes, as RFC 9562 section 4 has it.
func (u UID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], u[0:4])
	b[8] = '-'
	hex.Encode(b[9:13], u[4:6])
	b[13] = '-'
	hex.Encode(b[14:18], u[6:8])
	b[18] = '-'
	hex.Encode(b[19:23], u[8:10])
	b[23] = '-'
	hex.Encode(b[24:36], u[10:16])
	return string(b[:])
}

var errUID = errors.New("must be a UUID like 0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f")

// ParseUID reads the canonical form, in either case; other spellings of a UUID are refused.
func ParseUID(s string) (UID, error) {
	var u UID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return UID{}, errUID
	}
	for i, part := range [...]string{s[0:8], s[9:13], s[14:18], s[19:23], s[24:36]} {
		at := [...]int{0, 4, 6, 8, 10}[i]
		if _, err := hex.Decode(u[at:], []byte(part)); err != nil {
			return UID{}, errUID
		}
	}
	return u, nil
}

// UIDFromBytes reads the 16 bytes of a UID; no bytes are the zero UID.
func UIDFromBytes(b []byte) (UID, error) {
	var u UID
	if len(b) != 0 && len(b) != len(u) {
		return u, fmt.Errorf("a UUID has 16 bytes, not %d", len(b))
	}
	copy(u[:], b)
	return u, nil
}

// Version counts a key's generations of material, from 1. Zero means "none" or, in a name, "the key itself".
type Version int32
