package activity

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// deduplicationWindow is how many inserts a table remembers the tokens of. Only the last range of a stream is ever
// inserted again, but ranges of several streams, and what a former owner sends late, lie between.
const deduplicationWindow = 1000

// The schema has generations, each a complete filling of the log: tables activity_g<N> and latest_use_g<N>. The views
// activity and latest_use show the current one; which that is says the comment of the view activity, so that one atomic
// statement moves everybody to the next. All of it is made by whoever finds it missing.

// activityTable is where the records are, never updated. That it replaces rows of the same identity is for the case that
// ClickHouse's memory of inserts was outlived. There is one skip index, since each costs at every merge: the sorting key
// serves questions about a key, and the smallest and largest time of each part those about a time.
//
// An INSERT is synced to disk before it is acknowledged, because only the last range of a stream is ever inserted again.
func activityTable(name string) string {
	return `CREATE TABLE ` + name + `
(
	event_time        DateTime64(6, 'UTC') CODEC(Delta, LZ4),
	lineage           UUID,
	stream            LowCardinality(String),
	stream_seq        UInt64 CODEC(Delta, LZ4),
	record_index      UInt32,
	project           LowCardinality(String),
	location          LowCardinality(String),
	key_uid           UUID,
	key_name          String,
	key_version       Int32,
	operation         LowCardinality(String),
	category          LowCardinality(String),
	outcome           LowCardinality(String),
	reason            LowCardinality(String),
	message           String,
	principal         LowCardinality(String),
	principal_kind    LowCardinality(String),
	request_type      LowCardinality(String),
	client_address    IPv6,
	user_agent        LowCardinality(String),
	request_id        UUID,
	client_request_id String,
	correlation_id    String,
	trace_id          FixedString(16),
	granted_by        LowCardinality(String),
	protection        LowCardinality(String),
	ledger_tag        FixedString(32),
	bytes_in          UInt32,
	bytes_out         UInt32,
	duration_us       UInt32,
	INDEX ix_request request_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (project, key_uid, event_time, lineage, stream, stream_seq, record_index)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = ` + strconv.Itoa(deduplicationWindow)
}

// latestTable holds the newest record for each key, version, operation and whether it was refused; older ones go away in
// merges. Inserting something twice changes nothing, so it needs no deduplication.
func latestTable(name string) string {
	return `CREATE TABLE ` + name + `
(
	key_uid        UUID,
	key_version    Int32,
	operation      LowCardinality(String),
	refused        Bool,
	project        LowCardinality(String),
	category       LowCardinality(String),
	event_time     DateTime64(6, 'UTC'),
	outcome        LowCardinality(String),
	reason         LowCardinality(String),
	principal      LowCardinality(String),
	client_address IPv6,
	request_id     UUID,
	rank           UInt128
)
ENGINE = ReplacingMergeTree(rank)
ORDER BY (key_uid, key_version, operation, refused)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`
}

// generation is one filling of the log that exists in ClickHouse.
type generation struct {
	number uint32
	// table identifies the table itself: if it is lost and made again, its rows are filled in again from the beginning.
	table string
}

// Names of the tables of a generation and of the views, with the database.
func (l *Log) activityName(n uint32) string { return l.db + ".activity_g" + strconv.Itoa(int(n)) }
func (l *Log) latestName(n uint32) string   { return l.db + ".latest_use_g" + strconv.Itoa(int(n)) }
func (l *Log) activityView() string         { return l.db + ".activity" }
func (l *Log) latestView() string           { return l.db + ".latest_use" }

// current returns the generation that the views show; it makes what is missing of the schema.
func (l *Log) current(ctx context.Context) (generation, error) {
	s, err := l.readSchema(ctx)
	if err != nil {
		return generation{}, err
	}
	if s.complete() {
		return generation{s.shown, s.activity[s.shown]}, nil
	}
	number := s.shown
	switch {
	case s.shown == 0: // the first time, or somebody dropped the view
		number = max(s.newest(), 1)
	case s.activity[s.shown] == "" || !s.latest[s.shown]:
		// A table was lost. The name of a lost table is not used again: what is on its way into it must not end up in the new one.
		number = s.newest() + 1
	}
	if err := l.createGeneration(ctx, number, true); err != nil {
		return generation{}, err
	}
	if err := l.show(ctx, number); err != nil {
		return generation{}, err
	}
	if s, err = l.readSchema(ctx); err != nil {
		return generation{}, err
	}
	if !s.complete() {
		return generation{}, fmt.Errorf("the schema in database %s is not what was just created", l.db)
	}
	return generation{s.shown, s.activity[s.shown]}, nil
}

// schema is what exists.
type schema struct {
	shown       uint32            // by the view activity; 0: there is none
	latestShown uint32            // by the view latest_use
	activity    map[uint32]string // generation to the identity of its table
	latest      map[uint32]bool
}

func (s schema) complete() bool {
	return s.shown != 0 && s.latestShown == s.shown && s.activity[s.shown] != "" && s.latest[s.shown]
}

// newest is the highest number of a generation that exists, complete or not.
func (s schema) newest() (newest uint32) {
	for n := range s.activity {
		newest = max(newest, n)
	}
	for n := range s.latest {
		newest = max(newest, n)
	}
	return max(newest, s.shown)
}

var generationTable = regexp.MustCompile(`^(activity|latest_use)_g([1-9][0-9]*)$`)

func (l *Log) readSchema(ctx context.Context) (schema, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	s := schema{activity: map[uint32]string{}, latest: map[uint32]bool{}}
	rows, err := l.conn.Query(ctx, `SELECT name, toString(uuid), comment FROM system.tables WHERE database = {db:String}`, clickhouse.Named("db", l.db))
	if err != nil {
		return s, unavailable("reading the schema", err)
	}
	for rows.Next() {
		var name, id, comment string
		if err := rows.Scan(&name, &id, &comment); err != nil {
			return s, unavailable("reading the schema", closing(rows, err))
		}
		switch m := generationTable.FindStringSubmatch(name); {
		case name == "activity":
			s.shown = parseGeneration(comment)
		case name == "latest_use":
			s.latestShown = parseGeneration(comment)
		case m == nil: // not ours
		case m[1] == "activity":
			s.activity[parseGeneration(m[2])] = id
		default:
			s.latest[parseGeneration(m[2])] = true
		}
	}
	if err := closing(rows, rows.Err()); err != nil {
		return s, unavailable("reading the schema", err)
	}
	return s, nil
}

func parseGeneration(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0 // not a comment of ours: as if it were not there
	}
	return uint32(n)
}

// createGeneration makes the tables of a generation. Unless they may exist it is an error if they do.
func (l *Log) createGeneration(ctx context.Context, n uint32, mayExist bool) error {
	statements := []string{
		"CREATE DATABASE IF NOT EXISTS " + l.db,
		activityTable(l.activityName(n)),
		latestTable(l.latestName(n)),
	}
	for _, statement := range statements {
		if mayExist {
			statement = strings.Replace(statement, "CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1)
		}
		if err := l.exec(ctx, statement); err != nil {
			return unavailable(fmt.Sprintf("creating generation %d of the log", n), err)
		}
	}
	return nil
}

// show moves the views to a generation, the one that decides last.
func (l *Log) show(ctx context.Context, n uint32) error {
	if err := l.showView(ctx, l.latestView(), l.latestName(n), n); err != nil {
		return err
	}
	return l.showView(ctx, l.activityView(), l.activityName(n), n)
}

func (l *Log) showView(ctx context.Context, view, table string, n uint32) error {
	if err := l.exec(ctx, fmt.Sprintf("CREATE OR REPLACE VIEW %s AS SELECT * FROM %s COMMENT '%d'", view, table, n)); err != nil {
		return unavailable(fmt.Sprintf("showing generation %d of the log", n), err)
	}
	return nil
}

func (l *Log) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return l.conn.Exec(ctx, statement)
}

// drop removes the tables of a generation.
func (l *Log) drop(ctx context.Context, n uint32) error {
	for _, table := range []string{l.activityName(n), l.latestName(n)} {
		if err := l.exec(ctx, "DROP TABLE IF EXISTS "+table+" SYNC"); err != nil {
			return unavailable(fmt.Sprintf("dropping generation %d of the log", n), err)
		}
	}
	return nil
}
