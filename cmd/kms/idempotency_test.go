package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// mutation says how TestIdempotency tries one method. The resource is a key, or a ring, of the method's own, made for it
// unless the method makes it.
type mutation struct {
	// request is one that succeeds on the resource called id; its request id is set by the test.
	request func(id string) proto.Message
	// before brings the resource into a state in which it does.
	before func(id string) []proto.Message
	// other makes another request of it, with the same resource. Nil: one with an etag.
	other func(proto.Message)
	// since is what happens to the resource before the request is repeated; nil: changedSince.
	since func(id string) []proto.Message
	// makes: the method, or before, makes the resource. ring: the resource is a key ring.
	makes, ring bool
	// again: the same request with another id succeeds too, because what it asks for holds already.
	again bool
}

func keyNamed(id string) string  { return testRing + "/keys/" + id }
func jobNamed(id string) string  { return testRing + "/importJobs/" + id }
func ringNamed(id string) string { return "projects/default/locations/local/keyRings/" + id }

// mutations has a row for each method of KeyService whose request has a request_id.
var mutations = map[string]mutation{
	"CreateKeyRing": {
		request: func(id string) proto.Message {
			return &kmsv1.CreateKeyRingRequest{Parent: "projects/default/locations/local", KeyRingId: id, KeyRing: &kmsv1.KeyRing{}}
		},
		other: func(r proto.Message) {
			r.(*kmsv1.CreateKeyRingRequest).KeyRing.Labels = map[string]string{"a": "b"} //nolint:forcetypeassert // of this row
		},
		makes: true, ring: true,
	},
	"ArchiveKeyRing": {
		request: func(id string) proto.Message { return &kmsv1.ArchiveKeyRingRequest{Name: ringNamed(id)} },
		ring:    true, again: true,
	},
	"UnarchiveKeyRing": {
		request: func(id string) proto.Message { return &kmsv1.UnarchiveKeyRingRequest{Name: ringNamed(id)} },
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.ArchiveKeyRingRequest{Name: ringNamed(id)}}
		},
		ring: true, again: true,
	},
	"CreateKey": {
		request: createRequest,
		other: func(r proto.Message) {
			r.(*kmsv1.CreateKeyRequest).Key.Memo = "another" //nolint:forcetypeassert // of this row
		},
		makes: true,
	},
	"AddKeyAlias": {
		request: func(id string) proto.Message {
			return &kmsv1.AddKeyAliasRequest{Name: keyNamed(id), Alias: "alias-" + id}
		},
		other: func(r proto.Message) {
			r.(*kmsv1.AddKeyAliasRequest).Move = true //nolint:forcetypeassert // of this row
		},
		again: true,
	},
	"RemoveKeyAlias": {
		request: func(id string) proto.Message {
			return &kmsv1.RemoveKeyAliasRequest{Name: keyNamed(id), Alias: "alias-" + id}
		},
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.AddKeyAliasRequest{Name: keyNamed(id), Alias: "alias-" + id}}
		},
		other: func(r proto.Message) {
			r.(*kmsv1.RemoveKeyAliasRequest).Name = keyNamed("idem-addkeyalias") //nolint:forcetypeassert // of this row
		},
	},
	"UpdateKey": {
		request: func(id string) proto.Message {
			return &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: keyNamed(id), Memo: "new"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"memo"}}}
		},
		again: true,
	},
	"RotateKey": {
		request: func(id string) proto.Message { return &kmsv1.RotateKeyRequest{Name: keyNamed(id)} },
	},
	"EnableKey": {
		request: func(id string) proto.Message { return &kmsv1.EnableKeyRequest{Name: keyNamed(id)} },
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.DisableKeyRequest{Name: keyNamed(id)}}
		},
		again: true,
	},
	"DisableKey": {
		request: func(id string) proto.Message { return &kmsv1.DisableKeyRequest{Name: keyNamed(id)} },
		again:   true,
	},
	"EnableKeyVersion": {
		request: func(id string) proto.Message {
			return &kmsv1.EnableKeyVersionRequest{Name: keyNamed(id) + "/versions/1"}
		},
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.DisableKeyVersionRequest{Name: keyNamed(id) + "/versions/1", AllowPrimary: true}}
		},
		again: true,
	},
	"DisableKeyVersion": {
		request: func(id string) proto.Message {
			return &kmsv1.DisableKeyVersionRequest{Name: keyNamed(id) + "/versions/1", AllowPrimary: true}
		},
		again: true,
	},
	"ScheduleKeyDeletion": {
		request: func(id string) proto.Message {
			return &kmsv1.ScheduleKeyDeletionRequest{Name: keyNamed(id), Wait: durationpb.New(48 * time.Hour)}
		},
	},
	"CancelKeyDeletion": {
		request: func(id string) proto.Message { return &kmsv1.CancelKeyDeletionRequest{Name: keyNamed(id)} },
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.ScheduleKeyDeletionRequest{Name: keyNamed(id)}}
		},
	},
	"DeleteKey": {
		request: func(id string) proto.Message { return &kmsv1.DeleteKeyRequest{Name: keyNamed(id), SkipWait: true} },
	},
	"UpdateRotationPeriod": {
		request: func(id string) proto.Message {
			return &kmsv1.UpdateRotationPeriodRequest{Name: keyNamed(id), RotationPeriod: durationpb.New(48 * time.Hour)}
		},
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.EnableAutoRotationRequest{Name: keyNamed(id)}}
		},
		again: true,
	},
	"EnableAutoRotation": {
		request: func(id string) proto.Message { return &kmsv1.EnableAutoRotationRequest{Name: keyNamed(id)} },
		again:   true,
	},
	"DisableAutoRotation": {
		request: func(id string) proto.Message { return &kmsv1.DisableAutoRotationRequest{Name: keyNamed(id)} },
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.EnableAutoRotationRequest{Name: keyNamed(id)}}
		},
		again: true,
	},
	"CreateKeyVersion": {
		request: func(id string) proto.Message { return &kmsv1.CreateKeyVersionRequest{Parent: keyNamed(id)} },
	},
	"SetPrimaryVersion": {
		request: func(id string) proto.Message { return &kmsv1.SetPrimaryVersionRequest{Name: keyNamed(id), Version: 1} },
		before:  func(id string) []proto.Message { return []proto.Message{&kmsv1.RotateKeyRequest{Name: keyNamed(id)}} },
		again:   true,
	},
	"ScheduleKeyVersionDestruction": {
		request: func(id string) proto.Message {
			return &kmsv1.ScheduleKeyVersionDestructionRequest{Name: keyNamed(id) + "/versions/1"}
		},
		before: func(id string) []proto.Message { return []proto.Message{&kmsv1.RotateKeyRequest{Name: keyNamed(id)}} },
	},
	"RestoreKeyVersion": {
		request: func(id string) proto.Message {
			return &kmsv1.RestoreKeyVersionRequest{Name: keyNamed(id) + "/versions/1"}
		},
		before: func(id string) []proto.Message {
			return []proto.Message{
				&kmsv1.RotateKeyRequest{Name: keyNamed(id)},
				&kmsv1.ScheduleKeyVersionDestructionRequest{Name: keyNamed(id) + "/versions/1"},
			}
		},
	},
	"ArchiveKey": {
		request: func(id string) proto.Message { return &kmsv1.ArchiveKeyRequest{Name: keyNamed(id)} },
		again:   true,
	},
	"UnarchiveKey": {
		request: func(id string) proto.Message { return &kmsv1.UnarchiveKeyRequest{Name: keyNamed(id)} },
		before:  func(id string) []proto.Message { return []proto.Message{&kmsv1.ArchiveKeyRequest{Name: keyNamed(id)}} },
	},
	"AddUsageBinding": {
		request: func(id string) proto.Message {
			return &kmsv1.AddUsageBindingRequest{Name: keyNamed(id), Resource: "disk/1"}
		},
		again: true,
	},
	"RemoveUsageBinding": {
		request: func(id string) proto.Message {
			return &kmsv1.RemoveUsageBindingRequest{Name: keyNamed(id), Resource: "disk/1"}
		},
		before: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.AddUsageBindingRequest{Name: keyNamed(id), Resource: "disk/1"}}
		},
		again: true,
	},
	"CreateImportJob": {
		request: createJobRequest,
		other: func(r proto.Message) {
			r.(*kmsv1.CreateImportJobRequest).ImportJob.Method = kmsv1.ImportJob_RSA_OAEP_3072_SHA256 //nolint:forcetypeassert // of this row
		},
		since: func(id string) []proto.Message {
			return []proto.Message{&kmsv1.CancelImportRequest{Name: jobNamed(id)}}
		},
		makes: true,
	},
	"CancelImport": {
		request: func(id string) proto.Message { return &kmsv1.CancelImportRequest{Name: jobNamed(id)} },
		before:  func(id string) []proto.Message { return []proto.Message{createJobRequest(id)} },
		since:   func(string) []proto.Message { return nil }, // nothing happens to a job that is over
		makes:   true, again: true,
	},
	"ImportKeyVersion": {
		request: importRequest,
		before:  func(id string) []proto.Message { return []proto.Message{createImportOnly(id)} },
		makes:   true,
	},
	"DeleteKeyMaterial": {
		request: func(id string) proto.Message {
			return &kmsv1.DeleteKeyMaterialRequest{Name: keyNamed(id) + "/versions/1"}
		},
		before: func(id string) []proto.Message { return []proto.Message{createImportOnly(id), importRequest(id)} },
		makes:  true, again: true,
	},
}

func createJobRequest(id string) proto.Message {
	return &kmsv1.CreateImportJobRequest{
		Parent: testRing, ImportJobId: id, ImportJob: &kmsv1.ImportJob{Method: kmsv1.ImportJob_RSA_OAEP_3072_SHA256_AES_256},
	}
}

func createImportOnly(id string) proto.Message {
	return &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT, ImportOnly: true}}
}

func importRequest(id string) proto.Message {
	return &kmsv1.ImportKeyVersionRequest{
		Name: keyNamed(id), Material: &kmsv1.ImportKeyVersionRequest_KeyMaterial{KeyMaterial: bytes.Repeat([]byte{7}, 32)},
	}
}

func createRequest(id string) proto.Message {
	return &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}
}

// changedSince is what happens to each resource before the requests are repeated. What its state forbids is left out, but
// something must happen to a key that is not destroyed.
func changedSince(id string, m mutation) []proto.Message {
	if m.since != nil {
		return m.since(id)
	}
	if m.ring {
		return []proto.Message{&kmsv1.ArchiveKeyRingRequest{Name: ringNamed(id)}, &kmsv1.UnarchiveKeyRingRequest{Name: ringNamed(id)}}
	}
	return []proto.Message{
		&kmsv1.RotateKeyRequest{Name: keyNamed(id)},
		&kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: keyNamed(id), DisplayName: "since"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}},
		&kmsv1.AddKeyAliasRequest{Name: keyNamed(id), Alias: "since-" + id},
		&kmsv1.DisableKeyRequest{Name: keyNamed(id)},
	}
}

// change makes a request by the name of its message, which is that of its method.
func (c clients) change(ctx context.Context, request proto.Message) (proto.Message, error) {
	method := strings.TrimSuffix(string(request.ProtoReflect().Descriptor().Name()), "Request")
	out := reflect.ValueOf(c.keys).MethodByName(method).Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(request)})
	if err, failed := reflect.TypeAssert[error](out[1]); failed {
		return nil, err
	}
	answer, ok := reflect.TypeAssert[proto.Message](out[0])
	if !ok {
		return nil, fmt.Errorf("%s answers no message", method)
	}
	return resourceIn(answer), nil
}

// resourceIn is the resource in an answer that has one beside advice, like when the key was last used; else the answer.
func resourceIn(answer proto.Message) proto.Message {
	m := answer.ProtoReflect()
	for _, name := range []protoreflect.Name{"key", "key_version"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil && f.Message() != nil && m.Has(f) {
			return m.Get(f).Message().Interface()
		}
	}
	return answer
}

func withField(request proto.Message, field protoreflect.Name, value string) proto.Message {
	out := proto.Clone(request)
	m := out.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName(field), protoreflect.ValueOfString(value))
	return out
}

// asked is a request that was carried out, and its answer.
type asked struct {
	method  string
	what    string
	request proto.Message
	answer  proto.Message
}

// TestIdempotency: every change, and every one that found nothing to change, is answered for ever as it was the first time:
// after a restart and after other changes. Nothing is recorded of the repetition. Another request with its id is refused.
func TestIdempotency(t *testing.T) {
	data := t.TempDir()
	p := launch(t, data, "--allow-clear-import")
	c := p.clients(connect.WithGRPC())
	must := func(request proto.Message) proto.Message {
		t.Helper()
		answer, err := c.change(t.Context(), request)
		if err != nil {
			t.Fatalf("%T: %v", request, err)
		}
		return answer
	}
	methods := kmsv1.File_kms_v1_key_service_proto.Services().ByName("KeyService").Methods()
	var done []asked
	var names []string
	for i := range methods.Len() {
		if methods.Get(i).Input().Fields().ByName("request_id") == nil {
			continue
		}
		name := string(methods.Get(i).Name())
		names = append(names, name)
		m, ok := mutations[name]
		if !ok {
			t.Errorf("%s changes something and has no row in mutations", name)
			continue
		}
		id := resourceOf(name)
		switch {
		case m.makes:
		case m.ring:
			must(&kmsv1.CreateKeyRingRequest{Parent: "projects/default/locations/local", KeyRingId: id})
		default:
			must(createRequest(id))
		}
		if m.before != nil {
			for _, request := range m.before(id) {
				must(request)
			}
		}
		request := withField(m.request(id), "request_id", uuid.NewString())
		done = append(done, asked{name, "", request, must(request)})
		if m.again {
			request := withField(m.request(id), "request_id", uuid.NewString())
			done = append(done, asked{name, "without a change", request, must(request)})
		}
	}
	for name := range mutations {
		if !slices.Contains(names, name) {
			t.Errorf("%s has a row in mutations, but is no method with a request_id", name)
		}
	}
	check := func(when string) {
		t.Helper()
		before := p.headWhenIdle(t)
		for _, a := range done {
			again, err := c.change(t.Context(), a.request)
			if err != nil {
				t.Errorf("%s %s, repeated %s: %v", a.method, a.what, when, err)
				continue
			}
			if diff := cmp.Diff(a.answer, again, protocmp.Transform()); diff != "" {
				t.Errorf("%s %s, repeated %s, answers otherwise:\n%s", a.method, a.what, when, diff)
			}
			other := proto.Clone(a.request)
			if change := mutations[a.method].other; change != nil {
				change(other)
			} else {
				other = withField(other, "etag", "r1")
			}
			_, err = c.change(t.Context(), other)
			wantError(t, err, connect.CodeInvalidArgument, "REQUEST_ID_REUSED")
		}
		if after := p.headWhenIdle(t); after != before {
			t.Errorf("repeated %s, the requests took the event log from %d to %d", when, before, after)
		}
	}
	check("at once")
	for _, a := range done {
		changed := 0
		for _, request := range changedSince(resourceOf(a.method), mutations[a.method]) {
			_, err := c.change(t.Context(), request)
			if err == nil {
				changed++
			} else if connect.CodeOf(err) != connect.CodeFailedPrecondition {
				t.Fatalf("after %s: %v", a.method, err)
			}
		}
		if changed == 0 && a.method != "DeleteKey" && a.method != "CancelImport" {
			t.Errorf("nothing happened to what %s changed", a.method)
		}
	}
	p.terminate()
	p = launch(t, data, "--allow-clear-import")
	c = p.clients(connect.WithGRPC())
	check("after other changes and a restart")
	p.terminate()
}

func resourceOf(method string) string { return "idem-" + strings.ToLower(method) }

// headWhenIdle is the newest revision of the event log once the server's own work, like erasing, adds no more.
func (p *process) headWhenIdle(t *testing.T) uint64 {
	t.Helper()
	c := p.clients(connect.WithGRPC())
	var head uint64
	quiet := 0
	eventually(t, func() error {
		info, err := c.system.GetServerInfo(t.Context(), &kmsv1.GetServerInfoRequest{})
		if err != nil {
			return err
		}
		if info.GetHeadRevision() != head {
			head, quiet = info.GetHeadRevision(), 0
		}
		if quiet++; quiet < 10 {
			return errors.New("the event log goes on")
		}
		return nil
	})
	return head
}
