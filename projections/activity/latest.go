package activity

import (
	"bytes"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// latestKey is what the latest use is kept for.
type latestKey struct {
	key       domain.UID
	version   domain.Version
	operation string
	refused   bool
}

// latest is the newest record of each latestKey among those of one INSERT. That many records of a batch are about few
// keys makes it far smaller than the batch, and cheaper here than as a materialized view.
type latest struct {
	newest map[latestKey]latestRecord

	keyUID                     chproto.ColUUID
	version                    chproto.ColInt32
	operation                  words
	refused                    chproto.ColBool
	project, category          words
	time                       chproto.ColDateTime64
	outcome, reason, principal words
	address                    chproto.ColIPv6
	requestID                  chproto.ColUUID
	rank                       chproto.ColUInt128

	columns chproto.Input
	encoded chproto.Buffer
}

type latestRecord struct {
	rank   chproto.UInt128
	record *domain.ActivityRecord
}

func newLatest() *latest {
	word := func() words { return chproto.NewLowCardinality(new(chproto.ColStr)) }
	l := &latest{
		newest:    map[latestKey]latestRecord{},
		operation: word(), project: word(), category: word(), outcome: word(), reason: word(), principal: word(),
	}
	l.time.WithPrecision(chproto.PrecisionMicro).WithLocation(time.UTC)
	l.columns = chproto.Input{
		{Name: "key_uid", Data: &l.keyUID},
		{Name: "key_version", Data: &l.version},
		{Name: "operation", Data: l.operation},
		{Name: "refused", Data: &l.refused},
		{Name: "project", Data: l.project},
		{Name: "category", Data: l.category},
		{Name: "event_time", Data: &l.time},
		{Name: "outcome", Data: l.outcome},
		{Name: "reason", Data: l.reason},
		{Name: "principal", Data: l.principal},
		{Name: "client_address", Data: &l.address},
		{Name: "request_id", Data: &l.requestID},
		{Name: "rank", Data: &l.rank},
	}
	return l
}

func (l *latest) reset() { clear(l.newest) }

// add takes the records of a message into account. It keeps pointers to them until reset.
func (l *latest) add(m *eventstore.Recorded) {
	for i := range m.Records {
		r := &m.Records[i]
		if r.KeyUID.IsZero() {
			continue
		}
		k := latestKey{r.KeyUID, r.Version, r.Operation, r.Outcome != domain.OutcomeOK}
		rank := rankOf(r, m.Seq, i)
		if old, ok := l.newest[k]; !ok || less(old.rank, rank) {
			l.newest[k] = latestRecord{rank, r}
		}
	}
}

// rankOf orders records by time and, within a microsecond, by their place in the stream, so that every filling of the
// table ends with the same row.
func rankOf(r *domain.ActivityRecord, seq uint64, index int) chproto.UInt128 {
	return chproto.UInt128{High: uint64(micros(r.Time)), Low: seq<<16 | uint64(index)} //nolint:gosec // neither is negative
}

func less(a, b chproto.UInt128) bool { return a.High < b.High || a.High == b.High && a.Low < b.Low }

func (l *latest) rows() int { return len(l.newest) }

// encode returns the rows in Native format; it is valid until the next call.
func (l *latest) encode() (*bytes.Reader, error) {
	l.columns.Reset()
	for k, n := range l.newest {
		l.keyUID = append(l.keyUID, uuid.UUID(k.key))
		l.version = append(l.version, int32(k.version))
		l.operation.Append(k.operation)
		l.refused = append(l.refused, k.refused)
		l.project.Append(n.record.Project)
		l.category.Append(string(n.record.Category))
		l.time.AppendRaw(chproto.DateTime64(micros(n.record.Time)))
		l.outcome.Append(string(n.record.Outcome))
		l.reason.Append(string(n.record.Reason))
		l.principal.Append(n.record.Caller.Principal)
		l.address = append(l.address, address(n.record.Caller))
		l.requestID = append(l.requestID, uuid.UUID(n.record.Caller.RequestID))
		l.rank = append(l.rank, n.rank)
	}
	return encodeNative(&l.encoded, l.rows(), l.columns)
}
