package engine

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// chdb is the part of libchdb's C interface that the engine uses, bound without cgo. The names are those of chdb.h less
// their prefix; every pointer is a C pointer, or a Go pointer that is alive for the length of the call.
type chdb struct {
	setSignalHandlersEnabled func(on int32)
	connect                  func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn                func(conn unsafe.Pointer)

	query       func(conn, query unsafe.Pointer, queryLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	stream      func(conn, query unsafe.Pointer, queryLen uintptr, format unsafe.Pointer, formatLen uintptr, names, nameLens, values, valueLens unsafe.Pointer, n uintptr) unsafe.Pointer
	streamFetch func(conn, result unsafe.Pointer) unsafe.Pointer
	streamStop  func(conn, result unsafe.Pointer)

	insert        func(conn, query unsafe.Pointer, queryLen uintptr, format unsafe.Pointer, formatLen uintptr) unsafe.Pointer
	insertAppend  func(insert, data unsafe.Pointer, n uintptr) int32
	insertDone    func(insert unsafe.Pointer) unsafe.Pointer
	insertCancel  func(insert unsafe.Pointer)
	insertError   func(insert unsafe.Pointer) unsafe.Pointer
	insertDestroy func(insert unsafe.Pointer)

	resultBuffer  func(result unsafe.Pointer) unsafe.Pointer
	resultLen     func(result unsafe.Pointer) uintptr
	resultError   func(result unsafe.Pointer) unsafe.Pointer
	resultWritten func(result unsafe.Pointer) uint64
	resultDestroy func(result unsafe.Pointer)
}

// loadChdb maps the library into this process, for good: it can't be unloaded.
func loadChdb(path string) (*chdb, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", path, err)
	}
	lib := new(chdb)
	for symbol, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &lib.setSignalHandlersEnabled,
		"chdb_connect":                     &lib.connect,
		"chdb_close_conn":                  &lib.closeConn,
		"chdb_query_with_params_n":         &lib.query,
		"chdb_stream_query_with_params_n":  &lib.stream,
		"chdb_stream_fetch_result":         &lib.streamFetch,
		"chdb_stream_cancel_query":         &lib.streamStop,
		"chdb_stream_insert_n":             &lib.insert,
		"chdb_stream_append":               &lib.insertAppend,
		"chdb_stream_done":                 &lib.insertDone,
		"chdb_stream_cancel_insert":        &lib.insertCancel,
		"chdb_stream_insert_error":         &lib.insertError,
		"chdb_destroy_insert_stream":       &lib.insertDestroy,
		"chdb_result_buffer":               &lib.resultBuffer,
		"chdb_result_length":               &lib.resultLen,
		"chdb_result_error":                &lib.resultError,
		"chdb_result_rows_written":         &lib.resultWritten,
		"chdb_destroy_query_result":        &lib.resultDestroy,
	} {
		address, err := purego.Dlsym(handle, symbol)
		if err != nil {
			return nil, fmt.Errorf("%s is not libchdb %s: looking up %s: %w", path, libraryVersion, symbol, err)
		}
		purego.RegisterFunc(fn, address)
	}
	// The Go runtime needs SIGSEGV, SIGURG and SIGPROF for itself: with chDB's handlers in place of its own the first nil
	// dereference hangs the process. Before the first connection, or it is too late.
	lib.setSignalHandlersEnabled(0)
	return lib, nil
}

// errConnect is all that chdb_connect tells of what went wrong.
var errConnect = errors.New("libchdb refused to open the data folder")

// errNilResult is what a call of libchdb that answers nothing comes to; the engine is then out of memory or broken.
var errNilResult = errors.New("libchdb answered nothing")

// conn is one connection to the engine in this process. It runs one statement at a time; its methods are not safe for
// concurrent use. All connections of a process see the same data folder.
type conn struct {
	lib    *chdb
	handle unsafe.Pointer // *chdb_connection
}

// open connects with the arguments of clickhouse-local's command line. The first connection fixes the data folder.
func (lib *chdb) open(args ...string) (*conn, error) {
	argv := make([]unsafe.Pointer, 0, len(args)+2)
	var pinner runtime.Pinner
	defer pinner.Unpin()
	for _, arg := range append([]string{"clickhouse"}, args...) {
		cstring := append([]byte(arg), 0)
		pinner.Pin(&cstring[0])
		argv = append(argv, unsafe.Pointer(&cstring[0]))
	}
	argv = append(argv, nil)
	pinner.Pin(&argv[0])
	handle := lib.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0])) //nolint:gosec // a dozen arguments
	if handle == nil || *(*unsafe.Pointer)(handle) == nil {
		return nil, errConnect
	}
	return &conn{lib: lib, handle: handle}, nil
}

func (c *conn) close() { c.lib.closeConn(c.handle) }

// chdbConnection is what every call but close wants: the connection itself, not the pointer to it.
func (c *conn) chdbConnection() unsafe.Pointer { return *(*unsafe.Pointer)(c.handle) }

// query runs one statement and returns its whole result in the given format.
func (c *conn) query(statement, format string, params map[string]string) ([]byte, error) {
	p := newParams(params)
	defer p.release()
	result := c.lib.query(c.chdbConnection(), stringData(statement), uintptr(len(statement)), stringData(format), uintptr(len(format)),
		sliceData(p.names), sliceData(p.nameLens), sliceData(p.values), sliceData(p.valueLens), uintptr(len(p.names)))
	runtime.KeepAlive(statement)
	runtime.KeepAlive(format)
	if result == nil {
		return nil, errNilResult
	}
	defer c.lib.resultDestroy(result)
	if err := c.lib.err(result); err != nil {
		return nil, err
	}
	return append([]byte(nil), c.lib.bytes(result)...), nil
}

// stream runs one SELECT and hands its result to write piece by piece; a piece is valid during the call only. An error of
// write ends the statement and is returned.
func (c *conn) stream(statement, format string, params map[string]string, write func([]byte) error) error {
	p := newParams(params)
	defer p.release()
	result := c.lib.stream(c.chdbConnection(), stringData(statement), uintptr(len(statement)), stringData(format), uintptr(len(format)),
		sliceData(p.names), sliceData(p.nameLens), sliceData(p.values), sliceData(p.valueLens), uintptr(len(p.names)))
	runtime.KeepAlive(statement)
	runtime.KeepAlive(format)
	if result == nil {
		return errNilResult
	}
	defer c.lib.resultDestroy(result)
	if err := c.lib.err(result); err != nil {
		return err
	}
	for {
		more, err := c.fetch(result, write)
		if err != nil || !more {
			return err
		}
	}
}

func (c *conn) fetch(result unsafe.Pointer, write func([]byte) error) (more bool, err error) {
	chunk := c.lib.streamFetch(c.chdbConnection(), result)
	if chunk == nil {
		return false, nil
	}
	defer c.lib.resultDestroy(chunk)
	if err := c.lib.err(chunk); err != nil {
		return false, err
	}
	data := c.lib.bytes(chunk)
	if len(data) == 0 {
		return false, nil
	}
	if err := write(data); err != nil {
		c.lib.streamStop(c.chdbConnection(), result)
		return false, err
	}
	return true, nil
}

// insert feeds body, in the given format, to an INSERT without FORMAT clause and returns how many rows were written. If
// body ends with an error other than io.EOF nothing is inserted and that error is returned.
func (c *conn) insert(statement, format string, body io.Reader, buffer []byte) (rows uint64, err error) {
	insert := c.lib.insert(c.chdbConnection(), stringData(statement), uintptr(len(statement)), stringData(format), uintptr(len(format)))
	runtime.KeepAlive(statement)
	runtime.KeepAlive(format)
	if insert == nil {
		return 0, errNilResult
	}
	defer c.lib.insertDestroy(insert)
	if text := c.lib.insertError(insert); text != nil {
		return 0, errors.New(goString(text))
	}
	for {
		n, readErr := fill(buffer, body)
		if n > 0 && c.lib.insertAppend(insert, unsafe.Pointer(&buffer[0]), uintptr(n)) != 0 {
			break // why comes out of insertDone
		}
		if readErr == io.EOF { //nolint:errorlint // a wrapped or unexpected EOF is a body cut short
			break
		}
		if readErr != nil {
			c.lib.insertCancel(insert)
			return 0, readErr
		}
	}
	result := c.lib.insertDone(insert)
	if result == nil {
		return 0, errNilResult
	}
	defer c.lib.resultDestroy(result)
	if err := c.lib.err(result); err != nil {
		return 0, err
	}
	return c.lib.resultWritten(result), nil
}

// fill reads until buffer is full or the body ends. Unlike io.ReadFull it lets a body that was cut short
// (io.ErrUnexpectedEOF) be told from one that has ended (io.EOF).
func fill(buffer []byte, body io.Reader) (n int, err error) {
	for n < len(buffer) && err == nil {
		var read int
		read, err = body.Read(buffer[n:])
		n += read
	}
	return n, err
}

func (lib *chdb) err(result unsafe.Pointer) error {
	if text := lib.resultError(result); text != nil {
		return errors.New(goString(text))
	}
	return nil
}

// bytes is a view of a result, valid until the result is destroyed.
func (lib *chdb) bytes(result unsafe.Pointer) []byte {
	n := lib.resultLen(result)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(lib.resultBuffer(result)), n)
}

// params are a statement's {name:Type} parameters as C wants them: four parallel arrays.
type params struct {
	names, values       []unsafe.Pointer
	nameLens, valueLens []uintptr
	pinner              runtime.Pinner
}

func newParams(m map[string]string) *params {
	p := new(params)
	for name, value := range m {
		p.nameLens = append(p.nameLens, uintptr(len(name)))
		p.valueLens = append(p.valueLens, uintptr(len(value)))
		p.names = append(p.names, p.pin(name))
		p.values = append(p.values, p.pin(value))
	}
	return p
}

// pin copies s, so that even an empty string has an address that C may be shown.
func (p *params) pin(s string) unsafe.Pointer {
	b := append([]byte(s), 0)
	p.pinner.Pin(&b[0])
	return unsafe.Pointer(&b[0])
}

func (p *params) release() { p.pinner.Unpin() }

func stringData(s string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(s)) }

func sliceData[T any](s []T) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(s)) }

func goString(p unsafe.Pointer) string {
	n := 0
	for *(*byte)(unsafe.Add(p, n)) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(p), n))
}
