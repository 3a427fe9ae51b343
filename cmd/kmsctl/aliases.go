package main

import (
	"context"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type aliasCmd struct {
	Add    addAliasCmd    `cmd:"" help:"Give a key an alias, by which it is named as alias:ALIAS."`
	Remove removeAliasCmd `cmd:"" help:"Take an alias away from a key."`
}

// aliasArg names an alias of a key.
type aliasArg struct {
	keyArg
	Alias string `arg:"" help:"The alias, without alias: before it."`
}

type addAliasCmd struct {
	aliasArg
	changeFlags
	formatFlags
	Move bool `help:"Take it away from the key that it stands for so far."`
}

func (c *addAliasCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.AddKeyAlias, &kmsv1.AddKeyAliasRequest{Name: name, RequestId: c.id(), Alias: c.Alias, Move: c.Move})
	})
}

type removeAliasCmd struct {
	aliasArg
	changeFlags
	formatFlags
}

func (c *removeAliasCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	return s.changeKey(c.formatFlags, func(cl *client) (*kmsv1.Key, error) {
		return call(ctx, cl, cl.RemoveKeyAlias, &kmsv1.RemoveKeyAliasRequest{Name: name, RequestId: c.id(), Alias: c.Alias})
	})
}
