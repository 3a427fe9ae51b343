package main

import (
	"strconv"
	"strings"

	"github.com/keyledger/kms/domain"
)

// scopeFlags complete short names.
type scopeFlags struct {
	Project  string `env:"KMS_PROJECT" default:"default" placeholder:"ID" help:"Project of short names (${default}, $$${env})."`
	Location string `env:"KMS_LOCATION" default:"local" placeholder:"ID" help:"Location of short names (${default}, $$${env})."`
	Ring     string `env:"KMS_RING" default:"default" placeholder:"ID" help:"Key ring of short names; - is any ring, where keys are named by their uids or aliases (${default}, $$${env})."`
}

// ring is the name of the key ring that short names are in.
func (f scopeFlags) ring() (domain.RingName, error) {
	n, err := domain.ParseRingName(domain.RingName{Project: f.Project, Location: f.Location, Ring: f.Ring}.String())
	if err != nil {
		return domain.RingName{}, usageError{err}
	}
	return n, nil
}

// parent is the name of the location that short names are in.
func (f scopeFlags) parent() (string, error) {
	n, err := f.ring()
	if err != nil {
		return "", err
	}
	return "projects/" + n.Project + "/locations/" + n.Location, nil
}

// ringNamed is the full name of a key ring: the name itself, or the last part of it.
func (f scopeFlags) ringNamed(name string) (domain.RingName, error) {
	if !strings.HasPrefix(name, "projects/") {
		f.Ring = name
		return f.ring()
	}
	n, err := domain.ParseRingName(name)
	if err != nil {
		return domain.RingName{}, usageError{err}
	}
	return n, nil
}

// ref reads the name of a key or of a version: the full name, or what follows …/keys/ in it. An alias is of no ring.
func (f scopeFlags) ref(name string) (domain.KeyRef, error) {
	full := name
	if !strings.HasPrefix(name, "projects/") {
		ring, err := f.ring()
		if err != nil {
			return domain.KeyRef{}, err
		}
		if strings.HasPrefix(name, "alias:") {
			ring.Ring = domain.AnyRing
		}
		full = ring.Key(name).String()
	}
	ref, err := domain.ParseKeyRef(full)
	if err != nil {
		return domain.KeyRef{}, usageError{err}
	}
	return ref, nil
}

// key is the full name of a key.
func (f scopeFlags) key(name string) (string, error) {
	ref, err := f.ref(name)
	if err != nil {
		return "", err
	}
	if ref.Version != 0 {
		return "", usage("%s is a version, and the name of a key is needed", printable(name))
	}
	return ref.String(), nil
}

// version is the full name of a version. The number may stand in the name or beside it.
func (f scopeFlags) version(name string, number int32) (string, error) {
	full, err := f.keyOrVersion(name, number)
	if err != nil {
		return "", err
	}
	if !strings.Contains(full, "/versions/") {
		return "", usage("which version of %s? give its number", printable(name))
	}
	return full, nil
}

// keyOrVersion is the full name of a version if there is a number, in the name or beside it, or else of a key.
func (f scopeFlags) keyOrVersion(name string, number int32) (string, error) {
	ref, err := f.ref(name)
	if err != nil {
		return "", err
	}
	switch {
	case number == 0:
		return ref.String(), nil
	case number < 0:
		return "", usage("version %d can't be: versions begin at 1", number)
	case ref.Version != 0 && ref.Version != domain.Version(number):
		return "", usage("%s is not version %s", printable(name), strconv.Itoa(int(number)))
	}
	return ref.Name.VersionName(domain.Version(number)), nil
}

// newKey takes apart the name of a key that is to be made.
func (f scopeFlags) newKey(name string) (parent, id string, err error) {
	full, err := f.key(name)
	if err != nil {
		return "", "", err
	}
	ref, err := domain.ParseKeyRef(full)
	if err != nil {
		return "", "", usageError{err}
	}
	if ref.Name.Ring == domain.AnyRing {
		return "", "", usage("a new key needs a ring and an id: a uid or an alias can't stand for them")
	}
	return ref.Name.RingName().String(), ref.Name.ID, nil
}
