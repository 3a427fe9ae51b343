package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/keyledger/kms/eventstore"

// telemetry holds the instruments, with attribute sets made once: nothing is allocated for them per record.
type telemetry struct {
	tracer       trace.Tracer
	batchRecords metric.Int64Histogram
	latency      metric.Float64Histogram
	callback     metric.Registration
	attributes   map[string][2]metric.MeasurementOption // by stream; without and with an error
}

func newTelemetry(g *gauge) (*telemetry, error) {
	meter := otel.Meter(scope)
	t := &telemetry{tracer: otel.Tracer(scope), attributes: map[string][2]metric.MeasurementOption{}}
	for _, stream := range []string{streamEvents, streamMaterial, streamActivity1} {
		name := attribute.String("stream", stream)
		t.attributes[stream] = [2]metric.MeasurementOption{
			metric.WithAttributeSet(attribute.NewSet(name, attribute.Bool("error", false))),
			metric.WithAttributeSet(attribute.NewSet(name, attribute.Bool("error", true))),
		}
	}
	var err error
	if t.batchRecords, err = meter.Int64Histogram("kms.eventstore.batch.records",
		metric.WithDescription("Activity records that became durable with one append."), metric.WithUnit("{record}"),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)); err != nil {
		return nil, fmt.Errorf("making a metric: %w", err)
	}
	if t.latency, err = meter.Float64Histogram("kms.eventstore.append.duration",
		metric.WithDescription("Time until an append was durable, its repetitions included."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5)); err != nil {
		return nil, fmt.Errorf("making a metric: %w", err)
	}
	fill, err := meter.Float64ObservableGauge("kms.eventstore.stream.fill",
		metric.WithDescription("Bytes in a stream, as a part of its limit."), metric.WithUnit("1"))
	if err != nil {
		return nil, fmt.Errorf("making a metric: %w", err)
	}
	t.callback, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for stream, ratio := range g.fill() {
			o.ObserveFloat64(fill, ratio, metric.WithAttributes(attribute.String("stream", stream)))
		}
		return nil
	}, fill)
	if err != nil {
		return nil, fmt.Errorf("making a metric: %w", err)
	}
	return t, nil
}

func (t *telemetry) close() {
	if err := t.callback.Unregister(); err != nil {
		otel.Handle(err)
	}
}

// appended notes one append to a stream.
func (t *telemetry) appended(ctx context.Context, stream string, d time.Duration, err error) {
	i := 0
	if err != nil {
		i = 1
	}
	t.latency.Record(ctx, d.Seconds(), t.attributes[stream][i])
}

// batch notes one append of records.
func (t *telemetry) batch(ctx context.Context, records int, d time.Duration, err error) {
	t.batchRecords.Record(ctx, int64(records))
	t.appended(ctx, streamActivity1, d, err)
}

// start begins a span if the request is being traced, and otherwise costs nothing.
func (t *telemetry) start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...)) //nolint:spancheck // ended by end
}

func end(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// traceParent is the W3C Trace Context of a request that is sampled, else empty: a message holds it for ever.
func traceParent(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() || !sc.IsSampled() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01"
}

func addTraceParent(msg *nats.Msg, ctx context.Context) { //nolint:revive // the message is what it is about
	if tp := traceParent(ctx); tp != "" {
		msg.Header[headerTraceParent] = []string{tp}
	}
}
