package activity

import (
	"net/netip"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
)

const (
	// DefaultPageSize is how many rows a page has if the query does not say.
	DefaultPageSize = 100
	// MaxPageSize is how many rows a page has at most.
	MaxPageSize = 1000
	// DefaultRange is how far back a query looks that does not say.
	DefaultRange = 24 * time.Hour
)

// Query says which records are wanted. A zero field does not restrict; all that are set must hold.
type Query struct {
	Project  string
	Location string
	// KeyUID names the key; KeyName is what callers named, which also finds attempts on names that were of no key.
	KeyUID  domain.UID
	KeyName string
	// Start is inclusive, End exclusive; see Resolve.
	Start, End time.Time
	Operations []string
	Outcomes   []domain.Outcome
	Principal  string
	// ClientAddress is a range; a single address is one of full length.
	ClientAddress netip.Prefix
	// RequestID is compared with the server's and with the client's own.
	RequestID     string
	CorrelationID string
	Version       domain.Version
	// Keyword is looked for in operation, message, reason, principal and user agent, in any case.
	Keyword string

	// After is the last row of the page before; nil asks for the first page.
	After *Position
	// Skip leaves out that many of what would come next.
	Skip int
	// PageSize is at most MaxPageSize; zero is DefaultPageSize.
	PageSize int
	// Total asks for the number of records that match, on whatever page.
	Total bool
}

// Position is a record's place in the log: it identifies the record, and records are listed in its order, newest first.
type Position struct {
	Time    time.Time
	Lineage domain.UID
	Stream  string
	Seq     uint64
	Index   uint32
}

// Resolve fills in the range of time: End is now and Start a day before End, if they are zero. The pages of one query must
// all be asked for with the same range.
func (q Query) Resolve(now time.Time) Query {
	if q.End.IsZero() {
		q.End = now
	}
	if q.Start.IsZero() {
		q.Start = q.End.Add(-DefaultRange)
	}
	return q
}

// condition is a WHERE clause and its parameters. Values reach ClickHouse as parameters only.
type condition struct {
	terms  []string
	params []any
}

func (c *condition) add(term string, params ...any) {
	c.terms = append(c.terms, term)
	c.params = append(c.params, params...)
}

func (c *condition) String() string { return strings.Join(c.terms, "\n\tAND ") }

// matching is the condition that a record is what q asks for, on whatever page.
func (q *Query) matching() *condition {
	c := new(condition)
	c.add("event_time >= fromUnixTimestamp64Micro({start:Int64}, 'UTC') AND event_time < fromUnixTimestamp64Micro({end:Int64}, 'UTC')",
		clickhouse.Named("start", micros(q.Start)), clickhouse.Named("end", micros(q.End)))
	for _, equal := range []struct{ column, value string }{
		{"project", q.Project}, {"location", q.Location}, {"key_name", q.KeyName}, {"principal", q.Principal}, {"correlation_id", q.CorrelationID},
	} {
		if equal.value != "" {
			c.add(equal.column+" = {"+equal.column+":String}", clickhouse.Named(equal.column, equal.value))
		}
	}
	if !q.KeyUID.IsZero() {
		c.add("key_uid = {key_uid:UUID}", clickhouse.Named("key_uid", q.KeyUID.String()))
	}
	if q.Version != 0 {
		c.add("key_version = {key_version:Int32}", clickhouse.Named("key_version", int32(q.Version)))
	}
	if len(q.Operations) > 0 {
		c.add("operation IN {operations:Array(String)}", clickhouse.Named("operations", q.Operations))
	}
	if len(q.Outcomes) > 0 {
		outcomes := make([]string, len(q.Outcomes))
		for i, o := range q.Outcomes {
			outcomes[i] = string(o)
		}
		c.add("outcome IN {outcomes:Array(String)}", clickhouse.Named("outcomes", outcomes))
	}
	if q.ClientAddress.IsValid() {
		low, high := addressRange(q.ClientAddress)
		c.add("client_address BETWEEN {low:IPv6} AND {high:IPv6}", clickhouse.Named("low", low.String()), clickhouse.Named("high", high.String()))
	}
	if q.RequestID != "" {
		q.matchRequest(c)
	}
	if q.Keyword != "" {
		c.add(`(positionCaseInsensitiveUTF8(operation, {keyword:String}) > 0 OR positionCaseInsensitiveUTF8(message, {keyword:String}) > 0
		OR positionCaseInsensitiveUTF8(reason, {keyword:String}) > 0 OR positionCaseInsensitiveUTF8(principal, {keyword:String}) > 0
		OR positionCaseInsensitiveUTF8(user_agent, {keyword:String}) > 0)`, clickhouse.Named("keyword", q.Keyword))
	}
	return c
}

func (q *Query) matchRequest(c *condition) {
	c.params = append(c.params, clickhouse.Named("client_request_id", q.RequestID))
	if id, err := domain.ParseUID(q.RequestID); err == nil {
		c.add("(request_id = {request_id:UUID} OR client_request_id = {client_request_id:String})", clickhouse.Named("request_id", id.String()))
		return
	}
	c.add("client_request_id = {client_request_id:String}")
}

// older adds that a record comes after a position in the listing.
func (c *condition) older(p *Position) {
	// The first comparison is implied by the second, but is the one that the sorting key helps with.
	c.add(`event_time <= fromUnixTimestamp64Micro({after:Int64}, 'UTC')
	AND (event_time, lineage, stream, stream_seq, record_index) <
		(fromUnixTimestamp64Micro({after:Int64}, 'UTC'), {after_lineage:UUID}, {after_stream:String}, {after_seq:UInt64}, {after_index:UInt32})`,
		clickhouse.Named("after", micros(p.Time)), clickhouse.Named("after_lineage", uuid.UUID(p.Lineage).String()),
		clickhouse.Named("after_stream", p.Stream), clickhouse.Named("after_seq", p.Seq), clickhouse.Named("after_index", p.Index))
}

// addressRange returns the first and last address of a prefix as the log keeps addresses: IPv4 mapped into IPv6.
func addressRange(p netip.Prefix) (low, high netip.Addr) {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	from := netip.PrefixFrom(netip.AddrFrom16(p.Addr().As16()), bits).Masked().Addr().As16()
	to := from
	for bit := bits; bit < 128; bit++ {
		to[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom16(from), netip.AddrFrom16(to)
}
