package activity

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
)

// catchUpInterval is how often it is asked how far the log is, while somebody waits for it.
const catchUpInterval = 100 * time.Millisecond

// CurrentLatestUse is LatestUse of a log that holds everything that was recorded before the call. It waits for that until ctx
// ends, which then is an ErrUnavailable too.
func (l *Log) CurrentLatestUse(ctx context.Context, key domain.UID) (LatestUse, error) {
	heads, err := l.heads(ctx)
	if err != nil {
		return LatestUse{}, err
	}
	for {
		shown, err := l.current(ctx)
		if err != nil {
			return LatestUse{}, err
		}
		reached, err := l.reached(ctx, shown, heads)
		if err != nil {
			return LatestUse{}, err
		}
		if reached {
			answer, err := l.LatestUse(ctx, key)
			if err != nil {
				return LatestUse{}, err
			}
			still, err := l.current(ctx)
			if err != nil {
				return LatestUse{}, err
			}
			if still == shown {
				return answer, nil
			}
			continue // it may be of the new generation, which must have reached the heads as well
		}
		if !sleep(ctx, catchUpInterval) {
			return LatestUse{}, fmt.Errorf("%w: it has not caught up with the streams: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// heads are the last messages of all streams that go into the log.
func (l *Log) heads(ctx context.Context) (map[string]uint64, error) {
	streams, err := l.streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	heads := map[string]uint64{}
	for _, stream := range streams {
		if _, heads[stream], err = l.source.StreamHead(ctx, stream); err != nil {
			return nil, fmt.Errorf("%w: asking how long stream %s is: %w", ErrUnavailable, stream, err)
		}
	}
	return heads, nil
}

// reached reports whether a generation of the log has every stream up to its head.
func (l *Log) reached(ctx context.Context, g generation, heads map[string]uint64) (bool, error) {
	for stream, head := range heads {
		done, _, err := l.doneOf(ctx, l.checkpointName(g, stream))
		if err != nil {
			return false, fmt.Errorf("%w: asking how far the log is: %w", ErrUnavailable, err)
		}
		if done < head {
			return false, nil
		}
	}
	return true, nil
}
