package activity_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/keyledger/kms/domain"
)

func TestTelemetry(t *testing.T) {
	reader := metric.NewManualReader()
	meters := metric.NewMeterProvider(metric.WithReader(reader))
	spans := tracetest.NewInMemoryExporter()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	meterBefore, tracerBefore := otel.GetMeterProvider(), otel.GetTracerProvider()
	otel.SetMeterProvider(meters)
	otel.SetTracerProvider(traces)
	t.Cleanup(func() { otel.SetMeterProvider(meterBefore); otel.SetTracerProvider(tracerBefore) })

	s := newSite(t)
	l := s.open(t)
	run(t, l)
	ctx, span := traces.Tracer("test").Start(t.Context(), "a request")
	if _, err := s.store.Record(ctx, []domain.ActivityRecord{record(t), record(t)}); err != nil {
		t.Fatal(err)
	}
	span.End()
	caughtUp(t, l)

	linked := func() bool {
		return slices.ContainsFunc(spans.GetSpans(), func(s tracetest.SpanStub) bool {
			return s.Name == "activity.insert" && slices.ContainsFunc(s.Links, func(link sdktrace.Link) bool {
				return link.SpanContext.TraceID() == span.SpanContext().TraceID()
			})
		})
	}
	for deadline := time.Now().Add(patience); !linked(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no insert is linked to the request")
		}
	}
	values := collect(t, reader)
	if values["kms.projection.rows"] < 2 || values["kms.projection.insert.duration"] < 1 {
		t.Errorf("metrics: %v", values)
	}
	for _, name := range []string{"kms.projection.lag", "kms.projection.lag.time"} {
		if v, ok := values[name]; !ok || v != 0 {
			t.Errorf("%s = %v, %v; want 0", name, v, ok)
		}
	}

	closeEngine(t, s.engine)
	s.record(t, 1, record(t))
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		values := collect(t, reader)
		if values["kms.projection.lag"] >= 1 && values["kms.projection.lag.time"] > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no lag while the engine is away: %v", values)
		}
	}
}

// collect sums the values of each metric; of a histogram it is their number.
func collect(t *testing.T, reader *metric.ManualReader) map[string]float64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.WithoutCancel(t.Context()), &all); err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					values[m.Name] += float64(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					values[m.Name] += float64(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					values[m.Name] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					values[m.Name] += float64(p.Count)
				}
			}
		}
	}
	return values
}
