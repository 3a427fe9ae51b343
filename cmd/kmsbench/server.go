package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a running kms process.
type server struct {
	cmd     *exec.Cmd
	data    string
	url     string
	address string
	token   string
	debug   string        // address of its profiles; empty: none
	ready   time.Duration // from the start of the process to its first good /readyz
}

const (
	startTimeout = time.Minute
	drainTimeout = 5 * time.Minute
	// drainQuiet is how long nothing must come in any more, since the lag is known to the server a little late only.
	drainQuiet = 1500 * time.Millisecond
	// clockTicks is the unit of /proc/PID/stat, USER_HZ, which is 100 on every Linux.
	clockTicks = 100
)

// startServer starts kms on a data folder and waits until it is ready.
func startServer(ctx context.Context, binary, dir string, profiles bool) (*server, error) {
	s := &server{data: filepath.Join(dir, "data")}
	args := []string{"serve", "--data", s.data, "--listen", "127.0.0.1:0", "--log-level", "warn"}
	if profiles {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		s.debug = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
		args = append(args, "--debug-listen", s.debug)
	}
	s.cmd = exec.CommandContext(ctx, binary, args...) //nolint:gosec // the binary to measure
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 15 * time.Second
	s.cmd.Stderr = os.Stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stdout)
	for s.url == "" && lines.Scan() {
		if _, url, ok := strings.Cut(lines.Text(), "listening on "); ok {
			s.url = strings.TrimSpace(url)
		}
	}
	if s.url == "" {
		return nil, errors.Join(errors.New("the server did not say where it listens"), s.stop())
	}
	s.address = strings.TrimPrefix(s.url, "http://")
	go io.Copy(io.Discard, stdout) //nolint:errcheck // ends with the process
	for time.Since(start) < startTimeout {
		if ok, err := s.isReady(ctx); ok {
			s.ready = time.Since(start)
			break
		} else if ctx.Err() != nil {
			return nil, errors.Join(err, s.stop())
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s.ready == 0 {
		return nil, errors.Join(errors.New("the server did not become ready"), s.stop())
	}
	token, err := os.ReadFile(filepath.Join(s.data, "admin.key"))
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	s.token = strings.TrimSpace(string(token))
	return s, nil
}

func (s *server) isReady(ctx context.Context) (bool, error) {
	_, err := fetch(ctx, s.url+"/readyz")
	return err == nil, err
}

// fetch returns a page, or an error if the answer is not 200.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return body, err
}

// stop ends the server as an operator would. Stopping twice is fine.
func (s *server) stop() error {
	if s.cmd.ProcessState != nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.cmd.Wait()
}

// drained waits until the activity database has every record, and returns when that was.
func (s *server) drained(ctx context.Context) (at time.Time, err error) {
	var before float64
	at = time.Now()
	for deadline := at.Add(drainTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		page, err := fetch(ctx, s.url+"/metrics")
		if err != nil {
			return at, err
		}
		behind, found := sum(page, "kms_projection_lag{")
		rows, _ := sum(page, "kms_projection_rows_total")
		if !found || behind > 0 || rows != before {
			at, before = time.Now(), rows
		} else if time.Since(at) > drainQuiet {
			return at, nil
		}
	}
	return at, errors.New("the activity log did not catch up")
}

// sum adds the values of a metric over all its attributes.
func sum(page []byte, metric string) (total float64, found bool) {
	for line := range bytes.Lines(page) {
		if !bytes.HasPrefix(line, []byte(metric)) {
			continue
		}
		fields := strings.Fields(string(line))
		if n, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
			total, found = total+n, true
		}
	}
	return total, found
}

// usage returns the CPU time of the server and its children so far, and the size of its streams.
func (s *server) usage() (cpu time.Duration, streams int64, err error) {
	pids := []int{s.cmd.Process.Pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[0]))
	if err != nil {
		return 0, 0, err
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
	if err != nil {
		return 0, 0, err
	}
	for _, task := range tasks { // a child belongs to the thread that started it
		if more, err := os.ReadFile(task); err == nil {
			children = append(append(children, ' '), more...)
		}
	}
	seen := map[int]bool{}
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil && !seen[pid] {
			seen[pid], pids = true, append(pids, pid)
		}
	}
	for _, pid := range pids {
		ticks, err := cpuTicks(pid)
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(ticks) * time.Second / clockTicks
	}
	err = filepath.WalkDir(filepath.Join(s.data, "jetstream"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(d.Name(), ".blk") {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			streams += info.Size()
		}
		return err
	})
	return cpu, streams, err
}

func cpuTicks(pid int) (int64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat has too few fields")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return user + system, err
}

// resident is the memory of the server process itself, in bytes; zero if it can't be read.
func (s *server) resident() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	pages, err := strconv.ParseInt(strings.Fields(string(status))[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
