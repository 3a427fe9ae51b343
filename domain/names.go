package domain

import (
	"fmt"
	"strconv"
	"strings"
)

// KeyName is the resource name of a key: projects/{project}/locations/{location}/keyRings/{ring}/keys/{id}. Each part is
// 1 to 63 of a-z A-Z 0-9 _ -. A key's name never changes and is never used again, even after the key is destroyed.
type KeyName struct {
	Project, Location, Ring, ID string
}

// AnyRing stands for the ring in the name of a key that is named by its uid or an alias, and in lists for every ring.
const AnyRing = "-"

// aliasPrefix is what the id in a key's name begins with when it is an alias. No id holds a colon.
const aliasPrefix = "alias:"

// RingName is the resource name of a key ring, the parent of keys: projects/{project}/locations/{location}/keyRings/{ring}.
type RingName struct {
	Project, Location, Ring string
}

// Key is the name of the key with this id in the ring.
func (n RingName) Key(id string) KeyName { return KeyName{n.Project, n.Location, n.Ring, id} }

func (n RingName) String() string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/keyRings/" + n.Ring
}

func (n KeyName) String() string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/keyRings/" + n.Ring + "/keys/" + n.ID
}

// RingName is the name of the ring that the key is in.
func (n KeyName) RingName() RingName { return RingName{n.Project, n.Location, n.Ring} }

// VersionName is the resource name of one version of the key.
func (n KeyName) VersionName(v Version) string {
	return n.String() + "/versions/" + strconv.Itoa(int(v))
}

// KeyRef is a key, or one version of it, as a caller names it.
type KeyRef struct {
	// Name is the full name. When UID or Alias is set, its Ring is AnyRing and its ID what the caller wrote there.
	Name KeyName
	// UID is set when the key is named by its uid (keyRings/-/keys/{uid}).
	UID UID
	// Alias is set when the key is named by an alias (keyRings/-/keys/alias:{alias}); it is the alias's id.
	Alias string
	// Version is zero when the name is the key's own.
	Version Version
}

// AliasName is the name of the alias that the key is named by.
func (r KeyRef) AliasName() AliasName {
	return AliasName{r.Name.Project, r.Name.Location, r.Alias}
}

func (r KeyRef) String() string {
	if r.Version == 0 {
		return r.Name.String()
	}
	return r.Name.VersionName(r.Version)
}

// ParseRingName reads the name of a ring; the ring may be AnyRing.
func ParseRingName(s string) (RingName, error) {
	n, rest, err := parseRing(s)
	if err != nil {
		return RingName{}, err
	}
	if rest != "" {
		return RingName{}, badName(s, "projects/{project}/locations/{location}/keyRings/{ring}")
	}
	return n, nil
}

// ParseKeyRef reads the name of a key or of a key version. The error has ReasonBadName.
func ParseKeyRef(s string) (KeyRef, error) {
	ring, rest, err := parseRing(s)
	if err != nil {
		return KeyRef{}, err
	}
	id, ok := strings.CutPrefix(rest, "/keys/")
	if !ok {
		return KeyRef{}, badName(s, keyPattern)
	}
	var ref KeyRef
	if i := strings.IndexByte(id, '/'); i >= 0 {
		number, ok := strings.CutPrefix(id[i:], "/versions/")
		v, err := strconv.ParseInt(number, 10, 32)
		if !ok || err != nil || v < 1 || number[0] == '+' || number[0] == '0' {
			return KeyRef{}, badName(s, keyPattern+"/versions/{number}")
		}
		id, ref.Version = id[:i], Version(v)
	}
	ref.Name = ring.Key(id)
	if ring.Ring != AnyRing {
		if !ValidID(id) {
			return KeyRef{}, badName(s, keyPattern)
		}
		return ref, nil
	}
	if alias, ok := strings.CutPrefix(id, aliasPrefix); ok && ValidID(alias) {
		ref.Alias = alias
		return ref, nil
	}
	if ref.UID, err = ParseUID(id); err != nil || ref.UID.IsZero() { // the zero UID would read as a key named by its ring and id
		return KeyRef{}, badName(s, anyRingPattern)
	}
	return ref, nil
}

const (
	keyPattern     = "projects/{project}/locations/{location}/keyRings/{ring}/keys/{key}"
	anyRingPattern = "projects/{project}/locations/{location}/keyRings/-/keys/{uid} or …/keyRings/-/keys/alias:{alias}, or with the ring's name in place of -"
)

func parseRing(s string) (n RingName, rest string, err error) {
	rest = s
	for i, part := range [...]struct {
		prefix string
		to     *string
	}{{"projects/", &n.Project}, {"/locations/", &n.Location}, {"/keyRings/", &n.Ring}} {
		after, ok := strings.CutPrefix(rest, part.prefix)
		if !ok {
			return RingName{}, "", badName(s, keyPattern)
		}
		end := strings.IndexByte(after, '/')
		if end < 0 {
			end = len(after)
		}
		*part.to, rest = after[:end], after[end:]
		if !ValidID(*part.to) || (i < 2 && *part.to == AnyRing) {
			return RingName{}, "", badName(s, keyPattern)
		}
	}
	return n, rest, nil
}

// ValidID reports whether s can be one part of a resource name: 1 to 63 of a-z A-Z 0-9 _ -.
func ValidID(s string) bool {
	if len(s) < 1 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func badName(s, pattern string) error {
	if len(s) > 400 {
		s = s[:400] + "…"
	}
	return &Error{Reason: ReasonBadName, Message: fmt.Sprintf("name %q must be %s, each part 1 to 63 of a-z A-Z 0-9 _ -", s, pattern)}
}
