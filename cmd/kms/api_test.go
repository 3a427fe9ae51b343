package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestAPI runs the main job over every protocol, and every kind of bad input, against one real server.
func TestAPI(t *testing.T) {
	p := launch(t, t.TempDir())
	t.Run("gRPC", func(t *testing.T) { mainJob(t, p.clients(connect.WithGRPC()), "grpc") })
	t.Run("gRPC-Web", func(t *testing.T) { mainJob(t, p.clients(connect.WithGRPCWeb()), "grpcweb") })
	t.Run("Connect JSON", func(t *testing.T) { mainJob(t, p.clients(connect.WithProtoJSON()), "json") })
	t.Run("REST", func(t *testing.T) { restJob(t, p) })
	t.Run("gRPC by reflection", func(t *testing.T) { reflectionJob(t, p) })
	t.Run("bad input", func(t *testing.T) { badInput(t, p) })
	t.Run("batch of 500", func(t *testing.T) { batchOf500(t, p) })
	p.terminate()
}

// mainJob creates a key, encrypts, decrypts, rotates, decrypts the old ciphertext, is refused twice, and reads all of it
// in the activity log.
func mainJob(t *testing.T, c clients, id string) {
	t.Helper()
	ctx := t.Context()
	key, err := c.keys.CreateKey(ctx, &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
	if err != nil {
		t.Fatal(err)
	}
	old, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: key.GetName(), Plaintext: []byte("secret"), Aad: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	if key, err = c.keys.RotateKey(ctx, &kmsv1.RotateKeyRequest{Name: key.GetName()}); err != nil || key.GetPrimary() != 2 {
		t.Fatalf("rotated to version %d: %v", key.GetPrimary(), err)
	}
	opened, err := c.crypto.Decrypt(ctx, &kmsv1.DecryptRequest{Ciphertext: old.GetCiphertext(), Name: key.GetName(), Aad: []byte("a")})
	if err != nil || string(opened.GetPlaintext()) != "secret" || opened.GetVersion() != 1 || opened.GetIsPrimary() {
		t.Fatalf("decrypted %v, %v", opened, err)
	}
	_, err = c.crypto.Decrypt(ctx, &kmsv1.DecryptRequest{Ciphertext: old.GetCiphertext(), Name: key.GetName(), Aad: []byte("b")})
	wantError(t, err, connect.CodeInvalidArgument, "BAD_CIPHERTEXT")
	if _, err := c.keys.DisableKey(ctx, &kmsv1.DisableKeyRequest{Name: key.GetName()}); err != nil {
		t.Fatal(err)
	}
	_, err = c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: key.GetName(), Plaintext: []byte("secret")})
	wantError(t, err, connect.CodeFailedPrecondition, "KEY_DISABLED")

	want := []string{"Encrypt DENIED KEY_DISABLED", "DisableKey OK ", "Decrypt FAILED BAD_CIPHERTEXT", "Decrypt OK ", "RotateKey OK ", "LeaseUses OK ", "Encrypt OK ", "CreateKey OK "}
	eventually(t, func() error {
		var got []string
		for _, r := range activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: key.GetName()}) {
			if r.GetCategory() != kmsv1.ActivityLog_AUDIT {
				got = append(got, fmt.Sprint(r.GetOperation(), " ", r.GetOutcome(), " ", r.GetReason()))
			}
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			return fmt.Errorf("the activity log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
	latest, err := c.activity.GetLatestUseInfo(ctx, &kmsv1.GetLatestUseInfoRequest{Name: key.GetName()})
	if err != nil {
		t.Fatal(err)
	}
	uses := map[string]bool{}
	for _, e := range latest.GetEntries() {
		uses[fmt.Sprintf("%s %d %t %t", e.GetOperation(), e.GetVersion(), e.GetLastSuccess() != nil, e.GetLastRefusal() != nil)] = true
	}
	if !uses["Decrypt 1 true true"] || !uses["Encrypt 1 true false"] || latest.GetTrackedSinceTime() == nil {
		t.Errorf("latest uses: %v", latest)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(startPatience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wantError checks an error's code and reason, and that it tells what to do.
func wantError(t *testing.T, err error, code connect.Code, reason string) {
	t.Helper()
	e, ok := errors.AsType[*connect.Error](err)
	if !ok || e.Code() != code {
		t.Errorf("error %v, want code %s", err, code)
		return
	}
	for _, d := range e.Details() {
		v, err := d.Value()
		if info, ok := v.(*errdetails.ErrorInfo); err == nil && ok {
			if info.GetReason() != reason || info.GetDomain() != "kms.v1" {
				t.Errorf("reason %s of %s, want %s of kms.v1: %v", info.GetReason(), info.GetDomain(), reason, e)
			}
			return
		}
	}
	t.Errorf("error without ErrorInfo: %v", err)
}

// rest sends one HTTP/JSON request and decodes its answer.
func (p *process) rest(t *testing.T, method, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.admin())
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%s %s answers %d %q: %v", method, path, res.StatusCode, b, err)
	}
	return res.StatusCode, out
}

func restJob(t *testing.T, p *process) {
	t.Helper()
	const keys = "/api/v1/" + testRing + "/keys"
	must := func(method, path, body string) map[string]any {
		t.Helper()
		status, out := p.rest(t, method, path, body)
		if status != http.StatusOK {
			t.Fatalf("%s %s answers %d %v", method, path, status, out)
		}
		return out
	}
	must("POST", keys+"?key_id=rest", `{"purpose":"ENCRYPT_DECRYPT"}`)
	sealed := must("POST", keys+"/rest:encrypt", `{"plaintext":"c2VjcmV0"}`)
	if v := must("POST", keys+"/rest:rotate", `{}`)["primary"]; v != float64(2) {
		t.Errorf("primary version %v", v)
	}
	request, err := json.Marshal(map[string]any{"ciphertext": sealed["ciphertext"]})
	if err != nil {
		t.Fatal(err)
	}
	if got := must("POST", keys+"/rest:decrypt", string(request))["plaintext"]; got != "c2VjcmV0" {
		t.Errorf("decrypted %v", got)
	}
	if got := must("GET", keys+"/rest", "")["state"]; got != "ENABLED" {
		t.Errorf("state %v", got)
	}
	eventually(t, func() error {
		logs, _ := must("GET", keys+"/rest/activityLogs?operations=Decrypt", "")["activityLogs"].([]any)
		if len(logs) != 1 {
			return fmt.Errorf("%d records of one decryption", len(logs))
		}
		return nil
	})
	must("GET", keys+"/rest/latestUseInfo", "")
}

// reflectionJob encrypts and decrypts as a client does that knows the API from the server's reflection only.
func reflectionJob(t *testing.T, p *process) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: bearer{transport, p.admin()}}
	stream := grpcreflect.NewClient(client, p.url, connect.WithGRPC()).NewStream(t.Context())
	defer stream.Close() //nolint:errcheck // the answers are in
	files, err := stream.FileContainingSymbol("kms.v1.CryptoService")
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func([]*descriptorpb.FileDescriptorProto)
	add = func(more []*descriptorpb.FileDescriptorProto) {
		for _, f := range more {
			if seen[f.GetName()] {
				continue
			}
			seen[f.GetName()] = true
			set.File = append(set.File, f)
			for _, dependency := range f.GetDependency() {
				if !seen[dependency] {
					next, err := stream.FileByFilename(dependency)
					if err != nil {
						t.Fatal(err)
					}
					add(next)
				}
			}
		}
	}
	add(files)
	registry, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	mainJob(t, p.clients(), "reflected") // something to encrypt with; it ends disabled
	if _, err := p.clients().keys.EnableKey(t.Context(), &kmsv1.EnableKeyRequest{Name: testRing + "/keys/reflected"}); err != nil {
		t.Fatal(err)
	}
	sealed := dynamicCall(t, registry, client, p.url, "Encrypt", map[string]protoreflect.Value{
		"name": protoreflect.ValueOfString(testRing + "/keys/reflected"), "plaintext": protoreflect.ValueOfBytes([]byte("reflected")),
	})
	opened := dynamicCall(t, registry, client, p.url, "Decrypt", map[string]protoreflect.Value{
		"ciphertext": sealed.Get(sealed.Descriptor().Fields().ByName("ciphertext")),
	})
	if got := opened.Get(opened.Descriptor().Fields().ByName("plaintext")).Bytes(); string(got) != "reflected" {
		t.Errorf("decrypted %q", got)
	}
}

func dynamicCall(t *testing.T, registry *protoregistry.Files, client connect.HTTPClient, url, method string, fields map[string]protoreflect.Value) protoreflect.Message {
	t.Helper()
	d, err := registry.FindDescriptorByName("kms.v1.CryptoService")
	if err != nil {
		t.Fatal(err)
	}
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
	request := dynamicpb.NewMessage(m.Input())
	for name, v := range fields {
		request.Set(m.Input().Fields().ByName(protoreflect.Name(name)), v)
	}
	call := connect.NewClient[dynamicpb.Message, dynamicpb.Message](client, url+"/kms.v1.CryptoService/"+method,
		connect.WithGRPC(), connect.WithSchema(m), connect.WithResponseInitializer(func(_ connect.Spec, message any) error {
			*message.(*dynamicpb.Message) = *dynamicpb.NewMessage(m.Output()) // as connect documents it
			return nil
		}))
	res, err := call.CallUnary(t.Context(), connect.NewRequest(request))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.ProtoReflect()
}

// badInput: each gets its code and a sentence, is recorded where the rules say so, and leaves the server running.
func badInput(t *testing.T, p *process) {
	t.Helper()
	ctx := t.Context()
	c := p.clients()
	name := testRing + "/keys/bad"
	for _, id := range []string{"bad", "other"} {
		if _, err := c.keys.CreateKey(ctx, &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}); err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: name, Plaintext: []byte("x"), Aad: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sealed.GetCiphertext())
	flipped[len(flipped)-1] ^= 1
	decrypt := func(r *kmsv1.DecryptRequest) error { _, err := c.crypto.Decrypt(ctx, r); return err }
	encrypt := func(name string, plaintext []byte) error {
		_, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: name, Plaintext: plaintext})
		return err
	}
	for what, tt := range map[string]struct {
		err    error
		code   connect.Code
		reason string
	}{
		"plaintext of 64 KiB + 1": {encrypt(name, make([]byte, 64<<10+1)), connect.CodeInvalidArgument, "BAD_FIELD"},
		"a bad name":              {encrypt("keys/bad", nil), connect.CodeInvalidArgument, "BAD_NAME"},
		"an unknown key":          {encrypt(testRing+"/keys/unknown", nil), connect.CodeNotFound, "KEY_NOT_FOUND"},
		"another location":        {encrypt("projects/test/locations/mars/keyRings/default/keys/bad", nil), connect.CodeInvalidArgument, "WRONG_LOCATION"},
		"a truncated ciphertext":  {decrypt(&kmsv1.DecryptRequest{Name: name, Ciphertext: sealed.GetCiphertext()[:20], Aad: []byte("a")}), connect.CodeInvalidArgument, "BAD_CIPHERTEXT"},
		"a flipped ciphertext":    {decrypt(&kmsv1.DecryptRequest{Name: name, Ciphertext: flipped, Aad: []byte("a")}), connect.CodeInvalidArgument, "BAD_CIPHERTEXT"},
		"a wrong AAD":             {decrypt(&kmsv1.DecryptRequest{Name: name, Ciphertext: sealed.GetCiphertext(), Aad: []byte("b")}), connect.CodeInvalidArgument, "BAD_CIPHERTEXT"},
		"another key's ciphertext": {
			decrypt(&kmsv1.DecryptRequest{Name: testRing + "/keys/other", Ciphertext: sealed.GetCiphertext(), Aad: []byte("a")}),
			connect.CodeInvalidArgument, "BAD_CIPHERTEXT",
		},
	} {
		t.Run(what, func(t *testing.T) { wantError(t, tt.err, tt.code, tt.reason) })
	}
	const encryptREST = "/api/v1/" + testRing + "/keys/bad:encrypt"
	for what, tt := range map[string]struct {
		path, body string
		status     int
	}{
		"malformed JSON":          {encryptREST, `{"plaintext":`, http.StatusBadRequest},
		"an unknown field":        {encryptREST, `{"plaintext":"eA==","add":"eA=="}`, http.StatusBadRequest},
		"bad base64":              {encryptREST, `{"plaintext":"*"}`, http.StatusBadRequest},
		"an unknown key by REST":  {"/api/v1/" + testRing + "/keys/unknown:encrypt", `{}`, http.StatusNotFound},
		"an unknown path by REST": {"/api/v1/nothing", `{}`, http.StatusNotFound},
	} {
		t.Run(what, func(t *testing.T) {
			status, out := p.rest(t, http.MethodPost, tt.path, tt.body)
			e, _ := out["error"].(map[string]any)
			if status != tt.status || e == nil || e["message"] == "" || e["status"] == "" || e["code"] != float64(tt.status) {
				t.Errorf("answered %d %v, want %d", status, out, tt.status)
			}
		})
	}
	t.Run("a missing credential", func(t *testing.T) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/kms.v1.CryptoService/Encrypt", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() //nolint:errcheck // only the status counts
		if res.StatusCode != http.StatusUnauthorized {
			t.Errorf("answered %s", res.Status)
		}
	})
	want := map[string]bool{"BAD_FIELD": true, "BAD_CIPHERTEXT": true}
	eventually(t, func() error {
		got := map[string]bool{}
		for _, r := range activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: name, Outcomes: []kmsv1.ActivityLog_Outcome{kmsv1.ActivityLog_FAILED}}) {
			got[r.GetReason()] = true
			if r.GetMessage() == "" || r.GetCode() == "" {
				return fmt.Errorf("a refusal without its sentence or code: %v", r)
			}
		}
		for reason := range want {
			if !got[reason] {
				return fmt.Errorf("no %s is recorded: %v", reason, got)
			}
		}
		return nil
	})
	if status, _ := p.get(ctx, "/readyz"); status != http.StatusOK {
		t.Errorf("the server is not ready any more: %d", status)
	}
}

// batchOf500: each item of a batch is a row of the activity log.
func batchOf500(t *testing.T, p *process) {
	t.Helper()
	c := p.clients()
	name := testRing + "/keys/batch"
	if _, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "batch", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}); err != nil {
		t.Fatal(err)
	}
	request := &kmsv1.BatchEncryptRequest{Name: name}
	for i := range 500 {
		request.Items = append(request.Items, &kmsv1.BatchEncryptRequest_Item{Plaintext: fmt.Append(nil, i)})
	}
	answer, err := c.crypto.BatchEncrypt(t.Context(), request)
	if err != nil || len(answer.GetOutcomes()) != 500 {
		t.Fatalf("%d outcomes: %v", len(answer.GetOutcomes()), err)
	}
	for i, o := range answer.GetOutcomes() {
		if o.GetError() != nil {
			t.Fatalf("item %d: %v", i, o.GetError())
		}
	}
	eventually(t, func() error { return rowsOf(t, c, name, "BatchEncrypt", 500) })
}

func rowsOf(t *testing.T, c clients, name, operation string, want int) error {
	t.Helper()
	if got := len(activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: name, Operations: []string{operation}})); got != want {
		return fmt.Errorf("%d rows of %s on %s, want %d", got, operation, name, want)
	}
	return nil
}
