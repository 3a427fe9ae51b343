package activity

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// words is a column of few different texts.
type words = *chproto.ColLowCardinality[string]

// block is the rows of one INSERT, by column. It is encoded as ClickHouse's Native format by ourselves: clickhouse-go's
// own batches go through reflection for every value, and over HTTP report success when encoding failed.
type block struct {
	time                                  chproto.ColDateTime64
	lineage                               chproto.ColUUID
	stream                                words
	seq                                   chproto.ColUInt64
	index                                 chproto.ColUInt32
	project, location                     words
	keyUID                                chproto.ColUUID
	keyName                               chproto.ColStr
	version                               chproto.ColInt32
	operation, category, outcome, reason  words
	message                               chproto.ColStr
	principal, principalKind, requestType words
	address                               chproto.ColIPv6
	userAgent                             words
	requestID                             chproto.ColUUID
	clientRequestID, correlationID        chproto.ColStr
	traceID                               chproto.ColFixedStr16
	grantedBy, protection                 words
	ledgerTag                             chproto.ColFixedStr32
	bytesIn, bytesOut, duration           chproto.ColUInt32

	columns chproto.Input
	encoded chproto.Buffer
}

// newBlock returns an empty block. Its columns are those of the table, in the table's order.
func newBlock() *block {
	word := func() words { return chproto.NewLowCardinality(new(chproto.ColStr)) }
	b := &block{
		stream: word(), project: word(), location: word(), operation: word(), category: word(), outcome: word(), reason: word(),
		principal: word(), principalKind: word(), requestType: word(), userAgent: word(), grantedBy: word(), protection: word(),
	}
	b.time.WithPrecision(chproto.PrecisionMicro).WithLocation(time.UTC)
	b.columns = chproto.Input{
		{Name: "event_time", Data: &b.time},
		{Name: "lineage", Data: &b.lineage},
		{Name: "stream", Data: b.stream},
		{Name: "stream_seq", Data: &b.seq},
		{Name: "record_index", Data: &b.index},
		{Name: "project", Data: b.project},
		{Name: "location", Data: b.location},
		{Name: "key_uid", Data: &b.keyUID},
		{Name: "key_name", Data: &b.keyName},
		{Name: "key_version", Data: &b.version},
		{Name: "operation", Data: b.operation},
		{Name: "category", Data: b.category},
		{Name: "outcome", Data: b.outcome},
		{Name: "reason", Data: b.reason},
		{Name: "message", Data: &b.message},
		{Name: "principal", Data: b.principal},
		{Name: "principal_kind", Data: b.principalKind},
		{Name: "request_type", Data: b.requestType},
		{Name: "client_address", Data: &b.address},
		{Name: "user_agent", Data: b.userAgent},
		{Name: "request_id", Data: &b.requestID},
		{Name: "client_request_id", Data: &b.clientRequestID},
		{Name: "correlation_id", Data: &b.correlationID},
		{Name: "trace_id", Data: &b.traceID},
		{Name: "granted_by", Data: b.grantedBy},
		{Name: "protection", Data: b.protection},
		{Name: "ledger_tag", Data: &b.ledgerTag},
		{Name: "bytes_in", Data: &b.bytesIn},
		{Name: "bytes_out", Data: &b.bytesOut},
		{Name: "duration_us", Data: &b.duration},
	}
	return b
}

func (b *block) rows() int { return len(b.seq) }

func (b *block) reset() { b.columns.Reset() }

// append adds a row for each record of a message.
func (b *block) append(m *eventstore.Recorded) {
	for i := range m.Records {
		r := &m.Records[i]
		b.time.AppendRaw(chproto.DateTime64(micros(r.Time)))
		b.lineage = append(b.lineage, uuid.UUID(m.Lineage))
		b.stream.Append(m.Stream)
		b.seq = append(b.seq, m.Seq)
		b.index = append(b.index, uint32(i)) // of at most 512 records
		b.project.Append(r.Project)
		b.location.Append(r.Location)
		b.keyUID = append(b.keyUID, uuid.UUID(r.KeyUID))
		b.keyName.Append(r.KeyName)
		b.version = append(b.version, int32(r.Version))
		b.operation.Append(r.Operation)
		b.category.Append(string(r.Category))
		b.outcome.Append(string(r.Outcome))
		b.reason.Append(string(r.Reason))
		b.message.Append(r.Message)
		b.principal.Append(r.Caller.Principal)
		b.principalKind.Append(string(r.Caller.Kind))
		b.requestType.Append(string(r.Caller.Request))
		b.address = append(b.address, address(r.Caller))
		b.userAgent.Append(r.Caller.UserAgent)
		b.requestID = append(b.requestID, uuid.UUID(r.Caller.RequestID))
		b.clientRequestID.Append(r.Caller.ClientRequestID)
		b.correlationID.Append(r.Caller.CorrelationID)
		b.traceID = append(b.traceID, r.Caller.TraceID)
		b.grantedBy.Append(r.GrantedBy)
		b.protection.Append(string(r.Protection))
		b.ledgerTag = append(b.ledgerTag, r.LedgerTag)
		b.bytesIn = append(b.bytesIn, r.BytesIn)
		b.bytesOut = append(b.bytesOut, r.BytesOut)
		b.duration = append(b.duration, durationMicros(r.Duration))
	}
}

// encode returns the block in Native format, revision 0, which is what servers expect over HTTP. The result is valid until
// the block changes.
func (b *block) encode() (*bytes.Reader, error) { return encodeNative(&b.encoded, b.rows(), b.columns) }

func encodeNative(buffer *chproto.Buffer, rows int, columns chproto.Input) (*bytes.Reader, error) {
	buffer.Reset()
	if err := (chproto.Block{Columns: len(columns), Rows: rows}).EncodeBlock(buffer, 0, columns); err != nil {
		return nil, fmt.Errorf("encoding %d rows: %w", rows, err)
	}
	return bytes.NewReader(buffer.Buf), nil
}

// columnList is the columns' names as an INSERT or SELECT lists them.
func columnList(columns chproto.Input) string {
	return strings.Join(slices.Collect(func(yield func(string) bool) {
		for _, c := range columns {
			if !yield(c.Name) {
				return
			}
		}
	}), ", ")
}

// The times that the table can hold: a wrong clock, however wrong, must not keep a record out of it. ClickHouse's own
// limit for microseconds lies in 2299.
var (
	minTime = time.Unix(0, 0)
	maxTime = time.Date(2299, 1, 1, 0, 0, 0, 0, time.UTC)
)

func micros(t time.Time) int64 {
	return min(max(t.Unix(), minTime.Unix()), maxTime.Unix())*1e6 + int64(t.Nanosecond()/1e3)
}

func durationMicros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}

// address is the caller's as IPv6; an IPv4 address is mapped (RFC 4291 section 2.5.5.2), and none is the unspecified one.
func address(c domain.Caller) chproto.IPv6 {
	if !c.Address.IsValid() {
		return chproto.IPv6{}
	}
	return c.Address.As16()
}

// timeSpan returns the smallest and the largest time of the rows, in microseconds since 1970.
func (b *block) timeSpan() (from, to int64) {
	if len(b.time.Data) == 0 {
		return 0, 0
	}
	return int64(slices.Min(b.time.Data)), int64(slices.Max(b.time.Data))
}
