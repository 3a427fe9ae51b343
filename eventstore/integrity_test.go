package eventstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// fill stores some commits, records and material.
func fill(t testing.TB, s *eventstore.Store, n int) {
	t.Helper()
	for range n {
		c := createKey(t, newUID(t).String())
		if err := s.PutMaterial(t.Context(), domain.Binding{Project: "p", KeyUID: c.KeyUID, MaterialID: newUID(t)}, []byte("wrapped")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), 0, c); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
			t.Fatal(err)
		}
	}
}

func closeStore(t testing.TB, s *eventstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// verify opens the store in dir again, as the server does at its start, and returns what Provision or Verify says.
func verify(t testing.TB, dir string) error {
	t.Helper()
	s, err := eventstore.Open(t.Context(), eventstoretest.Config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if err := s.Provision(t.Context(), 1); err != nil {
		return err
	}
	return s.Verify(t.Context())
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	lineage := s.Lineage()
	fill(t, s, 5)
	root := eventstore.Root{ID: "root-1", Sentinel: []byte("sentinel"), TokenSerial: "serial"}
	if err := s.AddRoot(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)

	s = eventstoretest.Open(t, dir)
	if s.Lineage() != lineage {
		t.Errorf("lineage = %s, was %s", s.Lineage(), lineage)
	}
	head, err := s.Head(t.Context())
	if err != nil || head.First != 1 || head.Last != 7 || head.Deleted != 0 {
		t.Errorf("head = %+v, %v", head, err)
	}
	for range 2 {
		if err := s.AddRoot(t.Context(), root); err != nil {
			t.Errorf("adding the root again: %v", err)
		}
	}
	other := root
	other.Sentinel = []byte("other")
	if err := s.AddRoot(t.Context(), other); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("adding another root under the same id: %v", err)
	}
	roots, err := s.Roots(t.Context())
	if err != nil || len(roots) != 1 || roots[0].ID != "root-1" || string(roots[0].Sentinel) != "sentinel" || roots[0].TokenSerial != "serial" {
		t.Errorf("roots = %+v, %v", roots, err)
	}
	fill(t, s, 1)
}

func TestDamage(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(t *testing.T, dir string)
		stream string
	}{
		"nothing":                          {func(*testing.T, string) {}, ""},
		"an older copy was put back":       {swap, "KMS_"},
		"the end of the events is gone":    {truncate("KMS_EVENTS"), "KMS_EVENTS"},
		"the end of the activity is gone":  {truncate("KMS_ACTIVITY_1"), "KMS_ACTIVITY_1"},
		"the end of the material is gone":  {truncate("KMS_MATERIAL"), "KMS_MATERIAL"},
		"a byte of the events changed":     {flip("KMS_EVENTS"), "KMS_EVENTS"},
		"a byte of the activity changed":   {flip("KMS_ACTIVITY_1"), "KMS_ACTIVITY_1"},
		"the events are gone":              {remove("KMS_EVENTS"), "KMS_EVENTS"},
		"the activity is gone":             {remove("KMS_ACTIVITY_1"), "KMS_ACTIVITY_1"},
		"the material is gone":             {remove("KMS_MATERIAL"), "KMS_MATERIAL"},
		"the high-water marks are garbage": {spoilMarks, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := eventstoretest.Open(t, dir)
			fill(t, s, 20)
			closeStore(t, s)
			if err := os.CopyFS(filepath.Join(dir, "copy"), os.DirFS(filepath.Join(dir, "jetstream"))); err != nil {
				t.Fatal(err)
			}
			s = eventstoretest.Open(t, dir)
			fill(t, s, 20)
			closeStore(t, s)
			tt.damage(t, dir)
			err := verify(t, dir)
			t.Logf("verify: %v", err)
			if (err != nil) != (name != "nothing") {
				t.Errorf("error = %v", err)
			}
			var damaged *eventstore.IntegrityError
			if tt.stream != "" && (!errors.As(err, &damaged) || !errors.Is(err, eventstore.ErrDamaged) || !strings.HasPrefix(damaged.Stream, tt.stream)) {
				t.Errorf("error = %v, want one about %s", err, tt.stream)
			}
		})
	}
}

func swap(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "copy"), filepath.Join(dir, "jetstream")); err != nil {
		t.Fatal(err)
	}
}

// messages returns the only block of a stream, and removes the index that could hide what is done to it.
func messages(t *testing.T, dir, stream string) string {
	t.Helper()
	folder := filepath.Join(dir, "jetstream/jetstream/$G/streams", stream, "msgs")
	if err := os.Remove(filepath.Join(folder, "index.db")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return filepath.Join(folder, "1.blk")
}

func truncate(stream string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := messages(t, dir, stream)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()*3/4); err != nil {
			t.Fatal(err)
		}
	}
}

func flip(stream string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := messages(t, dir, stream)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		write(t, path, string(data))
	}
}

func spoilMarks(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "highwater.json"), "{")
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(stream string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(dir, "jetstream/jetstream/$G/streams", stream)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLostSequencesUsedAgain: a store that lost its end gives the lost sequences to new messages and looks intact again. The
// hash in the high-water mark tells.
func TestLostSequencesUsedAgain(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	fill(t, s, 5)
	closeStore(t, s)
	if err := os.CopyFS(filepath.Join(dir, "copy"), os.DirFS(filepath.Join(dir, "jetstream"))); err != nil {
		t.Fatal(err)
	}
	s = eventstoretest.Open(t, dir)
	fill(t, s, 5)
	closeStore(t, s)
	marks, err := os.ReadFile(filepath.Join(dir, "highwater.json"))
	if err != nil {
		t.Fatal(err)
	}
	swap(t, dir)
	if err := os.Remove(filepath.Join(dir, "highwater.json")); err != nil {
		t.Fatal(err)
	}
	s = eventstoretest.Open(t, dir)
	fill(t, s, 8)
	closeStore(t, s)
	write(t, filepath.Join(dir, "highwater.json"), string(marks))
	if err := verify(t, dir); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("error = %v, want damage", err)
	}
}

func TestAnotherSite(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		s := eventstoretest.Open(t, dir)
		fill(t, s, 1)
		closeStore(t, s)
	}
	if err := os.RemoveAll(filepath.Join(a, "jetstream")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(b, "jetstream"), filepath.Join(a, "jetstream")); err != nil {
		t.Fatal(err)
	}
	var lineage *eventstore.LineageError
	if err := verify(t, a); !errors.As(err, &lineage) {
		t.Errorf("error = %v, want another lineage", err)
	}
	empty, err := eventstore.Open(t.Context(), eventstoretest.Config(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, empty)
	if err := empty.Verify(t.Context()); !errors.Is(err, eventstore.ErrNotProvisioned) {
		t.Errorf("of an empty folder: error = %v", err)
	}
	if _, err := empty.Append(t.Context(), 0, createKey(t, "k")); !errors.Is(err, eventstore.ErrNotProvisioned) {
		t.Errorf("append to an empty folder: error = %v", err)
	}
	if _, err := empty.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); !errors.Is(err, eventstore.ErrNotProvisioned) {
		t.Errorf("record in an empty folder: error = %v", err)
	}
}

// TestConfigurationDrift does what an administrator of the streams could.
func TestConfigurationDrift(t *testing.T) {
	for name, tt := range map[string]struct {
		stream, field string
		change        func(*jetstream.StreamConfig)
	}{
		"evicting by count":     {"KMS_ACTIVITY_1", "MaxMsgs", func(c *jetstream.StreamConfig) { c.MaxMsgs = 1 << 40 }},
		"evicting by age":       {"KMS_EVENTS", "MaxAge", func(c *jetstream.StreamConfig) { c.MaxAge = 1000 * time.Hour }},
		"evicting when full":    {"KMS_EVENTS", "Discard", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld }},
		"evicting material":     {"KMS_MATERIAL", "MaxMsgsPerSubject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }},
		"no limit":              {"KMS_ACTIVITY_1", "MaxBytes", func(c *jetstream.StreamConfig) { c.MaxBytes = -1 }},
		"taking other subjects": {"KMS_EVENTS", "Subjects", func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "other") }},
		"republishing": {"KMS_EVENTS", "RePublish", func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: ">", Destination: "copy.>"}
		}},
		"letting messages decay": {"KMS_EVENTS", "AllowMsgTTL", func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := eventstoretest.New(t)
			stream, err := s.JetStream().Stream(t.Context(), tt.stream)
			if err != nil {
				t.Fatal(err)
			}
			cfg := stream.CachedInfo().Config
			tt.change(&cfg)
			if _, err := s.JetStream().UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			var drift *eventstore.ConfigError
			if err := s.Verify(t.Context()); !errors.As(err, &drift) || drift.Stream != tt.stream || drift.Field != tt.field {
				t.Errorf("error = %v, want one about %s of %s", err, tt.field, tt.stream)
			}
		})
	}
	t.Run("asynchronous persistence", func(t *testing.T) {
		s, err := eventstore.Open(t.Context(), eventstoretest.Config(t, t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		defer closeStore(t, s)
		if _, err := s.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{
			Name: "KMS_EVENTS", Subjects: []string{"kms.events.*.*"}, PersistMode: jetstream.AsyncPersistMode,
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.Provision(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		var drift *eventstore.ConfigError
		if err := s.Verify(t.Context()); !errors.As(err, &drift) {
			t.Errorf("error = %v, want a configuration error", err)
		}
	})
}

func TestRaisedLimits(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, eventstoretest.Open(t, dir))
	cfg := eventstoretest.Config(t, dir)
	cfg.ActivityMaxBytes *= 2
	s, err := eventstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if err := s.Provision(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	stream, err := s.JetStream().Stream(t.Context(), "KMS_ACTIVITY_1")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxBytes; got != cfg.ActivityMaxBytes {
		t.Errorf("limit = %d, want %d", got, cfg.ActivityMaxBytes)
	}
}

// TestReplacedStream: an administrator deleted a stream and made it again. What is in it now is not what was.
func TestReplacedStream(t *testing.T) {
	dir := t.TempDir()
	s := eventstoretest.Open(t, dir)
	fill(t, s, 3)
	closeStore(t, s)
	s, err := eventstore.Open(t.Context(), eventstoretest.Config(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.JetStream().Stream(t.Context(), "KMS_MATERIAL")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.JetStream().DeleteStream(t.Context(), "KMS_MATERIAL"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.JetStream().CreateStream(t.Context(), stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 10)
	closeStore(t, s)
	var damaged *eventstore.IntegrityError
	if err := verify(t, dir); !errors.As(err, &damaged) || damaged.Stream != "KMS_MATERIAL" {
		t.Errorf("error = %v, want one about the material", err)
	}
}

// TestEvicted: an administrator had a stream evict its oldest messages, and then undid the setting.
func TestEvicted(t *testing.T) {
	s := eventstoretest.New(t)
	fill(t, s, 10)
	stream, err := s.JetStream().Stream(t.Context(), "KMS_ACTIVITY_1")
	if err != nil {
		t.Fatal(err)
	}
	before := stream.CachedInfo().Config
	evicting := before
	evicting.MaxMsgs, evicting.Discard = 5, jetstream.DiscardOld
	for _, cfg := range []jetstream.StreamConfig{evicting, before} {
		if _, err := s.JetStream().UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Verify(t.Context()); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("error = %v, want damage", err)
	}
}

// TestGap damages the first of several blocks, which the server leaves out without an error.
func TestGap(t *testing.T) {
	dir := t.TempDir()
	cfg := eventstoretest.Config(t, dir)
	cfg.ActivityMaxBytes = 120_000 // the server then uses small blocks
	s := openExternal(t, cfg, 1)
	for range 200 {
		if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	flip("KMS_ACTIVITY_1")(t, dir)

	s, err := eventstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	first, last, err := s.StreamHead(t.Context(), "KMS_ACTIVITY_1")
	if err != nil || first != 1 || last != 200 {
		t.Fatalf("the stream is from %d to %d, %v: the test does not make a gap", first, last, err)
	}
	if err := s.Verify(t.Context()); !errors.Is(err, eventstore.ErrDamaged) {
		t.Errorf("verify: error = %v, want damage", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var ended error
	for r, err := range s.ReadRecords(ctx, "KMS_ACTIVITY_1", 0) {
		if ended = err; err != nil || r.Seq == last {
			break
		}
	}
	if !errors.Is(ended, eventstore.ErrDamaged) {
		t.Errorf("reading: ended with %v, want damage", ended)
	}
}
