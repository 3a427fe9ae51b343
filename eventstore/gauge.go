package eventstore

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How full the streams may become. Above refuseRatio keys can't be changed any more, so that there is room to record uses
// while an operator acts.
const (
	warnRatio   = 0.7
	refuseRatio = 0.9

	gaugeInterval     = time.Second      // while something is stored
	gaugeIdleInterval = 10 * time.Second // otherwise: other nodes store too
	defaultMinFree    = 256 << 20
)

// gauge watches how full the streams are and keeps the high-water marks.
type gauge struct {
	store     *Store
	touched   atomic.Bool // something was stored since the last look
	nearly    atomic.Bool
	isFull    atomic.Bool
	isDiskLow atomic.Bool
	warned    bool // only used by update
	lastLook  time.Time
	mu        sync.Mutex // guards what follows
	ratios    map[string]float64
	marks     *marks     // nil until Verify
	updateRun sync.Mutex // one update at a time
}

func newGauge(s *Store) *gauge {
	return &gauge{store: s, ratios: map[string]float64{}}
}

func (g *gauge) touch()           { g.touched.Store(true) }
func (g *gauge) nearlyFull() bool { return g.nearly.Load() }
func (g *gauge) full() bool       { return g.isFull.Load() }
func (g *gauge) diskFull() bool   { return g.isDiskLow.Load() }

// fill is how full each stream was at the last look, between 0 and 1.
func (g *gauge) fill() map[string]float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.ratios)
}

// verified starts the keeping of marks, from the ones that Verify found to hold.
func (g *gauge) verified(m *marks) {
	if m == nil {
		m = &marks{Lineage: g.store.Lineage(), Streams: map[string]mark{}}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.marks = m
}

func (g *gauge) run(ctx context.Context) {
	for sleep(ctx, gaugeInterval) {
		if !g.touched.Swap(false) && time.Since(g.lastLook) < gaugeIdleInterval {
			continue
		}
		g.lastLook = time.Now()
		if g.store.usable() != nil {
			continue
		}
		if err := g.update(ctx); err != nil && ctx.Err() == nil {
			g.touch()
			g.store.log.WarnContext(ctx, "looking at the event store", slog.Any("error", err))
		}
	}
}

// flush keeps the marks as they are now, at the end of the process.
func (g *gauge) flush(ctx context.Context) error {
	g.mu.Lock()
	active := g.marks != nil
	g.mu.Unlock()
	if !active || g.store.Err() != nil || !g.store.nc.IsConnected() {
		return nil
	}
	return g.update(ctx)
}

// update looks at every stream once.
func (g *gauge) update(ctx context.Context) error {
	g.updateRun.Lock()
	defer g.updateRun.Unlock()
	activity, err := g.store.ActivityStreams(ctx)
	if err != nil {
		return err
	}
	ratios, seen := map[string]float64{}, map[string]mark{}
	for _, name := range append([]string{streamEvents, streamMaterial}, activity...) {
		info, err := g.store.info(ctx, name)
		if err != nil {
			return err
		}
		if limit := info.Config.MaxBytes; limit > 0 {
			ratios[name] = float64(info.State.Bytes) / float64(limit)
		}
		if seen[name], err = g.store.markOf(ctx, info); err != nil {
			return err
		}
	}
	if err := g.judge(ctx, ratios); err != nil {
		return err
	}
	return g.keep(seen)
}

// judge sets what the ratios mean.
func (g *gauge) judge(ctx context.Context, ratios map[string]float64) error {
	worst := 0.0
	for _, r := range ratios {
		worst = max(worst, r)
	}
	diskLow, err := g.diskLow()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.ratios = ratios
	g.mu.Unlock()
	g.nearly.Store(worst >= refuseRatio || diskLow)
	g.isFull.Store(worst >= 1 || diskLow)
	g.isDiskLow.Store(diskLow)
	full := worst >= warnRatio || diskLow
	if full && !g.warned {
		g.store.log.LogAttrs(ctx, slog.LevelWarn, "the event store is getting full; raise the limits of its streams or give it a larger disk",
			slog.Float64("fullest_stream", worst), slog.Bool("disk_low", diskLow), slog.Any("streams", slices.Sorted(maps.Keys(ratios))))
	}
	g.warned = full
	return nil
}

// diskLow reports whether the embedded server's disk is nearly full: a write that fails there stops a stream until the next
// start, so none is tried.
func (g *gauge) diskLow() (bool, error) {
	if g.store.server == nil {
		return false, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(g.store.cfg.DataDir, &st); err != nil {
		return false, fmt.Errorf("asking for the free space of the data folder: %w", err)
	}
	return st.Bavail*uint64(st.Bsize) < uint64(orDefault(g.store.cfg.MinFreeDisk, defaultMinFree)), nil //nolint:gosec // sizes are not negative
}

// keep writes the marks if they moved.
func (g *gauge) keep(seen map[string]mark) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.marks == nil || maps.Equal(seen, g.marks.Streams) {
		return nil
	}
	next := &marks{Lineage: g.marks.Lineage, Streams: seen}
	for name, old := range g.marks.Streams {
		if now, ok := seen[name]; !ok || now.Last < old.Last || !now.Created.Equal(old.Created) {
			err := &IntegrityError{Stream: name, Message: "it lost messages or was replaced while this node was running; stop it and restore the event store from a backup"}
			g.store.fail(err)
			return err
		}
	}
	if err := writeMarks(g.store.marksPath(), next); err != nil {
		return err
	}
	g.marks = next
	return nil
}
