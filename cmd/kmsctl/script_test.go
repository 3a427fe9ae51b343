package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kmsctl": main})
}

// patience bounds each wait of the scripts. The server has to build, to make a token and to start ClickHouse, while other
// tests run; the activity log follows its records after moments.
const (
	startPatience = 5 * time.Minute
	patience      = time.Minute
)

// TestServer tells what the client does to a server, the real one.
func TestServer(t *testing.T) {
	s := startServer(t)
	t.Run("readme", func(t *testing.T) { testReadme(t, s) })
	t.Run("interrupt", func(t *testing.T) { testInterrupt(t, s) })
	t.Run("scripts", func(t *testing.T) { testScripts(t, s) })
}

// testScripts runs the scripts in testdata. Each has a project of its own in the server, named as the script.
func testScripts(t *testing.T, s server) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("KMS_ADDR", s.addr)
			e.Setenv("KMS_TOKEN_FILE", filepath.Join(s.dir, "data", "admin.key"))
			e.Setenv("KMS_PROJECT", strings.TrimPrefix(filepath.Base(e.WorkDir), "script-"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"eventually": eventually,
			"damage":     damage,
			"same":       same,
		},
	})
}

// exits runs a command and wants its exit code: exits 2 kmsctl keys get.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running %s: %v", args[1], err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("%s exited with %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// eventually runs a command until its standard output matches: eventually PATTERN kmsctl activity k.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN COMMAND…")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s did not match %q: %v", strings.Join(args[1:], " "), args[0], err)
		}
	}
}

// damage changes one bit of a file, counted in bytes from its end: damage FILE 1.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: damage FILE BYTES-FROM-END")
	}
	var fromEnd int
	if _, err := fmt.Sscan(args[1], &fromEnd); err != nil {
		ts.Fatalf("damage: %v", err)
	}
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)-fromEnd] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// same wants files of one content, or, negated, of two; unlike cmp it shows none of it.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same FILE FILE")
	}
	if (ts.ReadFile(args[0]) == ts.ReadFile(args[1])) == neg {
		ts.Fatalf("%s and %s: same content = %t", args[0], args[1], neg)
	}
}

// server is a running one, in a folder as make leaves it: bin has the programs, data what the server keeps.
type server struct{ dir, addr string }

// startServer builds the programs and starts the server on an empty data folder.
func startServer(t *testing.T) server {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), startPatience)
	defer cancel()
	build(ctx, t, dir, "kms", "1")
	build(ctx, t, dir, "kmsctl", "0")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { showLog(t, log) })
	cmd := exec.Command(filepath.Join(dir, "bin", "kms"), "serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0")
	cmd.Env = cleanEnv()
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if addr, ok := strings.CutPrefix(lines.Text(), "listening on "); ok {
				found <- addr
			}
		}
	}()
	t.Cleanup(func() { stopServer(t, cmd, ended) })
	select {
	case addr := <-found:
		return server{dir, addr}
	case <-ended:
		t.Fatal("the server ended before it was listening")
	case <-ctx.Done():
		t.Fatal("the server did not say in time where it listens")
	}
	return server{}
}

func build(ctx context.Context, t *testing.T, dir, name, cgo string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "bin", name), "github.com/keyledger/kms/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, out)
	}
}

// cleanEnv is the environment less what would configure the programs, or send telemetry.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "OTEL_") || (strings.HasPrefix(e, "KMS_") && !strings.HasPrefix(e, "KMS_CACHE=") && !strings.HasPrefix(e, "KMS_LIBCHDB="))
	})
}

// stopServer ends the server as an operator would, and wants it to end well. ended is closed when its output is read.
func stopServer(t *testing.T, cmd *exec.Cmd, ended <-chan struct{}) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("stopping the server: %v", err)
	}
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	<-ended
	if err := cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

func showLog(t *testing.T, log *os.File) {
	t.Helper()
	if t.Failed() {
		if _, err := log.Seek(0, io.SeekStart); err == nil {
			_, _ = io.Copy(t.Output(), log)
		}
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}
