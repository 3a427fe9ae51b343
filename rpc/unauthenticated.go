package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keyledger/kms/domain"
)

// The sizes of summaries: strangers decide how many there would be.
const (
	summaryInterval  = time.Second
	maxSummaries     = 256 // per interval; what is beyond shares one more per reason
	maxPending       = 4 * maxSummaries
	summaryTimeout   = 5 * time.Second
	summaryOperation = "Authenticate"
)

// origin is what attempts are counted by.
type origin struct {
	reason domain.Reason
	prefix netip.Prefix // /24 or /64; not valid: anywhere
}

// attempts counts requests without a valid credential and writes one record per second, reason and network. They have a
// queue of their own, and no request waits for it.
type attempts struct {
	record     func(context.Context, []domain.ActivityRecord) error
	location   string
	log        *slog.Logger
	unrecorded metric.Int64Counter

	mu     sync.Mutex
	counts map[origin]int

	pending []domain.ActivityRecord // made but not yet durable; only run touches it
}

func newAttempts(cfg Config, unrecorded metric.Int64Counter) *attempts {
	return &attempts{record: cfg.Commands.RecordAttempts, location: cfg.Location, log: cfg.Log, unrecorded: unrecorded, counts: make(map[origin]int)}
}

// note counts one attempt.
func (a *attempts) note(reason domain.Reason, from netip.Addr) {
	o := origin{reason: reason, prefix: network(from)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.counts[o]; !known && len(a.counts) >= maxSummaries {
		o.prefix = netip.Prefix{}
	}
	a.counts[o]++
}

// network is the /24 or /64 that an address is in.
func network(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	prefix, err := a.Prefix(bits)
	if err != nil { // no address: a unix socket
		return netip.Prefix{}
	}
	return prefix
}

// run writes the summaries until ctx ends, and then what is left.
func (a *attempts) run(ctx context.Context) error {
	ticker := time.NewTicker(summaryInterval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			a.flush(ctx, now)
		case <-ctx.Done():
			a.flush(context.WithoutCancel(ctx), time.Now())
			return nil
		}
	}
}

// flush makes records of what was counted and writes them together with those that could not be written before.
func (a *attempts) flush(ctx context.Context, now time.Time) {
	a.mu.Lock()
	counts := a.counts
	a.counts = make(map[origin]int, len(counts))
	a.mu.Unlock()
	for o, n := range counts {
		a.pending = append(a.pending, a.summary(o, n, now))
	}
	if len(a.pending) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, summaryTimeout)
	defer cancel()
	for len(a.pending) > 0 {
		batch := a.pending[:min(len(a.pending), maxSummaries)]
		if err := a.record(ctx, batch); err != nil {
			a.log.LogAttrs(ctx, slog.LevelWarn, "unauthenticated attempts are not recorded yet", slog.Int("summaries", len(a.pending)), slog.Any("error", err))
			break
		}
		a.pending = a.pending[len(batch):]
	}
	if lost := len(a.pending) - maxPending; lost > 0 { // the newest tell most about what is going on
		a.unrecorded.Add(ctx, int64(lost))
		a.pending = append([]domain.ActivityRecord(nil), a.pending[lost:]...)
	}
}

func (a *attempts) summary(o origin, n int, now time.Time) domain.ActivityRecord {
	where := "many networks"
	if o.prefix.IsValid() {
		where = o.prefix.String()
	}
	id, err := uuid.NewV7()
	if err != nil { // a record without an id is better than none
		id = uuid.UUID{}
	}
	return domain.ActivityRecord{
		Time: now.UTC().Truncate(time.Microsecond), Location: a.location, Operation: summaryOperation, Category: domain.CategoryAccess,
		Outcome: domain.OutcomeDenied, Reason: o.reason, Message: fmt.Sprintf("%d attempts from %s within a second", n, where),
		Caller: domain.Caller{Request: domain.RequestAPI, Address: o.prefix.Addr(), RequestID: domain.UID(id)},
	}
}

// refusedBy are the attributes of refusals before authentication.
func refusedBy(reason domain.Reason) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("reason", string(reason)))
}
