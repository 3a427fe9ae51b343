package main

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestWatch: watches over every protocol, HTTP/1.1 included, follow a real server past its limits for other requests, and
// end with a sentence when it is stopped, which they don't hold up.
func TestWatch(t *testing.T) {
	p := launch(t, t.TempDir())
	c := p.clients(connect.WithGRPC())
	created, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "watched", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}})
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]*connect.ServerStreamForClient[kmsv1.WatchKeysResponse]{}
	for name, options := range map[string][]connect.ClientOption{"gRPC-Web": {connect.WithGRPCWeb()}, "Connect": {connect.WithProtoJSON()}} {
		stream, err := p.clients(options...).keys.WatchKeys(t.Context(), &kmsv1.WatchKeysRequest{Parent: testRing, StartRevision: created.GetRevision() - 1})
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() || stream.Msg().GetChange().GetKey().GetName() != created.GetName() || !stream.Msg().GetChange().GetCreated() {
			t.Fatalf("%s begins with %v, %v", name, stream.Msg(), stream.Err())
		}
		streams[name] = stream
	}
	if _, err := c.keys.DisableKey(t.Context(), &kmsv1.DisableKeyRequest{Name: created.GetName()}); err != nil {
		t.Fatal(err)
	}
	for name, stream := range streams {
		for stream.Receive() && stream.Msg().GetChange() == nil {
		}
		if change := stream.Msg().GetChange(); change.GetKey().GetState() != kmsv1.Key_DISABLED || change.GetOperation() != "DisableKey" {
			t.Errorf("%s goes on with %v, %v", name, stream.Msg(), stream.Err())
		}
		revision := stream.Msg().GetRevision()
		if !stream.Receive() || stream.Msg().GetProgress() == nil || stream.Msg().GetRevision() < revision {
			t.Errorf("%s tells %v instead of where it is: %v", name, stream.Msg(), stream.Err())
		}
	}
	began := time.Now()
	p.terminate()
	if took := time.Since(began); took > drainTime {
		t.Errorf("the watches kept the server for %s", took)
	}
	for name, stream := range streams {
		for stream.Receive() {
		}
		if err := stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("%s ends with %v", name, err)
		}
	}
}
