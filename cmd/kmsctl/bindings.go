package main

import (
	"context"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type bindingsCmd struct {
	Add    addBindingCmd    `cmd:"" help:"Say that a resource depends on a key, which then can't be taken away."`
	Remove removeBindingCmd `cmd:"" help:"Say that it no longer does."`
	List   listBindingsCmd  `cmd:"" help:"List what depends on a key."`
}

// bindingArg names what depends on a key.
type bindingArg struct {
	keyArg
	Resource string `arg:"" help:"The resource, by any name that its owner knows it by."`
}

type addBindingCmd struct {
	bindingArg
	guardFlags
	formatFlags
}

func (c *addBindingCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.AddUsageBinding, &kmsv1.AddUsageBindingRequest{Name: name, RequestId: c.id(), Etag: c.Etag, Resource: c.Resource})
	})
}

type removeBindingCmd struct {
	bindingArg
	guardFlags
	formatFlags
}

func (c *removeBindingCmd) Run(ctx context.Context, s *session) error {
	return s.changeNamedKey(c.keyArg, c.formatFlags, func(cl *client, name string) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.RemoveUsageBinding, &kmsv1.RemoveUsageBindingRequest{Name: name, RequestId: c.id(), Etag: c.Etag, Resource: c.Resource})
	})
}

type listBindingsCmd struct {
	keyArg
	readFlags
	formatFlags
	Filter string `placeholder:"EXPRESSION" help:"Only those for which this holds, like 'resource = \"billing/*\"' (AIP-160)."`
}

func (c *listBindingsCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	// A key has at most 100, so that one page has all.
	resp, err := call(ctx, cl, cl.ListUsageBindings, &kmsv1.ListUsageBindingsRequest{
		Parent: name, MinRevision: c.MinRevision, PageSize: maxPage, Filter: c.Filter,
	})
	if err != nil {
		return err
	}
	return s.print(c.formatFlags, resp, func(r *rows) {
		r.add("RESOURCE", "ADDED", "BY")
		for _, b := range resp.GetUsageBindings() {
			r.add(b.GetResource(), when(b.GetCreateTime()), b.GetCreator())
		}
	})
}
