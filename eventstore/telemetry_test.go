package eventstore_test

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// TestTelemetry: a traced request has its spans and leaves its trace context in the stream; others leave nothing. It must not
// run beside other tests: the providers are the process's.
func TestTelemetry(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	oldMeter, oldTracer := otel.GetMeterProvider(), otel.GetTracerProvider()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	otel.SetTracerProvider(provider)
	defer func() {
		otel.SetMeterProvider(oldMeter)
		otel.SetTracerProvider(oldTracer)
	}()

	s := eventstoretest.New(t)
	if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "k")}); err != nil {
		t.Fatal(err)
	}
	if n := len(spans.Ended()); n != 0 {
		t.Errorf("%d spans of requests that are not traced", n)
	}
	ctx, root := provider.Tracer("test").Start(t.Context(), "request")
	if _, err := s.Record(ctx, []domain.ActivityRecord{record(t, "k")}); err != nil {
		t.Fatal(err)
	}
	c := createKey(t, "k")
	if err := s.PutMaterial(ctx, domain.Binding{KeyUID: c.KeyUID, MaterialID: newUID(t)}, []byte("wrapped")); err != nil {
		t.Fatal(err)
	}
	c, err := s.Append(ctx, 0, c)
	if err != nil {
		t.Fatal(err)
	}
	root.End()
	names := map[string]int{}
	for _, span := range spans.Ended() {
		names[span.Name()]++
		if span.SpanContext().TraceID() != root.SpanContext().TraceID() {
			t.Errorf("span %s is of another trace", span.Name())
		}
	}
	for _, name := range []string{"eventstore.Record", "eventstore.PutMaterial", "eventstore.Append"} {
		if names[name] != 1 {
			t.Errorf("%d spans of %s, want 1", names[name], name)
		}
	}

	var parents []string
	for r, err := range s.ReadRecords(t.Context(), "KMS_ACTIVITY_1", 0) {
		if err != nil {
			t.Fatal(err)
		}
		if parents = append(parents, r.TraceParent); r.Seq == 2 {
			break
		}
	}
	for r, err := range s.ReadRecords(t.Context(), "KMS_EVENTS", uint64(c.Revision)-1) {
		if err != nil {
			t.Fatal(err)
		}
		parents = append(parents, r.TraceParent)
		break
	}
	id := root.SpanContext().TraceID().String()
	if parents[0] != "" || !strings.Contains(parents[1], id) || !strings.Contains(parents[2], id) {
		t.Errorf("trace contexts in the streams: %q, want none and two of %s", parents, id)
	}

	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	metrics := map[string]bool{}
	for _, scope := range got.ScopeMetrics {
		for _, m := range scope.Metrics {
			metrics[m.Name] = true
		}
	}
	for _, name := range []string{"kms.eventstore.batch.records", "kms.eventstore.append.duration", "kms.eventstore.stream.fill"} {
		if !metrics[name] {
			t.Errorf("no metric %s in %v", name, metrics)
		}
	}
}
