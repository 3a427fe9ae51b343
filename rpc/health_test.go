package rpc_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keyledger/kms/rpc"
)

func TestReadiness(t *testing.T) {
	var token error
	s := serve(t, func(c *rpc.Config) {
		c.Checks = []rpc.Check{
			{Name: "events", Run: func(context.Context) error { return nil }},
			{Name: "token", Run: func(context.Context) error { return token }},
		}
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("kms_x 1\n")) })
	})
	get := func(path string) answer { return s.send(t, "GET", path, "", "Authorization", "") }
	if a := get("/livez"); a.status != 200 {
		t.Errorf("livez: %d", a.status)
	}
	if a := get("/readyz"); a.status != 200 || a.body != "ok\n" {
		t.Errorf("readyz: %d %q", a.status, a.body)
	}
	if a := get("/readyz?verbose"); a.status != 200 || a.body != "[+] events\n[+] token\nready\n" {
		t.Errorf("verbose: %d %q", a.status, a.body)
	}
	token = errors.New("the token is gone")
	for _, path := range []string{"/readyz", "/readyz?verbose"} {
		if a := get(path); a.status != 503 || !strings.Contains(a.body, "[-] token: the token is gone") {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
	if a := get("/livez"); a.status != 200 {
		t.Errorf("livez: %d", a.status)
	}
	if a := get("/metrics"); a.status != 200 || a.body != "kms_x 1\n" {
		t.Errorf("metrics: %d %q", a.status, a.body)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := rpc.New(rpc.Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
}
