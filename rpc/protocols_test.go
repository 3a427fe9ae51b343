package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
	"github.com/keyledger/kms/rpc"
)

// protocols are the ways of an RPC to this server. gRPC needs HTTP/2, here with prior knowledge.
var protocols = map[string][]connect.ClientOption{
	"connect":      nil,
	"connect json": {connect.WithProtoJSON()},
	"grpc":         {connect.WithGRPC()},
	"grpc json":    {connect.WithGRPC(), connect.WithProtoJSON()},
	"grpc-web":     {connect.WithGRPCWeb()},
}

// bearer adds a credential to every request.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

func h2c(t *testing.T) http.RoundTripper {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func (s *served) crypto(t *testing.T, options ...connect.ClientOption) kmsv1connect.CryptoServiceClient {
	t.Helper()
	return kmsv1connect.NewCryptoServiceClient(&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url, options...)
}

func (s *served) keyClient(t *testing.T, options ...connect.ClientOption) kmsv1connect.KeyServiceClient {
	t.Helper()
	return kmsv1connect.NewKeyServiceClient(&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url, options...)
}

func TestEncryptOverEveryProtocol(t *testing.T) {
	s := serve(t)
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("X-Request-Id", "mine")
			info.RequestHeader().Set("Correlation-Id", strings.Repeat("c", 200))
			info.RequestHeader().Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			res, err := s.crypto(t, options...).Encrypt(ctx, &kmsv1.EncryptRequest{Name: keyPath + "/versions/3", Plaintext: []byte("a"), Aad: []byte("b"), Context: []byte("c")})
			if err != nil {
				t.Fatal(err)
			}
			if string(res.GetCiphertext()) != "enc:a" || res.GetName() != keyPath || res.GetVersion() != 1 {
				t.Errorf("answer = %v", res)
			}
			if got := s.encrypt; got.Ref.Version != 3 || string(got.AAD) != "b" || string(got.Context) != "c" {
				t.Errorf("the command got %+v", got)
			}
			h := info.ResponseHeader()
			id, err := domain.ParseUID(h.Get("Kms-Request-Id"))
			if err != nil || id[6]>>4 != 7 || h.Get("X-Request-Id") != "mine" || h.Get("Correlation-Id") != strings.Repeat("c", 128) {
				t.Errorf("headers = %v", h)
			}
			caller := s.callers[len(s.callers)-1]
			if caller.Principal != "admin" || caller.Kind != domain.KindAdmin || caller.Request != domain.RequestAPI || caller.RequestID != id ||
				!caller.Address.IsLoopback() || caller.ClientRequestID != "mine" || len(caller.CorrelationID) != 128 ||
				caller.TraceID[0] != 0x0a || caller.TraceID[15] != 0x9c || caller.UserAgent == "" {
				t.Errorf("caller = %+v", caller)
			}
		})
	}
}

// TestClientIDsAreMadePrintable: they are echoed in headers and shown on terminals.
func TestClientIDsAreMadePrintable(t *testing.T) {
	s := serve(t)
	a := s.send(t, "GET", "/api/v1/serverInfo", "", "X-Request-Id", "a\tbé", "User-Agent", "\u202etool/1")
	if got := a.header.Get("X-Request-Id"); got != "ab" {
		t.Errorf("x-request-id = %q", got)
	}
	if got := s.callers[0].UserAgent; got != "tool/1" {
		t.Errorf("user agent = %q", got)
	}
}

func TestValidationSaysASentence(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			_, err := s.crypto(t, options...).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: "k", Plaintext: make([]byte, 65537)})
			if connect.CodeOf(err) != connect.CodeInvalidArgument || reasonOf(t, err) != "BAD_NAME" {
				t.Errorf("error = %v", err)
			}
			if text := err.Error(); !strings.Contains(text, "name must be projects/{project}/locations") || !strings.Contains(text, "; plaintext must be at most 65536 bytes") || strings.Contains(text, "[a-z") {
				t.Errorf("text = %q", text)
			}
			bad, ok := detailOf[*errdetails.BadRequest](err)
			if !ok || len(bad.GetFieldViolations()) != 2 || bad.GetFieldViolations()[0].GetField() != "name" {
				t.Errorf("details = %v", bad)
			}
			if recorded := s.recorded(); len(recorded) != 1 || recorded[0].read.Operation != "Encrypt" || recorded[0].err.Reason != domain.ReasonBadName {
				t.Errorf("recorded %+v", recorded)
			}
		})
	}
}

func TestStateErrorCarriesItsViolation(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.fail = &domain.Error{Reason: domain.ReasonKeyDisabled, Message: "key is DISABLED; enable it first"}
			_, err := s.crypto(t, options...).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath})
			if connect.CodeOf(err) != connect.CodeFailedPrecondition || reasonOf(t, err) != "KEY_DISABLED" {
				t.Fatalf("error = %v", err)
			}
			failure, ok := detailOf[*errdetails.PreconditionFailure](err)
			if !ok {
				t.Fatal("no violation")
			}
			if v := failure.GetViolations()[0]; v.GetSubject() != keyPath || v.GetType() != "KEY_DISABLED" || !strings.Contains(v.GetDescription(), "enable it") {
				t.Errorf("violation = %v", v)
			}
			if len(s.recorded()) != 0 {
				t.Error("a refusal of a command was recorded once more")
			}
		})
	}
}

func TestUnavailableSaysWhenToRetry(t *testing.T) {
	s := serve(t)
	s.fail = errors.Join(&domain.Error{Reason: domain.ReasonNotRecorded, Message: "no durable record"}, errors.New("stream offline"))
	_, err := s.crypto(t).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath})
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Fatalf("error = %v", err)
	}
	if retry, ok := detailOf[*errdetails.RetryInfo](err); !ok || retry.GetRetryDelay().AsDuration() != time.Second {
		t.Errorf("retry = %v", retry)
	}
	if strings.Contains(err.Error(), "offline") {
		t.Error("the caller was told the cause")
	}
	if !strings.Contains(s.log.String(), "stream offline") {
		t.Error("the cause is not in the log")
	}
	a := s.send(t, "POST", "/api/v1/"+keyPath+":encrypt", "{}")
	if status, reason, _ := a.rest(t); a.status != 503 || status != "UNAVAILABLE" || reason != "NOT_RECORDED" || a.header.Get("Retry-After") != "1" {
		t.Errorf("REST: %d %v %s", a.status, a.header, a.body)
	}
}

// TestUnknownErrorsStayInside: their text may hold anything.
func TestUnknownErrorsStayInside(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.fail = errors.New("PIN 1234 is wrong")
			ctx, info := connect.NewClientContext(t.Context())
			_, err := s.crypto(t, options...).Encrypt(ctx, &kmsv1.EncryptRequest{Name: keyPath})
			if connect.CodeOf(err) != connect.CodeInternal || reasonOf(t, err) != "INTERNAL" || strings.Contains(err.Error(), "1234") {
				t.Errorf("error = %v", err)
			}
			id := info.ResponseHeader().Get("Kms-Request-Id")
			if id == "" {
				id = info.ResponseTrailer().Get("Kms-Request-Id")
			}
			if log := s.log.String(); !strings.Contains(log, "PIN 1234 is wrong") || id == "" || !strings.Contains(log, id) {
				t.Errorf("log = %s, want the cause and request id %q", log, id)
			}
		})
	}
}

func TestPanicsAreInternalErrors(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.panics = true
			_, err := s.keyClient(t, options...).RotateKey(t.Context(), &kmsv1.RotateKeyRequest{Name: keyPath})
			if connect.CodeOf(err) != connect.CodeInternal || reasonOf(t, err) != "INTERNAL" || strings.Contains(err.Error(), "42") {
				t.Errorf("error = %v", err)
			}
			if log := s.log.String(); !strings.Contains(log, "boom") || !strings.Contains(log, "RotateKey") {
				t.Errorf("log = %s", log)
			}
			if recorded := s.recorded(); len(recorded) != 1 || recorded[0].err.Reason != domain.ReasonInternal {
				t.Errorf("recorded %+v", recorded)
			}
		})
	}
	t.Run("rest", func(t *testing.T) {
		s := serve(t)
		s.panics = true
		a := s.send(t, "POST", "/api/v1/"+keyPath+":rotate", "")
		if status, reason, _ := a.rest(t); a.status != 500 || status != "INTERNAL" || reason != "INTERNAL" || strings.Contains(a.body, "42") {
			t.Errorf("answer = %d %s", a.status, a.body)
		}
		s.panics = false
		if a := s.send(t, "POST", "/api/v1/"+keyPath+":rotate", ""); a.status != 200 {
			t.Errorf("the next request: %d %s", a.status, a.body)
		}
	})
}

func TestTimeIsBounded(t *testing.T) {
	s := serve(t, func(c *rpc.Config) { c.Timeout = 50 * time.Millisecond })
	s.wait = true
	started := time.Now()
	a := s.send(t, "POST", "/api/v1/"+keyPath+":encrypt", "{}")
	if status, reason, _ := a.rest(t); a.status != 504 || status != "DEADLINE_EXCEEDED" || reason != "DEADLINE_EXCEEDED" {
		t.Errorf("REST: %d %s", a.status, a.body)
	}
	_, err := s.crypto(t).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded || reasonOf(t, err) != "DEADLINE_EXCEEDED" {
		t.Errorf("Connect: %v", err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestCallersDeadlineCounts(t *testing.T) {
	s := serve(t)
	s.wait = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.crypto(t, connect.WithGRPC()).Encrypt(ctx, &kmsv1.EncryptRequest{Name: keyPath})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("error = %v", err)
	}
}

func TestConnectRefusals(t *testing.T) {
	const encrypt = "/kms.v1.CryptoService/Encrypt"
	for name, tt := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		says               string
		recorded           string
	}{
		"unknown field":          {"POST", encrypt, `{"name":"` + keyPath + `","add":"YQ=="}`, nil, 400, "add", "Encrypt"},
		"unknown field, charset": {"POST", encrypt, `{"add":"YQ=="}`, []string{"Content-Type", "application/json; charset=utf-8"}, 400, "add", "Encrypt"},
		"malformed":              {"POST", encrypt, `{`, nil, 400, "invalid_argument", "Encrypt"},
		"empty body":             {"POST", encrypt, "", []string{"Content-Type", "application/json"}, 400, "empty", "Encrypt"},
		"bad base64":             {"POST", encrypt, `{"plaintext":"*"}`, nil, 400, "invalid_argument", "Encrypt"},
		"bad timeout":            {"POST", encrypt, `{}`, []string{"Connect-Timeout-Ms", "soon"}, 400, "invalid_argument", "Encrypt"},
		"wrong protobuf":         {"POST", encrypt, "\xff\xff", []string{"Content-Type", "application/proto"}, 400, "invalid_argument", "Encrypt"},
		"too large":              {"POST", encrypt, strings.Repeat(" ", 256<<10+1), nil, 400, "larger than 262144", "Encrypt"},
		"content type":           {"POST", encrypt, "a=b", []string{"Content-Type", "text/plain"}, 415, "", "Encrypt"},
		"compression":            {"POST", encrypt, "x", []string{"Content-Encoding", "br"}, 501, "unimplemented", "Encrypt"},
		"GET":                    {"GET", encrypt + "?connect=v1&encoding=json&message=%7B%7D", "", nil, 405, "", "Encrypt"},
		"unknown method":         {"POST", "/kms.v1.CryptoService/Explode", "{}", nil, 501, "no method", ""},
		"unknown service":        {"POST", "/kms.v1.AccessService/GetPolicy", "{}", nil, 501, "no method", ""},
		"no path":                {"GET", "/", "", nil, 404, "NOT_FOUND", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			a := s.send(t, tt.method, tt.path, tt.body, tt.headers...)
			if a.status != tt.status || !strings.Contains(a.body, tt.says) {
				t.Errorf("answer = %d %s", a.status, a.body)
			}
			switch recorded := s.recorded(); {
			case tt.recorded == "" && len(recorded) > 0, tt.recorded != "" && (len(recorded) != 1 || recorded[0].read.Operation != tt.recorded):
				t.Errorf("recorded %+v, want %q", recorded, tt.recorded)
			}
			if len(s.callers) > 0 {
				t.Error("a command was called")
			}
		})
	}
}

func TestBodyOfUnknownLengthOverConnect(t *testing.T) {
	s := serve(t)
	large := io.MultiReader(strings.NewReader(strings.Repeat(" ", 256<<10+1)))
	if a := s.sendReader(t, "POST", "/kms.v1.CryptoService/Encrypt", large); a.status != 400 || !strings.Contains(a.body, "larger than 262144") {
		t.Errorf("answer = %d %s", a.status, a.body)
	}
	if recorded := s.recorded(); len(recorded) != 1 || recorded[0].err.Reason != domain.ReasonTooLarge {
		t.Errorf("recorded %+v", recorded)
	}
	small := io.MultiReader(strings.NewReader(`{"name":"` + keyPath + `"}`))
	if a := s.sendReader(t, "POST", "/kms.v1.CryptoService/Encrypt", small); a.status != 200 {
		t.Errorf("a small one: %d %s", a.status, a.body)
	}
}

func TestUnknownMethodsAreUnimplemented(t *testing.T) {
	s := serve(t)
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/kms.v1.AccessService/GetPolicy", "/kms.v1.KeyService/Explode"} {
				client := connect.NewClient[kmsv1.GetKeyRequest, kmsv1.Key](&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url+path, options...)
				_, err := client.CallUnary(t.Context(), connect.NewRequest(&kmsv1.GetKeyRequest{}))
				if connect.CodeOf(err) != connect.CodeUnimplemented || reasonOf(t, err) != "UNIMPLEMENTED" {
					t.Errorf("%s: %v", path, err)
				}
			}
		})
	}
}

// TestRefusalThatCanNotBeRecorded: no answer without a record, refusals included.
func TestRefusalThatCanNotBeRecorded(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.unable = true
			_, err := s.crypto(t, options...).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: "k"})
			if connect.CodeOf(err) != connect.CodeUnavailable || reasonOf(t, err) != "NOT_RECORDED" {
				t.Errorf("error = %v", err)
			}
		})
	}
	t.Run("rest", func(t *testing.T) {
		s := serve(t)
		s.unable = true
		a := s.send(t, "POST", "/api/v1/"+keyPath+":encrypt", `{"add":""}`)
		if _, reason, _ := a.rest(t); a.status != 503 || reason != "NOT_RECORDED" {
			t.Errorf("answer = %d %s", a.status, a.body)
		}
	})
}

func TestBatchesJudgeEachItem(t *testing.T) {
	s := serve(t)
	items := []*kmsv1.BatchEncryptRequest_Item{{Plaintext: []byte("a")}, {Plaintext: make([]byte, 65537)}, {Plaintext: []byte("c")}}
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			res, err := s.crypto(t, options...).BatchEncrypt(t.Context(), &kmsv1.BatchEncryptRequest{Name: keyPath, Items: items})
			if err != nil {
				t.Fatal(err)
			}
			bad := res.GetOutcomes()[1].GetError()
			if len(res.GetOutcomes()) != 3 || res.GetOutcomes()[0].GetOk() == nil || res.GetOutcomes()[2].GetOk() == nil ||
				bad.GetCode() != code.Code_INVALID_ARGUMENT || bad.GetReason() != "BAD_FIELD" || !strings.Contains(bad.GetMessage(), "plaintext must be at most") {
				t.Errorf("outcomes = %v", res.GetOutcomes())
			}
		})
	}
	res, err := s.crypto(t).BatchDecrypt(t.Context(), &kmsv1.BatchDecryptRequest{Parent: "projects/p/locations/local", Items: []*kmsv1.BatchDecryptRequest_Item{
		{Ciphertext: []byte("a")}, {Ciphertext: nil}, {Ciphertext: []byte("b"), Name: "projects/p/locations/mars/keyRings/r/keys/k"}, {Ciphertext: []byte("c"), Name: "projects/q/locations/local/keyRings/r/keys/k"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, o := range res.GetOutcomes() {
		reasons = append(reasons, o.GetError().GetReason())
	}
	if got := strings.Join(reasons, ","); got != ",BAD_FIELD,WRONG_LOCATION,BAD_FIELD" {
		t.Errorf("reasons = %s", got)
	}
	if len(s.recorded()) != 0 {
		t.Error("items' refusals are recorded with their batch, not apart")
	}
}

// TestLargestBatchFits: 500 items are within the limit of bodies, and more than a single request may have.
func TestLargestBatchFits(t *testing.T) {
	s := serve(t)
	req := &kmsv1.BatchEncryptRequest{Name: keyPath}
	for range 500 {
		req.Items = append(req.Items, &kmsv1.BatchEncryptRequest_Item{Plaintext: make([]byte, 4<<10)})
	}
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			res, err := s.crypto(t, options...).BatchEncrypt(t.Context(), req)
			if err != nil || len(res.GetOutcomes()) != 500 {
				t.Errorf("%d outcomes, %v", len(res.GetOutcomes()), err)
			}
		})
	}
}

func TestTooLargeAMessage(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			_, err := s.crypto(t, options...).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath, Plaintext: make([]byte, 300<<10)})
			if c := connect.CodeOf(err); c != connect.CodeInvalidArgument && c != connect.CodeResourceExhausted {
				t.Errorf("error = %v", err)
			}
			if len(s.callers) > 0 || len(s.recorded()) != 1 {
				t.Errorf("called %d, recorded %d", len(s.callers), len(s.recorded()))
			}
		})
	}
}

// TestPlaintextsAreNotCompressed: the size of a compressed answer would tell about them.
func TestPlaintextsAreNotCompressed(t *testing.T) {
	s := serve(t)
	body := `{"name":"` + keyPath + `","plaintext":"` + strings.Repeat("AAAA", 10<<10) + `"}`
	a := s.send(t, "POST", "/kms.v1.CryptoService/Encrypt", body, "Accept-Encoding", "gzip")
	if a.status != 200 || a.header.Get("Content-Encoding") != "" {
		t.Errorf("answer = %d %v", a.status, a.header)
	}
}

func TestCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		headers []string // values of Authorization
		status  int
		code    connect.Code
		reason  string
	}{
		"none":           {nil, 401, connect.CodeUnauthenticated, "MISSING_CREDENTIAL"},
		"wrong":          {[]string{"Bearer x" + adminKey}, 401, connect.CodeUnauthenticated, "BAD_CREDENTIAL"},
		"empty":          {[]string{"Bearer "}, 401, connect.CodeUnauthenticated, "BAD_CREDENTIAL"},
		"basic":          {[]string{"Basic YTpi"}, 401, connect.CodeUnauthenticated, "BAD_CREDENTIAL"},
		"two":            {[]string{"Bearer " + adminKey, "Bearer " + adminKey}, 400, connect.CodeInvalidArgument, "TWO_CREDENTIALS"},
		"two in one":     {[]string{"Bearer " + adminKey + ", Bearer x"}, 400, connect.CodeInvalidArgument, "TWO_CREDENTIALS"},
		"lower case":     {[]string{"bearer " + adminKey}, 200, 0, ""},
		"the right one":  {[]string{"Bearer " + adminKey}, 200, 0, ""},
		"key as a query": {nil, 401, connect.CodeUnauthenticated, "MISSING_CREDENTIAL"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			for _, path := range []string{"/api/v1/" + keyPath + ":encrypt?access_token=" + adminKey, "/kms.v1.CryptoService/Encrypt"} {
				if tt.status == 200 {
					path, _, _ = strings.Cut(path, "?")
				}
				body := `{"name":"` + keyPath + `"}`
				if tt.status != 200 {
					body = "{not even JSON" // a stranger's message is not looked at
				}
				r, err := http.NewRequestWithContext(t.Context(), "POST", s.url+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header["Authorization"] = tt.headers
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				resp.Body.Close() //nolint:errcheck // read to its end
				if err != nil || resp.StatusCode != tt.status {
					t.Errorf("%s: %d %s %v", path, resp.StatusCode, text, err)
				}
				if tt.status == 401 && resp.Header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s: headers = %v", path, resp.Header)
				}
				if strings.HasPrefix(path, "/api") && tt.status != 200 {
					if _, reason, _ := (answer{resp.StatusCode, resp.Header, string(text)}).rest(t); reason != tt.reason {
						t.Errorf("%s: reason = %s", path, reason)
					}
				}
			}
			if len(s.recorded()) != 0 {
				t.Error("a stranger's attempt was recorded by itself")
			}
		})
	}
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			client := kmsv1connect.NewCryptoServiceClient(&http.Client{Transport: bearer{"", h2c(t)}}, s.url, options...)
			_, err := client.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: "bad name"})
			if connect.CodeOf(err) != connect.CodeUnauthenticated || reasonOf(t, err) != "MISSING_CREDENTIAL" {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// TestTLS: HTTP/2 is spoken over TLS too.
func TestTLS(t *testing.T) {
	s := serve(t)
	cert := selfSigned(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewHTTPServer("", s.handler, &tls.Config{Certificates: []tls.Certificate{cert.tls}, MinVersion: tls.VersionTLS12}, s.logger())
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cert.pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := kmsv1connect.NewCryptoServiceClient(&http.Client{Transport: bearer{adminKey, transport}}, "https://"+listener.Addr().String(), connect.WithGRPC())
	if _, err := client.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath}); err != nil {
		t.Error(err)
	}
}
