package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultMemoryLimit = 1_500_000_000
	defaultConnections = 8

	socketName = "engine.sock"

	startTimeout = 30 * time.Second // from the start of a child to its first answer
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 10 * time.Second
	steadyAfter  = 30 * time.Second // a child that lived this long had no trouble starting
)

// ErrUnavailable means that no engine is running at this moment: it is being started again, or was closed.
var ErrUnavailable = errors.New("the embedded clickhouse engine is not running")

// Config says how to run the engine. Dir is required, everything else has a default.
type Config struct {
	// Dir is the engine's own folder, made if missing. Nothing else may live there, and one engine at a time uses it.
	Dir string
	// Executable and Args run Main when started with Args and what Start appends to them. The default Executable is the
	// running binary, even after its file was replaced.
	Executable string
	Args       []string
	// Library is the path of libchdb.so; by default FindLibrary looks for it.
	Library string
	// MemoryLimit bounds what the engine allocates, in bytes; 1.5 GB by default. A statement that would need more fails.
	MemoryLimit int64
	// Connections is how many statements run at once, 8 by default; more wait.
	Connections int
	// Logger gets the engine's own complaints and news of its restarts; by default they are discarded.
	Logger *slog.Logger
}

// Process is an engine in a child process that is started again whenever it ends, until Close. It is safe for concurrent
// use.
type Process struct {
	cfg     Config
	child   childConfig
	dir     *os.File      // keeps the folder reachable by a path short enough for a socket
	closing chan struct{} // closed by Close
	abandon chan struct{} // closed when the child shall not be waited for any longer
	done    chan struct{} // closed when the last child is gone

	closeOnce, abandonOnce sync.Once

	mu  sync.RWMutex // held for reading while dialling, so that dir stays open
	pid int          // 0 unless a child is up and answering
}

// Start starts the engine and returns when it answers. It returns an error if the first child does not come up, for
// instance because another process uses the folder; ctx bounds that wait only. Later ends of the child are repaired.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	p, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("preparing the clickhouse engine: %w", err)
	}
	first := make(chan error, 1)
	go p.supervise(first) //nolint:gosec // it outlives this call and its context; Close ends it
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		p.stop()
		p.giveUp()
		<-p.done
		return nil, fmt.Errorf("starting the clickhouse engine in %s: %w", p.cfg.Dir, err)
	}
	return p, nil
}

func prepare(cfg Config) (*Process, error) {
	cfg.Executable = cmp.Or(cfg.Executable, "/proc/self/exe")
	cfg.MemoryLimit = cmp.Or(cfg.MemoryLimit, defaultMemoryLimit)
	cfg.Connections = cmp.Or(cfg.Connections, defaultConnections)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if cfg.Library == "" {
		if cfg.Library, err = FindLibrary(); err != nil {
			return nil, err
		}
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(cfg.Dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit; whoever enters it reaches the socket
		return nil, err
	}
	dir, err := os.OpenFile(cfg.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Process{
		cfg:     cfg,
		child:   childConfig{library: cfg.Library, memoryLimit: cfg.MemoryLimit, connections: cfg.Connections},
		dir:     dir,
		closing: make(chan struct{}),
		abandon: make(chan struct{}),
		done:    make(chan struct{}),
	}, nil
}

// DialContext connects to the engine; it is made for clickhouse.Options, with Protocol HTTP, no compression and any
// address. While no engine runs it fails at once with ErrUnavailable.
func (p *Process) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.pid == 0 {
		return nil, ErrUnavailable
	}
	return p.dial(ctx)
}

func (p *Process) dial(ctx context.Context) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", p.socket())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return c, nil
}

// socket is the path of the listening socket by way of the open folder: the folder's own path may be longer than the 107
// bytes that a socket address holds.
func (p *Process) socket() string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", p.dir.Fd(), socketName)
}

// Pid is the process id of the engine, or 0 while none runs.
func (p *Process) Pid() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.pid
}

func (p *Process) setPid(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// Close ends the engine after the statements that run; when ctx ends first the engine is killed, which loses nothing that
// was acknowledged, and the error is ctx's.
func (p *Process) Close(ctx context.Context) error {
	p.stop()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.giveUp()
		<-p.done
		return fmt.Errorf("closing the clickhouse engine: %w", ctx.Err())
	}
}

func (p *Process) stop()   { p.closeOnce.Do(func() { close(p.closing) }) }
func (p *Process) giveUp() { p.abandonOnce.Do(func() { close(p.abandon) }) }

// supervise runs children until Close. What becomes of the first is sent to first: nil when it answers.
func (p *Process) supervise(first chan<- error) {
	// A child is killed by the kernel when the thread that started it ends. This goroutine keeps its thread for as long
	// as there are children, so that only the end of the whole process ends it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = p.dir.Close() // opened for its path only
	}()
	backoff := minBackoff
	for answered := false; ; {
		started := time.Now()
		err := p.runChild(func() {
			if !answered {
				answered = true
				first <- nil
			}
		})
		select {
		case <-p.closing:
			if !answered {
				first <- err
			}
			return
		default:
		}
		if !answered {
			first <- err
			return
		}
		if time.Since(started) > steadyAfter {
			backoff = minBackoff
		}
		p.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "the clickhouse engine ended and will be started again",
			slog.Any("error", err), slog.Duration("backoff", backoff))
		select {
		case <-p.closing:
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// runChild runs one child from start to end; it calls up when the child answers. The error says why it ended.
func (p *Process) runChild(up func()) error {
	stderr := &lineLogger{log: p.cfg.Logger}
	cmd, stdin, err := p.startChild(stderr)
	if err != nil {
		return err
	}
	defer func() { _ = stdin.Close() }() // closed already if the child was asked to end
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	ready := make(chan error, 1)
	var pings sync.WaitGroup
	defer pings.Wait()
	pinging, stopPinging := context.WithTimeout(context.Background(), startTimeout)
	defer stopPinging()
	pings.Go(func() { ready <- p.ping(pinging) })

	closing := p.closing
	for {
		select {
		case err := <-exited:
			p.setPid(0)
			return ended(err, stderr)
		case err := <-ready:
			if err != nil {
				p.kill(cmd) // its end comes by exited
				continue
			}
			p.setPid(cmd.Process.Pid)
			up()
		case <-closing:
			closing = nil
			p.setPid(0)
			if err := stdin.Close(); err != nil {
				p.kill(cmd)
			}
		case <-p.abandon:
			p.kill(cmd)
			err := ended(<-exited, stderr)
			p.setPid(0)
			return err
		}
	}
}

// ended describes the end of a child by the last thing it said and its exit status.
func ended(err error, stderr *lineLogger) error {
	switch {
	case err == nil:
		return errors.New("the engine ended")
	case len(stderr.last) > 0:
		return fmt.Errorf("%s (%w)", stderr.last, err)
	}
	return err
}

// startChild gives a new child a new socket. The parent keeps no copy of it, so that once the child is dead whoever dials
// is refused at once.
func (p *Process) startChild(stderr *lineLogger) (*exec.Cmd, *os.File, error) {
	listener, err := p.listen()
	if err != nil {
		return nil, nil, fmt.Errorf("listening for the engine: %w", err)
	}
	defer func() { _ = listener.Close() }() // the child has its own
	stdinRead, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = stdinRead.Close() }()                                                                  // likewise
	cmd := exec.Command(p.cfg.Executable, append(append([]string(nil), p.cfg.Args...), p.child.args()...)...) //nolint:gosec,noctx // our own binary; ended by supervise, not by a context
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.Dir = p.cfg.Dir
	cmd.Env = []string{}
	cmd.Stdin = stdinRead
	cmd.Stderr = stderr
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		_ = stdin.Close()
		return nil, nil, err
	}
	return cmd, stdin, nil
}

func (p *Process) listen() (*os.File, error) {
	if err := os.Remove(p.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket(), Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	return file, errors.Join(err, listener.Close())
}

// ping returns when the child answers. A connection waits in the socket's queue until the child accepts it, or is reset
// when the child ends, so one request is enough.
func (p *Process) ping(ctx context.Context) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.dial(ctx) }}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/ping", http.NoBody)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (p *Process) kill(cmd *exec.Cmd) {
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "the clickhouse engine can't be killed", slog.Any("error", err))
	}
}

// lineLogger turns what a child writes to standard error into log records and remembers the last line.
type lineLogger struct {
	log     *slog.Logger
	partial []byte
	last    []byte // to be read after the child ended
}

// maxLine bounds what is kept of a line without end.
const maxLine = 4096

func (l *lineLogger) Write(b []byte) (int, error) {
	l.partial = append(l.partial, b...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok && len(line) < maxLine {
			return len(b), nil
		}
		l.partial = append([]byte(nil), rest...)
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.last = append([]byte(nil), line...)
			l.log.LogAttrs(context.Background(), slog.LevelWarn, "the clickhouse engine says", slog.String("line", string(line)))
		}
		if !ok {
			return len(b), nil
		}
	}
}
