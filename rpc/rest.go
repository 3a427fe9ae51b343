package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/keyledger/kms/domain"
)

// maxTranscoded bounds what the transcoder holds of one message. Requests are much smaller: the edge sees to that.
const maxTranscoded = 64 << 20

// transcoder turns REST requests into calls of the services' own handlers, as google.api.http in the proto files says.
func transcoder(services []service) (http.Handler, error) {
	mounted := make([]*vanguard.Service, 0, len(services))
	for _, svc := range services {
		mounted = append(mounted, vanguard.NewService(svc.path, svc.handler, vanguard.WithMaxMessageBufferBytes(maxTranscoded)))
	}
	t, err := vanguard.NewTranscoder(mounted, vanguard.WithCodec(newRESTJSON))
	if err != nil {
		return nil, fmt.Errorf("building the REST paths: %w", err)
	}
	return t, nil
}

// restEdge stands in front of the transcoder: it identifies, authenticates and limits as serveRPC does, refuses what the
// transcoder handles badly, and gives every error the one shape of AIP-193.
func (s *Server) restEdge(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := begin(w, r)
		if err != nil {
			replyREST(w, http.StatusInternalServerError, connectError(err, ""))
			return
		}
		if refusal := s.authenticate(c, r.Header); refusal != nil {
			s.refuseUnauthenticated(r.Context(), w, c, refusal)
			err := connectError(refusal, "")
			replyREST(w, httpStatus(err.Code()), err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		c.method, c.ref = s.route(r)
		limit := maxBody
		if c.method != nil {
			limit = c.method.maxBody
		}
		switch encoding := r.Header.Get("Content-Encoding"); {
		case encoding != "" && encoding != "identity":
			// The transcoder would decompress without a limit: 200 KB become a gigabyte.
			refusal := &domain.Error{Reason: domain.ReasonUnsupported, Message: "compressed request bodies are not accepted here; send the body as it is"}
			s.refuseREST(w, r, c, http.StatusUnsupportedMediaType, refusal)
			return
		case r.ContentLength > int64(limit):
			s.refuseREST(w, r, c, http.StatusRequestEntityTooLarge, tooLarge(limit))
			return
		}
		if refusal := contradiction(c.method, r.URL.Query()); refusal != nil {
			s.refuseREST(w, r, c, http.StatusBadRequest, refusal)
			return
		}
		spellMask(r.URL)
		spellAlias(r.URL)
		body := &limitedBody{ReadCloser: r.Body, left: int64(limit)}
		r.Body = body
		e := &edgeWriter{ResponseWriter: w}
		s.serveTranscoded(e, r, c, next)
		switch {
		case body.exceeded && e.failed():
			s.refuseREST(w, r, c, http.StatusRequestEntityTooLarge, tooLarge(limit))
		case e.failed() && !c.decoded:
			status, refusal := e.refusal()
			if refusal.Reason == reasonNotFound {
				c.method = nil
			}
			s.refuseREST(w, r, c, status, refusal)
		case e.failed():
			e.reshape()
		}
	})
}

// contradiction refuses a query that gives two alternatives of one oneof: the transcoder would take the last, while JSON
// bodies are refused.
func contradiction(m *method, query url.Values) *domain.Error {
	if m == nil {
		return nil
	}
	given := make(map[protoreflect.FullName]protoreflect.Name)
	for name := range query {
		field := m.descriptor.Input().Fields().ByTextName(name)
		if field == nil {
			field = m.descriptor.Input().Fields().ByJSONName(name)
		}
		if field == nil || field.ContainingOneof() == nil {
			continue
		}
		of := field.ContainingOneof().FullName()
		if other, taken := given[of]; taken && other != field.Name() {
			return &domain.Error{Reason: domain.ReasonBadField, Message: fmt.Sprintf("%s and %s exclude each other: give one of them", min(other, field.Name()), max(other, field.Name()))}
		}
		given[of] = field.Name()
	}
	return nil
}

// spellMask rewrites an update_mask in the query as JSON spells field masks, in camel case: the transcoder refuses the
// names that the proto files use and every document shows.
func spellMask(u *url.URL) {
	query := u.Query()
	masks := slices.Concat(query["update_mask"], query["updateMask"])
	if !strings.Contains(strings.Join(masks, ","), "_") {
		return
	}
	for i, mask := range masks {
		masks[i] = underscore.ReplaceAllStringFunc(mask, func(s string) string { return strings.ToUpper(s[1:]) })
	}
	query.Del("updateMask")
	query["update_mask"] = masks
	u.RawQuery = query.Encode()
}

// spellAlias escapes the colon of an alias in the path: the transcoder would take what follows it for a verb.
func spellAlias(u *url.URL) {
	u.Path = strings.Replace(u.Path, "/keys/alias:", "/keys/alias%3A", 1)
}

var underscore = regexp.MustCompile(`_[a-z]`)

// serveTranscoded calls the transcoder and stops its panics; those of handlers are stopped by the interceptor.
func (s *Server) serveTranscoded(e *edgeWriter, r *http.Request, c *call, next http.Handler) {
	_, err := recovered(func() (struct{}, error) {
		next.ServeHTTP(e, r)
		return struct{}{}, nil
	})
	if err == nil {
		return
	}
	s.cfg.Log.LogAttrs(r.Context(), slog.LevelError, "panic in the REST transcoder", append(c.attrs(err), slog.String("stack", string(debug.Stack())))...)
	if e.committed() { // too late to say so: cut the connection, so that nobody takes the answer for whole
		panic(http.ErrAbortHandler)
	}
	replyREST(e.ResponseWriter, http.StatusInternalServerError, connectError(err, ""))
	e.status = http.StatusOK // answered
}

// refuseREST records and answers a refusal that no interceptor saw. A request for no method is not recorded: nothing was
// attempted.
func (s *Server) refuseREST(w http.ResponseWriter, r *http.Request, c *call, status int, refusal *domain.Error) {
	told := error(refusal)
	if c.method != nil {
		recorded := refusal
		if refusal.Reason == domain.ReasonBadField {
			recorded = errUndecodable // the transcoder's words quote the request
		}
		if err := s.recordRefused(r.Context(), c, recorded); !errors.Is(err, recorded) {
			told = err
			logIfOurs(r.Context(), s.cfg.Log, c, err)
		}
	}
	out := connectError(told, "")
	if told != error(refusal) { //nolint:errorlint // whether it is this very one
		status = httpStatus(out.Code())
	}
	if c.method != nil {
		s.instruments.observe(r.Context(), c, out.Code())
	}
	replyREST(w, status, out)
}

// limitedBody fails once more than it may give was asked of it, and remembers that.
type limitedBody struct {
	io.ReadCloser
	left     int64
	exceeded bool
}

var errBodyTooLarge = errors.New("request body too large")

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.exceeded {
		return 0, errBodyTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		b.exceeded = true
		return 0, errBodyTooLarge
	}
	return n, err
}

// edgeWriter passes answers on and holds errors back, so that they can be given another shape. It has no Unwrap: a flush
// past it would send 200 before the status of an error is known.
type edgeWriter struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer // of an error
}

func (e *edgeWriter) failed() bool { return e.status >= http.StatusBadRequest }

func (e *edgeWriter) committed() bool { return e.status != 0 && !e.failed() }

// WriteHeader implements http.ResponseWriter.
func (e *edgeWriter) WriteHeader(status int) {
	if e.status != 0 {
		return
	}
	e.status = status
	if !e.failed() {
		e.ResponseWriter.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (e *edgeWriter) Write(b []byte) (int, error) {
	if e.status == 0 {
		e.WriteHeader(http.StatusOK)
	}
	if e.failed() {
		return e.body.Write(b)
	}
	return e.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which the transcoder insists on.
func (e *edgeWriter) Flush() {
	if !e.committed() {
		return
	}
	if f, ok := e.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// status is google.rpc.Status as the transcoder writes it.
type status struct {
	Code    uint32          `json:"code"` // connect.Code would want its name
	Message string          `json:"message"`
	Details json.RawMessage `json:"details"`
}

// reshape sends a handler's error.
func (e *edgeWriter) reshape() {
	var st status
	if err := json.Unmarshal(e.body.Bytes(), &st); err != nil {
		replyREST(e.ResponseWriter, http.StatusInternalServerError, connectError(err, ""))
		return
	}
	writeREST(e.ResponseWriter, e.status, statusName(connect.Code(st.Code)), st.Message, st.Details)
}

// refusal is what the transcoder itself had against a request. Its own answers are plain text for 404, 405 and 415,
// and UNKNOWN or INTERNAL, as if it were to blame, for what it can't read.
func (e *edgeWriter) refusal() (int, *domain.Error) {
	switch e.status {
	case http.StatusNotFound:
		return e.status, &domain.Error{Reason: reasonNotFound, Message: "there is nothing at this path; look at it for a mistake"}
	case http.StatusMethodNotAllowed:
		return e.status, &domain.Error{Reason: domain.ReasonUnsupported, Message: "this path does not take this HTTP method; the header Allow lists those it takes"}
	case http.StatusUnsupportedMediaType:
		return e.status, &domain.Error{Reason: domain.ReasonUnsupported, Message: "the body must be JSON: send it with 'Content-Type: application/json'"}
	}
	var st status
	if err := json.Unmarshal(e.body.Bytes(), &st); err != nil || st.Message == "" {
		st.Message = strings.TrimSpace(e.body.String())
	}
	return http.StatusBadRequest, &domain.Error{Reason: domain.ReasonBadField, Message: st.Message}
}

// replyREST answers with an error of this package.
func replyREST(w http.ResponseWriter, status int, err *connect.Error) {
	details := make([]json.RawMessage, 0, len(err.Details()))
	for _, d := range err.Details() {
		if value, failed := protojson.Marshal(&anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()}); failed == nil {
			details = append(details, value)
		}
	}
	list, failed := json.Marshal(details)
	if failed != nil { // these are valid JSON
		panic("rpc: error details: " + failed.Error())
	}
	maps.Copy(w.Header(), err.Meta())
	writeREST(w, status, statusName(err.Code()), err.Message(), list)
}

// writeREST is the one shape of errors over REST (AIP-193).
func writeREST(w http.ResponseWriter, status int, name, message string, details json.RawMessage) {
	if details == nil {
		details = json.RawMessage("[]")
	}
	type body struct {
		Code    int             `json:"code"`
		Status  string          `json:"status"`
		Message string          `json:"message"`
		Details json.RawMessage `json:"details"`
	}
	text, err := json.Marshal(map[string]body{"error": {status, name, message, details}})
	if err != nil { // the details come from this process and are valid
		panic("rpc: error body: " + err.Error())
	}
	h := w.Header()
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // the client is gone if this fails; there is nobody left to tell
}

// httpStatus is the HTTP status of a code, as google/rpc/code.proto maps them.
func httpStatus(code connect.Code) int {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange:
		return http.StatusBadRequest
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeNotFound:
		return http.StatusNotFound
	case connect.CodeAborted, connect.CodeAlreadyExists:
		return http.StatusConflict
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeCanceled:
		return 499 // client closed request
	case connect.CodeUnimplemented:
		return http.StatusNotImplemented
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	case connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	case connect.CodeUnknown, connect.CodeInternal, connect.CodeDataLoss:
	}
	return http.StatusInternalServerError
}

// route is one REST path of a method. It serves only to know the method's limit, and to say in the record of a request
// that the transcoder refuses what was attempted; the transcoder itself has its own routing.
type route struct {
	verb    string
	pattern *regexp.Regexp // its first group is the name
	method  *method
}

var pathVariable = regexp.MustCompile(`\\\{[a-z_.\\]+=([^}]*)\\\}`)

// restRoutes reads the google.api.http annotations.
func restRoutes(methods map[string]*method) ([]route, error) {
	var out []route
	for _, m := range methods {
		rule, ok := proto.GetExtension(m.descriptor.Options(), annotations.E_Http).(*annotations.HttpRule)
		if !ok || rule == nil {
			continue
		}
		for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
			verb, path := pathOf(r)
			if path == "" {
				return nil, fmt.Errorf("method %s has a REST path of an unknown kind", m.procedure)
			}
			text := pathVariable.ReplaceAllString(regexp.QuoteMeta(path), "($1)")
			pattern, err := regexp.Compile("^" + strings.ReplaceAll(text, `\*`, `(?:alias:)?[^/:]+`) + "$")
			if err != nil {
				return nil, fmt.Errorf("reading the REST path of %s: %w", m.procedure, err)
			}
			out = append(out, route{verb, pattern, m})
		}
	}
	return out, nil
}

func pathOf(r *annotations.HttpRule) (verb, path string) {
	switch p := r.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, p.Post
	case *annotations.HttpRule_Put:
		return http.MethodPut, p.Put
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, p.Patch
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, p.Delete
	}
	return "", ""
}

// route finds the method that a request's path means, nil if none, and what it acts on. The transcoder changes the path:
// this must be asked before.
func (s *Server) route(r *http.Request) (*method, domain.KeyRef) {
	for _, candidate := range s.routes {
		if candidate.verb != r.Method {
			continue
		}
		if match := candidate.pattern.FindStringSubmatch(r.URL.Path); match != nil {
			var name string
			if len(match) > 1 {
				name = match[1]
			}
			return candidate.method, refOf(name)
		}
	}
	return nil, domain.KeyRef{}
}
