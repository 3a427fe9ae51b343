package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections/activity"
	"github.com/keyledger/kms/projections/activity/engine"
	"github.com/keyledger/kms/rpc"
)

// activityLog is the activity database: a server, or the embedded engine in a child process.
type activityLog struct {
	log    *activity.Log
	reader rpc.Activity
	engine *engine.Process // nil with a server
}

func openActivity(ctx context.Context, f siteFlags, store *eventstore.Store, log *slog.Logger) (*activityLog, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding this node's name: %w", err)
	}
	cfg := activity.Config{URL: f.ClickHouse, Source: store, Owner: host + ":" + f.Data, Logger: log}
	a := &activityLog{}
	if f.ClickHouse == "" {
		if a.engine, err = engine.Start(ctx, engine.Config{Dir: f.path("clickhouse"), Args: []string{engineCommand}, Logger: log}); err != nil {
			return nil, fmt.Errorf("starting the embedded activity database: %w", err)
		}
		cfg.Dial = a.engine.DialContext
	}
	if a.log, err = activity.Open(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the activity database: %w", err), a.close(ctx))
	}
	a.reader = reader{a.log}
	return a, nil
}

func (a *activityLog) close(ctx context.Context) error {
	var errs []error
	if a.log != nil {
		errs = append(errs, a.log.Close())
	}
	if a.engine != nil {
		errs = append(errs, a.engine.Close(ctx))
	}
	return errors.Join(errs...)
}

// reader answers rpc's questions from the activity database.
type reader struct{ log *activity.Log }

// Logs returns one page of records, newest first.
func (r reader) Logs(ctx context.Context, q rpc.ActivityQuery) (rpc.ActivityPage, error) {
	query := activity.Query{
		Project: q.Project, KeyUID: q.KeyUID, Start: q.Start, End: q.End, Operations: q.Operations, Outcomes: q.Outcomes, Principal: q.Principal, ClientAddress: q.Address,
		RequestID: q.RequestID, CorrelationID: q.CorrelationID, Version: q.Version, Keyword: q.Keyword, Skip: q.Skip, PageSize: q.Limit, Total: q.CountAll,
	}
	if q.After != nil {
		query.After = &activity.Position{Time: q.After.Time, Lineage: q.After.Lineage, Stream: q.After.Stream, Seq: q.After.Sequence, Index: q.After.Record}
	}
	page, err := r.log.Logs(ctx, query)
	if err != nil {
		return rpc.ActivityPage{}, activityError(err)
	}
	out := rpc.ActivityPage{More: page.Next != nil, Total: int64(page.Total), AsOf: page.AsOfTime} //nolint:gosec // rows are fewer than 2^63
	for _, row := range page.Rows {
		at := row.Position
		out.Entries = append(out.Entries, rpc.ActivityEntry{
			Record:   row.ActivityRecord,
			Position: rpc.ActivityPosition{Time: at.Time, Lineage: at.Lineage, Stream: at.Stream, Sequence: at.Seq, Record: at.Index},
		})
	}
	return out, nil
}

// LatestUse returns the last uses of a key.
func (r reader) LatestUse(ctx context.Context, key domain.UID) (rpc.LatestUse, error) {
	latest, err := r.log.LatestUse(ctx, key)
	if err != nil {
		return rpc.LatestUse{}, activityError(err)
	}
	out := rpc.LatestUse{TrackedSince: latest.TrackedSince, AsOf: latest.AsOfTime}
	for _, e := range latest.Entries {
		out.Entries = append(out.Entries, rpc.LatestUseEntry{Version: e.Version, Operation: e.Operation, Success: use(e.LastSuccess), Refusal: use(e.LastRefusal)})
	}
	return out, nil
}

// uses answers the questions of commands from the activity database.
type uses struct{ log *activity.Log }

// LastUse returns the last successful use of a key by any version.
func (u uses) LastUse(ctx context.Context, key domain.UID, current bool) (commands.LastUse, error) {
	ask := u.log.LatestUse
	if current {
		ask = u.log.CurrentLatestUse
	}
	latest, err := ask(ctx, key)
	if err != nil {
		return commands.LastUse{}, activityError(err)
	}
	out := commands.LastUse{TrackedSince: latest.TrackedSince}
	for _, e := range latest.Entries {
		if last := e.LastSuccess; last != nil && e.Category == domain.CategoryCrypto && last.Time.After(out.Time) {
			out.Time, out.Operation, out.Principal = last.Time, e.Operation, last.Principal
		}
	}
	return out, nil
}

func use(u *activity.Use) *rpc.Use {
	if u == nil {
		return nil
	}
	return &rpc.Use{Time: u.Time, Principal: u.Principal, Address: u.Address, RequestID: u.RequestID, Reason: u.Reason}
}

func activityError(err error) error {
	if errors.Is(err, activity.ErrUnavailable) {
		return errors.Join(&domain.Error{
			Reason: domain.ReasonActivityAway, Message: "the activity database does not answer; keys can be used meanwhile, and nothing that is recorded is lost; try again",
		}, err)
	}
	return err
}
