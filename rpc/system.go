package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// ServerInfo describes this node.
type ServerInfo struct {
	Version      string
	Token        TokenInfo
	Capabilities []Capability
	// Applied is the newest event that this node has applied, Head the newest there is.
	Applied uint64
	Head    uint64
	// Lag is how old the state is that plain reads are answered from, ActivityLag how far the activity log is behind.
	Lag         time.Duration
	ActivityLag time.Duration
	Started     time.Time
}

// TokenInfo describes the token that keys are kept in.
type TokenInfo struct {
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Module       string
}

// Capability is one kind of key, and whether the token can keep it.
type Capability struct {
	Purpose    domain.Purpose
	Algorithm  domain.Algorithm
	Protection domain.ProtectionLevel
	Supported  bool
	Reason     string // why not
}

// systemService implements kms.v1.SystemService.
type systemService struct{ s *Server }

func (y *systemService) GetServerInfo(ctx context.Context, _ *kmsv1.GetServerInfoRequest) (*kmsv1.ServerInfo, error) {
	if err := y.s.cfg.Commands.Authorize(ctx, callerOf(ctx), callFrom(ctx).read(domain.KeyRef{})); err != nil {
		return nil, err
	}
	info, err := y.s.cfg.ServerInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("describing this node: %w", err)
	}
	out := &kmsv1.ServerInfo{
		Version: info.Version, Location: y.s.cfg.Location, Lineage: y.s.cfg.Lineage.String(),
		Token: &kmsv1.ServerInfo_Token{
			Label: info.Token.Label, Serial: info.Token.Serial, Manufacturer: info.Token.Manufacturer, Model: info.Token.Model, Module: info.Token.Module,
		},
		AppliedRevision: info.Applied, HeadRevision: info.Head,
		Lag: durationpb.New(info.Lag), ActivityLag: durationpb.New(info.ActivityLag), StartTime: timeProto(info.Started),
	}
	for _, c := range info.Capabilities {
		out.TokenCapabilities = append(out.TokenCapabilities, &kmsv1.ServerInfo_Capability{
			Purpose: purposes.toProto(c.Purpose), Algorithm: algorithms.toProto(c.Algorithm), ProtectionLevel: protectionLevels.toProto(c.Protection),
			Supported: c.Supported, Reason: c.Reason,
		})
	}
	y.describeRoots(out)
	return out, nil
}
