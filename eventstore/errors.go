package eventstore

import (
	"errors"
	"fmt"

	"github.com/keyledger/kms/domain"
)

// What can come of a call besides success. Match with errors.Is; the text says what to do about it.
var (
	// ErrConflict: another commit of the same aggregate, or another checkpoint, was stored first. Nothing was stored.
	ErrConflict = errors.New("another change was stored first")
	// ErrUnknownOutcome: the context ended before it was known whether the message was stored. It may be, now or later.
	ErrUnknownOutcome = errors.New("it is not known whether it was stored")
	// ErrUnavailable: the store did not answer in time. Nothing was stored.
	ErrUnavailable = errors.New("the event store does not answer")
	// ErrOverloaded: too much is waiting to be recorded. Nothing was stored; try again later.
	ErrOverloaded = errors.New("too many records are waiting to be stored")
	// ErrFull: a stream reached its limit, or the disk its reserve. Nothing was stored, nothing is ever evicted.
	ErrFull = errors.New("the event store is full")
	// ErrTooLarge: more than one message can hold. Nothing was stored.
	ErrTooLarge = errors.New("too large for one message")
	// ErrMaterialMissing: there is no material under this id, or it is not readable.
	ErrMaterialMissing = errors.New("the key material is not in the store")
	// ErrMaterialExists: other material is stored under this id.
	ErrMaterialExists = errors.New("other key material is stored under this id")
	// ErrNotProvisioned: the streams of a site do not exist yet.
	ErrNotProvisioned = errors.New("the event store is not provisioned; run kms init")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the event store is closed")
	// ErrPermission: the NATS account may not do what the service needs. It does not get better by waiting.
	ErrPermission = errors.New("the NATS user lacks a permission")
	// ErrDamaged is what every *IntegrityError and *ChainError is.
	ErrDamaged = errors.New("the event store is damaged")
)

// IntegrityError says that a stream does not hold what it once held. The node must not serve; Message says what to
// restore.
type IntegrityError struct {
	Stream  string
	Message string
}

func (e *IntegrityError) Error() string { return fmt.Sprintf("stream %s: %s", e.Stream, e.Message) }

// Is makes every IntegrityError an ErrDamaged.
func (e *IntegrityError) Is(target error) bool { return target == ErrDamaged }

// ChainError says that a commit does not continue the history of its aggregate.
type ChainError struct {
	Aggregate Aggregate
	Revision  Revision
	Message   string
}

func (e *ChainError) Error() string {
	return fmt.Sprintf("commit %d of %s: %s", e.Revision, e.Aggregate.Name, e.Message)
}

// Is makes every ChainError an ErrDamaged.
func (e *ChainError) Is(target error) bool { return target == ErrDamaged }

// ConfigError says that a stream is configured otherwise than the service needs. Nothing is damaged.
type ConfigError struct {
	Stream string
	Field  string
	Want   any
	Got    any
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("stream %s: %s is %v but must be %v; have the NATS administrator correct it", e.Stream, e.Field, e.Got, e.Want)
}

// LineageError says that this data folder knows another history than the store it is connected to.
type LineageError struct {
	Want, Got domain.UID
}

func (e *LineageError) Error() string {
	return fmt.Sprintf("the event store has lineage %s, but this data folder belongs to %s; connect it to its own store, or give it an empty data folder",
		e.Got, e.Want)
}
