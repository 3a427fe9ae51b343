package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// telemetry is where traces and metrics go. Metrics are always at /metrics; traces, and metrics by OTLP, are sent when
// the standard variables of OpenTelemetry say where (OTEL_EXPORTER_OTLP_ENDPOINT and its relatives).
type telemetry struct {
	metrics  http.Handler
	tracer   trace.TracerProvider // nil when nobody wants traces
	shutdown []func(context.Context) error
}

func startTelemetry(ctx context.Context) (*telemetry, error) {
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(serviceAttributes()...))
	if err != nil {
		return nil, fmt.Errorf("describing this service for telemetry: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("starting the metrics page: %w", err)
	}
	t := &telemetry{metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
	metricOptions := []metric.Option{metric.WithReader(exporter), metric.WithResource(res)}
	if otlpWanted("METRICS") {
		push, err := otlpmetricgrpc.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("starting the OTLP export of metrics: %w", err)
		}
		metricOptions = append(metricOptions, metric.WithReader(metric.NewPeriodicReader(push)))
	}
	meters := metric.NewMeterProvider(metricOptions...)
	otel.SetMeterProvider(meters)
	t.shutdown = append(t.shutdown, meters.Shutdown)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	if otlpWanted("TRACES") {
		spans, err := traceExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("starting the OTLP export of traces: %w", err)
		}
		traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(res))
		otel.SetTracerProvider(traces)
		t.tracer = traces
		t.shutdown = append(t.shutdown, traces.Shutdown)
	}
	return t, nil
}

func traceExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	protocol := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	if strings.HasPrefix(protocol, "http/") {
		return otlptracehttp.New(ctx)
	}
	return otlptracegrpc.New(ctx)
}

// otlpWanted reports whether the environment asks for the export of a signal.
func otlpWanted(signal string) bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_"+signal+"_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// stop sends what is waiting to be sent.
func (t *telemetry) stop(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// newLogger writes one line of text per message, with the ids of the trace it belongs to.
func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	return slog.New(traceHandler{slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})}), nil
}

type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traceHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(a)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}

func serviceAttributes() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("service.name", "kms"), attribute.String("service.version", version)}
}
