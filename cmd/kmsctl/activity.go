package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// freshFlags belong to questions about activity, whose answers follow what happened by moments.
type freshFlags struct {
	Fresh bool `help:"Wait, some seconds at most, until all that happened before is shown."`
}

const (
	freshPatience = 15 * time.Second
	freshInterval = time.Second // each try is itself put on the log, so they should be few
)

// dated is an answer that says as of when it holds.
type dated interface{ GetAsOfTime() *timestamppb.Timestamp }

// ask asks once or, if the answer is to be fresh, until it holds all that happened before ask was called.
func ask[Answer dated](ctx context.Context, c *client, f freshFlags, question func() (Answer, error)) (Answer, error) {
	start := time.Now()
	for {
		answer, err := question()
		if err != nil || !f.Fresh || !answer.GetAsOfTime().AsTime().Before(start) {
			return answer, err
		}
		if time.Since(start) > freshPatience {
			c.remark("kmsctl: the log is behind: what happened after %s may be missing", exactly(answer.GetAsOfTime()))
			return answer, nil
		}
		select {
		case <-ctx.Done():
			return answer, context.Cause(ctx)
		case <-time.After(freshInterval):
		}
	}
}

type activityCmd struct {
	keyArg
	pageFlags
	freshFlags
	formatFlags
	Since         *moment   `placeholder:"TIME" help:"From when on: how long ago, like 2h or 7d, a day, or RFC 3339. By default the last day."`
	Until         *moment   `placeholder:"TIME" help:"Until when, exclusive. By default now."`
	Operation     []string  `placeholder:"NAME" help:"Only this operation, like Encrypt or RotateKey; may be given again."`
	Outcome       []outcome `placeholder:"OUTCOME" help:"Only OK, DENIED or FAILED; may be given again."`
	Principal     string    `placeholder:"NAME" help:"Only what this principal did."`
	ClientAddress string    `placeholder:"ADDRESS" help:"Only from this address or prefix, like 10.0.0.0/8."`
	RequestID     string    `placeholder:"ID" help:"Only the request with this id, the server's or the caller's own."`
	CorrelationID string    `placeholder:"ID" help:"Only requests with this correlation id."`
	Version       int32     `placeholder:"N" help:"Only uses of this version."`
	Keyword       string    `placeholder:"TEXT" help:"Only records with this in operation, message, reason, principal or user agent."`
	All           bool      `xor:"limit" help:"All records, however many."`
	Total         bool      `help:"Also how many there are."`
}

// defaultRecords is how many records are shown unless another number is asked for.
const defaultRecords = 100

func (c *activityCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	if c.All && c.Limit != 0 {
		return usage("--all and --limit don't go together")
	}
	limit := c.Limit
	if limit == 0 && !c.All {
		limit = defaultRecords
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	now := time.Now()
	req := &kmsv1.GetKeyActivityLogsRequest{
		Name: name, StartTime: c.Since.timestamp(now), EndTime: c.Until.timestamp(now), Operations: c.Operation,
		Principal: c.Principal, ClientAddress: c.ClientAddress, ActivityRequestId: c.RequestID, CorrelationId: c.CorrelationID,
		Version: c.Version, Keyword: c.Keyword, Skip: c.Skip, IncludeTotalSize: c.Total,
	}
	for _, o := range c.Outcome {
		req.Outcomes = append(req.Outcomes, kmsv1.ActivityLog_Outcome(o))
	}
	all := &kmsv1.GetKeyActivityLogsResponse{}
	err = c.pages(limit, func(size int32, token string) (int, string, error) {
		req.PageSize, req.PageToken = size, token
		page, err := ask(ctx, cl, c.freshFlags, func() (*kmsv1.GetKeyActivityLogsResponse, error) {
			return call(ctx, cl, cl.GetKeyActivityLogs, req)
		})
		if err != nil {
			return 0, "", err
		}
		c.Fresh = false // the other pages are of the same log
		req.Skip = 0    // was left out of the first page
		page.ActivityLogs = append(all.GetActivityLogs(), page.GetActivityLogs()...)
		n := len(page.ActivityLogs) - len(all.GetActivityLogs())
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	if err := s.print(c.formatFlags, all, func(r *rows) { listActivity(r, all.GetActivityLogs()) }); err != nil {
		return err
	}
	s.total(c.Total, all.GetTotalSize())
	if c.Output != "json" {
		s.remark("as of %s", exactly(all.GetAsOfTime()))
	}
	if token := all.GetNextPageToken(); token != "" && c.Since != nil {
		// A token holds for one query only, so that a time relative to now must be given as what it was.
		s.remark("there are more: --since %s --page-token %s", req.GetStartTime().AsTime().Format(time.RFC3339Nano), printable(token))
	} else {
		s.more(token)
	}
	return nil
}

func listActivity(r *rows, logs []*kmsv1.ActivityLog) {
	r.add("TIME", "OPERATION", "VERSION", "OUTCOME", "REASON", "PRINCIPAL", "ADDRESS", "REQUEST")
	for _, l := range logs {
		reason := l.GetReason()
		if reason == "" {
			reason = l.GetCode()
		}
		r.add(exactly(l.GetTime()), l.GetOperation(), number(l.GetVersion()), l.GetOutcome().String(), reason,
			l.GetPrincipal(), l.GetClientAddress(), l.GetRequestId())
	}
}

type lastUseCmd struct {
	keyArg
	freshFlags
	formatFlags
}

func (c *lastUseCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	info, err := ask(ctx, cl, c.freshFlags, func() (*kmsv1.LatestUseInfo, error) {
		return call(ctx, cl, cl.GetLatestUseInfo, &kmsv1.GetLatestUseInfoRequest{Name: name})
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, info, func(r *rows) {
		r.add("VERSION", "OPERATION", "OUTCOME", "TIME", "REASON", "PRINCIPAL", "ADDRESS", "REQUEST")
		for _, e := range info.GetEntries() {
			addUse(r, e, "success", e.GetLastSuccess())
			addUse(r, e, "refusal", e.GetLastRefusal())
		}
	})
	if err != nil || c.Output == "json" {
		return err
	}
	s.remark("tracked since %s, as of %s", exactly(info.GetTrackedSinceTime()), exactly(info.GetAsOfTime()))
	return nil
}

func addUse(r *rows, e *kmsv1.LatestUseInfo_Entry, outcome string, u *kmsv1.LatestUseInfo_Use) {
	if u == nil {
		return
	}
	r.add(number(e.GetVersion()), e.GetOperation(), outcome, exactly(u.GetTime()), u.GetReason(), u.GetPrincipal(), u.GetClientAddress(), u.GetRequestId())
}

type infoCmd struct {
	formatFlags
}

func (c *infoCmd) Run(ctx context.Context, s *session) error {
	cl, err := s.client()
	if err != nil {
		return err
	}
	info, err := call(ctx, cl, cl.GetServerInfo, &kmsv1.GetServerInfoRequest{})
	if err != nil {
		return err
	}
	return s.print(c.formatFlags, info, func(r *rows) {
		r.field("version", info.GetVersion())
		r.field("location", info.GetLocation())
		r.field("lineage", info.GetLineage())
		r.field("started", when(info.GetStartTime()))
		r.field("revision", number(info.GetAppliedRevision()))
		r.field("newest revision", number(info.GetHeadRevision()))
		r.field("lag", info.GetLag().AsDuration().String())
		r.field("activity log lag", info.GetActivityLag().AsDuration().String())
		r.field("roots", strings.Join(info.GetRoots(), ", "))
		if shred := info.GetShred(); shred != nil {
			text := shred.GetStep().String()
			if at := shred.GetEndTime(); at != nil {
				text += " " + when(at)
			}
			r.field("last shred", text)
		}
		t := info.GetToken()
		r.field("token", t.GetLabel())
		r.field("token serial", t.GetSerial())
		r.field("token maker", t.GetManufacturer())
		r.field("token model", t.GetModel())
		r.field("token module", t.GetModule())
		for _, k := range info.GetTokenCapabilities() {
			can := "yes"
			if !k.GetSupported() {
				can = "no: " + k.GetReason()
			}
			r.add(k.GetPurpose().String()+" "+k.GetAlgorithm().String()+" "+k.GetProtectionLevel().String()+":", can)
		}
	})
}
