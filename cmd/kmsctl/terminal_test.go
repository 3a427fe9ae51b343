package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfirm(t *testing.T) {
	for name, tt := range map[string]struct {
		terminal bool
		answer   string
		ok       bool
	}{
		"meant":          {true, "app\n", true},
		"without a line": {true, "app", true},
		"another key":    {true, "ap\n", false},
		"just yes":       {true, "yes\n", false},
		"nothing":        {true, "", false},
		"no terminal":    {false, "app\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked bytes.Buffer
			s := &session{streams: streams{in: strings.NewReader(tt.answer), err: &asked, inTerminal: tt.terminal}}
			err := s.confirm(t.Context(), "projects/p/locations/local/keyRings/r/keys/app")
			if (err == nil) != tt.ok {
				t.Errorf("error = %v", err)
			}
			if strings.Contains(asked.String(), "Type app to go on: ") != tt.terminal {
				t.Errorf("asked %q", asked.String())
			}
		})
	}
}

// TestCiphertextOnTerminal: a person gets base64, a pipe and a file get bytes.
func TestCiphertextOnTerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	for name, tt := range map[string]struct {
		terminal, asked bool
		out             string
		want            string
	}{
		"pipe":             {false, false, "", "\xCB\x01"},
		"pipe, base64":     {false, true, "", "ywE=\n"},
		"terminal":         {true, false, "", "ywE=\n"},
		"file of terminal": {true, false, file, "\xCB\x01"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout bytes.Buffer
			s := &session{streams: streams{out: &stdout, outTerminal: tt.terminal}}
			err := s.writeCiphertext(fileFlags{Out: tt.out}, tt.asked, func(w io.Writer) error {
				_, err := io.WriteString(w, "\xCB\x01")
				return err
			})
			got := stdout.String()
			if tt.out != "" && err == nil {
				var b []byte
				b, err = os.ReadFile(tt.out)
				got = string(b)
			}
			if err != nil || got != tt.want {
				t.Errorf("wrote %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	for name, tt := range map[string]struct {
		terminal, quiet bool
		size            int64
		want            bool
	}{
		"terminal":               {true, false, 2 * smallInput, true},
		"terminal, unknown size": {true, false, -1, true},
		"small":                  {true, false, smallInput - 1, false},
		"quiet":                  {true, true, -1, false},
		"no terminal":            {false, false, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var shown bytes.Buffer
			s := &session{streams: streams{err: &shown, errTerminal: tt.terminal}, quiet: tt.quiet}
			r, done := s.withProgress(bytes.NewReader(make([]byte, 2*smallInput)), tt.size, "encrypting")
			n, err := io.Copy(io.Discard, r)
			done()
			if err != nil || n != 2*smallInput {
				t.Errorf("read %d bytes, %v", n, err)
			}
			if got := strings.Contains(shown.String(), "encrypting"); got != tt.want {
				t.Errorf("progress was shown = %t: %q", got, shown.String())
			}
		})
	}
}

// testInterrupt: whoever is interrupted leaves nothing behind and says so.
func testInterrupt(t *testing.T, s server) {
	t.Helper()
	dir := t.TempDir()
	env := append(cleanEnv(), "KMS_ADDR="+s.addr, "KMS_TOKEN_FILE="+filepath.Join(s.dir, "data", "admin.key"), "KMS_PROJECT=interrupt")
	kmsctl := filepath.Join(s.dir, "bin", "kmsctl")
	create := exec.CommandContext(t.Context(), kmsctl, "keys", "create", "k")
	create.Env = env
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("making a key: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), kmsctl, "encrypt", "k", "-o", filepath.Join(dir, "out"))
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(make([]byte, 1<<20)); err != nil { // and no end: it waits for more
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("nothing is being written: %s", stderr.String())
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitInterrupted {
		t.Errorf("it ended with %v, want exit code %d", err, exitInterrupted)
	}
	if got := stderr.String(); got != "kmsctl: interrupted\n" {
		t.Errorf("it said %q", got)
	}
	wantFiles(t, dir)
}
