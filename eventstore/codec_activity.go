package eventstore

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

// recordsField is the number of ActivityBatch.records: a batch is nothing but its records one behind the other, so that each
// is encoded by the goroutine that asked for it.
const recordsField protowire.Number = 1

// recordScratch is what encoding a record needs besides its result, kept between calls.
type recordScratch struct {
	domain  domain.ActivityRecord
	record  eventsv1.ActivityRecord
	caller  eventsv1.Caller
	address [16]byte
}

var recordScratches = sync.Pool{New: func() any {
	x := new(recordScratch)
	x.record.Caller = &x.caller
	return x
}}

// appendRecord appends r, as an element of ActivityBatch.records, to b. What is too long to keep is cut.
func appendRecord(b []byte, r *domain.ActivityRecord) ([]byte, error) {
	x := recordScratches.Get().(*recordScratch) //nolint:forcetypeassert // the pool holds nothing else
	defer recordScratches.Put(x)
	x.domain = r.Trimmed()
	if err := x.encode(); err != nil {
		return b, err
	}
	b = protowire.AppendTag(b, recordsField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(proto.Size(&x.record))) //nolint:gosec // a size is not negative
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, &x.record)
	if err != nil {
		return b, fmt.Errorf("encoding a record of %s: %w", r.Operation, err)
	}
	return b, nil
}

func (x *recordScratch) encode() (err error) {
	d, m := &x.domain, &x.record
	if m.Category, err = categories.toProto(d.Category); err != nil {
		return err
	}
	if m.Outcome, err = outcomes.toProto(d.Outcome); err != nil {
		return err
	}
	if m.ProtectionLevel, err = protectionLevels.toProto(d.Protection); err != nil {
		return err
	}
	if err = encodeCaller(&x.caller, &d.Caller, &x.address); err != nil {
		return err
	}
	m.KeyUid, m.LedgerTag = nil, nil
	if !d.KeyUID.IsZero() {
		m.KeyUid = d.KeyUID[:]
	}
	if d.LedgerTag != [32]byte{} {
		m.LedgerTag = d.LedgerTag[:]
	}
	m.KeyName, m.KeyPath = text(d.KeyName), ""
	if project, location, path := splitName(m.KeyName); project != "" && project == d.Project && location == d.Location {
		m.KeyName, m.KeyPath = "", path
	}
	m.TimeMicros, m.Project, m.Location = d.Time.UnixMicro(), text(d.Project), text(d.Location)
	m.Version, m.Operation, m.Reason, m.Message = int32(d.Version), d.Operation, string(d.Reason), text(d.Message)
	m.GrantedBy, m.BytesIn, m.BytesOut, m.DurationMicros = text(d.GrantedBy), d.BytesIn, d.BytesOut, micros(d.Duration)
	return nil
}

// decodeBatch reads a message of an activity stream.
func decodeBatch(stream string, m storedMessage) (Recorded, error) {
	r, err := decodeBatchMessage(m)
	if err != nil {
		return Recorded{}, &IntegrityError{Stream: stream, Message: fmt.Sprintf("message %d is not readable: %v", m.seq, err)}
	}
	r.Stream = stream
	return r, nil
}

func decodeBatchMessage(m storedMessage) (Recorded, error) {
	lineage, err := parseTypeHeader(m.header.Get(headerType), typeActivity)
	if err != nil {
		return Recorded{}, err
	}
	var batch eventsv1.ActivityBatch
	if err := proto.Unmarshal(m.data, &batch); err != nil {
		return Recorded{}, err
	}
	r := Recorded{
		Seq: m.seq, Lineage: lineage, Writer: strings.TrimPrefix(m.subject, subjectActivity), StoredTime: m.time.UTC(),
		Records: make([]domain.ActivityRecord, 0, len(batch.GetRecords())), TraceParent: m.header.Get(headerTraceParent),
	}
	var d decoder
	for _, p := range batch.GetRecords() {
		r.Records = append(r.Records, d.record(p))
	}
	return r, d.err
}

func (d *decoder) record(m *eventsv1.ActivityRecord) domain.ActivityRecord {
	name := m.GetKeyName()
	if path := m.GetKeyPath(); path != "" {
		name = "projects/" + m.GetProject() + "/locations/" + m.GetLocation() + "/" + path
	}
	return domain.ActivityRecord{
		Time: time.UnixMicro(m.GetTimeMicros()).UTC(), Project: m.GetProject(), Location: m.GetLocation(),
		KeyUID: d.uid(m.GetKeyUid()), KeyName: name, Version: domain.Version(m.GetVersion()), Operation: m.GetOperation(),
		Category: fromProto(d, categories, m.GetCategory()), Outcome: fromProto(d, outcomes, m.GetOutcome()),
		Reason: domain.Reason(m.GetReason()), Message: m.GetMessage(), Caller: d.caller(m.GetCaller()), GrantedBy: m.GetGrantedBy(),
		Protection: fromProto(d, protectionLevels, m.GetProtectionLevel()), LedgerTag: d.hash(m.GetLedgerTag()),
		BytesIn: m.GetBytesIn(), BytesOut: m.GetBytesOut(), Duration: duration(m.GetDurationMicros()),
	}
}
