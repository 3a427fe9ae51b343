package main

import (
	"context"
	"strings"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type importJobsCmd struct {
	Create createImportJobCmd `cmd:"" help:"Make a key pair in the server's token that keys are wrapped to for import."`
	Get    getImportJobCmd    `cmd:"" help:"Show an import job, with its public key."`
	List   listImportJobsCmd  `cmd:"" help:"List the import jobs of a ring."`
	Cancel cancelImportCmd    `cmd:"" help:"End an import job; what was imported stays."`
}

// importMethod is how a key is wrapped for import, as it is typed.
type importMethod kmsv1.ImportJob_Method

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *importMethod) UnmarshalText(text []byte) (err error) {
	*m, err = enumValue[importMethod](text, kmsv1.ImportJob_Method_value)
	return err
}

// importJobArg names an import job.
type importJobArg struct {
	Name string `arg:"" name:"job" help:"The import job: its full name, or the last part of it."`
}

// importJob is the full name of an import job: the name itself, or the last part of it.
func (f scopeFlags) importJob(name string) (domain.ImportJobName, error) {
	if !strings.HasPrefix(name, "projects/") {
		ring, err := f.ring()
		if err != nil {
			return domain.ImportJobName{}, err
		}
		name = ring.ImportJob(name).String()
	}
	n, err := domain.ParseImportJobName(name)
	if err != nil {
		return domain.ImportJobName{}, usageError{err}
	}
	return n, nil
}

type createImportJobCmd struct {
	importJobArg
	changeFlags
	formatFlags
	Method importMethod `default:"RSA_OAEP_3072_SHA256_AES_256" help:"How keys are wrapped (${default}). With the methods that do not name AES the server sees them in the clear for a moment."`
}

func (c *createImportJobCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.importJob(c.Name)
	if err != nil {
		return err
	}
	return s.importJob(c.formatFlags, func(cl *client) (*kmsv1.ImportJob, error) {
		return call(ctx, cl, cl.CreateImportJob, &kmsv1.CreateImportJobRequest{
			Parent: name.RingName().String(), ImportJobId: name.ID, RequestId: c.id(),
			ImportJob: &kmsv1.ImportJob{Method: kmsv1.ImportJob_Method(c.Method)},
		})
	})
}

type getImportJobCmd struct {
	importJobArg
	readFlags
	formatFlags
}

func (c *getImportJobCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.importJob(c.Name)
	if err != nil {
		return err
	}
	return s.importJob(c.formatFlags, func(cl *client) (*kmsv1.ImportJob, error) {
		return call(ctx, cl, cl.GetImportJob, &kmsv1.GetImportJobRequest{Name: name.String(), MinRevision: c.MinRevision})
	})
}

type cancelImportCmd struct {
	importJobArg
	guardFlags
	formatFlags
}

func (c *cancelImportCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.importJob(c.Name)
	if err != nil {
		return err
	}
	return s.importJob(c.formatFlags, func(cl *client) (*kmsv1.ImportJob, error) {
		return call(ctx, cl, cl.CancelImport, &kmsv1.CancelImportRequest{Name: name.String(), RequestId: c.id(), Etag: c.Etag})
	})
}

// importJob does something with an import job and shows it as it is afterwards.
func (s *session) importJob(f formatFlags, do func(*client) (*kmsv1.ImportJob, error)) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	job, err := do(cl)
	if err != nil {
		return err
	}
	err = s.print(f, job, func(r *rows) {
		r.field("name", job.GetName())
		r.field("state", job.GetState().String())
		r.field("method", job.GetMethod().String())
		r.field("imports", number(job.GetImports()))
		r.field("created", when(job.GetCreateTime()))
		r.field("created by", job.GetCreator())
		r.field("expires", when(job.GetExpireTime()))
		r.field("revision", number(job.GetRevision()))
		r.field("etag", job.GetEtag())
	})
	if err == nil && f.Output != "json" { // as PEM has it, for whoever wraps by other means
		_, err = s.out.Write([]byte(job.GetPublicKey()))
	}
	return err
}

type listImportJobsCmd struct {
	readFlags
	pageFlags
	formatFlags
	Filter  string `placeholder:"EXPRESSION" help:"Only those for which this holds, like 'state = ACTIVE' (AIP-160)."`
	OrderBy string `placeholder:"FIELDS" help:"Fields to sort by, like 'create_time desc'."`
	Total   bool   `help:"Also how many there are."`
}

func (c *listImportJobsCmd) Run(ctx context.Context, s *session) error {
	ring, err := s.scope.ring()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.ListImportJobsResponse{}
	skip := c.Skip
	err = c.pages(c.Limit, func(size int32, token string) (int, string, error) {
		page, err := call(ctx, cl, cl.ListImportJobs, &kmsv1.ListImportJobsRequest{
			Parent: ring.String(), MinRevision: c.MinRevision, PageSize: size, PageToken: token, Skip: skip,
			IncludeTotalSize: c.Total, Filter: c.Filter, OrderBy: c.OrderBy,
		})
		if err != nil {
			return 0, "", err
		}
		skip = 0 // was left out of the first page
		page.ImportJobs = append(all.GetImportJobs(), page.GetImportJobs()...)
		n := len(page.ImportJobs) - len(all.GetImportJobs())
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		r.add("JOB", "STATE", "METHOD", "IMPORTS", "CREATED", "EXPIRES")
		for _, job := range all.GetImportJobs() {
			r.add(lastPart(job.GetName()), job.GetState().String(), job.GetMethod().String(), number(job.GetImports()), when(job.GetCreateTime()), when(job.GetExpireTime()))
		}
	})
	if err != nil {
		return err
	}
	s.total(c.Total, all.GetTotalSize())
	s.more(all.GetNextPageToken())
	return nil
}
