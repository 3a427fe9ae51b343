package main

import (
	"context"
	"time"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

type activityCmd struct {
	keyArg
	pageFlags
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
		page, err := call(ctx, cl, cl.GetKeyActivityLogs, req)
		if err != nil {
			return 0, "", err
		}
		req.Skip = 0 // was left out of the first page
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
	info, err := call(ctx, cl, cl.GetLatestUseInfo, &kmsv1.GetLatestUseInfoRequest{Name: name})
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
