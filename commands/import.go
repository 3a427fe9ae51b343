package commands

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// ImportKeyVersion is a request to give a key material from elsewhere.
type ImportKeyVersion struct {
	Mutation
	Ref domain.KeyRef // a key
	// Job is what WrappedKey was wrapped for. It is the zero name for KeyMaterial, which is in the clear.
	Job         domain.ImportJobName
	WrappedKey  []byte
	KeyMaterial []byte
	Version     domain.Version // whose material was deleted and is imported again; zero: a new one
	MakePrimary bool
}

// ImportKeyVersion unwraps material in the token and makes it a version of the key. The order is: unwrap and check the
// material, which changes nothing; note on the job which key the wrapped key is for; store the material; append to the
// key. So no wrapped key comes into two keys, and a request that was cut off on its way can be repeated for the same
// target. The material of a version whose material was deleted must be the same as before.
func (s *Service) ImportKeyVersion(ctx context.Context, c domain.Caller, r ImportKeyVersion) (eventstore.KeyState, domain.Version, error) {
	permission, sent := domain.PermissionVersionsImport, r.WrappedKey
	if r.Job.ID == "" {
		permission, sent = domain.PermissionVersionsImportClear, r.KeyMaterial
	}
	digest := sha256.Sum256(sent)
	k := &importKind{keyKind: keyKind{s}, caller: c, request: r, digest: digest}
	state, err := execute(ctx, s, c, k, change{
		operation: "ImportKeyVersion", permission: permission, ref: r.Ref, mutation: r.Mutation,
		arguments: []any{r.Job.String(), digest, r.Version, r.MakePrimary},
		command: func(material domain.UID) (domain.Command, error) {
			return domain.ImportKeyVersion{
				MaterialID: material, Origin: domain.ImportedClear, Version: r.Version, MakePrimary: r.MakePrimary,
			}, nil
		},
	})
	if err != nil {
		return eventstore.KeyState{}, 0, err
	}
	if r.Job.ID != "" {
		s.completeImport(ctx, r.Job, digest)
	}
	state.Aliases, state.AliasRevision = s.cfg.Keys.AliasesAt(state.Key.UID, state.Revision)
	version := r.Version
	if version == 0 { // the commit added it: in the state as of then, it is the last
		version = state.Key.NextVersion() - 1
	}
	return state, version, nil
}

// completeImport notes on the job that the import is done, and so can't be repeated even for the same target. It is the
// second lock: should it fail, the key itself refuses the material that it has.
func (s *Service) completeImport(ctx context.Context, job domain.ImportJobName, digest [32]byte) {
	if s.cfg.Keys.ImportJob(job).Job.Imported(digest) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eraseTimeout)
	defer cancel()
	if _, err := s.changeJob(ctx, job, OperationCompleteImport, domain.CompleteImport{Digest: digest}); err != nil {
		s.cfg.Log.WarnContext(ctx, "an import job does not know that an import is done", slog.String("job", job.String()), slog.Any("error", err))
	}
}

// DeleteKeyMaterial takes an imported version its material and erases it. ref names the version.
func (s *Service) DeleteKeyMaterial(ctx context.Context, c domain.Caller, ref domain.KeyRef, m Mutation) (eventstore.KeyState, error) {
	state, err := s.execute(ctx, c, change{
		operation: "DeleteKeyMaterial", permission: domain.PermissionVersionsDeleteMaterial, ref: ref, mutation: m,
		command: always(domain.DeleteKeyMaterial{Version: ref.Version}),
	})
	if err != nil {
		return eventstore.KeyState{}, err
	}
	s.eraseSoon(ctx, state)
	return state, nil
}

// importKind is keyKind for one import: deciding it takes the material.
type importKind struct {
	keyKind

	caller  domain.Caller
	request ImportKeyVersion
	digest  [32]byte // of what was sent

	// Of the last attempt.

	binding domain.Binding
	wrapped domain.WrappedKey
}

func (k *importKind) decide(ctx context.Context, ref domain.KeyRef, state eventstore.KeyState, at time.Time, cmd domain.Command) (eventstore.Commit, error) {
	c, ok := cmd.(domain.ImportKeyVersion)
	if !ok {
		return eventstore.Commit{}, fmt.Errorf("importing by a %T", cmd)
	}
	b, err := state.Key.ImportBinding(at, c)
	if err != nil {
		return eventstore.Commit{}, err
	}
	if k.request.Job.ID != "" {
		job, err := k.job(ctx, state.Key, at)
		if err != nil {
			return eventstore.Commit{}, err
		}
		if _, err := domain.DecideImportJob(job, at, k.use(state.Key)); err != nil { // nothing is unwrapped that was used
			return eventstore.Commit{}, err
		}
		c.Origin, c.ImportJob = job.Method.Origin(), job.Name.String()
		b.Origin = c.Origin
		k.wrapped, err = k.s.cfg.Token.Import(ctx, job.Binding(), k.request.WrappedKey, b)
		if err != nil {
			return eventstore.Commit{}, fmt.Errorf("importing into the token: %w", err)
		}
	} else {
		if k.wrapped, err = k.s.cfg.Token.ImportClear(ctx, k.request.KeyMaterial, b); err != nil {
			return eventstore.Commit{}, fmt.Errorf("importing into the token: %w", err)
		}
	}
	digest := sha256.Sum256(k.wrapped.Blob)
	c.Fingerprint, c.PublicKey, c.BlobDigest = k.wrapped.Fingerprint, k.wrapped.PublicKey, digest[:]
	k.binding = b
	commit, err := k.keyKind.decide(ctx, ref, state, at, c)
	commit.Version = b.Version
	return commit, err
}

// job is the job that the request names, as the log has it if this node thinks that there is none or that it is over.
func (k *importKind) job(ctx context.Context, key domain.Key, at time.Time) (domain.ImportJob, error) {
	name := k.request.Job
	if key.Name.RingName() != name.RingName() {
		return domain.ImportJob{}, &domain.Error{
			Reason:  domain.ReasonBadField,
			Message: fmt.Sprintf("import job %s is of another ring than key %s; create a job in the key's ring", name, key.Name),
		}
	}
	state := k.s.cfg.Keys.ImportJob(name)
	if state.Job.Usable(name, at) != nil {
		var err error
		if state, err = catchUp(ctx, k.s, eventstore.ImportJobAggregate(name), state); err != nil {
			return domain.ImportJob{}, err
		}
	}
	return state.Job, state.Job.Usable(name, at)
}

func (k *importKind) use(key domain.Key) domain.UseImportJob {
	return domain.UseImportJob{Name: k.request.Job, Digest: k.digest, KeyUID: key.UID, Version: k.request.Version}
}

// makeMaterial notes on the job what the wrapped key is used for, and then stores the material.
func (k *importKind) makeMaterial(ctx context.Context, state eventstore.KeyState, _ *eventstore.Commit) ([]domain.Binding, error) {
	if name := k.request.Job; name.ID != "" {
		_, err := execute(ctx, k.s, k.caller, importJobKind{k.s, name}, changeOf[domain.ImportJobCommand]{
			operation: OperationUseImportJob, permission: domain.PermissionVersionsImport, ref: ringRef(name.RingName()),
			command: just[domain.ImportJobCommand](k.use(state.Key)),
		})
		if err != nil {
			return nil, err
		}
	}
	if err := k.s.cfg.Material.PutMaterial(ctx, k.binding, k.wrapped.Blob); err != nil {
		return nil, fmt.Errorf("storing the wrapped key: %w", storeError(err))
	}
	return []domain.Binding{k.binding}, nil
}
