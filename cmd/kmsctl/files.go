package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// streams are what the process was started with.
type streams struct {
	in       io.Reader
	out, err io.Writer
	// Whether a person is at the other end.
	inTerminal, outTerminal, errTerminal bool
}

func standardStreams() streams {
	terminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	return streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		inTerminal: terminal(os.Stdin), outTerminal: terminal(os.Stdout), errTerminal: terminal(os.Stderr),
	}
}

// input is standard input as far as it comes before ctx ends. A read of a terminal or pipe can't be interrupted, so it is
// left behind in a goroutine, which ends with the process.
func (s *session) input(ctx context.Context) io.Reader {
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, s.in)
		w.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	return r
}

// inputFile is what a command reads, a file or standard input.
type inputFile struct {
	io.Reader
	close func() error
	size  int64 // in bytes; -1 if that is not known
}

func (s *session) open(ctx context.Context, path string) (*inputFile, error) {
	if path == "" || path == "-" {
		return &inputFile{Reader: s.input(ctx), close: func() error { return nil }, size: -1}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the input: %w", err)
	}
	in := &inputFile{Reader: untilDone{ctx, f}, close: f.Close, size: -1}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		in.size = info.Size()
	}
	return in, nil
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx  context.Context // an io.Reader has no other place for it
	from io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// outputFile is what a command writes. A regular file appears under its name only when all of it was written: what is
// written before Commit stands in a file beside it, which Discard removes.
type outputFile struct {
	io.Writer
	file *os.File // nil for standard output
	temp string   // name of file if it is the one beside
	path string
}

// create begins to write to path, or to standard output if there is none. A file that is replaced keeps its permissions;
// a new one gets perm, less what the umask takes away.
func (s *session) create(path string, perm fs.FileMode) (*outputFile, error) {
	if path == "" || path == "-" {
		return &outputFile{Writer: s.out}, nil
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the file is replaced, not the link
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("opening the output: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("opening the output: %s is a folder", path)
	case !info.Mode().IsRegular(): // a device or a pipe can't be replaced
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("opening the output: %w", err)
		}
		return &outputFile{Writer: f, file: f}, nil
	default:
		perm = info.Mode().Perm()
	}
	temp := path + "." + rand.Text() + ".part"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, fmt.Errorf("opening the output: %w", err)
	}
	out := &outputFile{Writer: f, file: f, temp: temp, path: path}
	if info != nil {
		if err := f.Chmod(perm); err != nil { // the umask has no say in a file that was there before
			out.Discard()
			return nil, fmt.Errorf("opening the output: %w", err)
		}
	}
	return out, nil
}

// Commit makes what was written the file. Its content is on the disk by then.
func (o *outputFile) Commit() error {
	if o.temp == "" {
		if o.file == nil {
			return nil
		}
		return o.file.Close()
	}
	if err := o.file.Sync(); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	if err := o.file.Close(); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	if err := os.Rename(o.temp, o.path); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	o.temp = ""
	return nil
}

// Discard removes what was not committed. After Commit it does nothing. Its errors are not told: something else has gone
// wrong before, and is.
func (o *outputFile) Discard() {
	if o.temp != "" {
		_ = o.file.Close()
		_ = os.Remove(o.temp)
	}
}

// smallInput is what needs no progress bar.
const smallInput = 4 << 20

// withProgress shows on the terminal, if there is one, how much was read of r. The function it returns ends that.
func (s *session) withProgress(r io.Reader, size int64, what string) (io.Reader, func()) {
	if s.quiet || !s.errTerminal || (size >= 0 && size < smallInput) {
		return r, func() {}
	}
	bar := progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(s.err), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
	return io.TeeReader(r, bar), func() { _ = bar.Finish() } // it is for the eye only
}
