package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// interceptor is around every handler: it bounds the time, stops panics, records what was refused before any command
// saw it, maps errors and counts.
type interceptor struct{ s *Server }

// WrapUnary implements connect.Interceptor.
func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		c := i.enter(ctx, req.Spec())
		ctx, cancel := bounded(ctx, i.s.cfg.Timeout)
		defer cancel()
		res, err := recovered(func() (connect.AnyResponse, error) { return next(ctx, req) })
		if err != nil {
			return nil, i.failed(ctx, c, err, req.Any())
		}
		i.s.instruments.observe(ctx, c, 0)
		return res, nil
	}
}

// WrapStreamingHandler implements connect.Interceptor. Streams last as long as their caller wants.
func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		c := i.enter(ctx, conn.Spec())
		remembering := &rememberingConn{StreamingHandlerConn: conn}
		_, err := recovered(func() (struct{}, error) { return struct{}{}, next(ctx, remembering) })
		if err != nil {
			return i.failed(ctx, c, err, remembering.last)
		}
		i.s.instruments.observe(ctx, c, 0)
		return nil
	}
}

// rememberingConn keeps the last message that was received, for the record of a refusal.
type rememberingConn struct {
	connect.StreamingHandlerConn

	last any
}

// Receive implements connect.StreamingHandlerConn.
func (r *rememberingConn) Receive(message any) error {
	err := r.StreamingHandlerConn.Receive(message)
	if err == nil { // not the end of what is sent
		r.last = message
	}
	return err
}

// WrapStreamingClient implements connect.Interceptor; there are no clients here.
func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// enter notes that a message was decoded, and of which method.
func (i *interceptor) enter(ctx context.Context, spec connect.Spec) *call {
	c := callFrom(ctx)
	c.decoded = true
	c.method = i.s.methods[spec.Procedure]
	return c
}

// failed turns err into what the caller is told, after recording it if nobody has.
func (i *interceptor) failed(ctx context.Context, c *call, err error, message any) *connect.Error {
	name := nameIn(message)
	if broken, ok := errors.AsType[*protovalidate.ValidationError](err); ok {
		err = invalidMessage(broken)
	}
	if crash, ok := errors.AsType[*panicError](err); ok {
		logIfOurs(ctx, i.s.cfg.Log, c, crash)
		err = &unrecordedError{refusalOf(crash)}
	}
	if unrecorded, ok := errors.AsType[*unrecordedError](err); ok {
		told := i.s.cfg.Commands.RecordRefusal(ctx, callerOf(ctx), c.read(refOf(name)), unrecorded.refusal)
		if !errors.Is(told, unrecorded.refusal) {
			err = told
		}
	}
	logIfOurs(ctx, i.s.cfg.Log, c, err)
	out := connectError(err, name)
	i.s.instruments.observe(ctx, c, out.Code())
	return out
}

// panicError is a panic of a handler. The caller learns no more of it than of any other internal error.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// LogValue implements slog.LogValuer.
func (e *panicError) LogValue() slog.Value {
	return slog.GroupValue(slog.String("panic", fmt.Sprint(e.value)), slog.String("stack", string(e.stack)))
}

// recovered returns f's panic as an error: over REST an unstopped one would be answered with 200 and an empty body.
func recovered[T any](f func() (T, error)) (result T, err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler: // net/http's own way to cut a connection
			panic(p)
		default:
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return f()
}

// bounded gives ctx a deadline no later than limit from now.
func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= limit {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// nameIn is the name of what a request acts on.
func nameIn(message any) string {
	switch m := message.(type) {
	case interface{ GetName() string }:
		return m.GetName()
	case interface{ GetParent() string }:
		return m.GetParent()
	case *kmsv1.UpdateKeyRequest:
		return m.GetKey().GetName()
	}
	return ""
}

// refOf reads as much of a name as there is, for the record of a refusal.
func refOf(name string) domain.KeyRef {
	if ref, err := domain.ParseKeyRef(name); err == nil {
		return ref
	}
	if ring, err := domain.ParseRingName(name); err == nil {
		return domain.KeyRef{Name: domain.KeyName{Project: ring.Project, Location: ring.Location, Ring: ring.Ring}}
	}
	if place, err := parseLocation(name); err == nil {
		return domain.KeyRef{Name: place}
	}
	return domain.KeyRef{}
}
