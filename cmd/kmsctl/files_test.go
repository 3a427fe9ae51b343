package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOutputAppearsWhenComplete(t *testing.T) {
	s := &session{}
	path := filepath.Join(t.TempDir(), "out")
	out, err := s.create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "content"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there before it is complete: %v", err)
	}
	if err := out.Commit(); err != nil {
		t.Fatal(err)
	}
	out.Discard()
	wantFile(t, path, "content", 0o600)
	wantFiles(t, filepath.Dir(path), "out")
}

func TestDiscardedOutput(t *testing.T) {
	s := &session{}
	path := filepath.Join(t.TempDir(), "out")
	writeFile(t, path, []byte("before"), 0o640)
	out, err := s.create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "half of"); err != nil {
		t.Fatal(err)
	}
	out.Discard()
	wantFile(t, path, "before", 0o640)
	wantFiles(t, filepath.Dir(path), "out")
}

func TestReplacedOutput(t *testing.T) {
	s := &session{}
	dir := t.TempDir()
	path, link := filepath.Join(dir, "out"), filepath.Join(dir, "link")
	writeFile(t, path, []byte("before"), 0o666)
	if err := os.Symlink("out", link); err != nil {
		t.Fatal(err)
	}
	out, err := s.create(link, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "after"); err != nil {
		t.Fatal(err)
	}
	if err := out.Commit(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "after", 0o666)
	if target, err := os.Readlink(link); err != nil || target != "out" {
		t.Errorf("the link is %q, %v, want it as it was", target, err)
	}
}

// TestOutputToPipe: what is no regular file is written to, not replaced.
func TestOutputToPipe(t *testing.T) {
	s := &session{}
	path := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(path)
		if err != nil {
			b = []byte(err.Error())
		}
		read <- string(b)
	}()
	out, err := s.create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "content"); err != nil {
		t.Fatal(err)
	}
	if err := out.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "content" {
		t.Errorf("the pipe gave %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the pipe is %v, %v", info, err)
	}
}

func TestOutputThatCannotBe(t *testing.T) {
	s := &session{}
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing", "out")} {
		if out, err := s.create(path, 0o600); err == nil {
			out.Discard()
			t.Errorf("%s can be written", path)
		}
	}
	wantFiles(t, dir)
}

func wantFile(t *testing.T, path, content string, perm fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, content)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != perm {
		t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, perm)
	}
}

func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("the folder has %q, want %q", got, names)
	}
}

// TestInterruptedInput: a read that would wait for ever ends with its context.
func TestInterruptedInput(t *testing.T) {
	never, w := io.Pipe()
	defer func() { _ = w.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	s := &session{streams: streams{in: never}}
	if n, err := s.input(ctx).Read(make([]byte, 1)); !errors.Is(err, context.Canceled) || n != 0 {
		t.Errorf("read %d bytes, %v, want it to be interrupted", n, err)
	}
	in, err := s.open(ctx, os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("reading a file afterwards: %v", err)
	}
	if err := in.close(); err != nil {
		t.Error(err)
	}
}

func TestReadCiphertext(t *testing.T) {
	envelope := append([]byte{0xCB, 1}, bytes.Repeat([]byte{0xA5}, 60)...)
	sealed := append([]byte("\xCB\x00kmsfl\x01"), bytes.Repeat([]byte{0x5A}, 100_000)...)
	text := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }
	wrapped := bytes.Join([][]byte{text(envelope)[:20], text(envelope)[20:], nil}, []byte("\r\n"))
	for name, tt := range map[string]struct {
		input, want    []byte
		sealed, base64 bool
	}{
		"ciphertext":             {envelope, envelope, false, false},
		"ciphertext in base64":   {append(text(envelope), '\n'), envelope, false, true},
		"base64 without the end": {text(envelope), envelope, false, true},
		"base64 in lines":        {wrapped, envelope, false, true},
		"sealed file":            {sealed, sealed, true, false},
		"sealed file in base64":  {append(text(sealed), '\n'), sealed, true, true},
		"newer sealed file":      {[]byte("\xCB\x00kmsfl\x02"), []byte("\xCB\x00kmsfl\x02"), true, false},
		"one byte":               {[]byte{0xCB}, []byte{0xCB}, false, false},
		"nothing":                {nil, nil, false, false},
		"text":                   {[]byte("hello, world"), nil, false, false},
		"base64 of text":         {text([]byte("hello, world")), nil, false, false},
		"almost base64":          {[]byte("yw is how it begins"), nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := readCiphertext(bytes.NewReader(tt.input))
			if tt.want == nil {
				if err == nil {
					t.Fatal("was taken for a ciphertext")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, tt.want) || c.sealed != tt.sealed || c.base64 != tt.base64 {
				t.Errorf("read %d bytes, %v, sealed = %t, base64 = %t", len(got), err, c.sealed, c.base64)
			}
		})
	}
}
