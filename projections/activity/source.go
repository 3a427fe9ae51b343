package activity

import (
	"context"
	"iter"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// Source is the part of eventstore.Store that the projection is made from and keeps its place in.
type Source interface {
	// Lineage is that of the site.
	Lineage() domain.UID
	// ActivityStreams names the streams of activity records, oldest first.
	ActivityStreams(ctx context.Context) ([]string, error)
	// ReadRecords yields the messages of a stream after a sequence, in order and without gaps, and then waits for new ones.
	// What it yielded is not used again.
	ReadRecords(ctx context.Context, stream string, after uint64) iter.Seq2[eventstore.Recorded, error]
	// StreamHead returns the first and the last sequence of a stream.
	StreamHead(ctx context.Context, stream string) (first, last uint64, err error)
	// LoadCheckpoint returns a checkpoint and its revision; nothing and zero if there is none.
	LoadCheckpoint(ctx context.Context, name string) (data []byte, revision uint64, err error)
	// SaveCheckpoint replaces the checkpoint that is at the expected revision, or returns eventstore.ErrConflict.
	SaveCheckpoint(ctx context.Context, name string, data []byte, expected uint64) (revision uint64, err error)
}

var _ Source = (*eventstore.Store)(nil)

// eventsStream holds the commits of lifecycle commands, each of which is the record of its command.
const eventsStream = "KMS_EVENTS"
