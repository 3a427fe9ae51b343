package activity

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
)

// readTimeout bounds a query whose caller set no earlier deadline.
const readTimeout = 30 * time.Second

// Row is one record and its place in the log.
type Row struct {
	domain.ActivityRecord
	Position Position
}

// Page is an answer to a Query, newest first.
type Page struct {
	Rows []Row
	// Next is the After of the next page; nil on the last one.
	Next *Position
	// Total is only set when asked for.
	Total uint64
	// AsOfTime is the time up to which everything recorded is in the answer. It is zero while nothing is.
	AsOfTime time.Time
}

const rowColumns = `event_time, lineage, stream, stream_seq, record_index, project, location, key_uid, key_name, key_version, operation, category,
	outcome, reason, message, principal, principal_kind, request_type, client_address, user_agent, request_id, client_request_id,
	correlation_id, trace_id, granted_by, protection, ledger_tag, bytes_in, bytes_out, duration_us`

const newestFirst = `ORDER BY event_time DESC, lineage DESC, stream DESC, stream_seq DESC, record_index DESC`

// Logs answers one page of a query whose range of time is resolved. Records that arrive meanwhile do not move the pages
// that follow. The error is an ErrUnavailable if waiting may help.
func (l *Log) Logs(ctx context.Context, q Query) (Page, error) {
	ctx, cancel := reading(ctx)
	defer cancel()
	asOf, err := l.asOf(ctx)
	if err != nil {
		return Page{}, err
	}
	if q.Project == "" && !q.KeyUID.IsZero() {
		if q.Project, err = l.projectOf(ctx, q.KeyUID); err != nil {
			return Page{}, err
		}
	}
	page := Page{AsOfTime: asOf}
	where := q.matching()
	if q.Total {
		if page.Total, err = l.count(ctx, where); err != nil {
			return Page{}, err
		}
	}
	size := min(q.PageSize, MaxPageSize)
	if size <= 0 {
		size = DefaultPageSize
	}
	if q.After != nil {
		where.older(q.After)
	}
	statement := "SELECT " + rowColumns + "\nFROM " + l.activityView() + "\nWHERE " + where.String() + "\n" + newestFirst +
		"\nLIMIT {limit:UInt64} OFFSET {skip:UInt64}"
	params := append(where.params, clickhouse.Named("limit", size+1), clickhouse.Named("skip", max(q.Skip, 0)))
	rows, err := l.conn.Query(ctx, statement, params...)
	if err != nil {
		return Page{}, unavailable("reading the activity log", err)
	}
	read, err := scanRows(rows)
	if err != nil {
		return Page{}, unavailable("reading the activity log", err)
	}
	page.Rows, page.Next = paged(read, size)
	return page, nil
}

// paged cuts what was read, one row more than a page, down to the page. A row that is there twice, because ClickHouse
// has not merged it away yet, comes twice in a row.
func paged(read []Row, size int) (rows []Row, next *Position) {
	if len(read) > size {
		read = read[:size]
		next = &read[size-1].Position
	}
	rows = read[:0]
	for _, r := range read {
		if len(rows) == 0 || r.Position != rows[len(rows)-1].Position {
			rows = append(rows, r)
		}
	}
	return rows, next
}

// projectOf returns the project of a key, or nothing if none of its records are here. The records of a key lie together
// and in their order only within its project, which makes a question that names it faster by far.
func (l *Log) projectOf(ctx context.Context, key domain.UID) (project string, err error) {
	err = l.conn.QueryRow(ctx, "SELECT project FROM "+l.latestView()+" WHERE key_uid = {key:UUID} LIMIT 1", clickhouse.Named("key", key.String())).Scan(&project)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", unavailable("looking up the project of a key", err)
	}
	return project, nil
}

func (l *Log) count(ctx context.Context, where *condition) (n uint64, err error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settings(ctx, "final", 1)))
	if err := l.conn.QueryRow(ctx, "SELECT count() FROM "+l.activityView()+" WHERE "+where.String(), where.params...).Scan(&n); err != nil {
		return 0, unavailable("counting records", err)
	}
	return n, nil
}

// reading bounds a query by a time that ClickHouse is told too, so that it does not work for nobody.
func reading(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	return clickhouse.Context(ctx, clickhouse.WithSettings(settings(ctx))), cancel
}

// settings are those of a query, and more as name, value, name, value.
func settings(ctx context.Context, more ...any) clickhouse.Settings {
	left := readTimeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	s := clickhouse.Settings{"max_execution_time": max(1, int(math.Ceil(left.Seconds())))}
	for i := 0; i+1 < len(more); i += 2 {
		s[fmt.Sprint(more[i])] = more[i+1]
	}
	return s
}

func scanRows(rows driver.Rows) (read []Row, err error) {
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, closing(rows, err)
		}
		read = append(read, r)
	}
	return read, closing(rows, rows.Err())
}

func scanRow(rows driver.Rows) (r Row, err error) {
	var (
		lineage, key, request                                   uuid.UUID
		version                                                 int32
		category, outcome, reason, kind, requestType, protected string
		address                                                 netip.Addr
		trace, tag                                              []byte
		duration                                                uint32
	)
	err = rows.Scan(&r.Time, &lineage, &r.Position.Stream, &r.Position.Seq, &r.Position.Index, &r.Project, &r.Location, &key, &r.KeyName, &version,
		&r.Operation, &category, &outcome, &reason, &r.Message, &r.Caller.Principal, &kind, &requestType, &address, &r.Caller.UserAgent,
		&request, &r.Caller.ClientRequestID, &r.Caller.CorrelationID, &trace, &r.GrantedBy, &protected, &tag, &r.BytesIn, &r.BytesOut, &duration)
	if err != nil {
		return r, err
	}
	r.Time = r.Time.UTC()
	r.Position.Time, r.Position.Lineage = r.Time, domain.UID(lineage)
	r.KeyUID, r.Version, r.Caller.RequestID = domain.UID(key), domain.Version(version), domain.UID(request)
	r.Category, r.Outcome, r.Reason = domain.Category(category), domain.Outcome(outcome), domain.Reason(reason)
	r.Caller.Kind, r.Caller.Request = domain.PrincipalKind(kind), domain.RequestType(requestType)
	r.Protection = domain.ProtectionLevel(protected)
	r.Caller.Address = shownAddress(address)
	copy(r.Caller.TraceID[:], trace)
	copy(r.LedgerTag[:], tag)
	r.Duration = time.Duration(duration) * time.Microsecond
	return r, nil
}

// shownAddress undoes address.
func shownAddress(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// asOf returns the time up to which everything recorded can be read now, from the distance between what the streams hold
// and what has been brought into the log. Ask before reading.
func (l *Log) asOf(ctx context.Context) (time.Time, error) {
	now := time.Now()
	g, err := l.current(ctx)
	if err != nil {
		return now, err
	}
	streams, err := l.streams(ctx)
	if err != nil {
		return now, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, stream := range streams {
		_, last, err := l.source.StreamHead(ctx, stream)
		if err != nil {
			return now, fmt.Errorf("%w: asking how long stream %s is: %w", ErrUnavailable, stream, err)
		}
		done, stored, err := l.doneOf(ctx, l.checkpointName(g, stream))
		if err != nil {
			return now, fmt.Errorf("%w: asking how far the log is: %w", ErrUnavailable, err)
		}
		if done < last && stored.Before(now) {
			now = stored
		}
	}
	return now.UTC(), nil
}

// doneOf returns the last message that is in the log and when it was stored: exactly for the streams that this node
// writes, and as of their owner's last checkpoint for others.
func (l *Log) doneOf(ctx context.Context, checkpoint string) (seq uint64, stored time.Time, err error) {
	if p, ok := l.progressOf(checkpoint); ok {
		return p.seq, p.stored, nil
	}
	c, _, err := l.loadCheckpoint(ctx, checkpoint)
	return c.Done, c.DoneStored, err
}

// LatestUse says when a key was last used, and last refused.
type LatestUse struct {
	// Entries are ordered by version, newest first, and operation.
	Entries []LatestUseEntry
	// TrackedSince is the time of the oldest record in the log: nothing is known of uses before. Zero if there is none.
	TrackedSince time.Time
	// AsOfTime is the time up to which everything recorded is in the answer.
	AsOfTime time.Time
}

// LatestUseEntry is about one version, or no version, and one operation.
type LatestUseEntry struct {
	Version     domain.Version
	Operation   string
	Category    domain.Category
	LastSuccess *Use // nil if there was none
	LastRefusal *Use // nil if there was none
}

// Use is one use, or refused attempt.
type Use struct {
	Time      time.Time
	Principal string
	Address   netip.Addr // not valid if the service itself acted
	RequestID domain.UID
	Outcome   domain.Outcome
	Reason    domain.Reason // empty when OK
}

// LatestUse answers for one key. The error is an ErrUnavailable if waiting may help.
func (l *Log) LatestUse(ctx context.Context, key domain.UID) (LatestUse, error) {
	ctx, cancel := reading(ctx)
	defer cancel()
	var (
		answer LatestUse
		err    error
	)
	if answer.AsOfTime, err = l.asOf(ctx); err != nil {
		return LatestUse{}, err
	}
	var oldest int64
	if err := l.conn.QueryRow(ctx, "SELECT toUnixTimestamp64Micro(min(event_time)) FROM "+l.activityView()).Scan(&oldest); err != nil {
		return LatestUse{}, unavailable("reading since when uses are known", err)
	}
	if oldest != 0 {
		answer.TrackedSince = time.UnixMicro(oldest).UTC()
	}
	rows, err := l.conn.Query(ctx, `SELECT key_version, operation, category, refused, event_time, outcome, reason, principal, client_address, request_id
		FROM `+l.latestView()+` WHERE key_uid = {key:UUID}
		ORDER BY key_version DESC, operation, refused, rank DESC LIMIT 1 BY key_version, operation, refused`, clickhouse.Named("key", key.String()))
	if err != nil {
		return LatestUse{}, unavailable("reading the latest uses", err)
	}
	for rows.Next() {
		if err := answer.scan(rows); err != nil {
			return LatestUse{}, unavailable("reading the latest uses", closing(rows, err))
		}
	}
	if err := closing(rows, rows.Err()); err != nil {
		return LatestUse{}, unavailable("reading the latest uses", err)
	}
	return answer, nil
}

// scan adds a row; the success and the refusal of one entry follow each other.
func (a *LatestUse) scan(rows driver.Rows) error {
	var (
		u                         Use
		version                   int32
		operation                 string
		category, outcome, reason string
		refused                   bool
		request                   uuid.UUID
	)
	if err := rows.Scan(&version, &operation, &category, &refused, &u.Time, &outcome, &reason, &u.Principal, &u.Address, &request); err != nil {
		return err
	}
	u.Time, u.Address, u.RequestID = u.Time.UTC(), shownAddress(u.Address), domain.UID(request)
	u.Outcome, u.Reason = domain.Outcome(outcome), domain.Reason(reason)
	last := len(a.Entries) - 1
	if last < 0 || a.Entries[last].Version != domain.Version(version) || a.Entries[last].Operation != operation {
		a.Entries = append(a.Entries, LatestUseEntry{Version: domain.Version(version), Operation: operation, Category: domain.Category(category)})
		last++
	}
	if refused {
		a.Entries[last].LastRefusal = &u
	} else {
		a.Entries[last].LastSuccess = &u
	}
	return nil
}
