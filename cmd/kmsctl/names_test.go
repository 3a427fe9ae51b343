package main

import (
	"errors"
	"strings"
	"testing"
)

const uid = "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"

func TestNames(t *testing.T) {
	scope := scopeFlags{Project: "p", Location: "local", Ring: "r"}
	anyRing := scopeFlags{Project: "p", Location: "local", Ring: "-"}
	const ring = "projects/p/locations/local/keyRings/r"
	tests := map[string]struct {
		name    string
		scope   scopeFlags
		resolve func(scopeFlags, string) (string, error)
		want    string // "" if it is refused
	}{
		"short":                       {"k", scope, scopeFlags.key, ring + "/keys/k"},
		"full":                        {"projects/q/locations/l/keyRings/s/keys/k", scope, scopeFlags.key, "projects/q/locations/l/keyRings/s/keys/k"},
		"uid in any ring":             {uid, anyRing, scopeFlags.key, "projects/p/locations/local/keyRings/-/keys/" + uid},
		"uid in a ring is an id":      {uid, scope, scopeFlags.key, ring + "/keys/" + uid},
		"alias":                       {"alias:a", scope, scopeFlags.key, "projects/p/locations/local/keyRings/-/keys/alias:a"},
		"alias in any ring":           {"alias:a", anyRing, scopeFlags.key, "projects/p/locations/local/keyRings/-/keys/alias:a"},
		"version of an alias":         {"alias:a", scope, versionOf(2), "projects/p/locations/local/keyRings/-/keys/alias:a/versions/2"},
		"no alias":                    {"alias:", scope, scopeFlags.key, ""},
		"ring":                        {"s", scope, ringNamed, "projects/p/locations/local/keyRings/s"},
		"ring by its full name":       {"projects/q/locations/l/keyRings/s", scope, ringNamed, "projects/q/locations/l/keyRings/s"},
		"ring with a slash":           {"s/t", scope, ringNamed, ""},
		"key where a ring belongs":    {ring + "/keys/k", scope, ringNamed, ""},
		"short id in any ring":        {"k", anyRing, scopeFlags.key, ""},
		"no name":                     {"", scope, scopeFlags.key, ""},
		"bad character":               {"k k", scope, scopeFlags.key, ""},
		"too long":                    {strings.Repeat("k", 64), scope, scopeFlags.key, ""},
		"part of a full name":         {"keyRings/r/keys/k", scope, scopeFlags.key, ""},
		"bad ring":                    {"k", scopeFlags{Project: "p", Location: "l", Ring: "r/s"}, scopeFlags.key, ""},
		"bad project":                 {"k", scopeFlags{Project: "", Location: "l", Ring: "r"}, scopeFlags.key, ""},
		"version where a key belongs": {"k/versions/2", scope, scopeFlags.key, ""},
		"short version":               {"k/versions/2", scope, versionOf(0), ring + "/keys/k/versions/2"},
		"version beside":              {"k", scope, versionOf(2), ring + "/keys/k/versions/2"},
		"same version twice":          {"k/versions/2", scope, versionOf(2), ring + "/keys/k/versions/2"},
		"two versions":                {"k/versions/2", scope, versionOf(3), ""},
		"no version":                  {"k", scope, versionOf(0), ""},
		"version 0":                   {"k/versions/0", scope, versionOf(0), ""},
		"negative version":            {"k", scope, versionOf(-1), ""},
		"version of a uid":            {uid, anyRing, versionOf(7), "projects/p/locations/local/keyRings/-/keys/" + uid + "/versions/7"},
		"key or version: key":         {"k", scope, keyOrVersionOf(0), ring + "/keys/k"},
		"key or version: version":     {"k", scope, keyOrVersionOf(1), ring + "/keys/k/versions/1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.resolve(tt.scope, tt.name)
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("%q means %q, %v, want %q", tt.name, got, err, tt.want)
			}
			if _, ok := errors.AsType[usageError](err); err != nil && !ok {
				t.Errorf("error %v (%T) is no usageError", err, err)
			}
		})
	}
}

func ringNamed(f scopeFlags, name string) (string, error) {
	n, err := f.ringNamed(name)
	if err != nil {
		return "", err
	}
	return n.String(), nil
}

func versionOf(n int32) func(scopeFlags, string) (string, error) {
	return func(f scopeFlags, name string) (string, error) { return f.version(name, n) }
}

func keyOrVersionOf(n int32) func(scopeFlags, string) (string, error) {
	return func(f scopeFlags, name string) (string, error) { return f.keyOrVersion(name, n) }
}

func TestNewKey(t *testing.T) {
	scope := scopeFlags{Project: "p", Location: "local", Ring: "r"}
	parent, id, err := scope.newKey("k")
	if parent != "projects/p/locations/local/keyRings/r" || id != "k" || err != nil {
		t.Errorf("newKey(k) = %q, %q, %v", parent, id, err)
	}
	parent, id, err = scope.newKey("projects/q/locations/l/keyRings/s/keys/k2")
	if parent != "projects/q/locations/l/keyRings/s" || id != "k2" || err != nil {
		t.Errorf("newKey(full name) = %q, %q, %v", parent, id, err)
	}
	if parent, id, err := scope.newKey("alias:a"); err == nil {
		t.Errorf("newKey of an alias = %q, %q, want it refused", parent, id)
	}
	scope.Ring = "-"
	for _, name := range []string{"k", uid, "projects/p/locations/local/keyRings/-/keys/" + uid} {
		if parent, id, err := scope.newKey(name); err == nil {
			t.Errorf("newKey(%q) in any ring = %q, %q, want it refused", name, parent, id)
		}
	}
}
