package activity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyledger/kms/eventstore"
)

const (
	// renewEvery is how often the owner of a stream shows that it is alive, and looks whether there is a new generation.
	renewEvery = 3 * time.Second
	// staleAfter is how old the owner's last sign of life must be before another node takes its stream over. Nothing but
	// wasted work depends on clocks: who writes a range is decided by the compare-and-set.
	staleAfter = 10 * time.Second
)

// checkpoint is what the event store keeps of a stream's way into one table. First to Last is the range that is being
// inserted, or was inserted last; it is fixed here before its insert begins, so that whoever continues inserts the same.
type checkpoint struct {
	Owner   string    `json:"owner"`
	Renewed time.Time `json:"renewed,omitzero"` // zero: the owner let go of it
	First   uint64    `json:"first,omitempty"`
	Last    uint64    `json:"last,omitempty"`
	// Done is the last message that is known to be in the log, and DoneStored when it was stored.
	Done       uint64    `json:"done,omitempty"`
	DoneStored time.Time `json:"doneStored,omitzero"`
}

// checkpointName is where the checkpoint of a stream is kept: one for each table, so that a table that was lost is filled
// again, and for each lineage, since sequences of different lineages have nothing to do with each other.
func (l *Log) checkpointName(g generation, stream string) string {
	return "activity-" + g.table + "-" + l.source.Lineage().String() + "-" + strings.ToLower(stream)
}

// errNotOwner means that another node writes the stream.
var errNotOwner = errors.New("another node writes this stream")

func (l *Log) loadCheckpoint(ctx context.Context, name string) (c checkpoint, revision uint64, err error) {
	data, revision, err := l.source.LoadCheckpoint(ctx, name)
	if err != nil || revision == 0 {
		return c, revision, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, revision, fmt.Errorf("reading checkpoint %s: %w", name, err)
	}
	return c, revision, nil
}

// saveCheckpoint replaces the checkpoint at revision; errNotOwner says that another node was faster.
func (l *Log) saveCheckpoint(ctx context.Context, name string, c checkpoint, revision uint64) (uint64, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return 0, fmt.Errorf("encoding checkpoint %s: %w", name, err)
	}
	revision, err = l.source.SaveCheckpoint(ctx, name, data, revision)
	if errors.Is(err, eventstore.ErrConflict) {
		return 0, errNotOwner
	}
	return revision, err
}

// acquire makes this node the owner of a checkpoint, or returns errNotOwner while another one is alive.
func (l *Log) acquire(ctx context.Context, name string) (c checkpoint, revision uint64, err error) {
	if c, revision, err = l.loadCheckpoint(ctx, name); err != nil {
		return c, 0, fmt.Errorf("reading how far the log is: %w", err)
	}
	if l.shared && revision != 0 && c.Owner != l.owner && time.Since(c.Renewed) < staleAfter {
		return c, 0, errNotOwner
	}
	c.Owner, c.Renewed = l.owner, time.Now()
	if revision, err = l.saveCheckpoint(ctx, name, c, revision); err != nil {
		return c, 0, fmt.Errorf("taking over a stream: %w", err)
	}
	return c, revision, nil
}
