// Command kmsctl is the client of Keyledger for people and scripts: operators who look after keys, users who encrypt
// and decrypt, auditors who read the activity log. It speaks only the public API and holds no rules of its own. What is
// too large for one call it encrypts here, with a data key that it forgets afterwards; package sealedfile has the format.
//
// It exits with 0 when all went well, 1 when something was refused or failed, 2 when the command line is wrong, and 130
// when it was interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker.
var version = ""

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells have it for SIGINT
)

const description = `Client of the Keyledger key management service.

A KEY is the last part of a key's name, completed from --project, --location and --ring, or its full name
projects/{project}/locations/{location}/keyRings/{ring}/keys/{key}; with --ring - it is the key's uid. alias:{alias}
is a key named by one of its aliases.

The credential is read from --token-file, or else from the environment variable KMS_TOKEN.`

// cli is the command line.
type cli struct {
	Connection connectionFlags `embed:"" group:"Connection"`
	Scope      scopeFlags      `embed:"" group:"Names"`
	Quiet      bool            `short:"q" help:"Show no progress and no remarks."`

	Keys       keysCmd       `cmd:"" help:"Make keys and look after them."`
	Rings      ringsCmd      `cmd:"" help:"Make key rings and look after them."`
	Versions   versionsCmd   `cmd:"" help:"Look after the versions of a key."`
	ImportJobs importJobsCmd `cmd:"" help:"Make and look after what keys are wrapped to for import."`
	Encrypt    encryptCmd    `cmd:"" help:"Encrypt a file of any size, or standard input."`
	Decrypt    decryptCmd    `cmd:"" help:"Decrypt what encrypt or reencrypt wrote."`
	Reencrypt  reencryptCmd  `cmd:"" help:"Encrypt again with the newest version of a key, without the plaintext leaving the server."`
	Datakey    datakeyCmd    `cmd:"" help:"Make a data key, for encrypting elsewhere."`
	Random     randomCmd     `cmd:"" help:"Get random bytes from the server's token."`
	Activity   activityCmd   `cmd:"" help:"Show who did what with a key."`
	LastUse    lastUseCmd    `cmd:"" help:"Show when a key was last used, per version and operation."`
	Orphans    orphansCmd    `cmd:"" help:"Look for key material that nothing needs."`
	Info       infoCmd       `cmd:"" help:"Show what the server is and what its token can do."`
	Version    versionCmd    `cmd:"" help:"Show the version of kmsctl."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], standardStreams(), os.Getenv("KMS_TOKEN"))
	stop()
	os.Exit(code)
}

// run is the program without its process: it returns the exit code.
func run(ctx context.Context, args []string, std streams, token string) int {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("kmsctl"), kong.Description(description), kong.Writers(std.out, std.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 120}),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		return fail(std.err, err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return fail(std.err, usageError{err})
	}
	err = parsed.Run(&session{streams: std, connection: c.Connection, scope: c.Scope, quiet: c.Quiet, token: token})
	if err != nil && ctx.Err() != nil {
		_, _ = fmt.Fprintln(std.err, "kmsctl: interrupted"+retryHint(err))
		return exitInterrupted
	}
	return fail(std.err, err)
}

// fail says what went wrong, if anything did, and returns the exit code. That standard error can't be written to is the
// one thing that can be told to nobody.
func fail(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintln(stderr, "kmsctl: "+describe(err))
	if _, ok := errors.AsType[usageError](err); ok {
		_, _ = fmt.Fprintln(stderr, "kmsctl --help, or kmsctl COMMAND --help, says what can be asked for")
		return exitUsage
	}
	return exitFailed
}

// usageError is a command line that can't be what was meant.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// session is what every command works with.
type session struct {
	streams
	connection connectionFlags
	scope      scopeFlags
	quiet      bool
	token      string // of the environment
}

// remark tells a person something that scripts don't need.
func (s *session) remark(format string, args ...any) {
	if !s.quiet {
		_, _ = fmt.Fprintf(s.err, format+"\n", args...)
	}
}

type versionCmd struct{}

func (versionCmd) Run(s *session) error {
	_, err := fmt.Fprintln(s.out, "kmsctl "+clientVersion())
	return err
}

func clientVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
