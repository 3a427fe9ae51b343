// Package proto_test checks what the generated code can't: that every method says who may call it and where REST finds
// it, and that the validation rules refuse what they should, with a sentence.
package proto_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func services() []protoreflect.ServiceDescriptor {
	return []protoreflect.ServiceDescriptor{
		kmsv1.File_kms_v1_key_service_proto.Services().ByName("KeyService"),
		kmsv1.File_kms_v1_crypto_service_proto.Services().ByName("CryptoService"),
		kmsv1.File_kms_v1_activity_service_proto.Services().ByName("ActivityService"),
		kmsv1.File_kms_v1_system_service_proto.Services().ByName("SystemService"),
	}
}

func TestEveryMethodNamesItsPermissionAndPath(t *testing.T) {
	permission := regexp.MustCompile(`^kms\.[a-z][a-zA-Z]*\.[a-z][a-zA-Z]*$`)
	seen := 0
	for _, s := range services() {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			seen++
			if p, _ := proto.GetExtension(m.Options(), kmsv1.E_Permission).(string); !permission.MatchString(p) {
				t.Errorf("%s: permission is %q, want kms.{resource}.{verb}", m.FullName(), p)
			}
			rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
			if isStream := m.IsStreamingServer() || m.IsStreamingClient(); isStream != (rule.GetPattern() == nil) { // streams are RPC only
				t.Errorf("%s: has google.api.http path %v, is a stream: %t", m.FullName(), rule, isStream)
			}
		}
	}
	if seen != 55 {
		t.Errorf("saw %d methods, want 55: adjust this number together with the API", seen)
	}
}

const (
	ring = "projects/payments/locations/local/keyRings/default"
	key  = ring + "/keys/customer-data"
	uuid = "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"
)

func days(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * 24 * time.Hour) }

func createKey(change func(*kmsv1.CreateKeyRequest)) proto.Message {
	r := &kmsv1.CreateKeyRequest{Parent: ring, KeyId: "k", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}
	change(r)
	return r
}

func rotationPeriod(d *durationpb.Duration) proto.Message {
	return createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.RotationPeriod = d })
}

func expireTime(seconds int64) proto.Message {
	return createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.ExpireTime = &timestamppb.Timestamp{Seconds: seconds} })
}

func labels(l map[string]string) proto.Message {
	return createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.Labels = l })
}

func manyLabels(n int) map[string]string {
	l := make(map[string]string, n)
	for i := range n {
		l[strings.Repeat("x", i+1)] = ""
	}
	return l
}

func TestValid(t *testing.T) {
	mask := &fieldmaskpb.FieldMask{Paths: []string{"memo"}}
	for name, m := range map[string]proto.Message{
		"key name":                 &kmsv1.GetKeyRequest{Name: key},
		"longest ids":              &kmsv1.GetKeyRequest{Name: strings.Join([]string{"projects", strings.Repeat("p", 63), "locations", strings.Repeat("-", 63), "keyRings", strings.Repeat("_", 63), "keys", strings.Repeat("9", 63)}, "/")},
		"key by uid":               &kmsv1.GetKeyRequest{Name: "projects/payments/locations/local/keyRings/-/keys/" + uuid},
		"key by alias":             &kmsv1.GetKeyRequest{Name: "projects/payments/locations/local/keyRings/-/keys/alias:current"},
		"version by alias":         &kmsv1.EncryptRequest{Name: "projects/payments/locations/local/keyRings/-/keys/alias:current/versions/3"},
		"update by alias":          &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: "projects/payments/locations/local/keyRings/-/keys/alias:current"}, UpdateMask: mask},
		"ring":                     &kmsv1.CreateKeyRingRequest{Parent: "projects/payments/locations/local", KeyRingId: "r"},
		"alias":                    &kmsv1.AddKeyAliasRequest{Name: key, Alias: strings.Repeat("a", 63)},
		"import job":               &kmsv1.CreateImportJobRequest{Parent: ring, ImportJobId: "j", ImportJob: &kmsv1.ImportJob{Method: kmsv1.ImportJob_RSA_OAEP_4096_SHA256}},
		"wrapped key":              &kmsv1.ImportKeyVersionRequest{Name: key, ImportJob: ring + "/importJobs/j", Material: &kmsv1.ImportKeyVersionRequest_WrappedKey{WrappedKey: []byte{1}}, Version: 2},
		"clear key":                &kmsv1.ImportKeyVersionRequest{Name: key, Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{KeyMaterial: []byte{1}}},
		"public key of a version":  &kmsv1.GetPublicKeyRequest{Name: key + "/versions/2", Format: kmsv1.GetPublicKeyRequest_JWK},
		"any ring":                 &kmsv1.ListKeysRequest{Parent: "projects/payments/locations/local/keyRings/-", PageSize: 1000},
		"version":                  &kmsv1.EncryptRequest{Name: key + "/versions/3"},
		"empty plaintext":          &kmsv1.EncryptRequest{Name: key},
		"largest plaintext":        &kmsv1.EncryptRequest{Name: key, Plaintext: make([]byte, 65536), Aad: make([]byte, 65536), Context: make([]byte, 1024)},
		"decrypt without a name":   &kmsv1.DecryptRequest{Ciphertext: []byte{1}},
		"decrypt in a location":    &kmsv1.DecryptRequest{Ciphertext: []byte{1}, Parent: "projects/payments/locations/local"},
		"create":                   createKey(func(*kmsv1.CreateKeyRequest) {}),
		"create with a request id": createKey(func(r *kmsv1.CreateKeyRequest) { r.RequestId = uuid }),
		"labels":                   labels(map[string]string{"team": "payments", "empty": ""}),
		"64 labels":                labels(manyLabels(64)),
		"1 day":                    rotationPeriod(days(1)),
		"730 days":                 rotationPeriod(days(730)),
		"update a part":            &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key, Memo: "m"}, UpdateMask: mask},
		"update with one etag":     &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key, Etag: "e"}, UpdateMask: mask},
		"default wait":             &kmsv1.ScheduleKeyDeletionRequest{Name: key},
		"shortest wait":            &kmsv1.ScheduleKeyDeletionRequest{Name: key, Wait: days(1)},
		"longest wait":             &kmsv1.ScheduleKeyDeletionRequest{Name: key, Wait: days(120), RequireUnusedFor: days(30)},
		"wait of a version":        &kmsv1.ScheduleKeyVersionDestructionRequest{Name: key + "/versions/2", Wait: days(120)},
		"wait of a key":            createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.DestroyWait = days(120) }),
		"another period":           &kmsv1.UpdateRotationPeriodRequest{Name: key, RotationPeriod: days(730)},
		"the last period":          &kmsv1.EnableAutoRotationRequest{Name: key},
		"any number of uses":       createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.MaxUsesPerVersion = new(int64(0)) }),
		"expires in 2100":          expireTime(4102444800),
		"primary version":          &kmsv1.SetPrimaryVersionRequest{Name: key, Version: 1},
		"longest resource":         &kmsv1.AddUsageBindingRequest{Name: key, Resource: strings.Repeat("r", 512)},
		"default data key":         &kmsv1.GenerateDataKeyRequest{Name: key},
		"data key in bits":         &kmsv1.GenerateDataKeyRequest{Name: key, Size: &kmsv1.GenerateDataKeyRequest_Bits{Bits: 512}},
		"bad item":                 &kmsv1.BatchEncryptRequest{Name: key, Items: []*kmsv1.BatchEncryptRequest_Item{{Plaintext: make([]byte, 65537)}}},
		"bad item to decrypt":      &kmsv1.BatchDecryptRequest{Items: []*kmsv1.BatchDecryptRequest_Item{{Name: "x"}}},
		"500 items":                &kmsv1.BatchEncryptRequest{Name: key, Items: make([]*kmsv1.BatchEncryptRequest_Item, 500)},
		"logs by address":          &kmsv1.GetKeyActivityLogsRequest{Name: key, ClientAddress: "2001:db8::1"},
		"logs by prefix":           &kmsv1.GetKeyActivityLogsRequest{Name: key, ClientAddress: "10.0.0.0/8"},
		"logs of a time":           &kmsv1.GetKeyActivityLogsRequest{Name: key, StartTime: &timestamppb.Timestamp{Seconds: 1}, EndTime: &timestamppb.Timestamp{Seconds: 2}},
		"logs from a time on":      &kmsv1.GetKeyActivityLogsRequest{Name: key, StartTime: &timestamppb.Timestamp{Seconds: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := protovalidate.Validate(m); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	mask := &fieldmaskpb.FieldMask{Paths: []string{"memo"}}
	get := func(name string) proto.Message { return &kmsv1.GetKeyRequest{Name: name} }
	for name, tt := range map[string]struct {
		message proto.Message
		field   string
		says    string
	}{
		"no name":                 {get(""), "name", "must be projects/{project}"},
		"ring as key":             {get(ring), "name", "must be projects/{project}"},
		"id of 64":                {get(ring + "/keys/" + strings.Repeat("k", 64)), "name", "1 to 63"},
		"id with a dot":           {get(ring + "/keys/a.b"), "name", "letters, digits"},
		"id with a line break":    {get(key + "\n"), "name", "must be projects/{project}"},
		"version of a key":        {get(key + "/versions/1"), "name", "must be projects/{project}"},
		"key as import job":       {&kmsv1.GetImportJobRequest{Name: key}, "name", "/importJobs/{job}"},
		"wildcard in an import":   {&kmsv1.ListImportJobsRequest{Parent: "projects/p/locations/l/keyRings/-"}, "parent", "must name one place"},
		"job without a method":    {&kmsv1.CreateImportJobRequest{Parent: ring, ImportJobId: "j", ImportJob: &kmsv1.ImportJob{}}, "import_job", "method is required"},
		"wrapped without a job":   {&kmsv1.ImportKeyVersionRequest{Name: key, Material: &kmsv1.ImportKeyVersionRequest_WrappedKey{WrappedKey: []byte{1}}}, "", "needs the import_job"},
		"clear with a job":        {&kmsv1.ImportKeyVersionRequest{Name: key, ImportJob: ring + "/importJobs/j", Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{KeyMaterial: []byte{1}}}, "", "needs the import_job"},
		"import of nothing":       {&kmsv1.ImportKeyVersionRequest{Name: key}, "material", "required"},
		"material of a key":       {&kmsv1.DeleteKeyMaterialRequest{Name: key}, "name", "/versions/{version}"},
		"version 0":               {&kmsv1.EncryptRequest{Name: key + "/versions/0"}, "name", "a number from 1"},
		"key as version":          {&kmsv1.GetKeyVersionRequest{Name: key}, "name", "/versions/{version}"},
		"alias with a dot":        {get("projects/p/locations/l/keyRings/-/keys/alias:a.b"), "name", "letters, digits"},
		"alias without an id":     {get("projects/p/locations/l/keyRings/-/keys/alias:"), "name", "letters, digits"},
		"another prefix":          {get("projects/p/locations/l/keyRings/-/keys/name:a"), "name", "letters, digits"},
		"a wildcard as alias":     {&kmsv1.AddKeyAliasRequest{Name: key, Alias: "-"}, "alias", "not '-' alone"},
		"a ring named any":        {&kmsv1.CreateKeyRingRequest{Parent: "projects/p/locations/l", KeyRingId: "-"}, "key_ring_id", "not '-' alone"},
		"get any ring":            {&kmsv1.GetKeyRingRequest{Name: "projects/p/locations/l/keyRings/-"}, "name", "must name one place"},
		"escape in ring's label":  {&kmsv1.CreateKeyRingRequest{Parent: "projects/p/locations/l", KeyRingId: "r", KeyRing: &kmsv1.KeyRing{Labels: map[string]string{"a": "\x1b"}}}, "key_ring.labels[\"a\"]", "control characters"},
		"create in any ring":      {createKey(func(r *kmsv1.CreateKeyRequest) { r.Parent = "projects/p/locations/l/keyRings/-" }), "parent", "must name one place"},
		"create in any project":   {createKey(func(r *kmsv1.CreateKeyRequest) { r.Parent = "projects/-/locations/l/keyRings/r" }), "parent", "must name one place"},
		"create the wildcard":     {createKey(func(r *kmsv1.CreateKeyRequest) { r.KeyId = "-" }), "key_id", "not '-' alone"},
		"create without an id":    {createKey(func(r *kmsv1.CreateKeyRequest) { r.KeyId = "" }), "key_id", "1 to 63"},
		"create without a key":    {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key = nil }), "key", "required"},
		"create without purpose":  {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.Purpose = 0 }), "key", "purpose is required"},
		"unknown purpose":         {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.Purpose = 99 }), "key.purpose", "defined enum values"},
		"request id not a UUID":   {createKey(func(r *kmsv1.CreateKeyRequest) { r.RequestId = "again" }), "request_id", "valid UUID"},
		"line break in a name":    {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.DisplayName = "a\nb" }), "key.display_name", "control characters"},
		"escape in a label":       {labels(map[string]string{"a": "\x1b[2J"}), "key.labels[\"a\"]", "control characters"},
		"65 labels":               {labels(manyLabels(65)), "key.labels", "64"},
		"0 days":                  {rotationPeriod(days(0)), "key.rotation_period", "whole days"},
		"25 hours":                {rotationPeriod(durationpb.New(25 * time.Hour)), "key.rotation_period", "whole days"},
		"a day and a half second": {rotationPeriod(durationpb.New(24*time.Hour + 500*time.Millisecond)), "key.rotation_period", "whole days"},
		"-1 day":                  {rotationPeriod(days(-1)), "key.rotation_period", "whole days"},
		"731 days":                {rotationPeriod(days(731)), "key.rotation_period", "whole days"},
		"long memo":               {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.Memo = strings.Repeat("m", 1025) }), "key.memo", "1024"},
		"update without a mask":   {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key}}, "update_mask", "required"},
		"update with empty mask":  {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key}, UpdateMask: &fieldmaskpb.FieldMask{}}, "update_mask", "fields to change"},
		"update without a name":   {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{}, UpdateMask: mask}, "key", "name must be projects/{project}"},
		"update with two etags":   {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key, Etag: "a"}, Etag: "b", UpdateMask: mask}, "", "etag and key.etag differ"},
		"wait under 24 h":         {&kmsv1.ScheduleKeyDeletionRequest{Name: key, Wait: durationpb.New(23 * time.Hour)}, "wait", "24 hours to 120 days"},
		"wait over 120 d":         {&kmsv1.ScheduleKeyDeletionRequest{Name: key, Wait: days(121)}, "wait", "24 hours to 120 days"},
		"unused for nothing":      {&kmsv1.ScheduleKeyDeletionRequest{Name: key, RequireUnusedFor: days(0)}, "require_unused_for", "greater than"},
		"version's wait 23 h":     {&kmsv1.ScheduleKeyVersionDestructionRequest{Name: key + "/versions/2", Wait: durationpb.New(23 * time.Hour)}, "wait", "24 hours to 120 days"},
		"destroy_wait of 121 d":   {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.DestroyWait = days(121) }), "key.destroy_wait", "24 hours to 120 days"},
		"no other period":         {&kmsv1.UpdateRotationPeriodRequest{Name: key}, "rotation_period", "required"},
		"another period of 0":     {&kmsv1.UpdateRotationPeriodRequest{Name: key, RotationPeriod: days(0)}, "rotation_period", "whole days"},
		"enabled for 731 days":    {&kmsv1.EnableAutoRotationRequest{Name: key, RotationPeriod: days(731)}, "rotation_period", "whole days"},
		"less than no uses":       {createKey(func(r *kmsv1.CreateKeyRequest) { r.Key.MaxUsesPerVersion = new(int64(-1)) }), "key.max_uses_per_version", "greater than"},
		"expires before 1970":     {expireTime(-62135596800), "key.expire_time", "a time from 1970"},
		"expires in 10000":        {expireTime(253402300800), "key.expire_time", "a time from 1970"},
		"expires in 2262":         {expireTime(9214646400), "key.expire_time", "a time from 1970"},
		"expires never ever":      {expireTime(1 << 60), "key.expire_time", "a time from 1970"},
		"rotates in 2262":         {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key, NextRotationTime: &timestamppb.Timestamp{Seconds: 9214646400}}, UpdateMask: mask}, "key.next_rotation_time", "a time from 1970"},
		"no next rotation":        {&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: key}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"memo", "next_rotation_time"}}}, "", "DisableAutoRotation ends the schedule"},
		"primary version 0":       {&kmsv1.SetPrimaryVersionRequest{Name: key}, "version", "greater than"},
		"version of a ring":       {&kmsv1.CreateKeyVersionRequest{Parent: ring}, "parent", "must be projects/{project}"},
		"no resource":             {&kmsv1.AddUsageBindingRequest{Name: key}, "resource", "at least 1"},
		"resource over 512 bytes": {&kmsv1.RemoveUsageBindingRequest{Name: key, Resource: strings.Repeat("ä", 257)}, "resource", "512"},
		"page of 1001":            {&kmsv1.ListKeysRequest{Parent: ring, PageSize: 1001}, "page_size", "1000"},
		"plaintext over 64 KiB":   {&kmsv1.EncryptRequest{Name: key, Plaintext: make([]byte, 65537)}, "plaintext", "65536"},
		"aad over 64 KiB":         {&kmsv1.EncryptRequest{Name: key, Aad: make([]byte, 65537)}, "aad", "65536"},
		"context over 1 KiB":      {&kmsv1.EncryptRequest{Name: key, Context: make([]byte, 1025)}, "context", "1024"},
		"no ciphertext":           {&kmsv1.DecryptRequest{}, "ciphertext", "at least 1"},
		"no items":                {&kmsv1.BatchEncryptRequest{Name: key}, "items", "at least 1"},
		"501 items":               {&kmsv1.BatchEncryptRequest{Name: key, Items: make([]*kmsv1.BatchEncryptRequest_Item, 501)}, "items", "500"},
		"data key of 192 bits":    {&kmsv1.GenerateDataKeyRequest{Name: key, Size: &kmsv1.GenerateDataKeyRequest_Bits{Bits: 192}}, "bits", "[128, 256, 512]"},
		"data key of no bytes":    {&kmsv1.GenerateDataKeyRequest{Name: key, Size: &kmsv1.GenerateDataKeyRequest_NumberOfBytes{}}, "number_of_bytes", "1"},
		"1025 random bytes":       {&kmsv1.GenerateRandomBytesRequest{Parent: "projects/p/locations/l", NumberOfBytes: 1025}, "number_of_bytes", "1024"},
		"random for a ring":       {&kmsv1.GenerateRandomBytesRequest{Parent: ring, NumberOfBytes: 1}, "parent", "projects/{project}/locations/{location}"},
		"logs by a host name":     {&kmsv1.GetKeyActivityLogsRequest{Name: key, ClientAddress: "example.com"}, "client_address", "IPv4 or IPv6"},
		"logs backwards":          {&kmsv1.GetKeyActivityLogsRequest{Name: key, StartTime: &timestamppb.Timestamp{Seconds: 2}, EndTime: &timestamppb.Timestamp{Seconds: 1}}, "", "end_time must be after start_time"},
		"logs of outcome zero":    {&kmsv1.GetKeyActivityLogsRequest{Name: key, Outcomes: []kmsv1.ActivityLog_Outcome{0}}, "outcomes[0]", "must not be in"},
	} {
		t.Run(name, func(t *testing.T) {
			err := protovalidate.Validate(tt.message)
			refused, ok := errors.AsType[*protovalidate.ValidationError](err)
			if !ok {
				t.Fatalf("got %v, want a validation error", err)
			}
			v := refused.Violations[0]
			if got := protovalidate.FieldPathString(v.Proto.GetField()); got != tt.field {
				t.Errorf("field is %q, want %q", got, tt.field)
			}
			if !strings.Contains(v.Proto.GetMessage(), tt.says) {
				t.Errorf("message is %q, want it to say %q", v.Proto.GetMessage(), tt.says)
			}
			if strings.ContainsAny(v.Proto.GetMessage(), "^$\\") {
				t.Errorf("message %q shows a regular expression", v.Proto.GetMessage())
			}
		})
	}
}
