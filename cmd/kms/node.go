package main

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/projections"
	"github.com/keyledger/kms/rpc"
)

// node is what this process knows about itself.
type node struct {
	flags    siteFlags
	site     *site
	keys     *projections.Keys
	activity *activityLog
	started  time.Time
}

// checks decide whether callers should be sent here. The activity database is none of them: keys are used without it.
func (n node) checks() []rpc.Check {
	return []rpc.Check{
		{Name: "token", Run: n.site.token.Health},
		{Name: "event store", Run: n.site.store.Ready},
		{Name: "projection", Run: func(context.Context) error { return n.keys.Fresh() }},
	}
}

// info is what GetServerInfo answers.
func (n node) info(ctx context.Context) (rpc.ServerInfo, error) {
	head, err := n.site.store.Head(ctx)
	if err != nil {
		return rpc.ServerInfo{}, fmt.Errorf("asking for the head of the log: %w", err)
	}
	c := n.site.token.Capabilities()
	info := rpc.ServerInfo{
		Version: version, Applied: uint64(n.keys.Revision()), Head: uint64(head.Last), Lag: n.keys.Age(), ActivityLag: n.activity.log.Lag(), Started: n.started,
		Token: rpc.TokenInfo{Label: c.Label, Serial: c.Serial, Manufacturer: c.Manufacturer, Model: c.Model, Module: n.site.module},
	}
	for _, offer := range domain.Offers() {
		for _, algorithm := range offer.Algorithms {
			capability := rpc.Capability{Purpose: offer.Purpose, Algorithm: algorithm, Protection: domain.HSM, Supported: true}
			if err := c.Supports(algorithm, domain.HSM); err != nil {
				capability.Supported, capability.Reason = false, err.Error()
			}
			info.Capabilities = append(info.Capabilities, capability)
		}
	}
	return info, nil
}
