package rpc

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
)

// Headers that callers send and get back. The request id is made here for each attempt; the other two are the caller's
// own and are echoed and recorded.
const (
	headerRequestID       = "Kms-Request-Id"
	headerClientRequestID = "X-Request-Id"
	headerCorrelationID   = "Correlation-Id"
)

// maxClientID bounds the caller's own ids, in bytes.
const maxClientID = 128

// call is what is known of one HTTP request from before its message is read. It belongs to the request's goroutine.
type call struct {
	start  time.Time
	method *method       // nil on a REST path that is of no method
	ref    domain.KeyRef // what a REST path names
	caller domain.Caller
	// private is set when nobody on a network can read the request: it came over TLS, or from this machine.
	private bool
	// control changes the limits of the request's connection.
	control *http.ResponseController
	// decoded is set when a message of the method's type came out of the request. What fails before that never reaches
	// an interceptor or handler.
	decoded bool
}

type callKey struct{}

// callFrom returns the call that begin put into the request's context. Every handler runs behind begin.
func callFrom(ctx context.Context) *call {
	return ctx.Value(callKey{}).(*call) //nolint:forcetypeassert // a handler mounted without begin is a programming error
}

// callerOf is the caller of the request, with the trace that the request belongs to.
func callerOf(ctx context.Context) domain.Caller {
	caller := callFrom(ctx).caller
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		caller.TraceID = span.TraceID()
	}
	return caller
}

// begin makes the call of a request: its id, and what the connection and the headers tell of the caller. The principal
// is still to be authenticated.
func begin(w http.ResponseWriter, r *http.Request) (*call, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	c := &call{start: time.Now(), control: http.NewResponseController(w), caller: domain.Caller{
		Request: domain.RequestAPI, RequestID: domain.UID(id), Address: clientAddress(r.RemoteAddr), UserAgent: printable(r.UserAgent()),
	}}
	c.private = r.TLS != nil || c.caller.Address.IsLoopback()
	h := w.Header()
	h[headerRequestID] = []string{c.caller.RequestID.String()}
	if c.caller.ClientRequestID = clientID(r.Header, headerClientRequestID); c.caller.ClientRequestID != "" {
		h[headerClientRequestID] = []string{c.caller.ClientRequestID}
	}
	if c.caller.CorrelationID = clientID(r.Header, headerCorrelationID); c.caller.CorrelationID != "" {
		h[headerCorrelationID] = []string{c.caller.CorrelationID}
	}
	if parent := r.Header.Get("Traceparent"); parent != "" {
		c.caller.TraceID = traceID(parent)
	}
	return c, nil
}

// clientAddress is the address of the connection's other end: no header can change it. It is not valid on a unix socket.
func clientAddress(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// clientID returns an id of the caller's own, without what could not be echoed or shown and cut to its limit. It names
// nothing here, so that a strange one is no reason to refuse a request.
func clientID(h http.Header, name string) string {
	id := printable(h.Get(name))
	return id[:min(len(id), maxClientID)]
}

// printable drops everything but printable ASCII.
func printable(s string) string {
	isOther := func(r rune) bool { return r < ' ' || r > '~' }
	if strings.IndexFunc(s, isOther) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if isOther(r) {
			return -1
		}
		return r
	}, s)
}

// traceID reads the trace id of a traceparent header (W3C Trace Context level 1, section 3.2), or zero.
func traceID(parent string) (id [16]byte) {
	if len(parent) < 55 || parent[2] != '-' || parent[35] != '-' {
		return id
	}
	parsed, err := trace.TraceIDFromHex(parent[3:35])
	if err != nil {
		return id
	}
	return parsed
}

// read names the call's method and what it acts on, for the gate and for records.
func (c *call) read(ref domain.KeyRef) commands.Read {
	r := commands.Read{Ref: ref}
	if c.method != nil {
		r.Operation, r.Permission, r.Category = c.method.name, c.method.permission, c.method.category
	}
	return r
}

// attrs identify the call in the server's log.
func (c *call) attrs(err error) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("request_id", c.caller.RequestID.String()),
		slog.String("principal", c.caller.Principal),
		slog.Any("error", err),
	}
	if c.method != nil {
		attrs = append(attrs, slog.String("method", c.method.name))
	}
	return attrs
}
