package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The limits of the streams unless the configuration has others.
const (
	defaultEventsMaxBytes   = 32 << 30
	defaultActivityMaxBytes = 32 << 30
	defaultMaterialMaxBytes = 8 << 30

	// duplicateWindow is how long the server remembers command ids, in memory. It only spares a read after a lost
	// acknowledgement: what makes appends exact is the expectation.
	duplicateWindow = time.Minute
)

// streams are the configurations that the service needs. A full stream refuses, none evicts what it holds; what can't be
// stored again can't be deleted; nothing is acknowledged before it is synced (the server's sync_interval, and no persist mode
// of the stream's own).
func (s *Store) streams(replicas int) []jetstream.StreamConfig {
	base := jetstream.StreamConfig{
		Storage: jetstream.FileStorage, Replicas: replicas, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
		MaxConsumers: -1, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxBytes: -1,
		AllowDirect: true, Duplicates: duplicateWindow, PersistMode: jetstream.DefaultPersistMode,
	}
	events, activity, material, projection := base, base, base, base

	events.Name, events.Subjects = streamEvents, []string{subjectEvents + "*.*"}
	events.Description = "Keyledger: one commit per message. The truth; never delete."
	events.DenyDelete, events.DenyPurge = true, true
	events.MaxMsgSize, events.MaxBytes = 256<<10, orDefault(s.cfg.EventsMaxBytes, defaultEventsMaxBytes)

	activity.Name, activity.Subjects = streamActivity1, []string{subjectActivity + "*"}
	activity.Description = "Keyledger: records of every use of a key. The truth; never delete."
	activity.DenyDelete, activity.DenyPurge = true, true
	activity.MaxMsgSize, activity.MaxBytes = 512<<10, orDefault(s.cfg.ActivityMaxBytes, defaultActivityMaxBytes)

	material.Name, material.Subjects = streamMaterial, []string{subjectMaterial + "*.*.*"}
	material.Description = "Keyledger: wrapped key material. Losing it loses the keys."
	material.MaxMsgSize, material.MaxBytes = 64<<10, orDefault(s.cfg.MaterialMaxBytes, defaultMaterialMaxBytes)

	projection.Name, projection.Subjects = streamProjection, []string{subjectProjection + "*"}
	projection.Description = "Keyledger: checkpoints of projectors. Can be made again."
	projection.Discard, projection.MaxMsgsPerSubject, projection.MaxMsgSize = jetstream.DiscardOld, 1, 512<<10

	return []jetstream.StreamConfig{events, activity, material, projection}
}

func orDefault(v, d int64) int64 {
	if v == 0 {
		return d
	}
	return v
}

// Provision creates what is missing: the streams, with so many replicas (1, or 3 in a cluster), and the site's first commit.
// Limits that were raised in the configuration are raised. It is idempotent, and safe to run on several nodes at once. A stream
// that this node knew and that is gone is not made again: the error is an *IntegrityError.
func (s *Store) Provision(ctx context.Context, replicas int) error {
	known, err := readMarks(s.marksPath())
	if err != nil {
		return err
	}
	for _, want := range s.streams(replicas) {
		info, err := s.info(ctx, want.Name)
		for errors.Is(err, ErrUnavailable) && sleep(ctx, 250*time.Millisecond) { // a cluster may still be choosing its leader
			info, err = s.info(ctx, want.Name)
		}
		switch {
		case errors.Is(err, ErrNotProvisioned) && known.has(want.Name):
			return goneError(want.Name)
		case errors.Is(err, ErrNotProvisioned):
			err = s.createStream(ctx, want)
		case err == nil && info.Config.MaxBytes < want.MaxBytes:
			raised := info.Config
			raised.MaxBytes = want.MaxBytes
			_, err = s.js.UpdateStream(ctx, raised)
		}
		if err != nil {
			return fmt.Errorf("provisioning stream %s: %w", want.Name, err)
		}
	}
	if err := s.createSite(ctx); err != nil {
		return fmt.Errorf("creating the site: %w", err)
	}
	return nil
}

func (s *Store) createStream(ctx context.Context, want jetstream.StreamConfig) error {
	for {
		_, err := s.js.CreateStream(ctx, want)
		if err == nil {
			s.log.InfoContext(ctx, "stream created", slog.String("stream", want.Name), slog.Int("replicas", want.Replicas))
			return nil
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node was faster, with what Verify will check
			return nil
		}
		apiErr, ok := errors.AsType[*jetstream.APIError](err)
		if ok && apiErr.ErrorCode == codeNoPeers { // a cluster that is coming up, or one that is too small: the caller's patience decides
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if ok && apiErr.Code/100 != 5 || !sleep(ctx, 250*time.Millisecond) {
			return err
		}
	}
}

// notCompared are fields of a stream's configuration that are the administrator's to choose.
var notCompared = map[string]bool{
	"Description": true, "Metadata": true, "Placement": true, "MaxBytes": true, "Replicas": true, "Compression": true,
	"ConsumerLimits": true, // bounds on readers, which show at once
}

// compareConfig returns a *ConfigError if a live stream is not what the service needs.
func compareConfig(want, got jetstream.StreamConfig) error {
	w, g := reflect.ValueOf(want), reflect.ValueOf(got)
	for i := range w.NumField() {
		field := w.Type().Field(i).Name
		if notCompared[field] || reflect.DeepEqual(w.Field(i).Interface(), g.Field(i).Interface()) {
			continue
		}
		return &ConfigError{Stream: want.Name, Field: field, Want: w.Field(i).Interface(), Got: g.Field(i).Interface()}
	}
	switch {
	case got.MaxBytes <= 0 && want.MaxBytes > 0:
		return &ConfigError{Stream: want.Name, Field: "MaxBytes", Want: "positive", Got: got.MaxBytes}
	case want.Name == streamMaterial && got.Compression != jetstream.NoCompression:
		return &ConfigError{Stream: want.Name, Field: "Compression", Want: jetstream.NoCompression, Got: got.Compression}
	}
	return nil
}
