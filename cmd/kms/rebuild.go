package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

type rebuildCommand struct {
	Activity rebuildActivity `cmd:"" help:"Fill the activity database again from the streams. With an embedded NATS or engine, stop the server first."`
}

type rebuildActivity struct {
	siteFlags
}

// Run rebuilds the activity database beside the old one, which answers until the new one takes its place.
func (c rebuildActivity) Run(ctx context.Context, stdout io.Writer) (err error) {
	log, err := newLogger(os.Stderr, c.LogLevel)
	if err != nil {
		return err
	}
	s, err := openSite(ctx, c.siteFlags, log, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveUp(s.close)) }()
	a, err := openActivity(ctx, c.siteFlags, s.store, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveUp(a.close)) }()
	if err := a.log.Rebuild(ctx); err != nil {
		return fmt.Errorf("rebuilding the activity database: %w", err)
	}
	_, err = fmt.Fprintln(stdout, "the activity database holds what the streams hold")
	return err
}
