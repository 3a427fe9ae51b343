package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// ErrUnavailable means that ClickHouse, or the event store, can't be asked now, or did not answer in time. What was
// recorded is safe and shows up later.
var ErrUnavailable = errors.New("the activity log can't be read at the moment")

// Config says where ClickHouse is. Either URL or Dial is required, and Source, Owner and Logger.
type Config struct {
	// URL of a ClickHouse server's HTTP interface: http://user:password@host:8123/database, or https with port 8443.
	URL string
	// Dial connects to an embedded engine that nobody else uses (engine.Process.DialContext). It excludes URL.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Source is the event store.
	Source Source
	// Owner names this node among those that share the ClickHouse server, the same after a restart: a node carries on its
	// own work at once, and another's only when that has shown no sign of life for ten seconds.
	Owner  string
	Logger *slog.Logger
}

const (
	defaultDatabase = "kms"
	// maxOpenConns is how many statements are under way at once: a writer for each stream, and readers.
	maxOpenConns = 16
	dialTimeout  = 5 * time.Second
	// statementTimeout bounds a statement whose caller set no earlier deadline.
	statementTimeout = time.Minute
)

// Log is the activity log in ClickHouse. It is safe for concurrent use.
type Log struct {
	conn   driver.Conn
	db     string
	source Source
	owner  string
	shared bool // other nodes may write to the same tables
	log    *slog.Logger
	tele   telemetry

	mu       sync.Mutex
	progress map[string]progress // by checkpoint name; of the streams that this node writes
}

// progress is how far a stream is in the log.
type progress struct {
	stream string
	seq    uint64    // the last message whose rows are in the log
	stored time.Time // when that message was stored
	head   uint64    // the last message known to exist
}

var databaseName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,62}$`)

// Open prepares the connection to ClickHouse. It sends nothing yet: ClickHouse may be away.
func Open(cfg Config) (*Log, error) {
	options, db, err := options(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to clickhouse: %w", err)
	}
	l := &Log{
		conn: conn, db: db, source: cfg.Source, owner: cfg.Owner, shared: cfg.Dial == nil, log: cfg.Logger,
		progress: map[string]progress{},
	}
	if l.tele, err = newTelemetry(l); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return l, nil
}

func options(cfg Config) (o *clickhouse.Options, db string, err error) {
	if cfg.Dial != nil {
		o, db = &clickhouse.Options{Addr: []string{"embedded:0"}, DialContext: cfg.Dial}, defaultDatabase
	} else {
		if !strings.HasPrefix(cfg.URL, "http://") && !strings.HasPrefix(cfg.URL, "https://") {
			return nil, "", errors.New("the address of the clickhouse server must look like http://host:8123 or https://host:8443")
		}
		if o, err = clickhouse.ParseDSN(cfg.URL); err != nil {
			return nil, "", errors.New("the address of the clickhouse server is malformed") // it may hold a password
		}
		db = o.Auth.Database
		o.Auth.Database = "" // it may not exist yet, and every name is qualified
		if db == "" {
			db = defaultDatabase
		}
	}
	if !databaseName.MatchString(db) {
		return nil, "", errors.New("the name of the clickhouse database must be 1 to 63 letters, digits and _")
	}
	o.Protocol = clickhouse.HTTP
	o.Compression = nil // what is inserted is sent as it is in any case, and answers are short
	o.DialTimeout = dialTimeout
	o.MaxOpenConns = maxOpenConns
	o.MaxIdleConns = maxOpenConns
	return o, db, nil
}

// Ready returns nil if ClickHouse answers.
func (l *Log) Ready(ctx context.Context) error {
	if err := l.conn.Ping(ctx); err != nil {
		return unavailable("asking clickhouse for a sign of life", err)
	}
	return nil
}

// Close disconnects. Run and everything else must have returned before.
func (l *Log) Close() error {
	return errors.Join(l.tele.close(), l.conn.Close())
}

// Codes of ClickHouse's exceptions that mean "not now" rather than "never".
const (
	codeTimeout        = 159 // TIMEOUT_EXCEEDED
	codeTooMany        = 202 // TOO_MANY_SIMULTANEOUS_QUERIES
	codeMemoryLimit    = 241 // MEMORY_LIMIT_EXCEEDED
	codeTooManyParts   = 252 // TOO_MANY_PARTS
	codeCancelled      = 394 // QUERY_WAS_CANCELLED
	codeTableExists    = 57  // TABLE_ALREADY_EXISTS
	codeUnknownTable   = 60  // UNKNOWN_TABLE
	codeAuthentication = 516 // AUTHENTICATION_FAILED
)

// unavailable says what was being done when err occurred and makes it an ErrUnavailable, unless ClickHouse itself refused
// the statement as such, which no waiting helps against.
func unavailable(doing string, err error) error {
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		switch e.Code {
		case codeTimeout, codeTooMany, codeMemoryLimit, codeTooManyParts, codeCancelled, codeUnknownTable, codeAuthentication:
		default:
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
}

// closing closes rows and returns err, or what went wrong in closing.
func closing(rows driver.Rows, err error) error { return errors.Join(err, rows.Close()) }

// progressOf returns how far this node has brought a stream, if it is the one that writes it.
func (l *Log) progressOf(checkpoint string) (progress, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.progress[checkpoint]
	return p, ok
}

func (l *Log) setProgress(checkpoint string, p progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.head = max(p.head, l.progress[checkpoint].head, p.seq)
	l.progress[checkpoint] = p
}

func (l *Log) forgetProgress(checkpoint string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.progress, checkpoint)
}
