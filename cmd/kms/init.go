package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

type initCommand struct {
	siteFlags
}

// Run makes the site: the streams, the token's root, the admin access key. Running it again changes nothing.
func (c initCommand) Run(ctx context.Context, stdout io.Writer) (err error) {
	log, err := newLogger(os.Stderr, c.LogLevel)
	if err != nil {
		return err
	}
	s, err := openSite(ctx, c.siteFlags, log, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	if _, _, err := c.adminKey(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "site %s is ready; the admin access key is in %s\n", s.store.Lineage(), c.path(adminKeyFile))
	return err
}
