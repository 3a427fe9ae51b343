package main

import (
	"context"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type orphansCmd struct {
	List listOrphansCmd `cmd:"" help:"List stored key material that no event names: what changes left that failed half-way."`
}

type listOrphansCmd struct {
	formatFlags
	Limit     int    `default:"100" help:"The most to show; 0 for all (${default})."`
	PageToken string `placeholder:"TOKEN" help:"Go on where an earlier list ended."`
}

func (c *listOrphansCmd) Run(ctx context.Context, s *session) error {
	if c.Limit < 0 {
		return usage("--limit can't be negative")
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.ListOrphansResponse{NextPageToken: c.PageToken}
	for first := true; first || all.GetNextPageToken() != "" && (c.Limit == 0 || len(all.GetOrphans()) < c.Limit); first = false {
		size := 1000
		if c.Limit != 0 {
			size = min(size, c.Limit-len(all.GetOrphans()))
		}
		page, err := call(ctx, cl, cl.ListOrphans, &kmsv1.ListOrphansRequest{PageSize: int32(size), PageToken: all.GetNextPageToken()})
		if err != nil {
			return err
		}
		page.Orphans = append(all.GetOrphans(), page.GetOrphans()...)
		all = page
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		r.add("MATERIAL", "KEY UID", "PROJECT HASH", "STORED", "BYTES")
		for _, o := range all.GetOrphans() {
			r.add(o.GetMaterialId(), o.GetKeyUid(), o.GetProjectHash(), when(o.GetStoreTime()), number(o.GetSize()))
		}
	})
	if err != nil {
		return err
	}
	s.more(all.GetNextPageToken())
	return nil
}
