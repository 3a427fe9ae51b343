package activity

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/keyledger/kms/eventstore"
)

const (
	// maxRows is how many rows make a batch full; it may be exceeded by one message. A full one is some 4 MB.
	maxRows = 16384
	// shortLinger is how long the first record after a pause waits for company, longLinger how long one in a steady flow
	// does: an insert costs some 25 ms of CPU however small it is, so there is about one in a second.
	shortLinger = 200 * time.Millisecond
	longLinger  = 800 * time.Millisecond
)

// batch is a range of a stream on its way into the log. Its memory is used again and again.
type batch struct {
	first, last uint64
	stored      time.Time // of the last message
	rows        *block
	latest      *latest
	traces      []string
}

func newBatch() *batch { return &batch{rows: newBlock(), latest: newLatest()} }

func (b *batch) empty() bool { return b.last == 0 }

func (b *batch) full() bool { return b.rows.rows() >= maxRows }

func (b *batch) reset() {
	b.first, b.last, b.stored, b.traces = 0, 0, time.Time{}, b.traces[:0]
	b.rows.reset()
	b.latest.reset()
}

func (b *batch) add(m *eventstore.Recorded) {
	if b.empty() {
		b.first = m.Seq
	}
	b.last, b.stored = m.Seq, m.StoredTime
	b.rows.append(m)
	b.latest.add(m)
	b.trace(m)
}

// insert puts the batch into a generation of the log. When it returns an error it is not known whether, and how much of, it
// is there; repeated with the same token it ends up there once.
func (l *Log) insert(ctx context.Context, generation uint32, stream, token string, b *batch) error {
	ctx, span := l.tele.startInsert(ctx, stream, b)
	defer span.End()
	if b.rows.rows() == 0 { // commits of the site itself make no rows
		return nil
	}
	rows, err := b.rows.encode()
	if err != nil {
		return err
	}
	if err := l.insertNative(ctx, l.activityName(generation), columnList(b.rows.columns), token, rows); err != nil {
		failed(span, err)
		return fmt.Errorf("inserting messages %d to %d of %s: %w", b.first, b.last, stream, err)
	}
	if b.latest.rows() > 0 {
		uses, err := b.latest.encode()
		if err != nil {
			return err
		}
		if err := l.insertNative(ctx, l.latestName(generation), columnList(b.latest.columns), token, uses); err != nil {
			failed(span, err)
			return fmt.Errorf("inserting the latest uses in messages %d to %d of %s: %w", b.first, b.last, stream, err)
		}
	}
	l.tele.rows.Add(ctx, int64(b.rows.rows()))
	return nil
}

func (l *Log) insertNative(ctx context.Context, table, columns, token string, rows *bytes.Reader) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	// What exactly-once rests on is said in full, for the server's defaults may be otherwise and change.
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"insert_deduplicate":                                 1,
		"insert_deduplication_token":                         token,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		"async_insert":                                       0,
		"materialize_skip_indexes_on_insert":                 0, // merges do it
		"max_partitions_per_insert_block":                    0, // a wrong clock must not make a batch that is refused for ever
	}))
	began := time.Now()
	err := l.conn.InsertFormat(ctx, "Native", "INSERT INTO "+table+" ("+columns+")", rows)
	l.tele.inserts.Record(ctx, time.Since(began).Seconds())
	if err != nil {
		return unavailable("writing to clickhouse", err)
	}
	return nil
}

// present counts the different rows of a range that a generation holds.
func (l *Log) present(ctx context.Context, generation uint32, stream string, b *batch) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var n uint64
	from, to := b.rows.timeSpan()
	err := l.conn.QueryRow(ctx, `SELECT uniqExact(lineage, stream_seq, record_index) FROM `+l.activityName(generation)+`
		WHERE stream = {stream:String} AND stream_seq BETWEEN {first:UInt64} AND {last:UInt64}
		AND event_time BETWEEN fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND fromUnixTimestamp64Micro({to:Int64}, 'UTC')`,
		clickhouse.Named("stream", stream), clickhouse.Named("first", b.first), clickhouse.Named("last", b.last),
		clickhouse.Named("from", from), clickhouse.Named("to", to)).Scan(&n)
	if err != nil {
		return 0, unavailable("counting the rows of a range", err)
	}
	return int(n), nil
}
