package rpc

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// keyService implements kms.v1.KeyService.
type keyService struct{ s *Server }

func (k *keyService) CreateKey(ctx context.Context, r *kmsv1.CreateKeyRequest) (*kmsv1.Key, error) {
	parent, err := k.s.ringName(r.GetParent())
	if err != nil {
		return nil, err
	}
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return nil, err
	}
	key := r.GetKey()
	if err := notYet(key); err != nil {
		return nil, err
	}
	create := commands.CreateKey{
		Mutation: m, Parent: parent, KeyID: r.GetKeyId(), DisplayName: key.GetDisplayName(), Memo: key.GetMemo(), Labels: key.GetLabels(),
		SkipInitialVersion: r.GetSkipInitialVersion(), ImportOnly: key.GetImportOnly(), ManagedBy: key.GetManagedBy(),
		AutoRotation: key.GetAutoRotation(), RotationPeriod: key.GetRotationPeriod().AsDuration(), MaxUsesPerVersion: maxUses(key),
		ExpireTime: timeOf(key.GetExpireTime()), DestroyWait: key.GetDestroyWait().AsDuration(),
	}
	if create.Purpose, err = purposes.fromProto("key.purpose", key.GetPurpose()); err != nil {
		return nil, err
	}
	if create.Algorithm, err = algorithms.fromProto("key.algorithm", key.GetAlgorithm()); err != nil {
		return nil, err
	}
	if create.Protection, err = protectionLevels.fromProto("key.protection_level", key.GetProtectionLevel()); err != nil {
		return nil, err
	}
	if create.Protection == domain.Software {
		return nil, unsupported("key.protection_level SOFTWARE is not offered by this server; leave it out, or say HSM")
	}
	if create.Algorithm != "" {
		if err := domain.CheckAlgorithm(create.Purpose, create.Algorithm); err != nil {
			return nil, syntax(err)
		}
	}
	return keyAnswer(k.s.cfg.Commands.CreateKey(ctx, callerOf(ctx), create))
}

// notYet refuses what a key may say in the API but no part of this server does: silence would pass for consent.
func notYet(key *kmsv1.Key) error {
	for _, f := range []struct {
		field string
		given bool
	}{
		{"allowed_algorithms", len(key.GetAllowedAlgorithms()) > 0},
		{"convergent", key.GetConvergent()},
	} {
		if f.given {
			return unsupported("key." + f.field + " is not supported by this server yet; leave it out")
		}
	}
	if key.GetNextRotationTime() != nil {
		return unsupported("key.next_rotation_time can't be given here; leave it out, and move it with UpdateKey once the key is made")
	}
	if len(key.GetAliases()) > 0 {
		return unsupported("key.aliases can't be given here; leave it out, and add them with AddKeyAlias once the key is made")
	}
	return nil
}

func (k *keyService) GetKey(ctx context.Context, r *kmsv1.GetKeyRequest) (*kmsv1.Key, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	read, err := readOf(ctx, ref, r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.GetKey(ctx, callerOf(ctx), read)
	if err != nil {
		return nil, err
	}
	return keyProto(state, shownAt(state, read.AsOf)), nil
}

// updatable are the fields that UpdateKey can change, each with how it is taken over.
var updatable = map[string]func(*domain.UpdateKey, *kmsv1.Key){
	"display_name": func(u *domain.UpdateKey, k *kmsv1.Key) { u.DisplayName = new(k.GetDisplayName()) },
	"memo":         func(u *domain.UpdateKey, k *kmsv1.Key) { u.Memo = new(k.GetMemo()) },
	"labels":       func(u *domain.UpdateKey, k *kmsv1.Key) { u.Labels = new(k.GetLabels()) },
	"expire_time":  func(u *domain.UpdateKey, k *kmsv1.Key) { u.ExpireTime = new(timeOf(k.GetExpireTime())) },
	"managed_by":   func(u *domain.UpdateKey, k *kmsv1.Key) { u.ManagedBy = new(k.GetManagedBy()) },
	"next_rotation_time": func(u *domain.UpdateKey, k *kmsv1.Key) {
		u.NextRotationTime = new(timeOf(k.GetNextRotationTime()))
	},
	"max_uses_per_version": func(u *domain.UpdateKey, k *kmsv1.Key) {
		u.MaxUsesPerVersion = new(uint64(k.GetMaxUsesPerVersion())) // validated to be 0 or more
	},
}

// maxUses is the limit that the request gives; nil if it gives none.
func maxUses(key *kmsv1.Key) *uint64 {
	if key.MaxUsesPerVersion == nil { //nolint:protogetter // given or not is not to be had otherwise
		return nil
	}
	return new(uint64(key.GetMaxUsesPerVersion())) //nolint:gosec // validated to be 0 or more
}

func (k *keyService) UpdateKey(ctx context.Context, r *kmsv1.UpdateKeyRequest) (*kmsv1.Key, error) {
	ref, err := k.s.keyRef(r.GetKey().GetName())
	if err != nil {
		return nil, err
	}
	etag := r.GetEtag()
	if etag == "" {
		etag = r.GetKey().GetEtag()
	}
	m, err := mutation(r.GetRequestId(), etag)
	if err != nil {
		return nil, err
	}
	var update domain.UpdateKey
	for _, path := range r.GetUpdateMask().GetPaths() {
		take, ok := updatable[path]
		if !ok {
			return nil, unsupported(fmt.Sprintf("update_mask names %.100q, which can't be changed here; it may name %s", path, strings.Join(slices.Sorted(maps.Keys(updatable)), ", ")))
		}
		take(&update, r.GetKey())
	}
	return keyAnswer(k.s.cfg.Commands.UpdateKey(ctx, callerOf(ctx), ref, update, m))
}

func (k *keyService) RotateKey(ctx context.Context, r *kmsv1.RotateKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.RotateKey(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) EnableKey(ctx context.Context, r *kmsv1.EnableKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.EnableKey(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) DisableKey(ctx context.Context, r *kmsv1.DisableKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.DisableKey(ctx, callerOf(ctx), ref, m))
}

func (k *keyService) GetKeyVersion(ctx context.Context, r *kmsv1.GetKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	read, err := readOf(ctx, ref, r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.GetKey(ctx, callerOf(ctx), read)
	return versionAnswer(state, ref.Version, err)
}

func (k *keyService) EnableKeyVersion(ctx context.Context, r *kmsv1.EnableKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.EnableKeyVersion(ctx, callerOf(ctx), ref, m)
	return versionAnswer(state, ref.Version, err)
}

func (k *keyService) DisableKeyVersion(ctx context.Context, r *kmsv1.DisableKeyVersionRequest) (*kmsv1.KeyVersion, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.DisableKeyVersion(ctx, callerOf(ctx), ref, r.GetAllowPrimary(), m)
	return versionAnswer(state, ref.Version, err)
}

func (k *keyService) ScheduleKeyDeletion(ctx context.Context, r *kmsv1.ScheduleKeyDeletionRequest) (*kmsv1.ScheduleKeyDeletionResponse, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	d, err := k.s.cfg.Commands.ScheduleKeyDeletion(ctx, callerOf(ctx), ref, r.GetWait().AsDuration(), r.GetRequireUnusedFor().AsDuration(), m)
	if err != nil {
		return nil, err
	}
	return &kmsv1.ScheduleKeyDeletionResponse{
		Key: keyProto(d.KeyState, d.Time), LastUseTime: timeProto(d.LastUse.Time), TrackedSinceTime: timeProto(d.LastUse.TrackedSince), Warnings: d.Warnings,
	}, nil
}

func (k *keyService) CancelKeyDeletion(ctx context.Context, r *kmsv1.CancelKeyDeletionRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.CancelKeyDeletion(ctx, callerOf(ctx), ref, r.GetEnable(), m))
}

func (k *keyService) DeleteKey(ctx context.Context, r *kmsv1.DeleteKeyRequest) (*kmsv1.Key, error) {
	ref, m, err := k.s.target(r)
	if err != nil {
		return nil, err
	}
	return keyAnswer(k.s.cfg.Commands.DeleteKey(ctx, callerOf(ctx), ref, r.GetSkipWait(), m))
}

func (k *keyService) ListKeys(ctx context.Context, r *kmsv1.ListKeysRequest) (*kmsv1.ListKeysResponse, error) {
	ring, err := k.s.ringName(r.GetParent())
	if err != nil {
		return nil, err
	}
	list, err := k.keyList(r.GetShowDestroyed(), listQuery{
		binding: append([]string{"ListKeys", ring.String(), r.GetFilter(), r.GetOrderBy(), fmt.Sprint(r.GetShowDestroyed())}, boundTo(r)...),
		filter:  r.GetFilter(), orderBy: r.GetOrderBy(),
		pageSize: r.GetPageSize(), skip: r.GetSkip(), token: r.GetPageToken(), total: r.GetIncludeTotalSize(),
	})
	if err != nil {
		return nil, err
	}
	read, err := readOf(ctx, domain.KeyRef{Name: ring.Key("")}, r)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.ListKeysResponse{}
	out.Revision, err = k.listKeys(ctx, ring, read, list.ahead, func(keys iter.Seq[*commands.KeyState]) error {
		page, err := list.page(ctx, keys)
		for _, state := range page.items {
			out.Keys = append(out.Keys, keyProto(*state, shownAt(*state, read.AsOf)))
		}
		out.NextPageToken, out.TotalSize = page.nextToken, page.total
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (k *keyService) CountKeys(ctx context.Context, r *kmsv1.CountKeysRequest) (*kmsv1.CountKeysResponse, error) {
	ring, err := k.s.ringName(r.GetParent())
	if err != nil {
		return nil, err
	}
	list, err := k.keyList(r.GetShowDestroyed(), listQuery{filter: r.GetFilter()})
	if err != nil {
		return nil, err
	}
	read, err := readOf(ctx, domain.KeyRef{Name: ring.Key("")}, r)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.CountKeysResponse{}
	out.Revision, err = k.listKeys(ctx, ring, read, nil, func(keys iter.Seq[*commands.KeyState]) (err error) {
		out.Count, err = list.count(ctx, keys)
		return err
	})
	return out, err
}

// keyList prepares a list of keys, without destroyed ones unless they are asked for.
func (k *keyService) keyList(showDestroyed bool, query listQuery) (*list[*commands.KeyState], error) {
	list, err := keyLists.prepare(query, k.s.pages)
	if err == nil && !showDestroyed && !list.filtersOn("state") {
		list.also(func(s *commands.KeyState) bool { return s.Key.State != domain.KeyStateDestroyed })
	}
	return list, err
}

func (k *keyService) ListKeyVersions(ctx context.Context, r *kmsv1.ListKeyVersionsRequest) (*kmsv1.ListKeyVersionsResponse, error) {
	ref, err := k.s.keyRef(r.GetParent())
	if err != nil {
		return nil, err
	}
	query := listQuery{
		binding: append([]string{"ListKeyVersions", ref.String(), r.GetFilter(), r.GetOrderBy()}, boundTo(r)...),
		filter:  r.GetFilter(), orderBy: r.GetOrderBy(),
		pageSize: r.GetPageSize(), skip: r.GetSkip(), token: r.GetPageToken(), total: r.GetIncludeTotalSize(),
	}
	list, err := versionLists.prepare(query, k.s.pages)
	if err != nil {
		return nil, err
	}
	read, err := readOf(ctx, ref, r)
	if err != nil {
		return nil, err
	}
	state, err := k.s.cfg.Commands.GetKey(ctx, callerOf(ctx), read)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.ListKeyVersionsResponse{Revision: uint64(state.Revision)}
	page, err := list.page(ctx, state.Key.Versions.All())
	if err != nil {
		return nil, err
	}
	for _, v := range page.items {
		out.KeyVersions = append(out.KeyVersions, versionProto(state, v))
	}
	out.NextPageToken, out.TotalSize = page.nextToken, page.total
	return out, nil
}

// keyLists says what lists of keys can be filtered and ordered by.
var keyLists = mustLists(listSpec[*commands.KeyState]{
	fields: []field[*commands.KeyState]{
		{name: "name", text: func(s *commands.KeyState) string { return s.Key.Name.String() }},
		{name: "key_id", text: func(s *commands.KeyState) string { return s.Key.Name.ID }},
		{name: "display_name", text: func(s *commands.KeyState) string { return s.Key.DisplayName }},
		{name: "memo", text: func(s *commands.KeyState) string { return s.Key.Memo }},
		{name: "state", enum: kmsv1.Key_State(0).Type(), text: stateNow},
		{name: "purpose", enum: kmsv1.Key_Purpose(0).Type(), text: func(s *commands.KeyState) string { return string(s.Key.Purpose) }},
		{name: "algorithm", enum: kmsv1.Key_Algorithm(0).Type(), text: func(s *commands.KeyState) string { return string(s.Key.Algorithm) }},
		{name: "protection_level", enum: kmsv1.Key_ProtectionLevel(0).Type(), text: func(s *commands.KeyState) string { return string(s.Key.Protection) }},
		{name: "create_time", time: true, number: func(s *commands.KeyState) int64 { return s.Key.CreateTime.UnixNano() }},
		{name: "update_time", time: true, number: func(s *commands.KeyState) int64 { return s.Key.UpdateTime.UnixNano() }},
		{name: "rotate_time", time: true, number: func(s *commands.KeyState) int64 { return unixNano(s.Key.RotateTime) }},
		{name: "next_rotation_time", time: true, number: func(s *commands.KeyState) int64 { return unixNano(s.Key.NextRotationTime) }},
		{name: "expire_time", time: true, number: func(s *commands.KeyState) int64 { return unixNano(s.Key.ExpireTime) }},
		{name: "delete_time", time: true, number: func(s *commands.KeyState) int64 { return unixNano(s.Key.DeleteTime) }},
		{name: "auto_rotation", flag: func(s *commands.KeyState) bool { return s.Key.AutoRotation }},
		{name: "import_only", flag: func(s *commands.KeyState) bool { return s.Key.ImportOnly }},
		{name: "origin", enum: kmsv1.KeyVersion_Origin(0).Type(), text: func(s *commands.KeyState) string { return string(s.Key.Origin()) }},
		{name: "managed_by", text: func(s *commands.KeyState) string { return s.Key.ManagedBy }},
		{name: "aliases", texts: func(s *commands.KeyState) []string { return s.Aliases }},
		{name: "labels", labels: func(s *commands.KeyState) map[string]string { return s.Key.Labels }},
	},
	orders: []string{"name", "create_time", "update_time", "next_rotation_time", "expire_time", "delete_time"},
	// By ring and then id, the order that the projection yields. Whole names of several rings sort otherwise: '-' is before '/'.
	place: func(s *commands.KeyState) place { return place{Text: s.Key.Name.Ring, Text2: s.Key.Name.ID} },
})

// stateNow is the key's state by the clock, which is looked at only for those that expire.
func stateNow(s *commands.KeyState) string {
	if s.Key.ExpireTime.IsZero() {
		return string(s.Key.State)
	}
	return string(s.Key.StateAt(time.Now()))
}

// versionLists says what lists of a key's versions can be filtered and ordered by.
var versionLists = mustLists(listSpec[domain.KeyVersion]{
	fields: []field[domain.KeyVersion]{
		{name: "version", number: func(v domain.KeyVersion) int64 { return int64(v.Version) }},
		{name: "state", enum: kmsv1.KeyVersion_State(0).Type(), text: func(v domain.KeyVersion) string { return string(v.State) }},
		{name: "algorithm", enum: kmsv1.Key_Algorithm(0).Type(), text: func(v domain.KeyVersion) string { return string(v.Algorithm) }},
		{name: "origin", enum: kmsv1.KeyVersion_Origin(0).Type(), text: func(v domain.KeyVersion) string { return string(v.Origin) }},
		{name: "create_time", time: true, number: func(v domain.KeyVersion) int64 { return v.CreateTime.UnixNano() }},
		{name: "delete_time", time: true, number: func(v domain.KeyVersion) int64 { return unixNano(v.DeleteTime) }},
	},
	orders: []string{"version", "create_time", "delete_time"},
	place:  func(v domain.KeyVersion) place { return place{Number: int64(v.Version)} },
})

// keyAnswer is the answer to what acts on a key: as it was just after, whenever the request is repeated.
func keyAnswer(state commands.KeyState, err error) (*kmsv1.Key, error) {
	if err != nil {
		return nil, err
	}
	return keyProto(state, state.Time), nil
}

// versionAnswer is the answer to what acts on a version.
func versionAnswer(state commands.KeyState, v domain.Version, err error) (*kmsv1.KeyVersion, error) {
	if err != nil {
		return nil, err
	}
	version, ok := state.Key.Versions.Get(v)
	if !ok {
		return nil, fmt.Errorf("the answer for version %d of key %s has no such version", v, state.Key.Name)
	}
	return versionProto(state, version), nil
}
