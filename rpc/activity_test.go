package rpc_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
	"github.com/keyledger/kms/rpc"
)

func (s *served) activity(t *testing.T) kmsv1connect.ActivityServiceClient {
	t.Helper()
	return kmsv1connect.NewActivityServiceClient(&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url)
}

func TestActivityLogs(t *testing.T) {
	s := serve(t)
	record := domain.ActivityRecord{
		Time: day0, Project: "p", Location: "local", KeyUID: domain.UID{1}, KeyName: keyPath, Version: 2, Operation: "Decrypt",
		Category: domain.CategoryCrypto, Outcome: domain.OutcomeDenied, Reason: domain.ReasonKeyDisabled, Message: "it is DISABLED",
		Caller: domain.Caller{
			Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, Address: netip.MustParseAddr("10.1.2.3"), UserAgent: "ua",
			RequestID: domain.UID{2}, ClientRequestID: "x", CorrelationID: "c", TraceID: [16]byte{0xab},
		},
		Protection: domain.HSM, BytesIn: 3, BytesOut: 4, Duration: time.Millisecond,
	}
	position := rpc.ActivityPosition{Time: day0, Lineage: domain.UID{7}, Stream: "KMS_ACTIVITY_1", Sequence: 1<<53 + 1, Record: 5}
	s.page = rpc.ActivityPage{Entries: []rpc.ActivityEntry{{Record: record, Position: position}}, More: true, Total: 9, AsOf: day0}
	client := s.activity(t)
	req := &kmsv1.GetKeyActivityLogsRequest{
		Name: keyPath, Operations: []string{"Decrypt"}, Outcomes: []kmsv1.ActivityLog_Outcome{kmsv1.ActivityLog_DENIED, kmsv1.ActivityLog_FAILED},
		Principal: "admin", ClientAddress: "10.1.2.3/8", ActivityRequestId: "x", CorrelationId: "c", Version: 2, Keyword: "k", PageSize: 1, Skip: 3, IncludeTotalSize: true,
	}
	res, err := client.GetKeyActivityLogs(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if s.read.Operation != "GetKeyActivityLogs" || s.read.Category != domain.CategoryAudit || s.read.Permission != domain.PermissionActivityList {
		t.Errorf("the read was recorded as %+v", s.read)
	}
	q := s.logs
	if q.KeyUID.IsZero() || q.Address.String() != "10.0.0.0/8" || len(q.Outcomes) != 2 || q.Outcomes[1] != domain.OutcomeFailed || q.Version != 2 ||
		q.Skip != 3 || q.Limit != 1 || !q.CountAll || q.After != nil || q.End.Sub(q.Start) != 24*time.Hour || time.Since(q.End) > time.Minute {
		t.Errorf("query = %+v", q)
	}
	l := res.GetActivityLogs()[0]
	if l.GetKey() != keyPath || l.GetCode() != "FAILED_PRECONDITION" || l.GetReason() != "KEY_DISABLED" || l.GetOutcome() != kmsv1.ActivityLog_DENIED ||
		l.GetClientAddress() != "10.1.2.3" || !strings.HasPrefix(l.GetTraceId(), "ab00") || l.GetPosition().GetSequence() != 1<<53+1 || l.GetPrincipalKind() != "ADMIN" {
		t.Errorf("log = %v", l)
	}
	if res.GetTotalSize() != 9 || !res.GetAsOfTime().AsTime().Equal(day0) || res.GetNextPageToken() == "" {
		t.Errorf("answer = %v", res)
	}

	// The next page is of the same day and behind the last record.
	req.PageToken, req.Skip, req.IncludeTotalSize = res.GetNextPageToken(), 0, false
	s.page.More = false
	res, err = client.GetKeyActivityLogs(t.Context(), req)
	if err != nil || res.GetNextPageToken() != "" || res.GetTotalSize() != 0 {
		t.Fatal(res, err)
	}
	if s.logs.After == nil || *s.logs.After != position || !s.logs.End.Equal(q.End) || !s.logs.Start.Equal(q.Start) {
		t.Errorf("query = %+v, want it behind %+v", s.logs, position)
	}
	req.Keyword = "other"
	if _, err := client.GetKeyActivityLogs(t.Context(), req); reasonOf(t, err) != "BAD_PAGE_TOKEN" {
		t.Errorf("another query's token: %v", err)
	}
}

func TestActivityLogsRefusals(t *testing.T) {
	s := serve(t)
	client := s.activity(t)
	for name, req := range map[string]*kmsv1.GetKeyActivityLogsRequest{
		"unknown operation": {Operations: []string{"Decrpyt"}},
		"bad address":       {ClientAddress: "localhost"},
		"backwards":         {StartTime: timestamppb.New(day0), EndTime: timestamppb.New(day0.Add(-1))},
	} {
		t.Run(name, func(t *testing.T) {
			req.Name = keyPath
			if _, err := client.GetKeyActivityLogs(t.Context(), req); connect.CodeOf(err) != connect.CodeInvalidArgument || reasonOf(t, err) != "BAD_FIELD" {
				t.Errorf("error = %v", err)
			}
		})
	}
	s.usesErr = &domain.Error{Reason: domain.ReasonActivityAway, Message: "the activity database does not answer; keys can still be used"}
	if _, err := client.GetKeyActivityLogs(t.Context(), &kmsv1.GetKeyActivityLogsRequest{Name: keyPath}); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("database away: %v", err)
	}
}

// TestOwnOperations: what only the service itself does can be asked for too.
func TestOwnOperations(t *testing.T) {
	s := serve(t)
	own := []string{commands.OperationExpireKey, commands.OperationDestroyKeyVersion, commands.OperationEraseMaterial, commands.OperationLeaseUses, commands.OperationExpireImportJob, commands.OperationUseImportJob, commands.OperationCompleteImport}
	_, err := s.activity(t).GetKeyActivityLogs(t.Context(), &kmsv1.GetKeyActivityLogsRequest{Name: keyPath, Operations: own})
	if err != nil || !slices.Equal(s.logs.Operations, own) {
		t.Errorf("asked for %v: %v", s.logs.Operations, err)
	}
}

// TestActivityByREST: repeated enums, and times with a zone.
func TestActivityByREST(t *testing.T) {
	s := serve(t)
	a := s.send(t, "GET", "/api/v1/"+keyPath+"/activityLogs?outcomes=OK&outcomes=DENIED&operations=Encrypt&start_time=2026-01-01T09:00:00%2B09:00&end_time=2026-01-02T00:00:00Z", "")
	if a.status != 200 || len(s.logs.Outcomes) != 2 || !s.logs.Start.Equal(day0) || !s.logs.End.Equal(day0.AddDate(0, 0, 1)) {
		t.Errorf("answer = %d %s, query = %+v", a.status, a.body, s.logs)
	}
}

func TestLatestUseInfo(t *testing.T) {
	s := serve(t)
	use := &rpc.Use{Time: day0, Principal: "admin", Address: netip.MustParseAddr("::1"), RequestID: domain.UID{3}}
	refused := &rpc.Use{Time: day0.Add(time.Hour), Principal: "admin", Reason: domain.ReasonBadCiphertext}
	s.uses = rpc.LatestUse{TrackedSince: day0, AsOf: day0, Entries: []rpc.LatestUseEntry{
		{Version: 2, Operation: "Encrypt", Success: use},
		{Version: 1, Operation: "Decrypt", Success: use, Refusal: refused},
		{Version: 0, Operation: "GetKeyActivityLogs", Success: &rpc.Use{Time: day0.AddDate(0, 0, 9)}},
	}}
	res, err := s.activity(t).GetLatestUseInfo(t.Context(), &kmsv1.GetLatestUseInfoRequest{Name: keyPath})
	if err != nil {
		t.Fatal(err)
	}
	e := res.GetEntries()[1]
	if len(res.GetEntries()) != 3 || e.GetOperation() != "Decrypt" || e.GetLastSuccess().GetClientAddress() != "::1" || e.GetLastRefusal().GetCode() != "INVALID_ARGUMENT" ||
		res.GetEntries()[2].GetLastRefusal() != nil || s.read.Operation != "GetLatestUseInfo" {
		t.Errorf("answer = %v", res)
	}
}

// TestScheduleKeyDeletion: what the request says goes through, and what is known of the last use comes back.
func TestScheduleKeyDeletion(t *testing.T) {
	s := serve(t)
	s.deletion = commands.ScheduledDeletion{LastUse: commands.LastUse{Time: day0.Add(time.Hour), TrackedSince: day0}, Warnings: []string{"It was used."}}
	del, err := s.keyClient(t).ScheduleKeyDeletion(t.Context(), &kmsv1.ScheduleKeyDeletionRequest{
		Name: keyPath, Wait: durationpb.New(48 * time.Hour), RequireUnusedFor: durationpb.New(time.Hour),
	})
	if err != nil || del.GetKey().GetName() != keyPath || !del.GetLastUseTime().AsTime().Equal(day0.Add(time.Hour)) || !del.GetTrackedSinceTime().AsTime().Equal(day0) || len(del.GetWarnings()) != 1 {
		t.Errorf("answer = %v %v", del, err)
	}
	if !slices.Equal(s.waits, []time.Duration{48 * time.Hour, time.Hour}) {
		t.Errorf("waits = %v", s.waits)
	}
	s.deletion = commands.ScheduledDeletion{}
	a := s.send(t, "POST", "/api/v1/"+keyPath+":scheduleDeletion", `{"require_unused_for":"86400s"}`)
	if a.status != 200 || strings.Contains(a.body, "last_use_time") || s.waits[1] != 24*time.Hour {
		t.Errorf("answer = %d %s, waits = %v", a.status, a.body, s.waits)
	}
}
