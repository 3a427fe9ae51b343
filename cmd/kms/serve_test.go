package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestLifetime: an empty folder becomes a running server, and a second start finds everything as it was.
func TestLifetime(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := launch(t, data)
	if info, err := os.Stat(filepath.Join(data, adminKeyFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin access key: %v, %v; want mode 0600", info, err)
	}
	for path, want := range map[string]string{"/livez": "", "/readyz": "", "/readyz?verbose": "projection", "/metrics": "go_goroutines"} {
		if status, body := p.get(t.Context(), path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s answers %d %q, want 200 and %q in it", path, status, body, want)
		}
	}
	c := p.clients()
	created, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "kept", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := c.crypto.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: created.GetName(), Plaintext: []byte("kept")})
	if err != nil {
		t.Fatal(err)
	}
	key := p.admin()
	info, err := c.system.GetServerInfo(t.Context(), &kmsv1.GetServerInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	p.terminate()

	p = launch(t, data)
	c = p.clients()
	if p.admin() != key {
		t.Error("the second start made another admin access key")
	}
	again, err := c.system.GetServerInfo(t.Context(), &kmsv1.GetServerInfoRequest{})
	if err != nil || again.GetLineage() != info.GetLineage() || again.GetLineage() == "" {
		t.Errorf("lineage %q after the second start, %q before: %v", again.GetLineage(), info.GetLineage(), err)
	}
	opened, err := c.crypto.Decrypt(t.Context(), &kmsv1.DecryptRequest{Ciphertext: sealed.GetCiphertext(), Name: created.GetName()})
	if err != nil || string(opened.GetPlaintext()) != "kept" {
		t.Errorf("decrypting what was encrypted before: %q, %v", opened.GetPlaintext(), err)
	}
	p.terminate()
}

// refusedStart runs kms until it exits and returns the one sentence that it must have said.
func refusedStart(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := command(t, env, args...)
	done := make(chan struct{})
	time.AfterFunc(startPatience, func() {
		select {
		case <-done:
		default:
			_ = cmd.Process.Kill()
		}
	})
	out, err := cmd.CombinedOutput()
	close(done)
	if err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("kms %s ended with %v, want exit code 1\n%s", strings.Join(args, " "), err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "kms: ") {
		t.Fatalf("kms %s said\n%s\nwant one sentence that begins with kms:", strings.Join(args, " "), out)
	}
	return last
}

// TestRefusedStarts: each cause is told in one sentence with the way out, and exit code 1.
func TestRefusedStarts(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	p := launch(t, data)
	serve := func(env []string, args ...string) string {
		t.Helper()
		return refusedStart(t, env, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	}
	contains := func(name, got string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q does not tell %q", name, got, w)
			}
		}
	}
	contains("data folder in use", serve(nil, "--data", data), "in use by another kms process", "--data")

	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // no need
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test's listener
	fresh := filepath.Join(dir, "untouched")
	contains("occupied port", refusedStart(t, nil, "serve", "--data", fresh, "--listen", l.Addr().String()), "address already in use", "--listen")
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Error("a start with an occupied port left a data folder behind")
	}
	p.terminate()

	contains("missing module", serve(nil, "--data", data, "--pkcs11-module", "/nonexistent/libpkcs11.so"), "/nonexistent/libpkcs11.so")
	pin := filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte("99999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	softhsm := []string{"SOFTHSM2_CONF=" + filepath.Join(data, "softhsm", "softhsm2.conf")}
	got := serve(softhsm, "--data", data, "--pkcs11-token", "keyledger", "--pkcs11-pin-file", pin)
	contains("wrong PIN", got, "PIN")
	if strings.Contains(got, "99999999") {
		t.Errorf("the PIN is told: %q", got)
	}
	contains("insecure listen", refusedStart(t, nil, "serve", "--data", data, "--listen", "0.0.0.0:0"), "--tls-cert", "--insecure-listen")

	// A token made anew under the same label must not pass for the site's.
	if err := os.Rename(filepath.Join(data, "softhsm"), filepath.Join(dir, "softhsm.old")); err != nil {
		t.Fatal(err)
	}
	contains("re-initialised token", serve(nil, "--data", data), "root")
	if err := os.RemoveAll(filepath.Join(data, "softhsm")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "softhsm.old"), filepath.Join(data, "softhsm")); err != nil {
		t.Fatal(err)
	}
	p = launch(t, data) // and with the right token all is well again
	p.terminate()
}
