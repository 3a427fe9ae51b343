package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
)

// connectionFlags say where the server is and who is asking.
type connectionFlags struct {
	Addr      string        `env:"KMS_ADDR" default:"http://127.0.0.1:8600" placeholder:"URL" help:"Where the server is (${default}, $$${env})."`
	TokenFile string        `env:"KMS_TOKEN_FILE" placeholder:"FILE" help:"File that holds the credential ($$${env})."`
	CAFile    string        `name:"ca-file" env:"KMS_CA_FILE" placeholder:"FILE" help:"Certificates, in PEM, to trust instead of the system's ($$${env})."`
	Insecure  bool          `env:"KMS_INSECURE" help:"Send the credential unencrypted to another host ($$${env})."`
	Timeout   time.Duration `env:"KMS_TIMEOUT" default:"1m" help:"How long to try one call, with all its repetitions (${default}, $$${env})."`
}

// client has the services of one server.
type client struct {
	kmsv1connect.KeyServiceClient
	kmsv1connect.CryptoServiceClient
	kmsv1connect.ActivityServiceClient
	kmsv1connect.SystemServiceClient
	addr    string
	timeout time.Duration                    // of one call, with its repetitions
	remark  func(format string, args ...any) // tells a person why it takes long
}

// client makes the client that the flags ask for. It doesn't call the server.
func (s *session) client() (*client, error) {
	f := s.connection
	if f.Timeout <= 0 {
		return nil, usage("--timeout must be more than nothing")
	}
	addr, err := f.serverURL()
	if err != nil {
		return nil, err
	}
	token, err := s.credential()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if f.CAFile != "" {
		if transport.TLSClientConfig.RootCAs, err = readCertificates(f.CAFile); err != nil {
			return nil, err
		}
	}
	hc := &http.Client{
		Transport: transport,
		// A server of ours never redirects; following one could take the credential elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	asks := connect.WithInterceptors(asCaller(token))
	return &client{
		KeyServiceClient:      kmsv1connect.NewKeyServiceClient(hc, addr, asks),
		CryptoServiceClient:   kmsv1connect.NewCryptoServiceClient(hc, addr, asks),
		ActivityServiceClient: kmsv1connect.NewActivityServiceClient(hc, addr, asks),
		SystemServiceClient:   kmsv1connect.NewSystemServiceClient(hc, addr, asks),
		addr:                  addr,
		timeout:               f.Timeout,
		remark:                s.remark,
	}, nil
}

// serverURL checks the address, and that the credential is not sent where others could read it.
func (f connectionFlags) serverURL() (string, error) {
	u, err := url.Parse(f.Addr)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", usage("the server's address %q must be like http://127.0.0.1:8600 or https://kms.example.com", f.Addr)
	}
	if u.Scheme == "http" && !f.Insecure && !isLoopback(u.Hostname()) {
		return "", usage("%s is not encrypted, so that others could read the credential on its way: use https, or --insecure if the network is trusted", f.Addr)
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

func isLoopback(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return host == "localhost"
}

// credential reads what the caller proves itself with.
func (s *session) credential() (string, error) {
	token := s.token
	if file := s.connection.TokenFile; file != "" {
		info, err := os.Stat(file)
		if err != nil {
			return "", fmt.Errorf("reading the credential: %w", err)
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			s.remark("kmsctl: others can read the credential in %s: chmod 600 it", file)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("reading the credential: %w", err)
		}
		token = string(b)
	}
	token = strings.TrimSpace(token)
	if token == "" {
		return "", usage("no credential: give its file with --token-file, or set KMS_TOKEN")
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c >= 0x7f {
			return "", usage("the credential has spaces, line breaks or other characters that no credential has")
		}
	}
	return token, nil
}

func readCertificates(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates to trust: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("reading the certificates to trust: %s has no certificate in PEM", file)
	}
	return pool, nil
}

// asCaller makes every call carry the credential. It is that credential.
type asCaller string

func (a asCaller) identify(h http.Header) {
	h.Set("Authorization", "Bearer "+string(a))
	h.Set("User-Agent", "kmsctl/"+clientVersion()) // as the activity log shows it
}

// WrapUnary implements connect.Interceptor.
func (a asCaller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		a.identify(req.Header())
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (a asCaller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		a.identify(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor; there are no handlers here.
func (a asCaller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
