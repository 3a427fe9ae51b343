package rpc_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestRESTRefusals tells what REST says to what it can't take: its code, reason and shape, and what is recorded of it.
func TestRESTRefusals(t *testing.T) {
	key := "/api/v1/" + keyPath
	large := base64.StdEncoding.EncodeToString(make([]byte, 64<<10+1))
	for name, tt := range map[string]struct {
		method, path, body string
		headers            []string
		code               int
		status, reason     string
		says               string // part of the message
		recorded           string // operation; empty: nothing is recorded
	}{
		"unknown field":            {"POST", key + ":encrypt", `{"plaintext":"YQ==","add":"YQ=="}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "add", "Encrypt"},
		"unknown field in create":  {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"ENCRYPT_DECRYPT","colour":1}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "colour", "CreateKey"},
		"unknown enum":             {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"encrypt"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "encrypt", "CreateKey"},
		"unknown enum number":      {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":99}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "purpose", "CreateKey"},
		"unknown query parameter":  {"GET", key + "?colour=red", "", nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "colour", "GetKey"},
		"bad query value":          {"GET", key + "?min_revision=x", "", nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "GetKey"},
		"lower-case query enum":    {"GET", key + "/activityLogs?outcomes=ok", "", nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "GetKeyActivityLogs"},
		"malformed JSON":           {"POST", key + ":encrypt", `{"plaintext":`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "Encrypt"},
		"trailing garbage":         {"POST", key + ":encrypt", `{} x`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "Encrypt"},
		"duplicate field":          {"POST", key + ":encrypt", `{"aad":"YQ==","aad":"Yg=="}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "duplicate", "Encrypt"},
		"bad base64":               {"POST", key + ":encrypt", `{"plaintext":"*"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "Encrypt"},
		"null body":                {"POST", key + ":encrypt", `null`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "Encrypt"},
		"array body":               {"POST", key + ":encrypt", `[]`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "Encrypt"},
		"both of a oneof":          {"POST", key + ":generateDataKey", `{"bits":128,"number_of_bytes":16}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "GenerateDataKey"},
		"body on DELETE":           {"DELETE", key, `{}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "DeleteKey"},
		"body on GET":              {"GET", key, `{}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "", "GetKey"},
		"64 KiB and one byte":      {"POST", key + ":encrypt", `{"plaintext":"` + large + `"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "plaintext must be at most 65536 bytes", "Encrypt"},
		"bad id":                   {"POST", "/api/v1/" + ringPath + "/keys?key_id=a.b", `{"purpose":"ENCRYPT_DECRYPT"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "key_id must be 1 to 63 letters", "CreateKey"},
		"bad name in the path":     {"GET", "/api/v1/projects/p.q/locations/local/keyRings/r/keys/k", "", nil, 400, "INVALID_ARGUMENT", "BAD_NAME", "name must be projects/", "GetKey"},
		"other location":           {"GET", strings.Replace(key, "/local/", "/mars/", 1), "", nil, 400, "INVALID_ARGUMENT", "WRONG_LOCATION", "this server serves local", "GetKey"},
		"feature to come":          {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"ENCRYPT_DECRYPT","convergent":true}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "key.convergent", "CreateKey"},
		"rotation time at birth":   {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"ENCRYPT_DECRYPT","next_rotation_time":"2100-01-01T00:00:00Z"}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "UpdateKey", "CreateKey"},
		"period of 731 days":       {"POST", key + ":updateRotationPeriod", `{"rotation_period":"63158400s"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "rotation_period must be whole days", "UpdateRotationPeriod"},
		"period of 0 days":         {"POST", key + ":enableAutoRotation", `{"rotation_period":"0s"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "rotation_period must be whole days", "EnableAutoRotation"},
		"period of 1.5 days":       {"POST", key + ":updateRotationPeriod", `{"rotation_period":"129600s"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "rotation_period must be whole days", "UpdateRotationPeriod"},
		"version's wait of 1 h":    {"POST", key + "/versions/1:scheduleDestruction", `{"wait":"3600s"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "wait must be 24 hours to 120 days", "ScheduleKeyVersionDestruction"},
		"expiry of long ago":       {"PATCH", key + "?update_mask=expire_time", `{"expireTime":"0001-01-01T00:00:00Z"}`, nil, 400, "INVALID_ARGUMENT", "BAD_FIELD", "expire_time must be a time", "UpdateKey"},
		"purpose to come":          {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"WRAP"}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "WRAP", "CreateKey"},
		"algorithm to come":        {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"ENCRYPT_DECRYPT","algorithm":"ED25519"}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "ED25519", "CreateKey"},
		"software level":           {"POST", "/api/v1/" + ringPath + "/keys?key_id=a", `{"purpose":"ENCRYPT_DECRYPT","protection_level":"SOFTWARE"}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "SOFTWARE", "CreateKey"},
		"mask beyond":              {"PATCH", key + "?update_mask=state", `{"memo":"x"}`, nil, 400, "INVALID_ARGUMENT", "UNSUPPORTED", "display_name, expire_time, labels, managed_by, max_uses_per_version, memo, next_rotation_time", "UpdateKey"},
		"compressed":               {"POST", key + ":encrypt", "x", []string{"Content-Encoding", "gzip"}, 415, "INVALID_ARGUMENT", "UNSUPPORTED", "compressed", "Encrypt"},
		"other content type":       {"POST", key + ":encrypt", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "INVALID_ARGUMENT", "UNSUPPORTED", "application/json", "Encrypt"},
		"protobuf over REST":       {"POST", key + ":encrypt", "\x0a\x01a", []string{"Content-Type", "application/proto"}, 415, "INVALID_ARGUMENT", "UNSUPPORTED", "application/json", "Encrypt"},
		"too large":                {"POST", key + ":encrypt", `{"aad":"` + strings.Repeat("A", 256<<10) + `"}`, nil, 413, "INVALID_ARGUMENT", "TOO_LARGE", "262144", "Encrypt"},
		"too large a batch":        {"POST", key + ":batchEncrypt", strings.Repeat(" ", 4<<20+1), nil, 413, "INVALID_ARGUMENT", "TOO_LARGE", "4194304", "BatchEncrypt"},
		"no such path":             {"GET", "/api/v1/nothing", "", nil, 404, "NOT_FOUND", "NOT_FOUND", "path", ""},
		"no such verb":             {"POST", key + ":explode", "{}", nil, 404, "NOT_FOUND", "NOT_FOUND", "path", ""},
		"no such API":              {"GET", "/api/v2/keys", "", nil, 404, "NOT_FOUND", "NOT_FOUND", "path", ""},
		"wrong HTTP method":        {"PUT", key, "{}", nil, 405, "INVALID_ARGUMENT", "UNSUPPORTED", "Allow", ""},
		"an id with a slash":       {"GET", "/api/v1/" + ringPath + "/keys/a%2Fb", "", nil, 404, "NOT_FOUND", "NOT_FOUND", "path", ""},
		"an RPC's headers on REST": {"POST", key + ":encrypt", "{}", []string{"Connect-Protocol-Version", "1"}, 404, "NOT_FOUND", "NOT_FOUND", "path", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			a := s.send(t, tt.method, tt.path, tt.body, tt.headers...)
			status, reason, message := a.rest(t)
			if a.status != tt.code || status != tt.status || reason != tt.reason || !strings.Contains(message, tt.says) {
				t.Errorf("answer = %d %s %s %q, want %d %s %s with %q", a.status, status, reason, message, tt.code, tt.status, tt.reason, tt.says)
			}
			if len(s.callers) != 0 {
				t.Error("a command was called")
			}
			recorded := s.recorded()
			switch {
			case tt.recorded == "" && len(recorded) > 0:
				t.Errorf("recorded %+v, want nothing", recorded)
			case tt.recorded != "" && (len(recorded) != 1 || recorded[0].read.Operation != tt.recorded || string(recorded[0].err.Reason) != tt.reason):
				t.Errorf("recorded %+v, want one refusal of %s for %s", recorded, tt.recorded, tt.reason)
			}
			if a.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
				t.Error("the answer does not say which methods are allowed")
			}
		})
	}
}

// TestUndecodableIsRecordedWithoutItsText: a parser's message quotes the request, which may hold a plaintext.
func TestUndecodableIsRecordedWithoutItsText(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/api/v1/" + keyPath + ":encrypt", "/kms.v1.CryptoService/Encrypt"} {
		s.send(t, "POST", path, `{"plaintext":"my secret!"}`)
	}
	recorded := s.recorded()
	if len(recorded) != 2 {
		t.Fatalf("recorded %d refusals, want 2", len(recorded))
	}
	for _, r := range recorded {
		if strings.Contains(r.err.Message, "secret") || r.err.Reason != domain.ReasonBadField {
			t.Errorf("recorded %+v", r.err)
		}
	}
	if got := recorded[0].read.Ref.String(); got != keyPath {
		t.Errorf("the record names %q, want the key of the path", got)
	}
	if strings.Contains(s.log.String(), "secret") {
		t.Error("the server's log has the request's text")
	}
}

func TestRESTBodyOfUnknownLength(t *testing.T) {
	s := serve(t)
	body := `{"aad":"` + strings.Repeat("A", 300<<10) + `"}`
	a := s.sendReader(t, "POST", "/api/v1/"+keyPath+":encrypt", io.MultiReader(strings.NewReader(body)))
	if status, reason, _ := a.rest(t); a.status != 413 || status != "INVALID_ARGUMENT" || reason != "TOO_LARGE" {
		t.Errorf("answer = %d %s", a.status, a.body)
	}
	small := io.MultiReader(strings.NewReader(`{"plaintext":"YQ=="}`))
	if a := s.sendReader(t, "POST", "/api/v1/"+keyPath+":encrypt", small); a.status != 200 {
		t.Errorf("a small one: %d %s", a.status, a.body)
	}
}

// gzipped is n times 64 MiB of zeros. Members of a gzip stream may follow each other, so one is made and repeated.
func gzipped(t *testing.T, n int) string {
	t.Helper()
	var member bytes.Buffer
	z := gzip.NewWriter(&member)
	zeros := make([]byte, 1<<20)
	for range 64 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Repeat(member.String(), n)
}

// TestGzipBomb: a few megabytes that become gigabytes must cost neither memory nor time, even of callers with a
// credential.
func TestGzipBomb(t *testing.T) {
	small, large := gzipped(t, 4), gzipped(t, 62) // 256 KiB and 4 MiB
	s := serve(t)
	s.send(t, "GET", "/api/v1/serverInfo", "") // what the first request costs
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for path, tt := range map[string]struct {
		body     string
		statuses []int
	}{
		"/api/v1/" + keyPath + ":encrypt":    {small, []int{415}},
		"/kms.v1.CryptoService/Encrypt":      {small, []int{400, 429}},
		"/kms.v1.CryptoService/BatchEncrypt": {large, []int{400, 429}},
		"/grpc.health.v1.Health/Check":       {large, []int{501}},
	} {
		a := s.send(t, "POST", path, tt.body, "Content-Encoding", "gzip")
		if !slices.Contains(tt.statuses, a.status) || a.header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %v %s", path, a.status, a.header, a.body)
		}
		if strings.Contains(a.body, "\"message size") {
			t.Errorf("%s was decompressed to its end to tell its size: %s", path, a.body)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
		t.Errorf("they cost %d MB of memory", used>>20)
	}
}

// TestCompressedRequests: what is within the limit is taken over the RPC protocols.
func TestCompressedRequests(t *testing.T) {
	s := serve(t)
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			client := s.crypto(t, append(slices.Clip(options), connect.WithSendGzip())...)
			res, err := client.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath, Plaintext: make([]byte, 65536)})
			if err != nil || len(res.GetCiphertext()) != 65540 {
				t.Error(err)
			}
			_, err = client.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath, Plaintext: make([]byte, 300<<10)})
			if connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("too large a message: %v", err)
			}
		})
	}
}

func TestRESTAnswers(t *testing.T) {
	key := "/api/v1/" + keyPath
	for name, tt := range map[string]struct {
		method, path, body string
		want               map[string]any // fields of the answer
	}{
		"verb without a body":     {"POST", key + ":rotate", "", map[string]any{"name": keyPath, "revision": "7", "primary": 1.0}},
		"encrypt":                 {"POST", key + ":encrypt", `{"plaintext":"YQ=="}`, map[string]any{"ciphertext": "ZW5jOmE=", "version": 1.0}},
		"url-safe base64":         {"POST", key + ":encrypt", `{"plaintext":"-_8"}`, map[string]any{"ciphertext": "ZW5jOvv/"}},
		"version's verb":          {"POST", key + "/versions/3:encrypt", `{}`, map[string]any{"ciphertext": "ZW5jOg=="}},
		"decrypt by location":     {"POST", "/api/v1/projects/p/locations/local:decrypt", `{"ciphertext":"ZW5jOmE="}`, map[string]any{"plaintext": "YQ==", "isPrimary": false}},
		"escaped colon":           {"POST", key + "%3Aencrypt", `{}`, map[string]any{"version": 1.0}},
		"path wins over the body": {"POST", key + ":encrypt", `{"name":"projects/p/locations/local/keyRings/r/keys/other"}`, map[string]any{"name": keyPath}},
		"update needs no purpose": {"PATCH", key + "?update_mask=memo", `{"memo":"x"}`, map[string]any{"name": keyPath}},
		"singleton":               {"GET", "/api/v1/serverInfo", "", map[string]any{"version": "v-test", "location": "local"}},
		"delete":                  {"DELETE", key + "?skip_wait=true", "", map[string]any{"name": keyPath}},
		"json names":              {"POST", key + ":generateDataKey", `{"numberOfBytes":3}`, map[string]any{"ciphertext": "AAAA"}},
		"proto names":             {"POST", key + ":generateDataKey", `{"number_of_bytes":3}`, map[string]any{"ciphertext": "AAAA"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			a := s.send(t, tt.method, tt.path, tt.body)
			var got map[string]any
			if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
				t.Fatalf("answer = %d %s", a.status, a.body)
			}
			for field, want := range tt.want {
				if got[field] != want {
					t.Errorf("%s = %v, want %v", field, got[field], want)
				}
			}
			if recorded := s.recorded(); len(recorded) > 0 {
				t.Errorf("recorded %+v", recorded)
			}
		})
	}
}

// TestUpdateTakesOnlyWhatTheMaskNames, whichever way the mask is spelled.
func TestUpdateTakesOnlyWhatTheMaskNames(t *testing.T) {
	s := serve(t)
	for _, mask := range []string{"display_name,labels", "displayName,labels"} {
		s.update = domain.UpdateKey{}
		a := s.send(t, "PATCH", "/api/v1/"+keyPath+"?etag=r7&request_id=0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f&update_mask="+mask, `{"displayName":"new","memo":"not taken"}`)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", mask, a.status, a.body)
		}
		u := s.update
		if u.DisplayName == nil || *u.DisplayName != "new" || u.Memo != nil || u.Labels == nil || len(*u.Labels) != 0 {
			t.Errorf("%s: update = %+v", mask, u)
		}
		if s.mutation.Etag != "r7" || s.mutation.RequestID.String() != "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f" {
			t.Errorf("%s: mutation = %+v", mask, s.mutation)
		}
	}
}

// TestPathsAreCleaned: a path with // or .. is sent elsewhere by the router and never reaches a handler as it is.
func TestPathsAreCleaned(t *testing.T) {
	s := serve(t)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, path := range []string{"/api/v1//" + keyPath, "/api/v1/x/../" + keyPath} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+adminKey)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() //nolint:errcheck // only the status matters
		if resp.StatusCode != http.StatusTemporaryRedirect && resp.StatusCode != http.StatusMovedPermanently {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if len(s.callers) != 0 {
		t.Error("a command was called")
	}
}
