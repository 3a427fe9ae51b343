package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// spans is an OTLP collector that keeps what it gets.
type spans struct {
	collector.UnimplementedTraceServiceServer

	mu  sync.Mutex
	all []*otlp.Span
	// scopes are the instrumentation scopes of the spans, in the same order.
	scopes []string
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.all = append(s.all, span)
				s.scopes = append(s.scopes, scope.GetScope().GetName())
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// TestTrace: one trace leads from the request through every layer, and on into the activity database.
func TestTrace(t *testing.T) {
	var got spans
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, &got)
	go server.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(server.Stop)
	p, err := tryLaunch(t, t.TempDir(), []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://" + l.Addr().String(), "OTEL_BSP_SCHEDULE_DELAY=100"})
	if err != nil {
		t.Fatal(err)
	}
	c := p.clients()
	if _, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "traced", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}); err != nil {
		t.Fatal(err)
	}
	trace := []byte{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Traceparent", fmt.Sprintf("00-%x-00f067aa0ba902b7-01", trace))
	if _, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: testRing + "/keys/traced", Plaintext: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		got.mu.Lock()
		defer got.mu.Unlock()
		layers := map[string]bool{}
		for i, span := range got.all {
			name := got.scopes[i][strings.LastIndexByte(got.scopes[i], '/')+1:]
			if bytes.Equal(span.GetTraceId(), trace) {
				layers[name] = true
			}
			for _, link := range span.GetLinks() {
				if bytes.Equal(link.GetTraceId(), trace) {
					layers["linked from "+name] = true
				}
			}
		}
		for _, want := range []string{"otelconnect", "commands", "hsm", "eventstore", "linked from activity"} {
			if !layers[want] {
				return fmt.Errorf("the trace has no span of %s, only of %v", want, slices.Sorted(maps.Keys(layers)))
			}
		}
		return nil
	})
	eventually(t, func() error {
		for _, r := range activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: testRing + "/keys/traced", Operations: []string{"Encrypt"}}) {
			if r.GetTraceId() == fmt.Sprintf("%x", trace) {
				return nil
			}
		}
		return fmt.Errorf("no record names the trace %x", trace)
	})
	p.terminate()
}
