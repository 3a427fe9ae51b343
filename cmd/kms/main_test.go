package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
)

// asServer makes the test binary be kms, so that tests run the real program in processes of their own, with the race
// detector if the tests have it.
const asServer = "KMS_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	if where := os.Getenv(asNATS); where != "" {
		if err := runNATS(where); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(asServer) != "" || len(os.Args) > 1 && os.Args[1] == engineCommand {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a running kms serve.
type process struct {
	tb     testing.TB
	cmd    *exec.Cmd
	data   string
	url    string
	stdout *output
	stderr *output
	exited chan struct{} // closed when the process is gone
	err    error         // of its exit
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

const (
	startPatience = 60 * time.Second // generous: the race detector and other tests take the cores
	stopPatience  = 10 * time.Second // what is promised
)

// command is kms with these arguments and environment, not started.
func command(tb testing.TB, env []string, args ...string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(append(os.Environ(), asServer+"=1"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// launch starts kms serve on a data folder and a free port and waits until it says where it listens.
func launch(tb testing.TB, data string, args ...string) *process {
	tb.Helper()
	p, err := tryLaunch(tb, data, nil, args...)
	if err != nil {
		tb.Fatalf("starting kms: %v\n%s", err, p.stderr)
	}
	return p
}

func tryLaunch(tb testing.TB, data string, env []string, args ...string) (*process, error) {
	tb.Helper()
	p := &process{tb: tb, data: data, stdout: &output{}, stderr: &output{}, exited: make(chan struct{})}
	p.cmd = command(tb, env, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0"}, args...)...)
	p.cmd.Stderr = p.stderr
	pipe, err := p.cmd.StdoutPipe()
	if err != nil {
		return p, err
	}
	if err := p.cmd.Start(); err != nil {
		return p, err
	}
	listening := make(chan string, 1)
	go func() {
		defer close(p.exited)
		lines := bufio.NewScanner(io.TeeReader(pipe, p.stdout))
		for lines.Scan() {
			if _, url, ok := strings.Cut(lines.Text(), "listening on "); ok {
				listening <- strings.TrimSpace(url)
			}
		}
		p.err = p.cmd.Wait()
	}()
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("kms said:\n%s", p.stderr)
		}
		p.kill()
	})
	select {
	case p.url = <-listening:
		return p, nil
	case <-p.exited:
		return p, fmt.Errorf("it exited: %w", errors.Join(p.err, errors.New(strings.TrimSpace(p.stderr.String()))))
	case <-time.After(startPatience):
		return p, errors.New("it did not say where it listens")
	}
}

// kill ends the process without a warning.
func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Error(err)
	}
	<-p.exited
}

// terminate ends the process as an operator does, and checks that it keeps the promise of how.
func (p *process) terminate() {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Fatal(err)
	}
	select {
	case <-p.exited:
		if p.err != nil {
			p.tb.Fatalf("after SIGTERM: %v\n%s", p.err, p.stderr)
		}
	case <-time.After(stopPatience):
		p.tb.Fatalf("still running %s after SIGTERM\n%s", stopPatience, p.stderr)
	}
}

// admin is the access key.
func (p *process) admin() string {
	p.tb.Helper()
	b, err := os.ReadFile(filepath.Join(p.data, adminKeyFile))
	if err != nil {
		p.tb.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// clients speak to the server as the instance admin.
type clients struct {
	keys     kmsv1connect.KeyServiceClient
	crypto   kmsv1connect.CryptoServiceClient
	activity kmsv1connect.ActivityServiceClient
	system   kmsv1connect.SystemServiceClient
}

func (p *process) clients(options ...connect.ClientOption) clients {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	p.tb.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: bearer{transport, p.admin()}}
	return clients{
		kmsv1connect.NewKeyServiceClient(c, p.url, options...),
		kmsv1connect.NewCryptoServiceClient(c, p.url, options...),
		kmsv1connect.NewActivityServiceClient(c, p.url, options...),
		kmsv1connect.NewSystemServiceClient(c, p.url, options...),
	}
}

type bearer struct {
	http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.RoundTripper.RoundTrip(r)
}

// get fetches a page of the server.
func (p *process) get(ctx context.Context, path string) (int, string) {
	p.tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		p.tb.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.tb.Fatal(err)
	}
	return res.StatusCode, string(body)
}
