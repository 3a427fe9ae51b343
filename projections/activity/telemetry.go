package activity

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyledger/kms/eventstore"
)

const scope = "github.com/keyledger/kms/projections/activity"

// telemetry is what operators see of the projection.
type telemetry struct {
	tracer       trace.Tracer
	inserts      metric.Float64Histogram
	rows         metric.Int64Counter
	registration metric.Registration
}

func newTelemetry(l *Log) (t telemetry, err error) {
	meter := otel.Meter(scope)
	t.tracer = otel.Tracer(scope)
	if t.inserts, err = meter.Float64Histogram("kms.projection.insert.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that ClickHouse takes for one insert into the activity log."),
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)); err != nil {
		return t, err
	}
	if t.rows, err = meter.Int64Counter("kms.projection.rows", metric.WithUnit("{row}"),
		metric.WithDescription("Rows inserted into the activity log.")); err != nil {
		return t, err
	}
	lag, err := meter.Int64ObservableGauge("kms.projection.lag", metric.WithUnit("{message}"),
		metric.WithDescription("Messages of a stream that are not in the activity log yet."))
	if err != nil {
		return t, err
	}
	age, err := meter.Float64ObservableGauge("kms.projection.lag.time", metric.WithUnit("s"),
		metric.WithDescription("How far the activity log is behind a stream."))
	if err != nil {
		return t, err
	}
	t.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, p := range l.progress {
			stream := metric.WithAttributes(attribute.String("stream", p.stream))
			o.ObserveInt64(lag, int64(p.head-p.seq), stream) //nolint:gosec // never negative, see setProgress
			o.ObserveFloat64(age, p.behind().Seconds(), stream)
		}
		return nil
	}, lag, age)
	return t, err
}

func (t telemetry) close() error { return t.registration.Unregister() }

// maxLinks bounds the traces that one insert's span is linked to; a busy batch has records of thousands.
const maxLinks = 32

// startInsert begins the span of one insert.
func (t telemetry) startInsert(ctx context.Context, stream string, b *batch) (context.Context, trace.Span) {
	ctx, span := t.tracer.Start(ctx, "activity.insert", trace.WithSpanKind(trace.SpanKindConsumer))
	if !span.IsRecording() {
		return ctx, span
	}
	span.SetAttributes(attribute.String("stream", stream), attribute.Int("rows", b.rows.rows()),
		attribute.Int64("first", int64(b.first)), attribute.Int64("last", int64(b.last))) //nolint:gosec // sequences are far below
	for _, parent := range b.traces {
		linked := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": parent})
		span.AddLink(trace.Link{SpanContext: trace.SpanContextFromContext(linked)})
	}
	return ctx, span
}

func failed(span trace.Span, err error) {
	span.RecordError(err)
	span.SetStatus(codes.Error, "inserting")
}

// trace remembers the request that wrote a message, for the link from the insert's span.
func (b *batch) trace(m *eventstore.Recorded) {
	if m.TraceParent != "" && len(b.traces) < maxLinks {
		b.traces = append(b.traces, m.TraceParent)
	}
}
