package rpc

import (
	"context"
	"slices"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) UpdateRotationPeriod(ctx context.Context, r *kmsv1.UpdateRotationPeriodRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.UpdateRotationPeriod(ctx, callerOf(ctx), ref, r.GetRotationPeriod().AsDuration(), m))
}

func (k *keyService) EnableAutoRotation(ctx context.Context, r *kmsv1.EnableAutoRotationRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.EnableAutoRotation(ctx, callerOf(ctx), ref, r.GetRotationPeriod().AsDuration(), m))
}

func (k *keyService) DisableAutoRotation(ctx context.Context, r *kmsv1.DisableAutoRotationRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.DisableAutoRotation(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) CreateKeyVersion(ctx context.Context, r *kmsv1.CreateKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, err := k.s.keyRef(r.GetParent())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), r.GetEtag())
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.CreateKeyVersion(ctx, callerOf(ctx), ref, r.GetMakePrimary(), m)
	return versionAnswer(state, domain.Version(state.Key.Versions.Len()), err) //nolint:gosec // memory ends long before 2³¹ versions
}

func (k *keyService) SetPrimaryVersion(ctx context.Context, r *kmsv1.SetPrimaryVersionRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	ref.Version = domain.Version(r.GetVersion())
	return keyAnswer(k.s.cfg.Commands.SetPrimaryVersion(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) ScheduleKeyVersionDestruction(ctx context.Context, r *kmsv1.ScheduleKeyVersionDestructionRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.ScheduleKeyVersionDestruction(ctx, callerOf(ctx), ref, r.GetWait().AsDuration(), r.GetAllowPrimary(), m)
	return versionAnswer(state, ref.Version, err)
}

func (k *keyService) RestoreKeyVersion(ctx context.Context, r *kmsv1.RestoreKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.RestoreKeyVersion(ctx, callerOf(ctx), ref, m)
	return versionAnswer(state, ref.Version, err)
}

func (k *keyService) ArchiveKey(ctx context.Context, r *kmsv1.ArchiveKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.ArchiveKey(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) UnarchiveKey(ctx context.Context, r *kmsv1.UnarchiveKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.UnarchiveKey(ctx, callerOf(ctx), ref, r.GetEnable(), m))
}

func (k *keyService) AddUsageBinding(ctx context.Context, r *kmsv1.AddUsageBindingRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.AddUsageBinding(ctx, callerOf(ctx), ref, r.GetResource(), m))
}

func (k *keyService) RemoveUsageBinding(ctx context.Context, r *kmsv1.RemoveUsageBindingRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.RemoveUsageBinding(ctx, callerOf(ctx), ref, r.GetResource(), m))
}

func (k *keyService) ListUsageBindings(ctx context.Context, r *kmsv1.ListUsageBindingsRequest) (*kmsv1.ListUsageBindingsResponse, error) {
	ref, err := k.s.keyRef(r.GetParent())
	if err != nil {
		return nil, err
	}
	list, err := bindingLists.prepare(listQuery{
		binding: []string{"ListUsageBindings", ref.String(), r.GetFilter(), r.GetOrderBy()},
		filter:  r.GetFilter(), orderBy: r.GetOrderBy(),
		pageSize: r.GetPageSize(), skip: r.GetSkip(), token: r.GetPageToken(), total: r.GetIncludeTotalSize(),
	}, k.s.pages)
	if err != nil {
		return nil, err
	}
	read := callFrom(ctx).read(ref)
	read.MinRevision = commands.Revision(r.GetMinRevision())
	state, err := k.s.cfg.Commands.GetKey(ctx, callerOf(ctx), read)
	if err != nil {
		return nil, err
	}
	page, err := list.page(ctx, slices.Values(state.Key.UsageBindings))
	if err != nil {
		return nil, err
	}
	out := &kmsv1.ListUsageBindingsResponse{NextPageToken: page.nextToken, TotalSize: page.total, Revision: uint64(state.Revision)}
	for _, b := range page.items {
		out.UsageBindings = append(out.UsageBindings, &kmsv1.UsageBinding{Resource: b.Resource, Creator: b.Creator, CreateTime: timeProto(b.CreateTime)})
	}
	return out, nil
}

// bindingLists says what lists of usage bindings can be filtered and ordered by.
var bindingLists = mustLists(listSpec[domain.UsageBinding]{
	fields: []field[domain.UsageBinding]{
		{name: "resource", text: func(b domain.UsageBinding) string { return b.Resource }},
		{name: "creator", text: func(b domain.UsageBinding) string { return b.Creator }},
		{name: "create_time", time: true, number: func(b domain.UsageBinding) int64 { return unixNano(b.CreateTime) }},
	},
	orders: []string{"resource", "create_time"},
	place:  func(b domain.UsageBinding) place { return place{Text: b.Resource} },
})
