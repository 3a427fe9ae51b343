package eventstore

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/keyledger/kms/domain"
)

// Config says where the streams are.
type Config struct {
	// URL of an external NATS server or, separated by commas, of the nodes of a cluster. Empty: a server embedded in this process.
	URL string
	// DataDir is this node's own folder, which it holds a lock on: the embedded server's files and the high-water marks.
	DataDir string
	// Limits of the streams in bytes; zero means the default. They are set by Provision.
	EventsMaxBytes, ActivityMaxBytes, MaterialMaxBytes int64
	// Logger is required.
	Logger *slog.Logger
}

// Store is the connection to a site's streams. Its methods may be called by many goroutines at once.
type Store struct{}

// Head is the state of KMS_EVENTS as the leader of the stream sees it.
type Head struct {
	First, Last Revision
	Deleted     uint64 // messages missing between them; always zero in an intact stream
	Created     time.Time
}

// Receipt is where records became durable.
type Receipt struct {
	Stream string
	Seq    uint64
	First  int // index in the message of the first of the records
}

// Recorded is one message of an activity stream, or a commit seen as the record of its command.
type Recorded struct {
	Stream      string
	Seq         uint64
	Lineage     domain.UID
	Writer      string // the process that wrote it; empty for commits
	StoredTime  time.Time
	Records     []domain.ActivityRecord
	TraceParent string // W3C, of the request that wrote it; empty without one
}

// Open connects to the streams; it starts the embedded server when the configuration names no other.
func Open(ctx context.Context, cfg Config) (*Store, error) { return nil, ErrUnavailable }

// Provision creates what is missing: the streams, with so many replicas, and the site's first commit. It is idempotent.
func (s *Store) Provision(ctx context.Context, replicas int) error { return ErrUnavailable }

// Verify checks that the streams are configured as needed and hold what they once held.
func (s *Store) Verify(ctx context.Context) error { return ErrUnavailable }

// Lineage is that of the site; zero before Provision.
func (s *Store) Lineage() domain.UID { return domain.UID{} }

// Roots are the roots of the site's token, oldest first.
func (s *Store) Roots(ctx context.Context) ([]Root, error) { return nil, ErrUnavailable }

// AddRoot records a new root. It is idempotent; another root under the same id is ErrConflict.
func (s *Store) AddRoot(ctx context.Context, r Root) error { return ErrUnavailable }

// Append stores c if the aggregate's last commit is still at expected, and returns it with Revision and Hash.
func (s *Store) Append(ctx context.Context, expected Revision, c Commit) (Commit, error) {
	return c, ErrUnavailable
}

// Load yields the commits of an aggregate after a revision, oldest first, as this node's server knows them.
func (s *Store) Load(ctx context.Context, a Aggregate, after Revision) iter.Seq2[Commit, error] {
	return nil
}

// LoadConfirmed is Load as the leader of the stream knows them: nothing acknowledged is missing.
func (s *Store) LoadConfirmed(ctx context.Context, a Aggregate, after Revision) iter.Seq2[Commit, error] {
	return nil
}

// Head asks the leader of KMS_EVENTS.
func (s *Store) Head(ctx context.Context) (Head, error) { return Head{}, ErrUnavailable }

// Subscribe calls f with every commit of every aggregate (SiteAggregate too) after a revision, in order, and goes on with
// new ones. caughtUp, if not nil, is called once, when f has seen everything that was stored when Subscribe was called. It
// ends only with ctx, with f's error, or when commits are missing.
func (s *Store) Subscribe(ctx context.Context, after Revision, caughtUp func(), f func(Commit) error) error {
	return ErrUnavailable
}

// PutMaterial stores wrapped material under the binding's project, key and material id. It is durable before its event.
func (s *Store) PutMaterial(ctx context.Context, b domain.Binding, blob []byte) error {
	return ErrUnavailable
}

// Blob returns the wrapped material of a binding.
func (s *Store) Blob(ctx context.Context, b domain.Binding) ([]byte, error) {
	return nil, ErrUnavailable
}

// EraseMaterial overwrites the material of a binding. It is idempotent.
func (s *Store) EraseMaterial(ctx context.Context, b domain.Binding) error { return ErrUnavailable }

// Record stores the records of one request and returns when they are durable.
func (s *Store) Record(ctx context.Context, records []domain.ActivityRecord) (Receipt, error) {
	return Receipt{}, ErrUnavailable
}

// ReadRecords yields the messages of an activity stream, or of KMS_EVENTS, after a sequence, and waits for new ones.
func (s *Store) ReadRecords(ctx context.Context, stream string, after uint64) iter.Seq2[Recorded, error] {
	return nil
}

// ActivityStreams names the activity streams, oldest first.
func (s *Store) ActivityStreams(ctx context.Context) ([]string, error) { return nil, ErrUnavailable }

// StreamHead returns the first and last sequence of a stream, as its leader sees them.
func (s *Store) StreamHead(ctx context.Context, stream string) (first, last uint64, err error) {
	return 0, 0, ErrUnavailable
}

// LoadCheckpoint returns a projector's checkpoint and its revision; no data and revision zero if there is none.
func (s *Store) LoadCheckpoint(ctx context.Context, name string) (data []byte, revision uint64, err error) {
	return nil, 0, ErrUnavailable
}

// SaveCheckpoint replaces a checkpoint that is still at the expected revision (else ErrConflict) and returns the new one.
func (s *Store) SaveCheckpoint(ctx context.Context, name string, data []byte, expected uint64) (revision uint64, err error) {
	return 0, ErrUnavailable
}

// Ready returns nil while the streams answer and take records.
func (s *Store) Ready(ctx context.Context) error { return ErrUnavailable }

// Close stores what is waiting to be recorded and disconnects; the embedded server is stopped cleanly.
func (s *Store) Close(ctx context.Context) error { return nil }
