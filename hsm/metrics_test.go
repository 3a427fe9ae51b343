package hsm

import (
	"errors"
	"testing"

	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// reader and spans see what the shared token measures and traces; TestMain installs them before opening it.
var (
	reader = sdkmetric.NewManualReader()
	spans  = tracetest.NewSpanRecorder()
	tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
)

func installTelemetry() {
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	otel.SetTracerProvider(tracer)
}

// measured is how often an operation ended so, and the counters by name.
func measured(t *testing.T) (calls map[[2]string]uint64, counters map[string]int64) {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	calls, counters = map[[2]string]uint64{}, map[string]int64{}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					op, _ := p.Attributes.Value("operation")
					out, _ := p.Attributes.Value("outcome")
					calls[[2]string{op.AsString(), out.AsString()}] += p.Count
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					counters[m.Name] += p.Value
				}
			}
		}
	}
	return calls, counters
}

func TestMetrics(t *testing.T) {
	b, _ := newKey(t)
	before, countersBefore := measured(t)
	iv, ct, err := shared.Encrypt(t.Context(), b, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := shared.Decrypt(t.Context(), b, iv, ct, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := shared.Decrypt(t.Context(), b, iv, ct, []byte("x")); !errors.Is(err, ErrDecrypt) {
		t.Fatal(err)
	}
	cut(t, shared)
	if _, _, err := shared.Encrypt(t.Context(), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	after, countersAfter := measured(t)
	for key, want := range map[[2]string]uint64{
		{"encrypt", "ok"}: 2, {"decrypt", "ok"}: 2, {"decrypt", "refused"}: 1, {"unwrap", "ok"}: 2,
	} {
		if got := after[key] - before[key]; got != want {
			t.Errorf("%v was measured %d times, not %d", key, got, want)
		}
	}
	// One miss before the cut and one after; the first use after it hits a key whose session is gone.
	for name, want := range map[string]int64{"kms.hsm.recoveries": 1, "kms.hsm.cache.misses": 2, "kms.hsm.cache.hits": 4} {
		if got := countersAfter[name] - countersBefore[name]; got != want {
			t.Errorf("%s went up by %d, not %d", name, got, want)
		}
	}
}

func TestSpans(t *testing.T) {
	b, _ := newKey(t)
	if n := len(spans.Ended()); n != 0 {
		t.Errorf("%d spans without one of the caller's", n)
	}
	ctx, parent := tracer.Tracer("test").Start(t.Context(), "parent")
	if _, _, err := shared.Encrypt(ctx, b, nil, nil); err != nil {
		t.Fatal(err)
	}
	got := spans.Ended()
	parent.End()
	spans.Reset()
	if len(got) != 2 || got[0].Name() != "hsm.unwrap" || got[1].Name() != "hsm.encrypt" ||
		got[0].Parent().SpanID() != got[1].SpanContext().SpanID() || got[1].Parent().SpanID() != parent.SpanContext().SpanID() {
		t.Errorf("spans: %v", got)
	}
}
