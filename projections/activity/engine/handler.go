package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// Limits of one request.
const (
	maxStatement = 1 << 20 // bytes of SQL; data of an INSERT has no limit
	insertChunk  = 1 << 20 // bytes of an INSERT's data handed over at once
)

// driverHello is the query by which clickhouse-go begins every connection.
const driverHello = "SELECT displayName(), version(), revision(), timezone()"

var (
	insertStatement = regexp.MustCompile(`(?is)^\s*INSERT\s+INTO\s`)
	formatClause    = regexp.MustCompile(`(?is)\s+FORMAT\s+(\w+)\s*;?\s*$`)
	streamable      = regexp.MustCompile(`(?is)^[\s(]*(SELECT|WITH)\b`)
	exceptionCode   = regexp.MustCompile(`^Code: (\d+)\.`)
)

// handler serves ClickHouse's HTTP interface as far as clickhouse-go needs it.
type handler struct {
	pool              *pool
	log               *slog.Logger
	version, timezone string
	buffers           sync.Pool // of *[]byte, insertChunk long
}

func newHandler(p *pool, log *slog.Logger) (*handler, error) {
	out, err := p.admin.query("SELECT version(), timezone()", "TabSeparated", nil)
	if err != nil {
		return nil, fmt.Errorf("asking the engine for its version: %w", err)
	}
	h := &handler{pool: p, log: log}
	h.version, h.timezone, _ = strings.Cut(strings.TrimSpace(string(out)), "\t")
	h.buffers.New = func() any { b := make([]byte, insertChunk); return &b }
	return h, nil
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ping" {
		_, _ = io.WriteString(w, "Ok.\n") // the parent tells readiness from the answer; there is nobody else to tell
		return
	}
	q := r.URL.Query()
	if err := supported(r, q); err != nil {
		fail(w, err)
		return
	}
	// Data of an INSERT comes in the body with the statement in the URL; any other statement is the body.
	statement := q.Get("query")
	data := insertStatement.MatchString(statement) && formatClause.MatchString(statement)
	if !data {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatement))
		if err != nil {
			fail(w, exception(codeTooLarge, "reading the statement: "+err.Error()))
			return
		}
		statement += string(body)
	}
	if strings.HasPrefix(statement, driverHello) {
		h.hello(w, q)
		return
	}
	var s *session
	select {
	case s = <-h.pool.free:
	case <-r.Context().Done():
		return
	}
	defer func() { h.pool.free <- s }()
	if err := errors.Join(s.use(q.Get("database")), s.set(requestSettings(q))); err != nil {
		fail(w, err)
		if err := h.pool.renew(s); err != nil {
			h.log.LogAttrs(r.Context(), slog.LevelError, "a connection of the engine is lost", slog.Any("error", err))
		}
		return
	}
	if data {
		h.insert(w, r, s, statement)
		return
	}
	h.run(w, r, s, statement, q)
}

// The engine's own codes for what this interface refuses by itself.
const (
	codeNotImplemented = 48
	codeTooLarge       = 307 // TOO_MANY_BYTES
	codeUnknown        = 1002
)

// exception is an error in the words of the engine, so that clickhouse-go makes its typed exception of it.
func exception(code int, text string) error {
	return fmt.Errorf("Code: %d. DB::Exception: %s", code, text) //nolint:staticcheck // the engine's own spelling
}

// supported refuses what this interface leaves out, rather than to do something else.
func supported(r *http.Request, q url.Values) error {
	switch {
	case strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/"):
		return exception(codeNotImplemented, "external tables are not supported by the embedded engine. (NOT_IMPLEMENTED)")
	case q.Get("compress") == "1", q.Get("decompress") == "1", r.Header.Get("Content-Encoding") != "":
		return exception(codeNotImplemented, "compression is not supported by the embedded engine. (NOT_IMPLEMENTED)")
	case q.Get("session_id") != "":
		return exception(codeNotImplemented, "sessions are not supported by the embedded engine. (NOT_IMPLEMENTED)")
	}
	return nil
}

// hello answers the driver's handshake and says that this server speaks protocol revision 0, so that the driver decodes
// every later block in the plain Native format that the engine writes. This one block is in the driver's own revision.
func (h *handler) hello(w http.ResponseWriter, q url.Values) {
	revision, err := strconv.ParseUint(q.Get("client_protocol_version"), 10, 64)
	if err != nil {
		fail(w, exception(codeUnknown, "client_protocol_version is not a number"))
		return
	}
	block := proto.NewBlock()
	for _, c := range [][2]string{{"displayName()", "String"}, {"version()", "String"}, {"revision()", "UInt32"}, {"timezone()", "String"}} {
		if err := block.AddColumn(c[0], column.Type(c[1])); err != nil {
			fail(w, err)
			return
		}
	}
	if err := block.Append("kms", h.version, uint32(0), h.timezone); err != nil {
		fail(w, err)
		return
	}
	var out chproto.Buffer
	if err := block.Encode(&out, revision); err != nil {
		fail(w, err)
		return
	}
	_, _ = w.Write(out.Buf) // the driver that went away asks again
}

// insert runs an INSERT whose data is the request's body.
func (h *handler) insert(w http.ResponseWriter, r *http.Request, s *session, statement string) {
	clause := formatClause.FindStringSubmatchIndex(statement)
	format, statement := statement[clause[2]:clause[3]], statement[:clause[0]]
	buffer := h.buffers.Get().(*[]byte) // the pool holds nothing else
	defer h.buffers.Put(buffer)
	rows, err := s.insert(statement, format, r.Body, *buffer)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(`{"written_rows":"%d"}`, rows))
	w.Header().Set("Content-Length", "0")
}

// run executes any other statement and writes its result as it comes. When the client goes away the statement is ended.
func (h *handler) run(w http.ResponseWriter, r *http.Request, s *session, statement string, q url.Values) {
	defer h.killWhenGone(r.Context(), s)()
	params := map[string]string{}
	for name, values := range q {
		if name, ok := strings.CutPrefix(name, "param_"); ok {
			params[name] = values[0]
		}
	}
	format := q.Get("default_format")
	if format == "" {
		format = "TabSeparated"
	}
	tag := exceptionTag()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-ClickHouse-Timezone", h.timezone)
	w.Header().Set("X-ClickHouse-Format", format)
	w.Header().Set("X-ClickHouse-Exception-Tag", tag)
	if !streamable.MatchString(statement) {
		out, err := s.query(statement, format, params)
		if err != nil {
			fail(w, err)
			return
		}
		_, _ = w.Write(out) // a client that went away has no use for the error
		return
	}
	started := false
	err := s.stream(statement, format, params, func(chunk []byte) error {
		started = true
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		return r.Context().Err()
	})
	switch {
	case err != nil && !started:
		fail(w, err)
	case err != nil: // the status is out: ClickHouse's way of saying it late
		text := err.Error()
		_, _ = fmt.Fprintf(w, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", tag, text, len(text)+1, tag)
	}
}

// exceptionTag makes the mark by which a reader tells an exception in mid-stream from data that looks like one.
func exceptionTag() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// killWhenGone ends the session's statement when the request's context ends. Call what it returns before the session is
// used again.
func (h *handler) killWhenGone(ctx context.Context, s *session) (release func()) {
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		if err := h.pool.kill(s); err != nil {
			h.log.LogAttrs(ctx, slog.LevelWarn, "an abandoned statement goes on", slog.Any("error", err))
		}
	})
	return func() {
		if !stop() {
			<-killed
		}
	}
}

// fail answers with an exception of the engine in the way that ClickHouse does.
func fail(w http.ResponseWriter, err error) {
	code, status := strconv.Itoa(codeUnknown), http.StatusInternalServerError
	if m := exceptionCode.FindStringSubmatch(err.Error()); m != nil {
		code = m[1]
	}
	switch code {
	case "36", "47", "53", "62": // bad arguments, unknown identifier, type mismatch, syntax
		status = http.StatusBadRequest
	case "60", "81": // unknown table, unknown database
		status = http.StatusNotFound
	}
	w.Header().Set("X-ClickHouse-Exception-Code", code)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, err.Error()+"\n") // the status has said it
}
