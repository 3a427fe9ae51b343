package rpc

import (
	"context"
	"encoding/pem"
	"slices"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) CreateImportJob(ctx context.Context, r *kmsv1.CreateImportJobRequest) (*kmsv1.ImportJob, error) {
	parent, err := k.s.ringName(r.GetParent())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return nil, err
	}
	create := commands.CreateImportJob{Mutation: m, Name: parent.ImportJob(r.GetImportJobId())}
	if create.Method, err = importMethods.fromProto("import_job.method", r.GetImportJob().GetMethod()); err != nil {
		return nil, err
	}
	if create.Protection, err = protectionLevels.fromProto("import_job.protection_level", r.GetImportJob().GetProtectionLevel()); err != nil {
		return nil, err
	}
	if create.Protection == domain.Software {
		return nil, unsupported("import_job.protection_level SOFTWARE is not offered by this server; leave it out, or say HSM")
	}
	return importJobAnswer(k.s.cfg.Commands.CreateImportJob(ctx, callerOf(ctx), create))
}

func (k *keyService) GetImportJob(ctx context.Context, r *kmsv1.GetImportJobRequest) (*kmsv1.ImportJob, error) {
	name, err := k.s.importJobName(r.GetName())
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(domain.KeyRef{})
	read.MinRevision = commands.Revision(r.GetMinRevision())
	return importJobAnswer(k.s.cfg.Commands.GetImportJob(ctx, callerOf(ctx), name, read))
}

func (k *keyService) ListImportJobs(ctx context.Context, r *kmsv1.ListImportJobsRequest) (*kmsv1.ListImportJobsResponse, error) {
	ring, err := k.s.ringName(r.GetParent())
	if err != nil {
		return nil, err
	}
	list, err := importJobLists.prepare(listQuery{
		binding: []string{"ListImportJobs", ring.String(), r.GetFilter(), r.GetOrderBy()},
		filter:  r.GetFilter(), orderBy: r.GetOrderBy(),
		pageSize: r.GetPageSize(), skip: r.GetSkip(), token: r.GetPageToken(), total: r.GetIncludeTotalSize(),
	}, k.s.pages)
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(domain.KeyRef{Name: ring.Key("")})
	read.MinRevision = commands.Revision(r.GetMinRevision())
	if err := k.s.cfg.Commands.Authorize(ctx, callerOf(ctx), read); err != nil {
		return nil, err
	}
	out := &kmsv1.ListImportJobsResponse{Revision: uint64(k.s.cfg.Keys.Revision())}
	page, err := list.page(ctx, slices.Values(k.s.cfg.Keys.ImportJobs(ring)))
	if err != nil {
		return nil, err
	}
	for _, state := range page.items {
		out.ImportJobs = append(out.ImportJobs, importJobProto(state))
	}
	out.NextPageToken, out.TotalSize = page.nextToken, page.total
	return out, nil
}

func (k *keyService) CancelImport(ctx context.Context, r *kmsv1.CancelImportRequest) (*kmsv1.ImportJob, error) {
	name, err := k.s.importJobName(r.GetName())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	return importJobAnswer(k.s.cfg.Commands.CancelImport(ctx, callerOf(ctx), name, m))
}

func (k *keyService) ImportKeyVersion(ctx context.Context, r *kmsv1.ImportKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	in := commands.ImportKeyVersion{
		Mutation: m, Ref: ref, WrappedKey: r.GetWrappedKey(), KeyMaterial: r.GetKeyMaterial(),
		Version: domain.Version(r.GetVersion()), MakePrimary: r.GetMakePrimary(),
	}
	defer clear(in.KeyMaterial)
	if r.GetImportJob() != "" {
		if in.Job, err = k.s.importJobName(r.GetImportJob()); err != nil {
			return nil, err
		}
	} else if err := k.s.takesClearMaterial(callFrom(ctx)); err != nil {
		return nil, err
	}
	state, version, err := k.s.cfg.Commands.ImportKeyVersion(ctx, callerOf(ctx), in)
	return versionAnswer(state, version, err)
}

// takesClearMaterial refuses key material in the clear unless an operator allowed it, and over a network.
func (s *Server) takesClearMaterial(c *call) error {
	if !s.cfg.AllowClearImport {
		return &unrecordedError{&domain.Error{
			Reason: domain.ReasonClearImportOff, Message: "this server takes no key material in the clear; wrap it for an import job, as kmsctl keys import does",
		}}
	}
	if !c.private {
		return &unrecordedError{&domain.Error{
			Reason: domain.ReasonClearImportOff, Message: "key material in the clear is taken over TLS or on the server's own machine only; wrap it for an import job, as kmsctl keys import does",
		}}
	}
	return nil
}

func (k *keyService) DeleteKeyMaterial(ctx context.Context, r *kmsv1.DeleteKeyMaterialRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.DeleteKeyMaterial(ctx, callerOf(ctx), ref, m)
	return versionAnswer(state, ref.Version, err)
}

func (s *Server) importJobName(name string) (domain.ImportJobName, error) {
	job, err := domain.ParseImportJobName(name)
	if err != nil {
		return domain.ImportJobName{}, syntax(err)
	}
	return job, s.checkLocation(job.Location)
}

// importJobLists says what lists of import jobs can be filtered and ordered by.
var importJobLists = mustLists(listSpec[commands.ImportJobState]{
	fields: []field[commands.ImportJobState]{
		{name: "name", text: func(s commands.ImportJobState) string { return s.Job.Name.String() }},
		{name: "import_job_id", text: func(s commands.ImportJobState) string { return s.Job.Name.ID }},
		{name: "state", enum: kmsv1.ImportJob_State(0).Type(), text: func(s commands.ImportJobState) string { return string(s.Job.StateAt(time.Now())) }},
		{name: "method", enum: kmsv1.ImportJob_Method(0).Type(), text: func(s commands.ImportJobState) string { return string(s.Job.Method) }},
		{name: "create_time", time: true, number: func(s commands.ImportJobState) int64 { return unixNano(s.Job.CreateTime) }},
		{name: "expire_time", time: true, number: func(s commands.ImportJobState) int64 { return unixNano(s.Job.ExpireTime) }},
	},
	orders: []string{"name", "create_time", "expire_time"},
	place:  func(s commands.ImportJobState) place { return place{Text: s.Job.Name.ID} },
})

var importMethods = enum[kmsv1.ImportJob_Method, domain.ImportMethod]{
	kmsv1.ImportJob_METHOD_UNSPECIFIED:           "",
	kmsv1.ImportJob_RSA_OAEP_3072_SHA256_AES_256: domain.RSAOAEP3072SHA256AES256,
	kmsv1.ImportJob_RSA_OAEP_4096_SHA256_AES_256: domain.RSAOAEP4096SHA256AES256,
	kmsv1.ImportJob_RSA_OAEP_3072_SHA256:         domain.RSAOAEP3072SHA256,
	kmsv1.ImportJob_RSA_OAEP_4096_SHA256:         domain.RSAOAEP4096SHA256,
}

var importJobStates = enum[kmsv1.ImportJob_State, domain.ImportJobState]{
	kmsv1.ImportJob_STATE_UNSPECIFIED: domain.ImportJobStateAbsent,
	kmsv1.ImportJob_ACTIVE:            domain.ImportJobStateActive,
	kmsv1.ImportJob_EXPIRED:           domain.ImportJobStateExpired,
	kmsv1.ImportJob_CANCELED:          domain.ImportJobStateCanceled,
}

// importJobAnswer is the answer to what acts on an import job.
func importJobAnswer(state commands.ImportJobState, err error) (*kmsv1.ImportJob, error) {
	if err != nil {
		return nil, err
	}
	return importJobProto(state), nil
}

// importJobProto is an import job as the API shows it.
func importJobProto(state commands.ImportJobState) *kmsv1.ImportJob {
	j := state.Job
	return &kmsv1.ImportJob{
		Name: j.Name.String(), Method: importMethods.toProto(j.Method), State: importJobStates.toProto(j.StateAt(time.Now())),
		ProtectionLevel: protectionLevels.toProto(j.Protection), PublicKey: publicKeyPEM(j.PublicKey), Creator: j.Creator,
		CreateTime: timeProto(j.CreateTime), ExpireTime: timeProto(j.ExpireTime), Imports: int32(len(j.Uses)), //nolint:gosec // at most domain.MaxImports
		Revision: uint64(state.Revision), Etag: commands.Etag(state.Tip),
	}
}

func publicKeyPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
