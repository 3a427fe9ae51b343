package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// listenerFD is the descriptor of the listening socket in the child.
	listenerFD = 3
	// dataFolder is the engine's part of its folder. The other part is the socket.
	dataFolder = "data"
	// drainTime is how long the child lets running statements finish after it was told to end.
	drainTime = 5 * time.Second
	// lockPatience is how long a start waits for the folder's last user to be gone.
	lockPatience = 3 * time.Second
	// oomScore makes the kernel end the engine before anything that holds keys.
	oomScore = "500"
)

// childConfig is what a parent tells its child, as flags.
type childConfig struct {
	library     string
	memoryLimit int64
	connections int
}

func (c childConfig) args() []string {
	return []string{
		"-library=" + c.library,
		"-memory-limit=" + strconv.FormatInt(c.memoryLimit, 10),
		"-connections=" + strconv.Itoa(c.connections),
	}
}

func parseChildConfig(args []string) (childConfig, error) {
	var c childConfig
	flags := flag.NewFlagSet("clickhouse-engine", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.library, "library", "", "path of libchdb.so")
	flags.Int64Var(&c.memoryLimit, "memory-limit", 0, "bytes")
	flags.IntVar(&c.connections, "connections", 0, "statements at once")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if c.library == "" || c.memoryLimit <= 0 || c.connections <= 0 {
		return c, errors.New("this command is not for people: the server starts it by itself")
	}
	return c, nil
}

// Main is the child process: it serves the data folder that is its working directory on the socket that it inherited,
// until its standard input ends, which happens when the parent closes it or dies. args are those that Start appended.
func Main(args []string) error {
	cfg, err := parseChildConfig(args)
	if err != nil {
		return err
	}
	if err := harden(); err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("taking over the listening socket: %w", err)
	}
	unix.CloseOnExec(listenerFD)
	unlock, err := lockFolder(".")
	if err != nil {
		return err
	}
	defer unlock()
	lib, err := loadChdb(cfg.library)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(dataFolder) // with a relative path the engine can't sync its folders
	if err != nil {
		return err
	}
	p, err := openPool(lib, cfg.connections, engineArgs(dir, cfg)...)
	if err != nil {
		return err
	}
	// The parent turns each line of standard error into a record of its own log.
	h, err := newHandler(p, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return serve(listener, h)
}

// lockFolder makes this process the only engine in dir, until it ends. It waits a moment for a predecessor whose parent
// was killed just before ours started, and that the kernel is still taking down.
func lockFolder(dir string) (unlock func(), err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 100) {
		err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = folder.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the data folder: %w", err)
		}
		if time.Now().After(deadline) {
			return nil, errors.New("another process uses the data folder")
		}
	}
}

// serve answers requests until standard input ends, then lets those that run finish, within bounds.
func serve(listener net.Listener, h *handler) error {
	requests, abandon := context.WithCancel(context.Background())
	defer abandon()
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return requests },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("waiting for the parent: %w", err)
		}
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		abandon() // ends the statements that run
		if err := server.Close(); err != nil {
			return fmt.Errorf("closing the listening socket: %w", err)
		}
	}
	h.pool.close()
	return nil
}

// engineArgs are the engine's settings. Its own defaults are made for a machine that it has to itself.
func engineArgs(dir string, cfg childConfig) []string {
	return []string{
		"--path=" + dir,
		"--max_server_memory_usage=" + strconv.FormatInt(cfg.memoryLimit, 10),
		"--mark_cache_size=" + strconv.FormatInt(cfg.memoryLimit/12, 10),
		"--index_mark_cache_size=" + strconv.FormatInt(cfg.memoryLimit/24, 10),
		"--max_threads=2", // of one statement
	}
}

// harden leaves the process nothing but what the engine needs: no signals of the parent's terminal, no core dumps, first
// in line when memory runs out, and no descriptor but the standard ones and the socket.
func harden() error {
	// The parent says when to end; a Ctrl-C at its terminal reaches this process too and must not end it first.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0); err != nil {
		return fmt.Errorf("volunteering to be ended when memory runs out: %w", err)
	}
	return closeInherited()
}

// closeInherited closes what a library of the parent opened without close-on-exec. Go's runtime keeps its own
// descriptors, which are anonymous inodes.
func closeInherited() error {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing open descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= listenerFD {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil || strings.HasPrefix(target, "anon_inode:") {
			continue // closed meanwhile, like the one that listed them, or the runtime's
		}
		if err := unix.Close(fd); err != nil && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("closing descriptor %d: %w", fd, err)
		}
	}
	return nil
}
