package eventstore

import eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"

// upcast returns stored events in the shapes that the decoder reads. It is the one place where an event that is no longer
// written is turned into those that took its place; the stored bytes, and so the hash chain, stay as they are. Every event
// ever written is still written, so there is nothing to turn yet.
func upcast(events []*eventsv1.Event) []*eventsv1.Event { return events }
