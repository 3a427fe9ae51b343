package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
)

// faultyServer answers as it is told to, which a sound server can't be made to do.
type faultyServer struct {
	kmsv1connect.UnimplementedKeyServiceHandler

	answer func(call int) (*kmsv1.Key, error)

	mu       sync.Mutex
	requests []*kmsv1.RotateKeyRequest
	times    []time.Time
	headers  []http.Header
}

func (f *faultyServer) RotateKey(ctx context.Context, req *kmsv1.RotateKeyRequest) (*kmsv1.Key, error) {
	f.mu.Lock()
	f.requests, f.times = append(f.requests, req), append(f.times, time.Now())
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		f.headers = append(f.headers, info.RequestHeader())
	}
	n := len(f.requests)
	f.mu.Unlock()
	return f.answer(n)
}

// newFaultyServer returns the server, and a client of it.
func newFaultyServer(t *testing.T, timeout time.Duration, answer func(call int) (*kmsv1.Key, error)) (*faultyServer, *client) {
	t.Helper()
	f := &faultyServer{answer: answer}
	_, handler := kmsv1connect.NewKeyServiceHandler(f)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return f, testClient(t, connectionFlags{Addr: server.URL, Timeout: timeout})
}

func testClient(t *testing.T, f connectionFlags) *client {
	t.Helper()
	cl, err := (&session{streams: streams{err: t.Output()}, connection: f, token: "secret-token"}).client()
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func rotate(ctx context.Context, cl *client) (*kmsv1.Key, error) {
	return call(ctx, cl, cl.RotateKey, &kmsv1.RotateKeyRequest{Name: "n", RequestId: changeFlags{}.id()})
}

// refusal is an error as the server makes them.
func refusal(t *testing.T, code connect.Code, message string, details ...proto.Message) error {
	t.Helper()
	err := connect.NewError(code, errors.New(message))
	for _, m := range details {
		d, detailErr := connect.NewErrorDetail(m)
		if detailErr != nil {
			t.Fatal(detailErr)
		}
		err.AddDetail(d)
	}
	err.Meta().Set("Kms-Request-Id", "0190-req")
	return err
}

func TestRepeatsTheSameRequest(t *testing.T) {
	server, cl := newFaultyServer(t, time.Minute, func(n int) (*kmsv1.Key, error) {
		switch n {
		case 1:
			return nil, refusal(t, connect.CodeUnavailable, "not now")
		case 2:
			panic(http.ErrAbortHandler) // done, but the answer is lost
		}
		return &kmsv1.Key{Primary: 2}, nil
	})
	key, err := rotate(t.Context(), cl)
	if err != nil || key.GetPrimary() != 2 {
		t.Fatalf("rotate = %v, %v", key, err)
	}
	if len(server.requests) != 3 {
		t.Fatalf("%d calls, want 3", len(server.requests))
	}
	for _, r := range server.requests {
		if !proto.Equal(r, server.requests[0]) || len(r.GetRequestId()) != 36 {
			t.Errorf("requests %v, want the same each time, with a UUID", server.requests)
		}
	}
	for _, h := range server.headers {
		if got := h.Values("Authorization"); !slices.Equal(got, []string{"Bearer secret-token"}) {
			t.Errorf("Authorization = %q, want it once", got)
		}
		if got := h.Get("User-Agent"); !strings.HasPrefix(got, "kmsctl/") {
			t.Errorf("User-Agent = %q", got)
		}
	}
	if _, err := rotate(t.Context(), cl); err != nil {
		t.Fatal(err)
	}
	if a, b := server.requests[0].GetRequestId(), server.requests[3].GetRequestId(); a == b {
		t.Error("two changes have the same request id")
	}
}

func TestWaitsAsTold(t *testing.T) {
	const delay = 700 * time.Millisecond
	server, cl := newFaultyServer(t, time.Minute, func(n int) (*kmsv1.Key, error) {
		if n == 1 {
			return nil, refusal(t, connect.CodeResourceExhausted, "slowly", &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
		}
		return &kmsv1.Key{}, nil
	})
	if _, err := rotate(t.Context(), cl); err != nil {
		t.Fatal(err)
	}
	if waited := server.times[1].Sub(server.times[0]); waited < delay {
		t.Errorf("called again after %s, was told %s", waited, delay)
	}
}

func TestRepeatsNoDecision(t *testing.T) {
	for _, code := range []connect.Code{
		connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodePermissionDenied,
		connect.CodeUnauthenticated, connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeInternal,
		connect.CodeUnimplemented, connect.CodeResourceExhausted, // without RetryInfo
	} {
		server, cl := newFaultyServer(t, time.Minute, func(int) (*kmsv1.Key, error) { return nil, refusal(t, code, "no") })
		if _, err := rotate(t.Context(), cl); connect.CodeOf(err) != code || retryHint(err) != "" {
			t.Errorf("%s: error = %v, hint %q", code, err, retryHint(err))
		}
		if len(server.requests) != 1 {
			t.Errorf("%s: %d calls, want 1", code, len(server.requests))
		}
	}
}

func TestGivesUp(t *testing.T) {
	server, cl := newFaultyServer(t, time.Minute, func(int) (*kmsv1.Key, error) {
		return nil, refusal(t, connect.CodeUnavailable, "the token is away", &errdetails.ErrorInfo{Reason: "TOKEN_UNAVAILABLE"})
	})
	_, err := rotate(t.Context(), cl)
	if len(server.requests) != maxAttempts {
		t.Errorf("%d calls, want %d", len(server.requests), maxAttempts)
	}
	want := "the token is away (TOKEN_UNAVAILABLE, request 0190-req); the change may have been made all the same: " +
		"the same command with --request-id " + server.requests[0].GetRequestId() + " tells, and makes it at most once"
	if got := describe(err); got != want {
		t.Errorf("error is told as\n%s\nwant\n%s", got, want)
	}
}

// TestGivesUpInTime: a server that wants to be asked much later is not waited for.
func TestGivesUpInTime(t *testing.T) {
	server, cl := newFaultyServer(t, time.Second, func(int) (*kmsv1.Key, error) {
		return nil, refusal(t, connect.CodeUnavailable, "later", &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Hour)})
	})
	start := time.Now()
	if _, err := rotate(t.Context(), cl); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("error = %v", err)
	}
	if d := time.Since(start); d > 10*time.Second || len(server.requests) != 1 {
		t.Errorf("%d calls in %s, want one and no wait", len(server.requests), d)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, cl := newFaultyServer(t, time.Minute, func(int) (*kmsv1.Key, error) {
		cancel()
		return nil, refusal(t, connect.CodeUnavailable, "not now")
	})
	_, err := rotate(ctx, cl)
	if !strings.Contains(retryHint(err), "--request-id") {
		t.Errorf("error %v has no hint how to find out what came of the change", err)
	}
}

func TestServerAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = rotate(t.Context(), testClient(t, connectionFlags{Addr: addr, Timeout: time.Minute}))
	text := describe(err)
	if !strings.HasPrefix(text, "reaching "+addr+": ") || !strings.HasSuffix(text, "connection refused; --addr or KMS_ADDR says where the server is") {
		t.Errorf("error is told as %q", text)
	}
}

// TestNoRedirect: the credential goes nowhere else.
func TestNoRedirect(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(other.Close)
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	if _, err := rotate(t.Context(), testClient(t, connectionFlags{Addr: server.URL, Timeout: time.Minute})); err == nil || asked {
		t.Errorf("error = %v, other server asked = %t", err, asked)
	}
}

func TestTLS(t *testing.T) {
	f := &faultyServer{answer: func(int) (*kmsv1.Key, error) { return &kmsv1.Key{}, nil }}
	_, handler := kmsv1connect.NewKeyServiceHandler(f)
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	start := time.Now()
	if _, err := rotate(t.Context(), testClient(t, connectionFlags{Addr: server.URL, Timeout: time.Minute})); err == nil || retryHint(err) != "" {
		t.Errorf("unknown certificate: error = %v, want a refusal and no repetition", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("an unknown certificate was refused after %s", d)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, pemOf(server.Certificate()), 0o600)
	if _, err := rotate(t.Context(), testClient(t, connectionFlags{Addr: server.URL, CAFile: ca, Timeout: time.Minute})); err != nil {
		t.Errorf("trusted certificate: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"plain":        {errors.New("plain"), "plain"},
		"escape codes": {errors.New("\x1b[2Jgone"), `\x1b[2Jgone`},
	} {
		if got := describe(tt.err); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
