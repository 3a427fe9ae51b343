package main

import (
	"context"
	"strconv"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type versionsCmd struct {
	List    listVersionsCmd   `cmd:"" help:"List the versions of a key."`
	Get     getVersionCmd     `cmd:"" help:"Show a version."`
	Enable  enableVersionCmd  `cmd:"" help:"Let a disabled version be used again."`
	Disable disableVersionCmd `cmd:"" help:"Stop every use of a version, until it is enabled."`

	Create              createVersionCmd       `cmd:"" help:"Add a version."`
	SetPrimary          setPrimaryCmd          `cmd:"" help:"Make new ciphertexts with another version."`
	ScheduleDestruction scheduleDestructionCmd `cmd:"" help:"Stop every use of a version, and destroy it after a wait."`
	Restore             restoreVersionCmd      `cmd:"" help:"Keep a version whose destruction is scheduled."`
	DeleteMaterial      deleteMaterialCmd      `cmd:"" help:"Erase the material of an imported version, until it is imported again."`
}

// versionArg names a version: KEY N, or a name that ends in /versions/N.
type versionArg struct {
	Key    string `arg:"" help:"The key, or the full name of the version."`
	Number int32  `arg:"" optional:"" name:"version" help:"The number of the version."`
}

type listVersionsCmd struct {
	keyArg
	readFlags
	pastFlags
	pageFlags
	formatFlags
	Filter  string `placeholder:"EXPRESSION" help:"Only those for which this holds, like 'state = ENABLED' (AIP-160)."`
	OrderBy string `placeholder:"FIELDS" help:"Fields to sort by, like 'version desc'."`
	Total   bool   `help:"Also how many there are."`
}

func (c *listVersionsCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.ListKeyVersionsResponse{}
	skip := c.Skip
	err = c.pages(c.Limit, func(size int32, token string) (int, string, error) {
		page, err := call(ctx, cl, cl.ListKeyVersions, past(c.pastFlags, &kmsv1.ListKeyVersionsRequest{
			Parent: name, MinRevision: c.MinRevision, PageSize: size, PageToken: token, Skip: skip,
			IncludeTotalSize: c.Total, Filter: c.Filter, OrderBy: c.OrderBy,
		}))
		if err != nil {
			return 0, "", err
		}
		skip = 0 // was left out of the first page
		page.KeyVersions = append(all.GetKeyVersions(), page.GetKeyVersions()...)
		n := len(page.KeyVersions) - len(all.GetKeyVersions())
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		r.add("VERSION", "STATE", "PRIMARY", "USABLE", "ALGORITHM", "LEVEL", "ORIGIN", "CREATED")
		for _, v := range all.GetKeyVersions() {
			r.add(strconv.Itoa(int(v.GetVersion())), v.GetState().String(), yes(v.GetIsPrimary()), yes(v.GetUsable()),
				v.GetAlgorithm().String(), v.GetProtectionLevel().String(), v.GetOrigin().String(), when(v.GetCreateTime()))
		}
	})
	if err != nil {
		return err
	}
	s.total(c.Total, all.GetTotalSize())
	c.more(s, all.GetNextPageToken())
	return nil
}

type getVersionCmd struct {
	versionArg
	readFlags
	pastFlags
	formatFlags
}

func (c *getVersionCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.GetKeyVersion, past(c.pastFlags, &kmsv1.GetKeyVersionRequest{Name: name, MinRevision: c.MinRevision}))
	})
}

type enableVersionCmd struct {
	versionArg
	guardFlags
	formatFlags
}

func (c *enableVersionCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.EnableKeyVersion, &kmsv1.EnableKeyVersionRequest{Name: name, RequestId: c.id(), Etag: c.Etag})
	})
}

type disableVersionCmd struct {
	versionArg
	guardFlags
	formatFlags
	AllowPrimary bool `help:"Even if new ciphertexts are made with it; they can't be made then."`
}

func (c *disableVersionCmd) Run(ctx context.Context, s *session) error {
	return s.version(c.versionArg, c.formatFlags, func(cl *client, name string) (*kmsv1.KeyVersion, error) {
		return call(ctx, cl, cl.DisableKeyVersion, &kmsv1.DisableKeyVersionRequest{
			Name: name, RequestId: c.id(), Etag: c.Etag, AllowPrimary: c.AllowPrimary,
		})
	})
}

// version does something with a version and shows it as it is afterwards.
func (s *session) version(arg versionArg, f formatFlags, do func(*client, string) (*kmsv1.KeyVersion, error)) error {
	name, err := s.scope.version(arg.Key, arg.Number)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	v, err := do(cl, name)
	if err != nil {
		return err
	}
	return s.print(f, v, func(r *rows) { describeVersion(r, v) })
}

func describeVersion(r *rows, v *kmsv1.KeyVersion) {
	r.field("name", v.GetName())
	r.field("state", v.GetState().String())
	r.field("primary", yes(v.GetIsPrimary()))
	r.field("usable", yes(v.GetUsable()))
	r.field("algorithm", v.GetAlgorithm().String())
	r.field("protection level", v.GetProtectionLevel().String())
	r.field("origin", v.GetOrigin().String())
	r.field("created", when(v.GetCreateTime()))
	r.field("state changed", when(v.GetStateTime()))
	r.field("destruction due", when(v.GetDeleteTime()))
	r.field("destroyed", when(v.GetDestroyTime()))
	r.field("revision", number(v.GetRevision()))
	r.field("etag", v.GetEtag())
	r.field("uses leased", number(v.GetUsesLeased()))
}
