package eventstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
)

// Verify checks that the streams are configured as the service needs and hold what they once held: the first message, no
// gaps, and everything up to this node's high-water mark. Nothing may be served before. Commits are further checked one by
// one where they are applied, by KeyState.Apply. Errors: ErrNotProvisioned, *ConfigError, *LineageError, *IntegrityError,
// ErrUnavailable.
func (s *Store) Verify(ctx context.Context) error {
	if s.server != nil {
		if cfg := s.server.JetStreamConfig(); cfg == nil || !cfg.SyncAlways {
			return errors.New("the embedded NATS server does not sync each message")
		}
	}
	marks, err := readMarks(s.marksPath())
	if err != nil {
		return err
	}
	if err := s.readLineage(ctx); err != nil {
		if errors.Is(err, ErrNotProvisioned) && marks.has(streamEvents) {
			return goneError(streamEvents)
		}
		return err
	}
	if marks != nil && marks.Lineage != s.Lineage() {
		return &LineageError{Want: marks.Lineage, Got: s.Lineage()}
	}
	activity, err := s.ActivityStreams(ctx)
	if err != nil {
		return err
	}
	if marks != nil {
		for name := range marks.Streams {
			if _, err := s.info(ctx, name); errors.Is(err, ErrNotProvisioned) {
				return goneError(name)
			}
		}
	}
	for _, want := range s.streams(0) {
		info, err := s.info(ctx, want.Name)
		if err != nil {
			return err
		}
		if err := compareConfig(want, info.Config); err != nil {
			return err
		}
	}
	for _, name := range append([]string{streamEvents, streamMaterial}, activity...) {
		if err := s.verifyStream(ctx, name, marks); err != nil {
			return err
		}
	}
	s.gauge.verified(marks)
	return s.gauge.update(ctx)
}

func (s *Store) verifyStream(ctx context.Context, name string, marks *marks) error {
	info, err := s.info(ctx, name)
	if err != nil {
		return err
	}
	damaged := func(format string, args ...any) error {
		return &IntegrityError{Stream: name, Message: fmt.Sprintf(format, args...) + "; restore the event store from a backup"}
	}
	st := info.State
	if name != streamMaterial && st.LastSeq > 0 {
		switch gaps := missing(st); {
		case st.FirstSeq != 1:
			return damaged("its first message is %d, so %d are missing", st.FirstSeq, st.FirstSeq-1)
		case gaps > 0:
			return damaged("%d of its messages are missing", gaps)
		}
	}
	if marks == nil {
		return nil
	}
	mark, ok := marks.Streams[name]
	switch {
	case !ok:
		return nil
	case !mark.Created.Equal(info.Created):
		return damaged("it was created at %s, not at %s as the one that this node served from", info.Created.UTC().Format(time.RFC3339), mark.Created.UTC().Format(time.RFC3339))
	case st.LastSeq < mark.Last:
		return damaged("it ends at message %d but held message %d before", st.LastSeq, mark.Last)
	case mark.Hash == "":
		return nil
	}
	m, err := s.retryGet(ctx, name, getRequest{Seq: mark.Last})
	if errors.Is(err, errNoMessage) {
		return damaged("message %d is missing", mark.Last)
	}
	if err != nil {
		return fmt.Errorf("reading message %d of %s: %w", mark.Last, name, err)
	}
	if messageHash(m) != mark.Hash {
		return damaged("message %d is not the one it was before", mark.Last)
	}
	return nil
}

// marks are what the streams held when this node last looked, kept outside of the store: a store that lost its end looks
// intact from the inside, and would give the lost sequences to other messages.
type marks struct {
	Lineage domain.UID
	Streams map[string]mark
}

type mark struct {
	Created time.Time
	Last    uint64
	Hash    string // of message Last, hexadecimal; empty where messages may be deleted
}

// has reports whether the stream was there. The marks may be nil.
func (m *marks) has(stream string) bool {
	if m == nil {
		return false
	}
	_, ok := m.Streams[stream]
	return ok
}

func goneError(stream string) error {
	return &IntegrityError{Stream: stream, Message: "it is gone; restore the event store from a backup"}
}

func messageHash(m storedMessage) string {
	h := sha256.Sum256(m.data)
	return hex.EncodeToString(h[:])
}

// marksFile is the form of marks on disk.
type marksFile struct {
	Lineage string                `json:"lineage"`
	Streams map[string]markOnDisk `json:"streams"`
}

type markOnDisk struct {
	Created time.Time `json:"created"`
	Last    uint64    `json:"last"`
	Hash    string    `json:"hash,omitempty"`
}

func (s *Store) marksPath() string { return filepath.Join(s.cfg.DataDir, "highwater.json") }

// readMarks returns nil if none were written yet.
func readMarks(path string) (*marks, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no marks are not an error
	}
	if err != nil {
		return nil, fmt.Errorf("reading the high-water marks: %w", err)
	}
	var f marksFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("reading the high-water marks in %s: %w; delete the file only if you are sure that the event store lost nothing", path, err)
	}
	lineage, err := domain.ParseUID(f.Lineage)
	if err != nil {
		return nil, fmt.Errorf("reading the high-water marks in %s: lineage %q: %w", path, f.Lineage, err)
	}
	m := &marks{Lineage: lineage, Streams: make(map[string]mark, len(f.Streams))}
	for name, x := range f.Streams {
		m.Streams[name] = mark(x)
	}
	return m, nil
}

// writeMarks replaces the file so that a crash leaves the old or the new one.
func writeMarks(path string, m *marks) (err error) {
	f := marksFile{Lineage: m.Lineage.String(), Streams: make(map[string]markOnDisk, len(m.Streams))}
	for name, x := range m.Streams {
		f.Streams[name] = markOnDisk(x)
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the high-water marks: %w", err)
	}
	temporary := path + ".new"
	if err := writeSynced(temporary, append(data, '\n')); err != nil {
		return fmt.Errorf("writing the high-water marks: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing the high-water marks: %w", err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing the high-water marks: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// markOf is the mark of a stream as it is now. The last message of a stream that never deletes any is part of it.
func (s *Store) markOf(ctx context.Context, info *jetstream.StreamInfo) (mark, error) {
	m := mark{Created: info.Created, Last: info.State.LastSeq}
	if info.Config.Name == streamMaterial || m.Last == 0 {
		return m, nil
	}
	last, err := s.directGet(ctx, info.Config.Name, getRequest{Seq: m.Last})
	if errors.Is(err, errNoMessage) {
		last, err = s.leaderGet(ctx, info.Config.Name, getRequest{Seq: m.Last})
	}
	if err != nil {
		return m, fmt.Errorf("reading message %d of %s: %w", m.Last, info.Config.Name, err)
	}
	m.Hash = messageHash(last)
	return m, nil
}
