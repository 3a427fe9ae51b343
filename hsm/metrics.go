package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/keyledger/kms/hsm"

// operation is one thing asked of the token, as metrics and traces name it.
type operation int

const (
	opEncrypt operation = iota
	opDecrypt
	opGenerate
	opImport
	opUnwrap
	opRandom
	opRoot
	opHealth
	opRewrap
	operations
)

var operationNames = [operations]string{"encrypt", "decrypt", "generate", "import", "unwrap", "random", "root", "health", "rewrap"}

// outcome is how it ended: refused is the caller's or the data's fault, unavailable is the token's.
type outcome int

const (
	outcomeOK outcome = iota
	outcomeRefused
	outcomeUnavailable
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "refused", "unavailable"}

// instruments are made once; the attributes of every pair of operation and outcome too, so that recording allocates nothing.
type instruments struct {
	tracer     trace.Tracer
	duration   metric.Float64Histogram
	recoveries metric.Int64Counter
	labels     [operations][outcomes][]metric.RecordOption
	spans      [operations]string
	observer   metric.Registration
}

func newInstruments(stats func() (cacheStats, int)) (*instruments, error) {
	meter := otel.Meter(scope)
	in := &instruments{tracer: otel.Tracer(scope)}
	var errs [5]error
	in.duration, errs[0] = meter.Float64Histogram("kms.hsm.operation.duration",
		metric.WithUnit("s"), metric.WithDescription("Time of one operation of the token, waiting for a session included."),
		metric.WithExplicitBucketBoundaries(.00001, .00002, .00005, .0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 2))
	in.recoveries, errs[1] = meter.Int64Counter("kms.hsm.recoveries",
		metric.WithDescription("Times that the connection to the token was lost and made again."))
	var hits, misses metric.Int64ObservableCounter
	var keys metric.Int64ObservableGauge
	hits, errs[2] = meter.Int64ObservableCounter("kms.hsm.cache.hits", metric.WithDescription("Uses of a key that was unwrapped already."))
	misses, errs[3] = meter.Int64ObservableCounter("kms.hsm.cache.misses", metric.WithDescription("Uses of a key that had to be unwrapped."))
	keys, errs[4] = meter.Int64ObservableGauge("kms.hsm.cache.keys", metric.WithDescription("Keys unwrapped in the token."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("making the token's instruments: %w", err)
	}
	for op := range operations {
		in.spans[op] = "hsm." + operationNames[op]
		for out := range outcomes {
			in.labels[op][out] = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
				attribute.String("operation", operationNames[op]), attribute.String("outcome", outcomeNames[out])))}
		}
	}
	var err error
	in.observer, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, n := stats()
		o.ObserveInt64(hits, s.hits)
		o.ObserveInt64(misses, s.misses)
		o.ObserveInt64(keys, int64(n))
		return nil
	}, hits, misses, keys)
	if err != nil {
		return nil, fmt.Errorf("making the token's instruments: %w", err)
	}
	return in, nil
}

// begin opens a span if, and only if, the caller's is recorded.
func (in *instruments) begin(ctx context.Context, op operation) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, nil
	}
	return in.tracer.Start(ctx, in.spans[op], trace.WithSpanKind(trace.SpanKindClient)) //nolint:spancheck // end is called by the caller, with end
}

// end records how long the operation took and how it ended.
func (in *instruments) end(ctx context.Context, op operation, start time.Time, span trace.Span, err error) {
	out := outcomeOK
	switch {
	case errors.Is(err, ErrUnavailable):
		out = outcomeUnavailable
	case err != nil:
		out = outcomeRefused
	}
	in.duration.Record(ctx, time.Since(start).Seconds(), in.labels[op][out]...)
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
