package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/rpc"
)

// shredPatience is how long kms shred waits for a server that does not answer any more, e.g. because it is restarted.
const shredPatience = 2 * time.Minute

// shredLines is how often it shows how far one step is.
const shredLines = 2 * time.Second

type shredCommand struct {
	Data       string `help:"Folder of the server, for its admin access key." default:"./data" env:"KMS_DATA" type:"path"`
	Addr       string `help:"Where the server is." default:"http://127.0.0.1:8600" env:"KMS_ADDR" placeholder:"URL"`
	TokenFile  string `help:"File with the credential. Empty: admin.key in the data folder." env:"KMS_TOKEN_FILE" placeholder:"FILE"`
	CAFile     string `name:"ca-file" help:"Certificates, in PEM, to trust instead of the system's." env:"KMS_CA_FILE" placeholder:"FILE"`
	NoBackupOK bool   `name:"no-backup-ok" help:"Go on without a backup of the newly wrapped keys. It is recorded that this was said."`
}

// Validate refuses to send the credential where others could read it.
func (c shredCommand) Validate() error {
	u, err := url.Parse(c.Addr)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--addr %q must be like http://127.0.0.1:8600 or https://kms.example.com", c.Addr)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return fmt.Errorf("--addr %s is not encrypted, so that others could read the credential on its way; use https", c.Addr)
	}
	return nil
}

// Run asks the running server for a shred and shows how it goes. The server does the work: ending this command does not
// end the shred.
func (c shredCommand) Run(ctx context.Context, stdout io.Writer) error {
	credential, err := c.credential()
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	var shown rpc.ShredReport
	var shownAt time.Time
	var printing error
	err = rpc.RequestShred(ctx, client, c.Addr, credential, c.NoBackupOK, shredPatience, func(r rpc.ShredReport) {
		if r.Step == shown.Step && r.Waiting == shown.Waiting && (r.Done == shown.Done || time.Since(shownAt) < shredLines) {
			return
		}
		_, err := fmt.Fprintln(stdout, shredLine(r))
		printing, shown, shownAt = errors.Join(printing, err), r, time.Now()
	})
	if err != nil && ctx.Err() != nil {
		return errors.New("stopped watching; the server goes on with the shred, and the same command shows how far it is")
	}
	if told, ok := errors.AsType[*connect.Error](err); ok {
		return fmt.Errorf("shredding: %s", told.Message())
	}
	return errors.Join(err, printing)
}

// shredLine tells a person how far the shred is.
func shredLine(r rpc.ShredReport) string {
	text := ""
	switch r.Step {
	case "MAKE_ROOT":
		text = "making a new root in the token"
	case "ADOPT_ROOT":
		text = "all nodes take the new root for new keys"
	case "REWRAP":
		text = "wrapping all living keys under the new root"
		if r.Total > 0 {
			text += fmt.Sprintf(": looked at %d of %d", r.Done, r.Total)
		}
	case "DESTROY_ROOTS":
		text = "all nodes give up the old root, then it is destroyed"
	case "DONE":
		text = fmt.Sprintf("done: %d key versions are under the new root, root %s is destroyed", r.Living, strings.Join(r.OldRoots, ", "))
		if r.Orphans > 0 {
			text += fmt.Sprintf(", and with it %d pieces of material that no event names", r.Orphans)
		}
	default:
		text = r.Step
	}
	if r.Joined && !r.Finished {
		text += " (of a shred that was begun before)"
	}
	if r.Waiting != "" {
		text += "; waiting for " + r.Waiting
	}
	return text
}

func (c shredCommand) credential() (string, error) {
	file := c.TokenFile
	if file == "" {
		file = siteFlags{Data: c.Data}.path(adminKeyFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading the credential: %w; name its file with --token-file, or the server's folder with --data", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (c shredCommand) client() (*http.Client, error) {
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if c.CAFile != "" {
		b, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates to trust: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s has no certificate in PEM", c.CAFile)
		}
	}
	return &http.Client{
		Transport: transport,
		// The server never redirects; following could take the credential elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
