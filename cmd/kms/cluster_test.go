package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	natsserver "github.com/nats-io/nats-server/v2/server"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// asNATS makes the test binary be a NATS node: its value is "client address,route address,store folder".
const asNATS = "KMS_TEST_AS_NATS"

// runNATS is nats-server with the configuration that docker-compose.yml mounts, listening where the test says.
func runNATS(where string) error {
	o, err := natsserver.ProcessConfigFile(filepath.Join("..", "..", "deploy", "nats", "nats.conf"))
	if err != nil {
		return err
	}
	parts := strings.Split(where, ",")
	if o.Host, o.Port, err = hostPort(parts[0]); err != nil {
		return err
	}
	if o.Cluster.Host, o.Cluster.Port, err = hostPort(parts[1]); err != nil {
		return err
	}
	o.StoreDir, o.HTTPHost, o.HTTPPort, o.NoSigs = parts[2], "", 0, true
	s, err := natsserver.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

func hostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.Atoi(port)
	return host, n, err
}

// natsNodes are three NATS nodes, each a process.
type natsNodes struct {
	env   [3][]string
	procs [3]*exec.Cmd
	urls  [3]string
}

func startNATS(t *testing.T) *natsNodes {
	t.Helper()
	var n natsNodes
	var clients, routes [3]string
	for i := range 3 {
		clients[i], routes[i] = freeAddress(t), freeAddress(t)
		n.urls[i] = clients[i]
	}
	for i := range 3 {
		n.env[i] = []string{
			fmt.Sprintf("%s=%s,%s,%s", asNATS, clients[i], routes[i], t.TempDir()),
			"NATS_NAME=nats-" + strconv.Itoa(i+1), "NATS_ROUTE_PASSWORD=route-secret", "NATS_INIT_PASSWORD=init-secret", "NATS_KMS_PASSWORD=kms-secret",
		}
		for j, r := range routes {
			n.env[i] = append(n.env[i], fmt.Sprintf("NATS_ROUTE_%d=nats-route://route:route-secret@%s", j+1, r))
		}
		n.start(t, i)
	}
	t.Cleanup(func() {
		for i := range 3 {
			n.kill(i)
		}
	})
	return &n
}

func (n *natsNodes) start(t *testing.T, i int) {
	t.Helper()
	n.procs[i] = command(t, n.env[i])
	if err := n.procs[i].Start(); err != nil {
		t.Fatal(err)
	}
}

func (n *natsNodes) kill(i int) {
	_ = n.procs[i].Process.Kill()
	_ = n.procs[i].Wait() // it was killed
}

func (n *natsNodes) url(user string) string {
	var urls []string
	for _, address := range n.urls {
		urls = append(urls, fmt.Sprintf("nats://%s:%s-secret@%s", user, user, address))
	}
	return strings.Join(urls, ",")
}

// freeAddress is a loopback address that was free a moment ago: routes have to be known before the nodes start.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it is to be free again
	return l.Addr().String()
}

// TestCluster runs what docker-compose.yml describes as processes on loopback: three NATS nodes and two nodes of the
// service that share a token. A node of each kind is killed on the way.
func TestCluster(t *testing.T) {
	nats := startNATS(t)
	shared := t.TempDir()
	dirs := [3]string{}
	for i := range dirs { // init's and the two nodes' own folders, with the token of all three
		dirs[i] = t.TempDir()
		if err := os.Symlink(shared, filepath.Join(dirs[i], "softhsm")); err != nil {
			t.Fatal(err)
		}
	}
	if got := refusedStart(t, nil, "serve", "--data", dirs[1], "--listen", "127.0.0.1:0", "--nats", nats.url("kms")); !strings.Contains(got, "kms init") {
		t.Errorf("serving a site that was never made: %q does not say what to do", got)
	}
	var out []byte
	var err error
	for deadline := time.Now().Add(startPatience); ; time.Sleep(500 * time.Millisecond) { // until the nodes have found each other
		if out, err = command(t, nil, "init", "--data", dirs[0], "--nats", nats.url("init"), "--nats-replicas", "3").CombinedOutput(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("kms init: %v\n%s", err, out)
		}
	}
	if out, err = command(t, nil, "init", "--data", dirs[0], "--nats", nats.url("init"), "--nats-replicas", "3").CombinedOutput(); err != nil {
		t.Fatalf("a second kms init: %v\n%s", err, out)
	}
	one := launch(t, dirs[1], "--nats", nats.url("kms"))
	two := launch(t, dirs[2], "--nats", nats.url("kms"))
	c1, c2 := one.clients(), two.clients()

	key, err := c1.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "shared", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c2.keys.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: key.GetName(), MinRevision: key.GetRevision()}); err != nil {
		t.Fatal(err)
	}
	sealed, err := c1.crypto.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: key.GetName(), Plaintext: []byte("everywhere")})
	if err != nil {
		t.Fatal(err)
	}
	decryptedBy := func(c clients) {
		t.Helper()
		eventually(t, func() error {
			opened, err := c.crypto.Decrypt(t.Context(), &kmsv1.DecryptRequest{Ciphertext: sealed.GetCiphertext()})
			if err == nil && !bytes.Equal(opened.GetPlaintext(), []byte("everywhere")) {
				t.Fatalf("decrypted %q", opened.GetPlaintext())
			}
			return err
		})
	}
	decryptedBy(c2)
	oneWinner(t, c1, c2)
	shredTogether(t, one, two, c1, c2)
	decryptedBy(c1)
	decryptedBy(c2)

	nats.kill(0) // two of three go on
	if _, err := retried(t, func(ctx context.Context) (*kmsv1.Key, error) {
		return c1.keys.RotateKey(ctx, &kmsv1.RotateKeyRequest{Name: key.GetName(), RequestId: "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"})
	}); err != nil {
		t.Fatal(err)
	}
	decryptedBy(c2)
	one.kill() // the other node does not miss it
	decryptedBy(c2)
	rotated, err := retried(t, func(ctx context.Context) (*kmsv1.Key, error) {
		return c2.keys.RotateKey(ctx, &kmsv1.RotateKeyRequest{Name: key.GetName(), RequestId: "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"}) // the same request, at another node
	})
	if err != nil || rotated.GetPrimary() != 2 {
		t.Fatalf("a request repeated at another node made version %d: %v", rotated.GetPrimary(), err)
	}
	nats.start(t, 0)
	if _, err := retried(t, func(ctx context.Context) (*kmsv1.Key, error) {
		return c2.keys.DisableKey(ctx, &kmsv1.DisableKeyRequest{Name: key.GetName()})
	}); err != nil {
		t.Fatal(err)
	}
	one = launch(t, dirs[1], "--nats", nats.url("kms"))
	_, err = one.clients().crypto.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: key.GetName()})
	wantError(t, err, connect.CodeFailedPrecondition, "KEY_DISABLED")
	one.terminate()
	two.terminate()
}

// oneWinner: of two nodes that make a key of one name at once, one does.
func oneWinner(t *testing.T, c1, c2 clients) {
	t.Helper()
	for i := range 5 {
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for n, c := range []clients{c1, c2} {
			wg.Go(func() {
				_, errs[n] = c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: fmt.Sprintf("race%d", i), Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("two nodes made one key: %v", errs)
		}
		wantError(t, errors.Join(errs...), connect.CodeAlreadyExists, "KEY_EXISTS")
	}
}

// shredTogether changes the root of two nodes while both make and use keys: both acknowledge the new root before the old one
// is destroyed, and no key that either made meanwhile is lost.
func shredTogether(t *testing.T, one, two *process, c1, c2 clients) {
	t.Helper()
	before := info(t, c1).GetRoots()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	sealed := make([][]*kmsv1.EncryptResponse, 2)
	for n, c := range []clients{c1, c2} {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: fmt.Sprintf("shred%d-%d", n, i), Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
				if err != nil {
					t.Errorf("creating a key while the root changes: %v", err)
					return
				}
				s, err := c.crypto.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: key.GetName(), Plaintext: []byte("meanwhile")})
				if err != nil {
					t.Errorf("encrypting while the root changes: %v", err)
					return
				}
				sealed[n] = append(sealed[n], s)
			}
		})
	}
	within, cancel := context.WithTimeout(t.Context(), startPatience)
	defer cancel()
	if err := requestShred(within, two, startPatience); err != nil { // the older one does the work
		t.Fatalf("shredding with two nodes: %v", err)
	}
	stop()
	load.Wait()
	for _, p := range []*process{one, two} {
		c := p.clients()
		var roots []string
		eventually(t, func() error {
			roots = info(t, c).GetRoots()
			if len(roots) != 1 {
				return fmt.Errorf("a node knows of roots %v after the shred", roots)
			}
			return nil
		})
		if roots[0] == before[0] {
			t.Errorf("the root is %s, as before the shred", roots[0])
		}
		for n := range sealed {
			if len(sealed[n]) == 0 {
				t.Fatal("a node made no key while the root changed")
			}
			for _, s := range sealed[n] {
				if _, err := retried(t, func(ctx context.Context) (*kmsv1.DecryptResponse, error) {
					return c.crypto.Decrypt(ctx, &kmsv1.DecryptRequest{Ciphertext: s.GetCiphertext()})
				}); err != nil {
					t.Fatalf("a key that node %d made while the root changed: %v", n+1, err)
				}
			}
		}
	}
}

// retried calls as a careful client does: with the same request until it is answered.
func retried[T any](t *testing.T, call func(context.Context) (T, error)) (T, error) {
	t.Helper()
	for deadline := time.Now().Add(startPatience); ; time.Sleep(200 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		out, err := call(ctx)
		cancel()
		if code := connect.CodeOf(err); err == nil || code != connect.CodeUnavailable && code != connect.CodeDeadlineExceeded || time.Now().After(deadline) {
			return out, err
		}
	}
}
