package rpc

import (
	"context"
	"slices"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) CreateKeyRing(ctx context.Context, r *kmsv1.CreateKeyRingRequest) (*kmsv1.KeyRing, error) {
	parent, err := k.s.location(r.GetParent())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return nil, err
	}
	return ringAnswer(k.s.cfg.Commands.CreateKeyRing(ctx, callerOf(ctx), commands.CreateKeyRing{
		Mutation: m, Name: domain.RingName{Project: parent.Project, Location: parent.Location, Ring: r.GetKeyRingId()}, Labels: r.GetKeyRing().GetLabels(),
	}))
}

func (k *keyService) GetKeyRing(ctx context.Context, r *kmsv1.GetKeyRingRequest) (*kmsv1.KeyRing, error) {
	ring, err := k.s.ringName(r.GetName())
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(domain.KeyRef{Name: ring.Key("")})
	read.MinRevision = commands.Revision(r.GetMinRevision())
	return ringAnswer(k.s.cfg.Commands.GetKeyRing(ctx, callerOf(ctx), read))
}

func (k *keyService) ListKeyRings(ctx context.Context, r *kmsv1.ListKeyRingsRequest) (*kmsv1.ListKeyRingsResponse, error) {
	parent, err := k.s.location(r.GetParent())
	if err != nil {
		return nil, err
	}
	list, err := ringLists.prepare(listQuery{
		binding: []string{"ListKeyRings", r.GetParent(), r.GetFilter(), r.GetOrderBy()},
		filter:  r.GetFilter(), orderBy: r.GetOrderBy(),
		pageSize: r.GetPageSize(), skip: r.GetSkip(), token: r.GetPageToken(), total: r.GetIncludeTotalSize(),
	}, k.s.pages)
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(domain.KeyRef{Name: parent})
	read.MinRevision = commands.Revision(r.GetMinRevision())
	if err := k.s.cfg.Commands.Authorize(ctx, callerOf(ctx), read); err != nil {
		return nil, err
	}
	out := &kmsv1.ListKeyRingsResponse{Revision: uint64(k.s.cfg.Keys.Revision())}
	page, err := list.page(ctx, slices.Values(k.s.cfg.Keys.Rings(parent.Project, parent.Location)))
	if err != nil {
		return nil, err
	}
	for _, state := range page.items {
		out.KeyRings = append(out.KeyRings, ringProto(state))
	}
	out.NextPageToken, out.TotalSize = page.nextToken, page.total
	return out, nil
}

func (k *keyService) ArchiveKeyRing(ctx context.Context, r *kmsv1.ArchiveKeyRingRequest) (*kmsv1.KeyRing, error) {
	ring, m, err := k.s.ringTarget(r)
	if err != nil {
		return nil, err
	}
	return ringAnswer(k.s.cfg.Commands.ArchiveKeyRing(ctx, callerOf(ctx), ring, m))
}

func (k *keyService) UnarchiveKeyRing(ctx context.Context, r *kmsv1.UnarchiveKeyRingRequest) (*kmsv1.KeyRing, error) {
	ring, m, err := k.s.ringTarget(r)
	if err != nil {
		return nil, err
	}
	return ringAnswer(k.s.cfg.Commands.UnarchiveKeyRing(ctx, callerOf(ctx), ring, m))
}

// ringTarget reads what a change of a ring names and guards.
func (s *Server) ringTarget(r guarded) (domain.RingName, commands.Mutation, error) {
	ring, err := s.ringName(r.GetName())
	if err != nil {
		return domain.RingName{}, commands.Mutation{}, err
	}
	m, err := mutation(r.GetRequestId(), r.GetEtag())
	return ring, m, err
}

// ringLists says what lists of rings can be filtered and ordered by.
var ringLists = mustLists(listSpec[commands.RingState]{
	fields: []field[commands.RingState]{
		{name: "name", text: func(s commands.RingState) string { return s.Ring.Name.String() }},
		{name: "key_ring_id", text: func(s commands.RingState) string { return s.Ring.Name.Ring }},
		{name: "state", enum: kmsv1.KeyRing_State(0).Type(), text: func(s commands.RingState) string { return string(s.Ring.State) }},
		{name: "create_time", time: true, number: func(s commands.RingState) int64 { return unixNano(s.Ring.CreateTime) }},
		{name: "labels", labels: func(s commands.RingState) map[string]string { return s.Ring.Labels }},
	},
	orders: []string{"name", "create_time"},
	place:  func(s commands.RingState) place { return place{Text: s.Ring.Name.Ring} },
})

var ringStates = enum[kmsv1.KeyRing_State, domain.RingState]{
	kmsv1.KeyRing_STATE_UNSPECIFIED: domain.RingStateAbsent,
	kmsv1.KeyRing_ACTIVE:            domain.RingStateActive,
	kmsv1.KeyRing_ARCHIVED:          domain.RingStateArchived,
}

// ringAnswer is the answer to what acts on a ring.
func ringAnswer(state commands.RingState, err error) (*kmsv1.KeyRing, error) {
	if err != nil {
		return nil, err
	}
	return ringProto(state), nil
}

// ringProto is a ring as the API shows it.
func ringProto(state commands.RingState) *kmsv1.KeyRing {
	r := state.Ring
	return &kmsv1.KeyRing{
		Name: r.Name.String(), State: ringStates.toProto(r.State), CreateTime: timeProto(r.CreateTime), Labels: r.Labels,
		Revision: uint64(state.Revision), Etag: commands.Etag(state.Tip),
	}
}
