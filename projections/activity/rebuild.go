package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ClickHouse/clickhouse-go/v2"
	"golang.org/x/sync/errgroup"
)

// ErrRebuilding means that another rebuild is under way.
var ErrRebuilding = errors.New("the activity log is being rebuilt already")

// Rebuild fills the log again from the streams, beside the present one, and puts it in its place when it holds all that the
// streams held when Rebuild began. Meanwhile the present one can be read and is kept up to date by Run. It takes about a
// minute for each two million records.
func (l *Log) Rebuild(ctx context.Context) error {
	if _, err := l.current(ctx); err != nil {
		return err
	}
	s, err := l.readSchema(ctx)
	if err != nil {
		return err
	}
	next := s.newest() + 1
	if err := l.createGeneration(ctx, next, false); err != nil {
		if e, ok := errors.AsType[*clickhouse.Exception](err); ok && e.Code == codeTableExists {
			return ErrRebuilding
		}
		return err
	}
	if err := l.rebuild(ctx, next); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTimeout)
		defer cancel()
		return errors.Join(err, l.dropUnlessShown(cleanup, next))
	}
	if s, err = l.readSchema(ctx); err != nil {
		return err
	}
	return l.dropBefore(ctx, s)
}

// rebuild fills a new generation and shows it.
func (l *Log) rebuild(ctx context.Context, n uint32) error {
	s, err := l.readSchema(ctx)
	if err != nil {
		return err
	}
	streams, err := l.streams(ctx)
	if err != nil {
		return err
	}
	fill, fillCtx := errgroup.WithContext(ctx)
	fill.SetLimit(2) // readers and the present log want their share of the machine
	for _, stream := range streams {
		_, last, err := l.source.StreamHead(ctx, stream)
		if err != nil {
			return fmt.Errorf("asking how long stream %s is: %w", stream, err)
		}
		if last == 0 {
			continue
		}
		p := &projector{l: l, stream: stream, batch: newBatch(), generation: generation{n, s.activity[n]}, until: last}
		fill.Go(func() error { return p.fill(fillCtx) })
	}
	if err := fill.Wait(); err != nil {
		return err
	}
	if err := l.show(ctx, n); err != nil {
		return err
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, "the activity log was rebuilt", slog.Uint64("generation", uint64(n)))
	return nil
}

// fill brings the stream into the projector's generation up to the message to stop after.
func (p *projector) fill(ctx context.Context) error {
	if err := p.begin(ctx); err != nil {
		return err
	}
	defer p.l.forgetProgress(p.name)
	if err := p.follow(ctx); err != nil {
		return fmt.Errorf("filling the log from stream %s: %w", p.stream, err)
	}
	return p.save(ctx)
}

// dropUnlessShown removes a generation that was not completed; a failure may have come after the views moved to it.
func (l *Log) dropUnlessShown(ctx context.Context, n uint32) error {
	s, err := l.readSchema(ctx)
	if err != nil || s.shown == n {
		return err
	}
	return l.drop(ctx, n)
}

// dropBefore removes every generation older than the one shown, and what rebuilds that did not finish left behind.
func (l *Log) dropBefore(ctx context.Context, s schema) error {
	numbers := make([]uint32, 0, len(s.activity)+len(s.latest))
	for n := range s.activity {
		numbers = append(numbers, n)
	}
	for n := range s.latest {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range slices.Compact(numbers) {
		if n >= s.shown {
			break
		}
		if err := l.drop(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
