// Command kms is the key management server. It holds no rules of its own: it reads the flags, opens the token, the event
// store and the activity database, plugs them into each other, and gives them up again in order.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/keyledger/kms/projections/activity/engine"
)

// version is set by the build.
var version = "devel"

// engineCommand is how the server calls itself to be the child process that hosts the embedded ClickHouse engine.
const engineCommand = "clickhouse-engine"

type cli struct {
	Serve   serveCommand     `cmd:"" help:"Serve keys. On an empty data folder, and without --nats, it first does what init does."`
	Init    initCommand      `cmd:"" help:"Make the site once: the streams in NATS, the token's root key, the admin access key."`
	Rebuild rebuildCommand   `cmd:"" help:"Build a projection anew from the streams."`
	Shred   shredCommand     `cmd:"" help:"Make what was erased impossible to restore: wrap all living keys under a new root and destroy the old one. The running server does it."`
	Version kong.VersionFlag `help:"Print the version and exit."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kms: "+sentence(err))
		os.Exit(1)
	}
}

// run is main without the process: the first argument that is no flag names the command.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == engineCommand { // before kong, which needs flags that the child has not
		return engine.Main(args[1:])
	}
	var c cli
	parser, err := kong.New(&c,
		kong.Name("kms"), kong.Description("Keyledger, a key management service whose every fact is an event."),
		kong.Vars{"version": version}, kong.Writers(stdout, stderr), kong.UsageOnError(),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(stdout, (*io.Writer)(nil)))
	if err != nil {
		return fmt.Errorf("reading the command line's own description: %w", err)
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w; see kms --help", err)
	}
	return command.Run()
}

// sentence puts an error on one line.
func sentence(err error) string {
	if errors.Is(err, context.Canceled) {
		return "stopped before it was ready"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
