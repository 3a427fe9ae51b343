package activity_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"github.com/keyledger/kms/projections/activity"
)

// fields are those of a checkpoint that the faults look at.
type fields struct {
	First, Last, Done uint64
}

// done reports whether a checkpoint says that its range is in the log.
func done(data []byte) bool {
	var c fields
	if err := json.Unmarshal(data, &c); err != nil {
		panic(err)
	}
	return c.Last != 0 && c.Done == c.Last
}

// elderly makes every checkpoint that is read an hour older than it is.
type elderly struct{ activity.Source }

func (e *elderly) LoadCheckpoint(ctx context.Context, name string) ([]byte, uint64, error) {
	data, revision, err := e.Source.LoadCheckpoint(ctx, name)
	if err != nil || revision == 0 {
		return data, revision, err
	}
	c := map[string]any{}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, 0, err
	}
	c["renewed"] = time.Now().Add(-time.Hour)
	data, err = json.Marshal(c)
	return data, revision, err
}

// forgetful loses every checkpoint that would say that a range is done, as a crash does that comes soon enough.
type forgetful struct {
	activity.Source
	ranges atomic.Int64
}

func (f *forgetful) SaveCheckpoint(ctx context.Context, name string, data []byte, expected uint64) (uint64, error) {
	if done(data) {
		return expected, nil // reported as stored
	}
	f.ranges.Add(1)
	return f.Source.SaveCheckpoint(ctx, name, data, expected)
}

// lostAnswers does everything, but reports every third checkpoint as not stored.
type lostAnswers struct {
	activity.Source
	n atomic.Int64
}

var errLost = errors.New("the answer was lost")

func (s *lostAnswers) SaveCheckpoint(ctx context.Context, name string, data []byte, expected uint64) (uint64, error) {
	revision, err := s.Source.SaveCheckpoint(ctx, name, data, expected)
	if s.n.Add(1)%3 == 0 {
		return 0, errors.Join(errLost, err)
	}
	return revision, err
}

// cancelling ends its context when it is asked how long a stream is.
type cancelling struct {
	activity.Source
	cancel context.CancelFunc
}

func (c *cancelling) StreamHead(ctx context.Context, stream string) (uint64, uint64, error) {
	c.cancel()
	return c.Source.StreamHead(ctx, stream)
}
