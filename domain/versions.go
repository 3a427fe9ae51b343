package domain

import "iter"

// chunkSize is a compromise: a change copies one chunk and the list of chunks, so a key with 10,000 versions rotates
// about as fast as a new one.
const chunkSize = 32

// VersionList is a key's versions, numbered from 1 without gaps. It is persistent: With returns a changed list and leaves
// the old one as it was, sharing most of it.
type VersionList struct {
	chunks [][]KeyVersion // all but the last have chunkSize versions; never changed in place
	len    int
}

// Len is the number of versions, and so the number of the newest.
func (l VersionList) Len() int { return l.len }

// Get returns version v, and whether there is one.
func (l VersionList) Get(v Version) (KeyVersion, bool) {
	i := int(v) - 1
	if i < 0 || i >= l.len {
		return KeyVersion{}, false
	}
	return l.chunks[i/chunkSize][i%chunkSize], true
}

// With returns the list with kv in the place of its version, or behind the newest if it is the next one.
func (l VersionList) With(kv KeyVersion) VersionList {
	i := int(kv.Version) - 1
	if i < 0 || i > l.len {
		panic("domain: versions are numbered without gaps")
	}
	chunks := make([][]KeyVersion, max(len(l.chunks), i/chunkSize+1))
	copy(chunks, l.chunks)
	old := chunks[i/chunkSize]
	changed := make([]KeyVersion, max(len(old), i%chunkSize+1))
	copy(changed, old)
	changed[i%chunkSize] = kv
	chunks[i/chunkSize] = changed
	return VersionList{chunks: chunks, len: max(l.len, i+1)}
}

// All yields the versions, oldest first.
func (l VersionList) All() iter.Seq[KeyVersion] {
	return func(yield func(KeyVersion) bool) {
		for i := range l.len {
			if !yield(l.chunks[i/chunkSize][i%chunkSize]) {
				return
			}
		}
	}
}

// Equal reports whether both lists hold the same versions. go-cmp uses it.
func (l VersionList) Equal(m VersionList) bool {
	if l.len != m.len {
		return false
	}
	for v := Version(1); int(v) <= l.len; v++ {
		a, _ := l.Get(v)
		b, _ := m.Get(v)
		if !a.Equal(b) {
			return false
		}
	}
	return true
}
