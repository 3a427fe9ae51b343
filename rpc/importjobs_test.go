package rpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/rpc"
)

const jobPath = ringPath + "/importJobs/j"

func jobState(name domain.ImportJobName, events ...domain.ImportJobEvent) eventstore.ImportJobState {
	now := time.Now()
	created := domain.ImportJobCreated{
		Name: name, UID: domain.UID{5}, Method: domain.RSAOAEP3072SHA256AES256, Protection: domain.HSM, PublicKey: []byte("der"), Creator: "admin",
		ExpireTime: now.Add(time.Hour),
	}
	return eventstore.ImportJobState{Job: domain.FoldImportJob(domain.ImportJob{}, now, append([]domain.ImportJobEvent{created}, events...)...), Tip: eventstore.Tip{Revision: 7}}
}

func (s *site) CreateImportJob(ctx context.Context, c domain.Caller, r commands.CreateImportJob) (eventstore.ImportJobState, error) {
	s.mutation, s.createJob = r.Mutation, r
	return jobState(r.Name), s.called(ctx, c)
}

func (s *site) CancelImport(ctx context.Context, c domain.Caller, name domain.ImportJobName, m commands.Mutation) (eventstore.ImportJobState, error) {
	s.mutation = m
	return jobState(name, domain.ImportJobCanceled{}), s.called(ctx, c)
}

func (s *site) GetImportJob(ctx context.Context, c domain.Caller, name domain.ImportJobName, r commands.Read) (eventstore.ImportJobState, error) {
	s.read = r
	return jobState(name), s.called(ctx, c)
}

func (s *site) ImportJobs(ring domain.RingName) []eventstore.ImportJobState {
	return []eventstore.ImportJobState{jobState(ring.ImportJob("a"), domain.ImportJobExpired{}), jobState(ring.ImportJob("b")), jobState(ring.ImportJob("c"), domain.ImportJobUsed{})}
}

func (s *site) ImportKeyVersion(ctx context.Context, c domain.Caller, r commands.ImportKeyVersion) (eventstore.KeyState, domain.Version, error) {
	s.imported, s.mutation = r, r.Mutation
	s.imported.KeyMaterial = bytes.Clone(r.KeyMaterial)
	return s.state(r.Ref), 1, s.called(ctx, c)
}

func (s *site) DeleteKeyMaterial(ctx context.Context, c domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	s.mutation = m
	return s.state(ref), s.called(ctx, c)
}

func (s *site) GetPublicKey(ctx context.Context, c domain.Caller, r commands.Read) (commands.PublicKey, error) {
	s.read = r
	return s.public, s.called(ctx, c)
}

func TestImportJobs(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	const id = "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"
	method := &kmsv1.ImportJob{Method: kmsv1.ImportJob_RSA_OAEP_4096_SHA256}
	made, err := client.CreateImportJob(t.Context(), &kmsv1.CreateImportJobRequest{Parent: ringPath, ImportJobId: "j", RequestId: id, ImportJob: method})
	if err != nil || made.GetName() != jobPath || made.GetState() != kmsv1.ImportJob_ACTIVE || made.GetPublicKey() != "-----BEGIN PUBLIC KEY-----\nZGVy\n-----END PUBLIC KEY-----\n" || made.GetExpireTime() == nil {
		t.Errorf("made %v, %v", made, err)
	}
	if s.mutation.RequestID.String() != id || s.createJob.Method != domain.RSAOAEP4096SHA256 || s.createJob.Name.ID != "j" {
		t.Errorf("asked for %+v", s.createJob)
	}
	got, err := client.GetImportJob(t.Context(), &kmsv1.GetImportJobRequest{Name: jobPath, MinRevision: 5})
	if err != nil || got.GetName() != jobPath || s.read.Permission != domain.PermissionImportJobsGet || s.read.MinRevision != 5 {
		t.Errorf("got %v, %v, by %+v", got, err, s.read)
	}
	ended, err := client.CancelImport(t.Context(), &kmsv1.CancelImportRequest{Name: jobPath, Etag: "r7"})
	if err != nil || ended.GetState() != kmsv1.ImportJob_CANCELED || s.mutation.Etag != "r7" {
		t.Errorf("ended %v, %v", ended, err)
	}
	list, err := client.ListImportJobs(t.Context(), &kmsv1.ListImportJobsRequest{Parent: ringPath, Filter: "state = ACTIVE", OrderBy: "name desc", IncludeTotalSize: true, PageSize: 1})
	if err != nil || len(list.GetImportJobs()) != 1 || list.GetImportJobs()[0].GetName() != ringPath+"/importJobs/c" || list.GetImportJobs()[0].GetImports() != 1 || list.GetTotalSize() != 2 || list.GetNextPageToken() == "" {
		t.Errorf("listed %v, %v", list, err)
	}
	for name, refused := range map[string]error{
		"no method":      second(client.CreateImportJob(t.Context(), &kmsv1.CreateImportJobRequest{Parent: ringPath, ImportJobId: "j", ImportJob: &kmsv1.ImportJob{}})),
		"software":       second(client.CreateImportJob(t.Context(), &kmsv1.CreateImportJobRequest{Parent: ringPath, ImportJobId: "j", ImportJob: &kmsv1.ImportJob{Method: 1, ProtectionLevel: kmsv1.Key_SOFTWARE}})),
		"any ring":       second(client.CreateImportJob(t.Context(), &kmsv1.CreateImportJobRequest{Parent: placePath + "/keyRings/-", ImportJobId: "j", ImportJob: method})),
		"a key's name":   second(client.GetImportJob(t.Context(), &kmsv1.GetImportJobRequest{Name: ringPath + "/keys/j"})),
		"any ring's job": second(client.GetImportJob(t.Context(), &kmsv1.GetImportJobRequest{Name: placePath + "/keyRings/-/importJobs/j"})),
		"other location": second(client.CancelImport(t.Context(), &kmsv1.CancelImportRequest{Name: "projects/p/locations/mars/keyRings/r/importJobs/j"})),
	} {
		if connect.CodeOf(refused) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, refused)
		}
	}
}

func TestImportKeyVersion(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	wrapped := &kmsv1.ImportKeyVersionRequest_WrappedKey{WrappedKey: []byte{1, 2}}
	v, err := client.ImportKeyVersion(t.Context(), &kmsv1.ImportKeyVersionRequest{Name: keyPath, ImportJob: jobPath, Material: wrapped, Version: 1, MakePrimary: true, Etag: "r7"})
	if err != nil || v.GetVersion() != 1 || s.imported.Job.String() != jobPath || !bytes.Equal(s.imported.WrappedKey, []byte{1, 2}) || s.imported.Version != 1 || !s.imported.MakePrimary || s.mutation.Etag != "r7" {
		t.Errorf("imported %v, %v, by %+v", v, err, s.imported)
	}
	if v, err := client.DeleteKeyMaterial(t.Context(), &kmsv1.DeleteKeyMaterialRequest{Name: keyPath + "/versions/1", Etag: "r8"}); err != nil || v.GetVersion() != 1 || s.mutation.Etag != "r8" {
		t.Errorf("deleted %v, %v", v, err)
	}
	for name, r := range map[string]*kmsv1.ImportKeyVersionRequest{
		"no material":        {Name: keyPath, ImportJob: jobPath},
		"no job":             {Name: keyPath, Material: wrapped},
		"a job for no wrap":  {Name: keyPath, ImportJob: jobPath, Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{KeyMaterial: []byte{1}}},
		"nothing wrapped":    {Name: keyPath, ImportJob: jobPath, Material: &kmsv1.ImportKeyVersionRequest_WrappedKey{}},
		"too much":           {Name: keyPath, ImportJob: jobPath, Material: &kmsv1.ImportKeyVersionRequest_WrappedKey{WrappedKey: make([]byte, 16385)}},
		"a version's name":   {Name: keyPath + "/versions/1", ImportJob: jobPath, Material: wrapped},
		"version -1":         {Name: keyPath, ImportJob: jobPath, Material: wrapped, Version: -1},
		"no job's name":      {Name: keyPath, ImportJob: "j", Material: wrapped},
		"of another place":   {Name: keyPath, ImportJob: "projects/p/locations/mars/keyRings/r/importJobs/j", Material: wrapped},
		"no key's name":      {Name: "k", ImportJob: jobPath, Material: wrapped},
		"clear, and nothing": {Name: keyPath, Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{}},
	} {
		if _, err := client.ImportKeyVersion(t.Context(), r); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClearImport: key material in the clear is taken only where an operator allowed it, and not over a network.
func TestClearImport(t *testing.T) {
	clear := &kmsv1.ImportKeyVersionRequest{Name: keyPath, Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{KeyMaterial: []byte("key")}}
	off := serve(t)
	if _, err := off.keyClient(t).ImportKeyVersion(t.Context(), clear); connect.CodeOf(err) != connect.CodeFailedPrecondition || reasonOf(t, err) != "CLEAR_IMPORT_OFF" {
		t.Errorf("off: %v", err)
	}
	if refused := off.recorded(); len(refused) != 1 || refused[0].read.Operation != "ImportKeyVersion" {
		t.Errorf("recorded %+v", refused)
	}
	on := serve(t, func(c *rpc.Config) { c.AllowClearImport = true })
	if _, err := on.keyClient(t).ImportKeyVersion(t.Context(), clear); err != nil || string(on.imported.KeyMaterial) != "key" {
		t.Errorf("from this machine: %v, %q", err, on.imported.KeyMaterial)
	}
	// Over a network, as the handler sees it.
	r := httptest.NewRequest(http.MethodPost, "/kms.v1.KeyService/ImportKeyVersion", strings.NewReader(`{"name":"`+keyPath+`","key_material":"a2V5"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+adminKey)
	for _, tt := range []struct {
		address string
		tls     *tls.ConnectionState
		want    int
	}{
		{"127.0.0.1:1", nil, http.StatusOK},
		{"[::1]:1", nil, http.StatusOK},
		{"192.0.2.1:1", nil, http.StatusBadRequest},
		{"[2001:db8::1]:1", nil, http.StatusBadRequest},
		{"192.0.2.1:1", &tls.ConnectionState{}, http.StatusOK},
	} {
		q := r.Clone(t.Context())
		q.RemoteAddr, q.TLS = tt.address, tt.tls
		q.Body = io.NopCloser(strings.NewReader(`{"name":"` + keyPath + `","key_material":"a2V5"}`))
		w := httptest.NewRecorder()
		on.handler.ServeHTTP(w, q)
		if w.Code != tt.want {
			t.Errorf("from %s, TLS = %v: %d %s", tt.address, tt.tls != nil, w.Code, w.Body)
		}
	}
}

// TestGetPublicKey reads each format with other means than it was written with.
func TestGetPublicKey(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	name := domain.KeyName{Project: "p", Location: "local", Ring: "r", ID: "k"}
	ec, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		alg    domain.Algorithm
		public any
		want   map[string]string
	}{
		{domain.ECP521SHA512, ec.Public(), map[string]string{"kty": "EC", "crv": "P-521", "alg": "ES512", "use": "sig"}},
		{domain.RSA2048PSSSHA256, rsaKey.Public(), map[string]string{"kty": "RSA", "alg": "PS256", "use": "sig", "e": "AQAB"}},
		{domain.RSA2048PKCS1SHA384, rsaKey.Public(), map[string]string{"kty": "RSA", "alg": "RS384", "use": "sig"}},
		{domain.RSA2048OAEPSHA256, rsaKey.Public(), map[string]string{"kty": "RSA", "alg": "RSA-OAEP-256", "use": "enc"}},
		{domain.RSA2048OAEPSHA1, rsaKey.Public(), map[string]string{"kty": "RSA", "alg": "RSA-OAEP", "use": "enc"}},
	} {
		der, err := x509.MarshalPKIXPublicKey(k.public)
		if err != nil {
			t.Fatal(err)
		}
		s.public = commands.PublicKey{Name: name, Version: 3, Algorithm: k.alg, DER: der}
		ask := func(f kmsv1.GetPublicKeyRequest_Format) *kmsv1.GetPublicKeyResponse {
			got, err := client.GetPublicKey(t.Context(), &kmsv1.GetPublicKeyRequest{Name: keyPath, Format: f, MinRevision: 4})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		got := ask(kmsv1.GetPublicKeyRequest_FORMAT_UNSPECIFIED)
		if block, _ := pem.Decode([]byte(got.GetPem())); block == nil || block.Type != "PUBLIC KEY" || !bytes.Equal(block.Bytes, der) {
			t.Errorf("%s: PEM %q", k.alg, got.GetPem())
		}
		if got.GetVersion() != 3 || got.GetName() != name.VersionName(3) || got.GetAlgorithm().String() != string(k.alg) {
			t.Errorf("%s: %v", k.alg, got)
		}
		if got := ask(kmsv1.GetPublicKeyRequest_DER); !bytes.Equal(got.GetDer(), der) {
			t.Errorf("%s: DER %x", k.alg, got.GetDer())
		}
		var jwk map[string]string
		if err := json.Unmarshal([]byte(ask(kmsv1.GetPublicKeyRequest_JWK).GetJwk()), &jwk); err != nil {
			t.Fatal(err)
		}
		for member, want := range k.want {
			if jwk[member] != want {
				t.Errorf("%s: %s = %q, want %q", k.alg, member, jwk[member], want)
			}
		}
		number := func(member string) *big.Int {
			b, err := base64.RawURLEncoding.DecodeString(jwk[member])
			if err != nil {
				t.Errorf("%s: %s: %v", k.alg, member, err)
			}
			if k.alg == domain.ECP521SHA512 && len(b) != 66 { // RFC 7518 section 6.2.1.2: leading zeros stay
				t.Errorf("%s: %s has %d bytes", k.alg, member, len(b))
			}
			return new(big.Int).SetBytes(b)
		}
		if k.alg == domain.ECP521SHA512 {
			point, err := ec.PublicKey.Bytes()
			if err != nil || number("x").Cmp(new(big.Int).SetBytes(point[1:67])) != 0 || number("y").Cmp(new(big.Int).SetBytes(point[67:])) != 0 {
				t.Errorf("the point differs: %v, %v", jwk, err)
			}
		} else if number("n").Cmp(rsaKey.N) != 0 {
			t.Errorf("%s: another modulus", k.alg)
		}
		if jwk["kid"] != name.VersionName(3) {
			t.Errorf("%s: kid = %q", k.alg, jwk["kid"])
		}
	}
	if s.read.Operation != "GetPublicKey" || s.read.Permission != domain.PermissionVersionsGetPublicKey || s.read.MinRevision != 4 {
		t.Errorf("the gate was asked %+v", s.read)
	}
	s.public.DER = []byte("no key")
	if _, err := client.GetPublicKey(t.Context(), &kmsv1.GetPublicKeyRequest{Name: keyPath, Format: kmsv1.GetPublicKeyRequest_JWK}); connect.CodeOf(err) != connect.CodeInternal {
		t.Errorf("a damaged public key: %v", err)
	}
}
