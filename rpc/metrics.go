package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// instruments count what this package serves and refuses.
type instruments struct {
	requests   metric.Int64Counter
	duration   metric.Float64Histogram
	refused    metric.Int64Counter
	unrecorded metric.Int64Counter
}

func newInstruments(m metric.Meter) (*instruments, error) {
	var i instruments
	var err error
	if i.requests, err = m.Int64Counter("kms_rpc_requests", metric.WithDescription("Requests by method and code.")); err != nil {
		return nil, fmt.Errorf("making the request counter: %w", err)
	}
	if i.duration, err = m.Float64Histogram("kms_rpc_duration", metric.WithUnit("s"),
		metric.WithDescription("Time from a request's arrival to its answer, by method."),
		metric.WithExplicitBucketBoundaries(.00025, .0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 5, 10, 30),
	); err != nil {
		return nil, fmt.Errorf("making the duration histogram: %w", err)
	}
	if i.refused, err = m.Int64Counter("kms_rpc_unauthenticated", metric.WithDescription("Requests refused before authentication, by reason.")); err != nil {
		return nil, fmt.Errorf("making the counter of unauthenticated requests: %w", err)
	}
	if i.unrecorded, err = m.Int64Counter("kms_rpc_unauthenticated_unrecorded",
		metric.WithDescription("Unauthenticated requests that were left out of the activity log.")); err != nil {
		return nil, fmt.Errorf("making the counter of unrecorded requests: %w", err)
	}
	return &i, nil
}

// methodMetrics are one method's attributes, made once: building a set for each request would cost more than counting.
type methodMetrics struct {
	byCode   [connect.CodeUnauthenticated + 1][]metric.AddOption // 0 is OK
	duration []metric.RecordOption
}

func newMethodMetrics(name string) methodMetrics {
	var out methodMetrics
	for code := range out.byCode {
		text := "OK"
		if code != 0 {
			text = statusName(connect.Code(code))
		}
		out.byCode[code] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("method", name), attribute.String("code", text)))}
	}
	out.duration = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("method", name)))}
	return out
}

// observe counts one request; code is 0 for success.
func (i *instruments) observe(ctx context.Context, c *call, code connect.Code) {
	if int(code) >= len(c.method.metrics.byCode) {
		code = connect.CodeUnknown
	}
	i.requests.Add(ctx, 1, c.method.metrics.byCode[code]...)
	i.duration.Record(ctx, time.Since(c.start).Seconds(), c.method.metrics.duration...)
}

// statusName is a code as google.rpc.Code spells it.
func statusName(c connect.Code) string {
	if c == connect.CodeCanceled {
		return "CANCELLED"
	}
	return strings.ToUpper(c.String())
}
