// Package eventstore keeps everything that Keyledger must never forget in NATS JetStream: the commits of lifecycle
// commands, the records of uses, wrapped key material, and the checkpoints of projectors. It exists so that the rules about
// what "stored" means stand in one place: a call that returns without an error has been synced to disk (on a majority of
// nodes if there are several), a lost acknowledgement is resolved and never guessed, and a store that lost something is
// recognised before it is used.
//
// The server is embedded in the process, without a listener, or an external cluster; both go through the same code.
//
// The package decides nothing: which events a command causes is package domain's business, when to append is package
// commands'. It does not interpret wrapped material, and it never deletes anything but material by name.
package eventstore
