package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// defaultActivitySpan is how far back the activity log is read when a request says nothing.
const defaultActivitySpan = 24 * time.Hour

// Activity reads the activity log. Whoever calls it has recorded the read before. When the database is away it fails with
// a *domain.Error of ReasonActivityAway.
type Activity interface {
	// Logs returns one page of records, newest first.
	Logs(context.Context, ActivityQuery) (ActivityPage, error)
	// LatestUse returns the last uses of a key; of one that was never used, no entries.
	LatestUse(ctx context.Context, key domain.UID) (LatestUse, error)
}

// ActivityQuery selects records of one key. Zero fields select nothing out.
type ActivityQuery struct {
	Project       string // of the key
	KeyUID        domain.UID
	Start, End    time.Time // inclusive, exclusive; both are set
	Operations    []string
	Outcomes      []domain.Outcome
	Principal     string
	Address       netip.Prefix // not valid: any
	RequestID     string       // the server's or the caller's own
	CorrelationID string
	Version       domain.Version
	Keyword       string // in operation, message, reason, principal or user agent, in any case

	// After is where the page before ended: only older records follow it. Nil: from the newest.
	After *ActivityPosition
	// Skip leaves out that many of what would come next.
	Skip int
	// Limit is the size of the page.
	Limit int
	// CountAll asks for the number of all records that fit, whatever the page.
	CountAll bool
}

// ActivityPosition is a record's place in the log, and its identity.
type ActivityPosition struct {
	Time     time.Time
	Lineage  domain.UID
	Stream   string
	Sequence uint64
	Record   uint32 // index in the stored message
}

// ActivityEntry is a record and its place.
type ActivityEntry struct {
	Record   domain.ActivityRecord
	Position ActivityPosition
}

// ActivityPage is one page of records.
type ActivityPage struct {
	Entries []ActivityEntry
	More    bool  // there are older ones
	Total   int64 // only when asked for
	// AsOf is the time up to which everything that was recorded is in the answer.
	AsOf time.Time
}

// LatestUse says when a key was last used.
type LatestUse struct {
	Entries []LatestUseEntry
	// TrackedSince is the time before which uses are not known.
	TrackedSince time.Time
	AsOf         time.Time
}

// LatestUseEntry is the last success and the last refusal of one operation with one version; nil: none.
type LatestUseEntry struct {
	Version   domain.Version
	Operation string
	Success   *Use
	Refusal   *Use
}

// Use is one attempt to use a key.
type Use struct {
	Time      time.Time
	Principal string
	Address   netip.Addr
	RequestID domain.UID
	Reason    domain.Reason // empty on success
}

// activityService implements kms.v1.ActivityService.
type activityService struct{ s *Server }

func (a *activityService) GetKeyActivityLogs(ctx context.Context, r *kmsv1.GetKeyActivityLogsRequest) (*kmsv1.GetKeyActivityLogsResponse, error) {
	ref, err := a.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	binding, err := activityBinding(r)
	if err != nil {
		return nil, err
	}
	query, err := a.query(r, binding)
	if err != nil {
		return nil, err
	}
	state, err := a.s.cfg.Commands.RecordRead(ctx, callerOf(ctx), callFrom(ctx).read(ref))
	if err != nil {
		return nil, err
	}
	query.KeyUID, query.Project = state.Key.UID, state.Key.Name.Project
	page, err := a.s.cfg.Activity.Logs(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("reading the activity log: %w", err)
	}
	out := &kmsv1.GetKeyActivityLogsResponse{AsOfTime: timeProto(page.AsOf)}
	if r.GetIncludeTotalSize() {
		out.TotalSize = page.Total
	}
	for _, entry := range page.Entries {
		out.ActivityLogs = append(out.ActivityLogs, activityProto(entry))
	}
	if page.More && len(page.Entries) > 0 {
		at := activityCursor{Start: query.Start, End: query.End, Last: page.Entries[len(page.Entries)-1].Position}
		position, err := json.Marshal(at)
		if err != nil {
			return nil, fmt.Errorf("making a page token: %w", err)
		}
		out.NextPageToken = a.s.pages.seal(string(position), binding...)
	}
	return out, nil
}

// activityCursor is what a page token holds. The time range is in it, since "the last day" must not move between pages.
type activityCursor struct {
	Start time.Time
	End   time.Time
	Last  ActivityPosition
}

// activityBinding is what a page token is good for: everything in the request but where and how much to read.
func activityBinding(r *kmsv1.GetKeyActivityLogsRequest) ([]string, error) {
	query := proto.CloneOf(r)
	query.PageToken, query.PageSize, query.Skip, query.IncludeTotalSize = "", 0, 0, false
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(query)
	if err != nil {
		return nil, fmt.Errorf("binding a page token to its query: %w", err)
	}
	return []string{"GetKeyActivityLogs", string(text)}, nil
}

// query reads the request's filters.
func (a *activityService) query(r *kmsv1.GetKeyActivityLogsRequest, binding []string) (ActivityQuery, error) {
	q := ActivityQuery{
		Operations: r.GetOperations(), Principal: r.GetPrincipal(), RequestID: r.GetActivityRequestId(), CorrelationID: r.GetCorrelationId(),
		Version: domain.Version(r.GetVersion()), Keyword: r.GetKeyword(), Skip: int(r.GetSkip()), Limit: int(r.GetPageSize()), CountAll: r.GetIncludeTotalSize(),
	}
	if q.Limit == 0 {
		q.Limit = defaultPageSize
	}
	for _, name := range q.Operations {
		if !a.s.isOperation(name) {
			return q, badField(fmt.Sprintf("operations names %.64q, which is no method of this API; write it like Encrypt or RotateKey", name))
		}
	}
	for _, o := range r.GetOutcomes() {
		outcome, err := outcomes.fromProto("outcomes", o)
		if err != nil {
			return q, err
		}
		q.Outcomes = append(q.Outcomes, outcome)
	}
	var err error
	if q.Address, err = addressFilter(r.GetClientAddress()); err != nil {
		return q, err
	}
	q.Start, q.End = activityRange(r.GetStartTime(), r.GetEndTime())
	if r.GetPageToken() == "" {
		return q, nil
	}
	position, err := a.s.pages.open(r.GetPageToken(), binding...)
	if err != nil {
		return q, err
	}
	var at activityCursor
	if err := json.Unmarshal([]byte(position), &at); err != nil {
		return q, errPageToken
	}
	q.Start, q.End, q.After = at.Start, at.End, &at.Last
	return q, nil
}

// activityRange is the range asked for: up to now, and one day long, unless it is said otherwise.
func activityRange(start, end *timestamppb.Timestamp) (time.Time, time.Time) {
	until := time.Now().UTC()
	if end != nil {
		until = end.AsTime()
	}
	if start != nil {
		return start.AsTime(), until
	}
	return until.Add(-defaultActivitySpan), until
}

// addressFilter reads an address or a prefix. The validator has looked at it before.
func addressFilter(s string) (netip.Prefix, error) {
	switch {
	case s == "":
		return netip.Prefix{}, nil
	case strings.Contains(s, "/"):
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, badField("client_address must be an IPv4 or IPv6 address, or a prefix like 10.0.0.0/8")
		}
		return prefix.Masked(), nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, badField("client_address must be an IPv4 or IPv6 address, or a prefix like 10.0.0.0/8")
	}
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// isOperation reports whether a method of this API has that name, or what the service does by itself. A misspelt one would
// find nothing and be believed.
func (s *Server) isOperation(name string) bool {
	switch name {
	case commands.OperationExpireKey, commands.OperationDestroyKeyVersion, commands.OperationEraseMaterial, commands.OperationLeaseUses,
		commands.OperationExpireImportJob, commands.OperationUseImportJob, commands.OperationCompleteImport:
		return true
	}
	for _, m := range s.methods {
		if m.name == name {
			return true
		}
	}
	return false
}

func (a *activityService) GetLatestUseInfo(ctx context.Context, r *kmsv1.GetLatestUseInfoRequest) (*kmsv1.LatestUseInfo, error) {
	ref, err := a.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	state, err := a.s.cfg.Commands.RecordRead(ctx, callerOf(ctx), callFrom(ctx).read(ref))
	if err != nil {
		return nil, err
	}
	uses, err := a.s.cfg.Activity.LatestUse(ctx, state.Key.UID)
	if err != nil {
		return nil, fmt.Errorf("reading the latest uses: %w", err)
	}
	out := &kmsv1.LatestUseInfo{
		Name: state.Key.Name.String(), KeyUid: state.Key.UID.String(),
		TrackedSinceTime: timeProto(uses.TrackedSince), AsOfTime: timeProto(uses.AsOf),
	}
	slices.SortFunc(uses.Entries, func(a, b LatestUseEntry) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), strings.Compare(a.Operation, b.Operation))
	})
	for _, e := range uses.Entries {
		out.Entries = append(out.Entries, &kmsv1.LatestUseInfo_Entry{
			Version: int32(e.Version), Operation: e.Operation, LastSuccess: useProto(e.Success), LastRefusal: useProto(e.Refusal),
		})
	}
	return out, nil
}

func useProto(u *Use) *kmsv1.LatestUseInfo_Use {
	if u == nil {
		return nil
	}
	return &kmsv1.LatestUseInfo_Use{
		Time: timeProto(u.Time), Principal: u.Principal, ClientAddress: addressText(u.Address), RequestId: uidText(u.RequestID),
		Code: codeName(u.Reason), Reason: string(u.Reason),
	}
}
