package main

import (
	"context"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type ringsCmd struct {
	Create    createRingCmd    `cmd:"" help:"Make a key ring."`
	Get       getRingCmd       `cmd:"" help:"Show a key ring."`
	List      listRingsCmd     `cmd:"" help:"List the key rings of a location."`
	Archive   archiveRingCmd   `cmd:"" help:"Let no new keys into a key ring; those in it work as before."`
	Unarchive unarchiveRingCmd `cmd:"" help:"Let new keys into an archived key ring again."`
}

// ringArg names a key ring.
type ringArg struct {
	Name string `arg:"" name:"ring" help:"The key ring: its full name, or the last part of it."`
}

type createRingCmd struct {
	ringArg
	changeFlags
	formatFlags
	Label map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"A label; may be given again."`
}

func (c *createRingCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.ringNamed(c.Name)
	if err != nil {
		return err
	}
	return s.ring(c.formatFlags, func(cl *client) (*kmsv1.KeyRing, error) {
		return call(ctx, cl, cl.CreateKeyRing, &kmsv1.CreateKeyRingRequest{
			Parent: "projects/" + name.Project + "/locations/" + name.Location, KeyRingId: name.Ring, RequestId: c.id(),
			KeyRing: &kmsv1.KeyRing{Labels: c.Label},
		})
	})
}

type getRingCmd struct {
	ringArg
	readFlags
	formatFlags
}

func (c *getRingCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.ringNamed(c.Name)
	if err != nil {
		return err
	}
	return s.ring(c.formatFlags, func(cl *client) (*kmsv1.KeyRing, error) {
		return call(ctx, cl, cl.GetKeyRing, &kmsv1.GetKeyRingRequest{Name: name.String(), MinRevision: c.MinRevision})
	})
}

type archiveRingCmd struct {
	ringArg
	guardFlags
	formatFlags
}

func (c *archiveRingCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.ringNamed(c.Name)
	if err != nil {
		return err
	}
	return s.ring(c.formatFlags, func(cl *client) (*kmsv1.KeyRing, error) {
		return call(ctx, cl, cl.ArchiveKeyRing, &kmsv1.ArchiveKeyRingRequest{Name: name.String(), RequestId: c.id(), Etag: c.Etag})
	})
}

type unarchiveRingCmd struct {
	ringArg
	guardFlags
	formatFlags
}

func (c *unarchiveRingCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.ringNamed(c.Name)
	if err != nil {
		return err
	}
	return s.ring(c.formatFlags, func(cl *client) (*kmsv1.KeyRing, error) {
		return call(ctx, cl, cl.UnarchiveKeyRing, &kmsv1.UnarchiveKeyRingRequest{Name: name.String(), RequestId: c.id(), Etag: c.Etag})
	})
}

// ring does something with a key ring and shows it as it is afterwards.
func (s *session) ring(f formatFlags, do func(*client) (*kmsv1.KeyRing, error)) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	ring, err := do(cl)
	if err != nil {
		return err
	}
	return s.print(f, ring, func(r *rows) {
		r.field("name", ring.GetName())
		r.field("state", ring.GetState().String())
		r.field("labels", labels(ring.GetLabels()))
		r.field("created", when(ring.GetCreateTime()))
		r.field("revision", number(ring.GetRevision()))
		r.field("etag", ring.GetEtag())
	})
}

type listRingsCmd struct {
	readFlags
	pageFlags
	formatFlags
	Filter  string `placeholder:"EXPRESSION" help:"Only those for which this holds, like 'state = ACTIVE' (AIP-160)."`
	OrderBy string `placeholder:"FIELDS" help:"Fields to sort by, like 'create_time desc'."`
	Total   bool   `help:"Also how many there are."`
}

func (c *listRingsCmd) Run(ctx context.Context, s *session) error {
	parent, err := s.scope.parent()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.ListKeyRingsResponse{}
	skip := c.Skip
	err = c.pages(c.Limit, func(size int32, token string) (int, string, error) {
		page, err := call(ctx, cl, cl.ListKeyRings, &kmsv1.ListKeyRingsRequest{
			Parent: parent, MinRevision: c.MinRevision, PageSize: size, PageToken: token, Skip: skip,
			IncludeTotalSize: c.Total, Filter: c.Filter, OrderBy: c.OrderBy,
		})
		if err != nil {
			return 0, "", err
		}
		skip = 0 // was left out of the first page
		page.KeyRings = append(all.GetKeyRings(), page.GetKeyRings()...)
		n := len(page.KeyRings) - len(all.GetKeyRings())
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		r.add("RING", "STATE", "CREATED", "LABELS")
		for _, ring := range all.GetKeyRings() {
			r.add(lastPart(ring.GetName()), ring.GetState().String(), when(ring.GetCreateTime()), labels(ring.GetLabels()))
		}
	})
	if err != nil {
		return err
	}
	s.total(c.Total, all.GetTotalSize())
	s.more(all.GetNextPageToken())
	return nil
}
