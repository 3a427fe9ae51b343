// Package domain holds the rules of key management and nothing else: names, keys and their life, the record of a use,
// and the ciphertext format. It has no I/O, no clock and no randomness: time and identifiers arrive inside commands, so
// that replaying the stored events gives the same state on every node, for ever.
package domain
