package rpc

import (
	"context"
	"iter"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
)

// Commands is what this package needs of commands.Service. Every method takes the caller, authorizes, and makes the
// records that the rules ask for before it returns; refusals are *domain.Error and are recorded already.
type Commands interface {
	CreateKey(context.Context, domain.Caller, commands.CreateKey) (commands.KeyState, error)
	UpdateKey(context.Context, domain.Caller, domain.KeyRef, domain.UpdateKey, commands.Mutation) (commands.KeyState, error)
	RotateKey(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	EnableKey(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	DisableKey(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	EnableKeyVersion(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	DisableKeyVersion(ctx context.Context, caller domain.Caller, ref domain.KeyRef, allowPrimary bool, m commands.Mutation) (commands.KeyState, error)
	ScheduleKeyDeletion(ctx context.Context, caller domain.Caller, ref domain.KeyRef, wait, unusedFor time.Duration, m commands.Mutation) (commands.ScheduledDeletion, error)
	CancelKeyDeletion(ctx context.Context, caller domain.Caller, ref domain.KeyRef, enable bool, m commands.Mutation) (commands.KeyState, error)
	DeleteKey(ctx context.Context, caller domain.Caller, ref domain.KeyRef, skipWait bool, m commands.Mutation) (commands.KeyState, error)

	UpdateRotationPeriod(ctx context.Context, caller domain.Caller, ref domain.KeyRef, period time.Duration, m commands.Mutation) (commands.KeyState, error)
	EnableAutoRotation(ctx context.Context, caller domain.Caller, ref domain.KeyRef, period time.Duration, m commands.Mutation) (commands.KeyState, error)
	DisableAutoRotation(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	CreateKeyVersion(ctx context.Context, caller domain.Caller, ref domain.KeyRef, makePrimary bool, m commands.Mutation) (commands.KeyState, error)
	SetPrimaryVersion(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	ScheduleKeyVersionDestruction(ctx context.Context, caller domain.Caller, ref domain.KeyRef, wait time.Duration, allowPrimary bool, m commands.Mutation) (commands.KeyState, error)
	RestoreKeyVersion(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	ArchiveKey(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	UnarchiveKey(ctx context.Context, caller domain.Caller, ref domain.KeyRef, enable bool, m commands.Mutation) (commands.KeyState, error)
	AddUsageBinding(ctx context.Context, caller domain.Caller, ref domain.KeyRef, resource string, m commands.Mutation) (commands.KeyState, error)
	RemoveUsageBinding(ctx context.Context, caller domain.Caller, ref domain.KeyRef, resource string, m commands.Mutation) (commands.KeyState, error)

	AddKeyAlias(ctx context.Context, caller domain.Caller, ref domain.KeyRef, alias string, move bool, m commands.Mutation) (commands.KeyState, error)
	RemoveKeyAlias(ctx context.Context, caller domain.Caller, ref domain.KeyRef, alias string, m commands.Mutation) (commands.KeyState, error)
	CreateKeyRing(context.Context, domain.Caller, commands.CreateKeyRing) (commands.RingState, error)
	ArchiveKeyRing(context.Context, domain.Caller, domain.RingName, commands.Mutation) (commands.RingState, error)
	UnarchiveKeyRing(context.Context, domain.Caller, domain.RingName, commands.Mutation) (commands.RingState, error)

	CreateImportJob(context.Context, domain.Caller, commands.CreateImportJob) (commands.ImportJobState, error)
	CancelImport(context.Context, domain.Caller, domain.ImportJobName, commands.Mutation) (commands.ImportJobState, error)
	// GetImportJob authorizes a plain read of one import job and returns it.
	GetImportJob(context.Context, domain.Caller, domain.ImportJobName, commands.Read) (commands.ImportJobState, error)
	// ImportKeyVersion returns, beside the key, the version that has the material.
	ImportKeyVersion(context.Context, domain.Caller, commands.ImportKeyVersion) (commands.KeyState, domain.Version, error)
	DeleteKeyMaterial(context.Context, domain.Caller, domain.KeyRef, commands.Mutation) (commands.KeyState, error)
	// GetPublicKey is a protected read, as RecordRead.
	GetPublicKey(context.Context, domain.Caller, commands.Read) (commands.PublicKey, error)

	Encrypt(context.Context, domain.Caller, commands.EncryptRequest) (commands.EncryptResult, error)
	Decrypt(context.Context, domain.Caller, commands.DecryptRequest) (commands.DecryptResult, error)
	ReEncrypt(context.Context, domain.Caller, commands.ReEncryptRequest) (commands.ReEncryptResult, error)
	BatchEncrypt(context.Context, domain.Caller, domain.KeyRef, []commands.EncryptItem) ([]commands.Outcome[commands.EncryptResult], error)
	BatchDecrypt(ctx context.Context, caller domain.Caller, project string, items []commands.DecryptItem) ([]commands.Outcome[commands.DecryptResult], error)
	GenerateDataKey(context.Context, domain.Caller, commands.DataKeyRequest) (commands.DataKeyResult, error)
	GenerateRandomBytes(ctx context.Context, caller domain.Caller, project string, n int) ([]byte, error)

	// GetKey authorizes a plain read of one key and returns it.
	GetKey(context.Context, domain.Caller, commands.Read) (commands.KeyState, error)
	// GetKeyRing authorizes a plain read of one ring and returns it.
	GetKeyRing(context.Context, domain.Caller, commands.Read) (commands.RingState, error)
	// Authorize lets a plain read of no single key pass.
	Authorize(context.Context, domain.Caller, commands.Read) error
	// RecordRead is GetKey for a protected read: it is recorded durably before it returns.
	RecordRead(context.Context, domain.Caller, commands.Read) (commands.KeyState, error)
	// ListKeysAsOf calls list with the keys as they were at a past moment, in the order in which they come, and records the
	// read durably before it returns.
	ListKeysAsOf(ctx context.Context, caller domain.Caller, r commands.Read, keys iter.Seq[*commands.KeyState], list func(iter.Seq[*commands.KeyState]) error) error
	// GetKeyHistory returns up to limit of a key's commits after a revision; it is recorded durably before it returns.
	GetKeyHistory(ctx context.Context, caller domain.Caller, r commands.Read, after commands.Revision, limit int) (commands.KeyHistory, error)
	// WatchKeys tells send of each change of a key in the ring after a revision, zero meaning now, until ctx ends or send
	// fails, and returns that error.
	WatchKeys(ctx context.Context, caller domain.Caller, r commands.Read, ring domain.RingName, after commands.Revision, send func(commands.WatchUpdate) error) error
	// RecordRefusal records durably that a request was refused before it reached a command. It returns what to tell the
	// caller: the refusal, or what kept it from being recorded.
	RecordRefusal(ctx context.Context, caller domain.Caller, r commands.Read, refusal error) error
	// RecordAttempts records summaries of unauthenticated attempts.
	RecordAttempts(context.Context, []domain.ActivityRecord) error
}

// Keys is this node's projection of the event log, as lists read it.
type Keys interface {
	// Keys yields the keys of a ring in the byte order of their ids, destroyed ones included; with AnyRing those of all
	// rings of the location, by ring and then id. What changes meanwhile may be shown as it was or as it is; what is yielded
	// must not be changed.
	Keys(domain.RingName) iter.Seq[*commands.KeyState]
	// Rings are the key rings of a location in the byte order of their ids, archived ones and domain.DefaultRing included.
	Rings(project, location string) []commands.RingState
	// ImportJobs are the import jobs of a ring in the byte order of their ids, those that are over included.
	ImportJobs(domain.RingName) []commands.ImportJobState
	// Revision is the newest one applied.
	Revision() commands.Revision
}
