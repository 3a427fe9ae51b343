package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/domain"
)

// refusalTimeout bounds the recording of a refusal whose request may have ended already.
const refusalTimeout = 5 * time.Second

// serveRPC does what must be done before the request's message is read: identify, authenticate, limit. What fails
// between here and the interceptor is recorded here, since no interceptor sees it.
func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request, m *method) {
	c, err := begin(w, r)
	if err != nil {
		s.writeError(w, r, connectError(err, ""))
		return
	}
	c.method = m
	if refusal := s.authenticate(c, r.Header); refusal != nil {
		s.refuseUnauthenticated(r.Context(), w, c, refusal)
		s.writeError(w, r, connectError(refusal, ""))
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
	if err := limitBody(r, m.maxBody); err != nil {
		c.decoded = true // refused and recorded here
		s.writeError(w, r, connectError(s.recordRefused(r.Context(), c, err), ""))
		return
	}
	if m.descriptor.IsStreamingServer() {
		if err := unlimited(w); err != nil {
			s.cfg.Log.LogAttrs(r.Context(), slog.LevelDebug, "a stream keeps the time-outs of single answers", slog.Any("error", err))
		}
	}
	s.rpcs[m.procedure].ServeHTTP(w, r)
	if !c.decoded {
		if err := s.recordRefused(r.Context(), c, errUndecodable); errors.Is(err, errUndecodable) {
			s.instruments.observe(r.Context(), c, connect.CodeInvalidArgument)
		} else {
			logIfOurs(r.Context(), s.cfg.Log, c, err)
		}
	}
}

// errUndecodable stands for whatever kept a message from being read. The record must not hold the parser's words: they
// quote the request.
var errUndecodable = &domain.Error{Reason: domain.ReasonBadField, Message: "the request's message could not be read: look at its format, fields and encoding"}

// recordRefused records a refusal that no interceptor sees and returns what to tell the caller.
func (s *Server) recordRefused(ctx context.Context, c *call, refusal error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalTimeout)
	defer cancel()
	return s.cfg.Commands.RecordRefusal(ctx, callerOf(ctx), c.read(c.ref), refusal)
}

// limitBody refuses a body that is larger than limit. A stated length is believed, since no more than that is read. A
// body of unknown length is read ahead, unless it is framed: then each message states its length, and the handler
// refuses it by that.
func limitBody(r *http.Request, limit int) error {
	if r.ContentLength > int64(limit) {
		return tooLarge(limit)
	}
	if t := r.Header.Get("Content-Type"); r.ContentLength >= 0 || strings.HasPrefix(t, "application/grpc") || strings.HasPrefix(t, "application/connect+") {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	switch {
	case err != nil:
		return errUndecodable
	case len(body) > limit:
		return tooLarge(limit)
	}
	r.Body = readAhead{bytes.NewReader(body), r.Body}
	return nil
}

// readAhead is a body that was read before its handler asked for it.
type readAhead struct {
	io.Reader
	io.Closer
}

func tooLarge(limit int) *domain.Error {
	return &domain.Error{Reason: domain.ReasonTooLarge, Message: fmt.Sprintf("the request's body is larger than %d bytes; send less at once, and encrypt large data with a data key", limit)}
}

// refuseUnauthenticated notes an attempt without a valid credential. It waits for nothing: strangers must not be able to
// make the service work.
func (s *Server) refuseUnauthenticated(ctx context.Context, w http.ResponseWriter, c *call, refusal *domain.Error) {
	s.attempts.note(refusal.Reason, c.caller.Address)
	s.instruments.refused.Add(ctx, 1, refusedBy(refusal.Reason))
	if answerTo(refusal.Reason).code == connect.CodeUnauthenticated {
		w.Header().Set("Www-Authenticate", "Bearer")
	}
}

// writeError answers in the format of the request's own protocol.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err *connect.Error) {
	if failed := s.errors.Write(w, r, err); failed != nil {
		s.cfg.Log.LogAttrs(r.Context(), slog.LevelDebug, "an error could not be sent", slog.Any("error", failed))
	}
}
