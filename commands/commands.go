// Package commands changes and uses keys, and changes their rings and aliases. A change is decided on the projected state, its material made in the token and
// stored, and then appended as one commit; a use is authorized, done by the token and recorded durably before its result
// is released. The package has no transport and no storage of its own: it needs the interfaces below.
package commands

import (
	"context"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// Edges know what they show of the event store by these names, and leave the log itself alone.
type (
	// Revision is the position of a commit in the log.
	Revision = eventstore.Revision
	// KeyState is a key as of one commit.
	KeyState = eventstore.KeyState
	// RingState is a key ring as of one commit.
	RingState = eventstore.RingState
)

// Keys is this node's projection of the event log. Its answers may lag behind the log: what is decided on them is
// guarded by the append, and a refusal is confirmed against the log.
type Keys interface {
	// Get returns the key with this resource name, whatever its state, and whether it was ever made.
	Get(name string) (eventstore.KeyState, bool)
	// GetByUID is Get for a key named by its uid.
	GetByUID(uid domain.UID) (eventstore.KeyState, bool)
	// GetByAlias is Get for a key named by an alias. An alias of a destroyed key names nothing.
	GetByAlias(name domain.AliasName) (eventstore.KeyState, bool)
	// Alias returns the alias with this name; the zero state if it was never used.
	Alias(name domain.AliasName) eventstore.AliasState
	// AliasesAt returns the aliases that the key had just after a revision, sorted, and the commit that last changed them.
	AliasesAt(key domain.UID, rev eventstore.Revision) (aliases []string, changed eventstore.Revision)
	// AliasesAsOf is AliasesAt for any moment.
	AliasesAsOf(key domain.UID, m eventstore.Moment) (aliases []string, changed eventstore.Revision)
	// Ring returns what is recorded of the key ring with this name; the zero state if nothing is.
	Ring(name domain.RingName) eventstore.RingState
	// ImportJob returns the import job with this name; the zero state if it was never made.
	ImportJob(name domain.ImportJobName) eventstore.ImportJobState
	// ImportJobByUID is ImportJob for a job named by its uid.
	ImportJobByUID(uid domain.UID) eventstore.ImportJobState
	// DueImportJobs returns the import jobs whose end is to be recorded at that time, or whose private key is to be erased.
	DueImportJobs(at time.Time) []eventstore.ImportJobState
	// Request returns the revision of the commit that carried out this principal's request on the aggregate, and the
	// request's hash.
	Request(aggregate, principal string, requestID domain.UID) (rev eventstore.Revision, hash [32]byte, ok bool)
	// WaitFor returns when the projection has applied the revision, or with ctx's error.
	WaitFor(ctx context.Context, rev eventstore.Revision) error
	// Fresh returns an error when the projection may be older than the bound on staleness of plain reads.
	Fresh() error
	// HeadTime is the newest effective time of any commit.
	HeadTime() time.Time
	// Due returns the keys for which the service has something to do at that time (domain.Key.Due), in no order, and when
	// the next of the others is due; zero if none will be unless a key changes.
	Due(at time.Time) (due []domain.UID, next time.Time)
	// DueSooner receives when a change lets something fall due earlier than all that was known of. It is for one receiver.
	DueSooner() <-chan struct{}
	// Unerased returns the keys with material that shall be erased and is not known to be.
	Unerased() []eventstore.KeyState
}

// Events is the log of commits.
type Events interface {
	History
	// Append stores c if the aggregate's last commit is still the expected one. It retries until the outcome is known or
	// ctx ends: eventstore.ErrConflict means that another commit came first, eventstore.ErrUnknownOutcome that c may or
	// may not be stored.
	Append(ctx context.Context, expected eventstore.Revision, c eventstore.Commit) (eventstore.Commit, error)
	// LoadConfirmed yields the aggregate's commits after a revision, as the leader of the log knows them.
	LoadConfirmed(ctx context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error]
}

// Material keeps wrapped keys.
type Material interface {
	// PutMaterial stores a wrapped key durably under the binding's material id, which must be new.
	PutMaterial(ctx context.Context, b domain.Binding, blob []byte) error
	// EraseMaterial removes it so that its bytes are found in no file of the store; erasing twice is fine.
	EraseMaterial(ctx context.Context, b domain.Binding) error
}

// Activity is the log of uses, reads and refusals.
type Activity interface {
	// Record returns when all records are durable. On any error their result must not be released.
	Record(ctx context.Context, records []domain.ActivityRecord) (eventstore.Receipt, error)
}

// Token makes and uses keys. Its errors are *domain.Error where a caller can do something about them.
type Token interface {
	// Generate makes a key in the token and returns it wrapped.
	Generate(ctx context.Context, b domain.Binding) (domain.WrappedKey, error)
	// Import unwraps material that was wrapped for an import job, and returns it wrapped as Generate does.
	Import(ctx context.Context, job domain.Binding, wrapped []byte, b domain.Binding) (domain.WrappedKey, error)
	// ImportClear is Import for material in the clear.
	ImportClear(ctx context.Context, material []byte, b domain.Binding) (domain.WrappedKey, error)
	// Encrypt returns a fresh IV and the ciphertext with its tag.
	Encrypt(ctx context.Context, b domain.Binding, plaintext, aad []byte) (iv, ciphertext []byte, err error)
	// Decrypt fails with domain.ErrCiphertext when tag, aad or key do not fit.
	Decrypt(ctx context.Context, b domain.Binding, iv, ciphertext, aad []byte) ([]byte, error)
	// Random returns n bytes of the token's random generator.
	Random(ctx context.Context, n int) ([]byte, error)
	// Evict forgets what is cached of a key's version, or of all its versions when v is zero.
	Evict(key domain.UID, v domain.Version)
}

// Config is what a Service works with. All fields but Clock are required.
type Config struct {
	Location string // served by this process
	Keys     Keys
	Events   Events
	Material Material
	Activity Activity
	Uses     UsesLog
	Token    Token
	Log      *slog.Logger
	Clock    func() time.Time // nil: time.Now
}

// Service carries out commands and uses. Its methods may be called by any number of goroutines.
type Service struct {
	cfg    Config
	leases leases

	// A place is taken by each that goes on, so that their memory is bounded.
	pastLists, watches chan struct{}

	// making is where changes are from before they make material until they are appended or given up.
	making gate
	// lease is until when this node may make material, in Unix nanoseconds; zero: always, as it is the only one. See Roots.
	lease atomic.Int64
}

// New returns a Service.
func New(cfg Config) *Service {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Service{cfg: cfg, pastLists: make(chan struct{}, maxPastLists), watches: make(chan struct{}, maxWatches)}
}

var tracer = otel.Tracer("github.com/keyledger/kms/commands")

// newUID makes a UUID of version 7.
func newUID() (domain.UID, error) {
	u, err := uuid.NewV7()
	return domain.UID(u), err
}

// now is this node's time as the log keeps it, to the microsecond.
func (s *Service) now() time.Time { return s.cfg.Clock().UTC().Truncate(time.Microsecond) }
