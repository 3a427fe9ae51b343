package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

const (
	maxAttempts    = 5
	firstDelay     = 100 * time.Millisecond
	maxDelay       = 5 * time.Second
	attemptTimeout = 20 * time.Second
)

// call calls a method and, as long as it is unknown whether anything came of it, calls it again with the same request: at
// most maxAttempts times and within the client's timeout. That is safe for every method: those that change something
// carry a request id, which the server does only once, and the others change nothing.
func call[Request, Response any](
	ctx context.Context, c *client, method func(context.Context, *Request) (*Response, error), req *Request,
) (*Response, error) {
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	reached := false
	for attempt := 1; ; attempt++ {
		resp, err := callOnce(within, method, req)
		if err == nil {
			return resp, nil
		}
		reached = reached || !isDialError(err)
		if !connect.IsWireError(err) {
			err = fmt.Errorf("reaching %s: %w", c.addr, err)
		}
		again, delay := repeatable(err)
		if !again {
			return nil, err
		}
		if attempt == maxAttempts || !c.wait(within, max(delay, backoff(attempt)), err) {
			if reached {
				return nil, unanswered(err, req)
			}
			return nil, err
		}
	}
}

// isDialError reports whether there was nobody to send a request to.
func isDialError(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func callOnce[Request, Response any](
	ctx context.Context, method func(context.Context, *Request) (*Response, error), req *Request,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return method(ctx, req)
}

// repeatable reports whether a call that ended like this may be made again, and after how long the server wants it.
func repeatable(err error) (bool, time.Duration) {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false, 0
	}
	delay, told := retryDelay(err)
	switch connect.CodeOf(err) { //nolint:exhaustive // all other codes are decisions of the server
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return true, delay
	case connect.CodeResourceExhausted:
		return told, delay
	case connect.CodeUnknown, connect.CodeInternal:
		return !connect.IsWireError(err), delay // the answer broke off on its way
	}
	return false, 0
}

// retryDelay is what the server's RetryInfo says.
func retryDelay(err error) (time.Duration, bool) {
	if info, ok := detail[*errdetails.RetryInfo](err); ok {
		return info.GetRetryDelay().AsDuration(), true
	}
	return 0, false
}

// detail finds an error's detail of type T.
func detail[T any](err error) (T, bool) {
	var none T
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return none, false
	}
	for _, d := range ce.Details() {
		m, err := d.Value()
		if err != nil {
			continue // of a type that this version doesn't know
		}
		if t, ok := m.(T); ok {
			return t, true
		}
	}
	return none, false
}

// backoff is how long to wait after attempt number n, at random, so that clients that failed together come back apart.
func backoff(n int) time.Duration {
	d := min(firstDelay<<(n-1), maxDelay)
	return d/2 + rand.N(d/2) //nolint:gosec // spreading needs no secrets
}

// wait reports whether d went by before ctx ended. It doesn't begin to wait for what ctx leaves no time for, and tells
// why it waits if that takes long enough to be noticed.
func (c *client) wait(ctx context.Context, d time.Duration, why error) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false
	}
	if d >= time.Second {
		c.remark("kmsctl: %s; trying again in %s", describe(why), d.Round(time.Second))
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// unansweredError is a call that was repeated until there was no more time, so that nobody knows what came of it.
type unansweredError struct {
	err       error
	requestID string // of a change, to repeat it with
}

func (e *unansweredError) Error() string { return e.err.Error() }
func (e *unansweredError) Unwrap() error { return e.err }

func unanswered(err error, req any) error {
	e := &unansweredError{err: err}
	if m, ok := req.(interface{ GetRequestId() string }); ok {
		e.requestID = m.GetRequestId()
	}
	return e
}

// retryHint says how to find out what came of a change whose answer is missing.
func retryHint(err error) string {
	if e, ok := errors.AsType[*unansweredError](err); ok && e.requestID != "" {
		return "; the change may have been made all the same: the same command with --request-id " + e.requestID + " tells, and makes it at most once"
	}
	return ""
}

// describe is the sentence that an error is told with: what the server says, its reason and the request id.
func describe(err error) string {
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return printable(err.Error())
	}
	var text strings.Builder
	if prefix, _, found := strings.Cut(err.Error(), ce.Error()); found {
		text.WriteString(printable(prefix)) // what was being tried
	}
	text.WriteString(printable(cmp.Or(ce.Message(), ce.Code().String())))
	if isDialError(err) {
		text.WriteString("; --addr or KMS_ADDR says where the server is")
	}
	var marks []string
	if info, ok := detail[*errdetails.ErrorInfo](err); ok {
		marks = append(marks, printable(info.GetReason()))
	} else if connect.IsWireError(err) {
		marks = append(marks, ce.Code().String())
	}
	if id := ce.Meta().Get("Kms-Request-Id"); id != "" {
		marks = append(marks, "request "+printable(id))
	}
	if len(marks) > 0 {
		fmt.Fprintf(&text, " (%s)", strings.Join(marks, ", "))
	}
	return text.String() + retryHint(err)
}
