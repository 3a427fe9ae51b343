package rpc_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/rpc"
)

func TestTraces(t *testing.T) {
	otel.SetTextMapPropagator(propagation.TraceContext{}) // as the server does
	spans := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(spans))
	s := serve(t, func(c *rpc.Config) { c.TracerProvider = provider })
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if _, err := s.crypto(t).Encrypt(ctx, &kmsv1.EncryptRequest{Name: keyPath}); err != nil {
		t.Fatal(err)
	}
	got := spans.GetSpans()
	if len(got) != 1 || got[0].Name != "kms.v1.CryptoService/Encrypt" || got[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("spans = %+v", got)
	}
	if s.callers[0].TraceID != got[0].SpanContext.TraceID() {
		t.Error("the record is of another trace")
	}
	if _, err := s.crypto(t).Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: keyPath}); err != nil {
		t.Fatal(err)
	}
	if s.callers[1].TraceID != spans.GetSpans()[1].SpanContext.TraceID() {
		t.Error("a trace that begins here is not in the record")
	}
}

func TestMetrics(t *testing.T) {
	reader := metric.NewManualReader()
	s := serve(t, func(c *rpc.Config) { c.MeterProvider = metric.NewMeterProvider(metric.WithReader(reader)) })
	key := "/api/v1/" + keyPath
	s.send(t, "POST", key+":encrypt", "{}")
	s.send(t, "POST", "/kms.v1.CryptoService/Encrypt", `{"name":"`+keyPath+`"}`)
	s.send(t, "POST", "/kms.v1.CryptoService/Encrypt", `{"name":"k"}`)
	s.send(t, "POST", "/kms.v1.CryptoService/Encrypt", `{`)
	s.send(t, "POST", key+":encrypt", `{`)
	s.send(t, "GET", key, "", "Authorization", "")
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int64)
	var durations uint64
	for _, m := range data.ScopeMetrics[0].Metrics {
		switch d := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range d.DataPoints {
				var key strings.Builder
				key.WriteString(m.Name)
				for _, a := range p.Attributes.ToSlice() {
					key.WriteString(" " + text(a))
				}
				counts[key.String()] = p.Value
			}
		case metricdata.Histogram[float64]:
			for _, p := range d.DataPoints {
				durations += p.Count
			}
		}
	}
	for key, want := range map[string]int64{
		"kms_rpc_requests code=OK method=Encrypt":               2,
		"kms_rpc_requests code=INVALID_ARGUMENT method=Encrypt": 3,
		"kms_rpc_unauthenticated reason=MISSING_CREDENTIAL":     1,
	} {
		if counts[key] != want {
			t.Errorf("%s = %d, want %d (all: %v)", key, counts[key], want, counts)
		}
	}
	if durations != 5 {
		t.Errorf("%d durations", durations)
	}
}

func text(a attribute.KeyValue) string { return string(a.Key) + "=" + a.Value.AsString() }
