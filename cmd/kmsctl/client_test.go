package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, path string, content []byte, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, perm); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestServerURL(t *testing.T) {
	for addr, tt := range map[string]struct {
		insecure bool
		want     string // "" if it is refused
	}{
		"http://127.0.0.1:8600":     {false, "http://127.0.0.1:8600"},
		"http://127.0.0.1:8600/":    {false, "http://127.0.0.1:8600"},
		"http://localhost:8600":     {false, "http://localhost:8600"},
		"http://[::1]:8600":         {false, "http://[::1]:8600"},
		"https://kms.example.com":   {false, "https://kms.example.com"},
		"https://example.com/kms/":  {false, "https://example.com/kms"},
		"http://10.0.0.1:8600":      {true, "http://10.0.0.1:8600"},
		"http://kms.example.com":    {false, ""},
		"http://0.0.0.0:8600":       {false, ""},
		"http://localhost.evil:1":   {false, ""},
		"127.0.0.1:8600":            {false, ""},
		"localhost:8600":            {false, ""},
		"ftp://127.0.0.1":           {false, ""},
		"https://":                  {false, ""},
		"https://user:pw@127.0.0.1": {false, ""},
		"https://127.0.0.1?x=1":     {false, ""},
		"":                          {false, ""},
	} {
		got, err := connectionFlags{Addr: addr, Insecure: tt.insecure}.serverURL()
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%q is %q, %v, want %q", addr, got, err, tt.want)
		}
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	private, public, empty := filepath.Join(dir, "private"), filepath.Join(dir, "public"), filepath.Join(dir, "empty")
	writeFile(t, private, []byte("id.from-file\n"), 0o600)
	writeFile(t, public, []byte("id.from-file"), 0o644)
	writeFile(t, empty, []byte("\n"), 0o600)
	for name, tt := range map[string]struct {
		file, env string
		want      string
		remark    string
	}{
		"environment":             {"", "id.env", "id.env", ""},
		"file":                    {private, "", "id.from-file", ""},
		"file before environ.":    {private, "id.env", "id.from-file", ""},
		"file that others read":   {public, "", "id.from-file", "chmod 600"},
		"none":                    {"", "", "", ""},
		"empty file":              {empty, "id.env", "", ""},
		"missing file":            {filepath.Join(dir, "missing"), "id.env", "", ""},
		"line break in the midst": {"", "id.a\nX-Other: b", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var remarks bytes.Buffer
			s := &session{streams: streams{err: &remarks}, connection: connectionFlags{TokenFile: tt.file}, token: tt.env}
			got, err := s.credential()
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("credential = %q, %v, want %q", got, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "X-Other") {
				t.Errorf("error shows the credential: %v", err)
			}
			if (tt.remark == "") != (remarks.Len() == 0) || !strings.Contains(remarks.String(), tt.remark) {
				t.Errorf("remark %q, want %q", remarks.String(), tt.remark)
			}
		})
	}
}
