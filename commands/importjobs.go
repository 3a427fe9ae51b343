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

// ImportJobState is an import job as of one commit.
type ImportJobState = eventstore.ImportJobState

// CreateImportJob is a request for a new import job.
type CreateImportJob struct {
	Mutation   `json:"-"`
	Name       domain.ImportJobName
	Method     domain.ImportMethod
	Protection domain.ProtectionLevel // empty: HSM
}

// CreateImportJob makes a key pair in the token that material is wrapped to, for domain.ImportJobLifetime. An id that was
// ever used is refused with ReasonImportJobExists. The ring must take keys.
func (s *Service) CreateImportJob(ctx context.Context, c domain.Caller, r CreateImportJob) (ImportJobState, error) {
	if r.Protection == "" {
		r.Protection = domain.HSM
	}
	return execute(ctx, s, c, importJobKind{s, r.Name}, changeOf[domain.ImportJobCommand]{
		operation: "CreateImportJob", permission: domain.PermissionImportJobsCreate, ref: ringRef(r.Name.RingName()), mutation: r.Mutation, arguments: r,
		command: func(material domain.UID) (domain.ImportJobCommand, error) {
			if err := s.takesKeys(ctx, r.Name.RingName()); err != nil {
				return nil, err
			}
			uid, err := newUID()
			if err != nil {
				return nil, fmt.Errorf("making the job's uid: %w", err)
			}
			return domain.CreateImportJob{
				Name: r.Name, UID: uid, Method: r.Method, Protection: r.Protection, Creator: c.Principal, MaterialID: material,
			}, nil
		},
	})
}

// CancelImport ends a job and erases its private key. What was imported stays.
func (s *Service) CancelImport(ctx context.Context, c domain.Caller, name domain.ImportJobName, m Mutation) (ImportJobState, error) {
	state, err := execute(ctx, s, c, importJobKind{s, name}, changeOf[domain.ImportJobCommand]{
		operation: "CancelImport", permission: domain.PermissionImportJobsCancel, ref: ringRef(name.RingName()), mutation: m, arguments: name,
		command: just[domain.ImportJobCommand](domain.CancelImport{Name: name}),
	})
	if err != nil {
		return ImportJobState{}, err
	}
	if !state.Job.Erased {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), eraseTimeout)
		defer cancel()
		s.eraseJob(ctx, state)
	}
	return state, nil
}

// GetImportJob returns a job for reading. Refusals are recorded, successes are not. A job whose time is over reads as
// expired, whether or not that has been recorded yet.
func (s *Service) GetImportJob(ctx context.Context, c domain.Caller, name domain.ImportJobName, r Read) (ImportJobState, error) {
	a := s.begin(c, r.Operation, r.Category, ringRef(name.RingName()))
	a.record.KeyName = name.String()
	err := s.authorize(&a, r.Permission)
	if err == nil {
		err = s.waitFor(ctx, r.MinRevision)
	}
	state := s.cfg.Keys.ImportJob(name)
	if err == nil && state.Revision == 0 {
		err = domain.ImportJobNotFound(name)
	}
	if err != nil {
		return ImportJobState{}, s.refused(ctx, &a, err)
	}
	return state, nil
}

// importJobKind is how one import job is changed.
type importJobKind struct {
	s    *Service
	name domain.ImportJobName
}

func (k importJobKind) projected(context.Context, domain.KeyRef) (ImportJobState, error) {
	return k.s.cfg.Keys.ImportJob(k.name), nil
}

func (k importJobKind) aggregate(domain.KeyRef, ImportJobState) eventstore.Aggregate {
	return eventstore.ImportJobAggregate(k.name)
}

func (k importJobKind) about(a *attempt, _ ImportJobState) { a.record.KeyName = k.name.String() }

func (importJobKind) decide(_ context.Context, _ domain.KeyRef, state ImportJobState, at time.Time, cmd domain.ImportJobCommand) (eventstore.Commit, error) {
	events, err := domain.DecideImportJob(state.Job, at, cmd)
	commit := eventstore.Commit{Protection: domain.FoldImportJob(state.Job, at, events...).Protection, ImportJob: events}
	if use, ok := cmd.(domain.UseImportJob); ok {
		commit.KeyUID, commit.Version = use.KeyUID, use.Version
	}
	return commit, err
}

// makeMaterial makes and stores the key pair of a job that the commit creates.
func (k importJobKind) makeMaterial(ctx context.Context, state ImportJobState, commit *eventstore.Commit) ([]domain.Binding, error) {
	for i, e := range commit.ImportJob {
		created, ok := e.(domain.ImportJobCreated)
		if !ok {
			continue
		}
		b := domain.FoldImportJob(state.Job, commit.Time, commit.ImportJob...).Binding()
		wrapped, err := k.s.cfg.Token.Generate(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("making the key of an import job in the token: %w", err)
		}
		if err := k.s.cfg.Material.PutMaterial(ctx, b, wrapped.Blob); err != nil {
			return nil, fmt.Errorf("storing the wrapped key: %w", storeError(err))
		}
		digest := sha256.Sum256(wrapped.Blob)
		created.PublicKey, created.BlobDigest = wrapped.PublicKey, digest[:]
		commit.ImportJob[i] = created
		return []domain.Binding{b}, nil
	}
	return nil, nil
}

// importJobInterval is how often a node looks for import jobs whose time is over, or whose key is left behind.
const importJobInterval = 5 * time.Second

// RunImportJobs ends import jobs at their time, and erases the private keys of those that are over, until ctx ends. Every
// node runs it, as RunDue. A job is refused from its expire time on in any case.
func (s *Service) RunImportJobs(ctx context.Context) error {
	tick := time.NewTicker(importJobInterval)
	defer tick.Stop()
	for {
		s.endDueImportJobs(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) endDueImportJobs(ctx context.Context) {
	for _, state := range s.cfg.Keys.DueImportJobs(s.now()) {
		if ctx.Err() != nil {
			return
		}
		if state.Job.State == domain.ImportJobStateActive {
			var err error
			if state, err = s.changeJob(ctx, state.Job.Name, OperationExpireImportJob, domain.ExpireImportJob{}); err != nil {
				if othersWon(err) {
					continue
				}
				s.cfg.Log.ErrorContext(ctx, "ending an import job whose time is over", slog.String("job", state.Job.Name.String()), slog.Any("error", err))
				continue
			}
		}
		s.eraseJob(ctx, state)
	}
}

// eraseJob erases the private key of a job that is over, and records that. What fails is tried again by due work.
func (s *Service) eraseJob(ctx context.Context, state ImportJobState) {
	err := s.cfg.Material.EraseMaterial(ctx, state.Job.Binding())
	if err == nil {
		_, err = s.changeJob(ctx, state.Job.Name, OperationEraseMaterial, domain.RecordJobErasure{})
	}
	if err != nil && !othersWon(err) {
		s.cfg.Log.ErrorContext(ctx, "erasing the key of an import job; it will be tried again", slog.String("job", state.Job.Name.String()), slog.Any("error", err))
	}
}

// changeJob makes a change of a job that the service itself asks for.
func (s *Service) changeJob(ctx context.Context, name domain.ImportJobName, operation string, cmd domain.ImportJobCommand) (ImportJobState, error) {
	id, err := newUID()
	if err != nil {
		return ImportJobState{}, err
	}
	return execute(ctx, s, domain.System(id), importJobKind{s, name}, changeOf[domain.ImportJobCommand]{
		operation: operation, permission: domain.PermissionImportJobsCancel, ref: ringRef(name.RingName()), command: just(cmd), due: true,
	})
}
