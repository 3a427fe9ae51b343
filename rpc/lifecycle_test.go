package rpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/rpc"
)

// lifeSite notes what reached the commands of a key's life, as one line.
type lifeSite struct {
	*site

	asked string
}

func (l *lifeSite) note(ref domain.KeyRef, m commands.Mutation, what string, args ...any) (eventstore.KeyState, error) {
	l.asked = strings.TrimSpace(fmt.Sprintln(append([]any{what, ref.Version, m.Etag}, args...)...))
	state := l.state(ref)
	for v := domain.Version(2); v <= 3; v++ {
		state.Key = domain.Fold(state.Key, state.Time, domain.KeyVersionAdded{Version: v, Algorithm: domain.AES256GCM, Origin: domain.Generated})
	}
	return state, nil
}

func (l *lifeSite) CreateKey(_ context.Context, _ domain.Caller, r commands.CreateKey) (eventstore.KeyState, error) {
	uses := "default"
	if r.MaxUsesPerVersion != nil {
		uses = fmt.Sprint(*r.MaxUsesPerVersion)
	}
	return l.note(domain.KeyRef{Name: r.Parent.Key(r.KeyID)}, r.Mutation, "CreateKey",
		r.AutoRotation, r.RotationPeriod, uses, r.ExpireTime.Unix(), r.DestroyWait, r.ImportOnly, r.ManagedBy)
}

func (l *lifeSite) UpdateRotationPeriod(_ context.Context, _ domain.Caller, ref domain.KeyRef, d time.Duration, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "UpdateRotationPeriod", d)
}

func (l *lifeSite) EnableAutoRotation(_ context.Context, _ domain.Caller, ref domain.KeyRef, d time.Duration, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "EnableAutoRotation", d)
}

func (l *lifeSite) DisableAutoRotation(_ context.Context, _ domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "DisableAutoRotation")
}

func (l *lifeSite) CreateKeyVersion(_ context.Context, _ domain.Caller, ref domain.KeyRef, primary bool, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "CreateKeyVersion", primary)
}

func (l *lifeSite) SetPrimaryVersion(_ context.Context, _ domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "SetPrimaryVersion")
}

func (l *lifeSite) ScheduleKeyVersionDestruction(_ context.Context, _ domain.Caller, ref domain.KeyRef, d time.Duration, primary bool, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "ScheduleKeyVersionDestruction", d, primary)
}

func (l *lifeSite) RestoreKeyVersion(_ context.Context, _ domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "RestoreKeyVersion")
}

func (l *lifeSite) ArchiveKey(_ context.Context, _ domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "ArchiveKey")
}

func (l *lifeSite) UnarchiveKey(_ context.Context, _ domain.Caller, ref domain.KeyRef, enable bool, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "UnarchiveKey", enable)
}

func (l *lifeSite) AddUsageBinding(_ context.Context, _ domain.Caller, ref domain.KeyRef, resource string, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "AddUsageBinding", resource)
}

func (l *lifeSite) RemoveUsageBinding(_ context.Context, _ domain.Caller, ref domain.KeyRef, resource string, m commands.Mutation) (eventstore.KeyState, error) {
	return l.note(ref, m, "RemoveUsageBinding", resource)
}

// TestLifecycleByREST: every change of a key's life has its path, and reaches its command with all that it says.
func TestLifecycleByREST(t *testing.T) {
	key := "/api/v1/" + keyPath
	life := &lifeSite{}
	s := serve(t, func(c *rpc.Config) {
		life.site = c.Commands.(*site) //nolint:forcetypeassert // the tests' own
		c.Commands = life
	})
	for name, tt := range map[string]struct {
		path, body  string
		asked       string // what the command was asked for
		field, want string // of the answer
	}{
		"create": {
			"/api/v1/" + ringPath + "/keys?key_id=k", `{"purpose":"ENCRYPT_DECRYPT","autoRotation":true,"rotationPeriod":"2592000s","maxUsesPerVersion":"7","expireTime":"2100-01-01T00:00:00Z","destroyWait":"604800s","managedBy":"svc"}`,
			"CreateKey 0  true 720h0m0s 7 4102444800 168h0m0s false svc", "name", keyPath,
		},
		"create without limits":   {"/api/v1/" + ringPath + "/keys?key_id=k", `{"purpose":"ENCRYPT_DECRYPT","importOnly":true}`, "CreateKey 0  false 0s default -62135596800 0s true", "name", keyPath},
		"create without a budget": {"/api/v1/" + ringPath + "/keys?key_id=k", `{"purpose":"ENCRYPT_DECRYPT","maxUsesPerVersion":0}`, "CreateKey 0  false 0s 0 -62135596800 0s false", "name", keyPath},
		"period":                  {key + ":updateRotationPeriod", `{"rotationPeriod":"864000s","etag":"r7"}`, "UpdateRotationPeriod 0 r7 240h0m0s", "name", keyPath},
		"rotation on":             {key + ":enableAutoRotation", "", "EnableAutoRotation 0  0s", "name", keyPath},
		"rotation on with":        {key + ":enableAutoRotation", `{"rotationPeriod":"86400s"}`, "EnableAutoRotation 0  24h0m0s", "name", keyPath},
		"rotation off":            {key + ":disableAutoRotation", `{"etag":"r7"}`, "DisableAutoRotation 0 r7", "name", keyPath},
		"new version":             {key + "/versions", `{"etag":"r7"}`, "CreateKeyVersion 0 r7 false", "name", keyPath + "/versions/3"},
		"new primary version":     {key + "/versions", `{"makePrimary":true}`, "CreateKeyVersion 0  true", "name", keyPath + "/versions/3"},
		"primary":                 {key + ":setPrimaryVersion", `{"version":2}`, "SetPrimaryVersion 2", "name", keyPath},
		"destruction":             {key + "/versions/2:scheduleDestruction", `{"wait":"86400s","allowPrimary":true}`, "ScheduleKeyVersionDestruction 2  24h0m0s true", "name", keyPath + "/versions/2"},
		"restore":                 {key + "/versions/2:restore", "", "RestoreKeyVersion 2", "name", keyPath + "/versions/2"},
		"archive":                 {key + ":archive", "", "ArchiveKey 0", "name", keyPath},
		"unarchive":               {key + ":unarchive", `{"enable":true}`, "UnarchiveKey 0  true", "name", keyPath},
		"bind":                    {key + ":addUsageBinding", `{"resource":"billing/1"}`, "AddUsageBinding 0  billing/1", "name", keyPath},
		"unbind":                  {key + ":removeUsageBinding", `{"resource":"billing/1","etag":"r7"}`, "RemoveUsageBinding 0 r7 billing/1", "name", keyPath},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.send(t, "POST", tt.path, tt.body)
			var got map[string]any
			if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got[tt.field] != tt.want {
				t.Fatalf("answer = %d %s, want %s %s", a.status, a.body, tt.field, tt.want)
			}
			if life.asked != tt.asked {
				t.Errorf("asked for %q, want %q", life.asked, tt.asked)
			}
		})
	}
}

// boundSite has a key with usage bindings.
type boundSite struct{ *site }

func (b boundSite) GetKey(_ context.Context, _ domain.Caller, r commands.Read) (eventstore.KeyState, error) {
	state := b.state(r.Ref)
	for _, resource := range []string{"archive/1", "billing/1", "billing/2"} {
		state.Key = domain.Evolve(state.Key, state.Time, domain.UsageBound{Resource: resource, Creator: "admin"})
	}
	return state, nil
}

func TestListUsageBindings(t *testing.T) {
	s := serve(t, func(c *rpc.Config) { c.Commands = boundSite{c.Commands.(*site)} }) //nolint:forcetypeassert // the tests' own
	client := s.keyClient(t)
	for name, tt := range map[string]struct {
		req  *kmsv1.ListUsageBindingsRequest
		want string
	}{
		"all":      {&kmsv1.ListUsageBindingsRequest{}, "archive/1 billing/1 billing/2"},
		"filtered": {&kmsv1.ListUsageBindingsRequest{Filter: `resource = "billing/*"`}, "billing/1 billing/2"},
		"ordered":  {&kmsv1.ListUsageBindingsRequest{OrderBy: "resource desc"}, "billing/2 billing/1 archive/1"},
		"a page":   {&kmsv1.ListUsageBindingsRequest{PageSize: 1, Skip: 1}, "billing/1"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.req.Parent, tt.req.IncludeTotalSize = keyPath, true
			res, err := client.ListUsageBindings(t.Context(), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range res.GetUsageBindings() {
				got = append(got, b.GetResource())
				if b.GetCreator() != "admin" || b.GetCreateTime() == nil {
					t.Errorf("shown as %v", b)
				}
			}
			if strings.Join(got, " ") != tt.want || res.GetRevision() != 7 || (res.GetNextPageToken() != "") != (tt.req.GetPageSize() == 1) {
				t.Errorf("answer %v, want %s", res, tt.want)
			}
		})
	}
	if a := s.send(t, "GET", "/api/v1/"+keyPath+"/usageBindings?skip=2", ""); a.status != 200 || !strings.Contains(a.body, "billing/2") {
		t.Errorf("by REST: %d %s", a.status, a.body)
	}
}

// TestUpdateOfLimits: each field of the mask is taken as it is given, and emptied if it is not.
func TestUpdateOfLimits(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	at := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
	paths := []string{"expire_time", "next_rotation_time", "max_uses_per_version", "managed_by"}
	key := &kmsv1.Key{Name: keyPath, ExpireTime: timestamppb.New(at), NextRotationTime: timestamppb.New(at.Add(time.Hour)), MaxUsesPerVersion: new(int64(9)), ManagedBy: "svc"}
	if _, err := client.UpdateKey(t.Context(), &kmsv1.UpdateKeyRequest{Key: key, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}); err != nil {
		t.Fatal(err)
	}
	u := s.update
	if u.ExpireTime == nil || !u.ExpireTime.Equal(at) || u.NextRotationTime == nil || !u.NextRotationTime.Equal(at.Add(time.Hour)) ||
		u.MaxUsesPerVersion == nil || *u.MaxUsesPerVersion != 9 || u.ManagedBy == nil || *u.ManagedBy != "svc" || u.Memo != nil {
		t.Errorf("update = %+v", u)
	}
	empty := &kmsv1.UpdateKeyRequest{Key: &kmsv1.Key{Name: keyPath}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}
	if _, err := client.UpdateKey(t.Context(), empty); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("no next rotation: %v", err)
	}
	empty.UpdateMask.Paths = []string{"expire_time", "max_uses_per_version", "managed_by"}
	if _, err := client.UpdateKey(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	u = s.update
	if u.ExpireTime == nil || !u.ExpireTime.IsZero() || u.MaxUsesPerVersion == nil || *u.MaxUsesPerVersion != 0 || u.ManagedBy == nil || *u.ManagedBy != "" {
		t.Errorf("emptying: update = %+v", u)
	}
}

// TestLimitsAreShown: what limits a key is in its answers and can be filtered by, and it is expired by the clock.
func TestLimitsAreShown(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	at := func(id string, change func(*domain.Key)) eventstore.KeyState { return listed("r", id, 1, change) }
	s.keys = []eventstore.KeyState{
		at("expired", func(k *domain.Key) { k.ExpireTime = time.Now().Add(-time.Hour) }),
		at("import", func(k *domain.Key) { k.ImportOnly, k.ManagedBy = true, "svc" }),
		at("pending", func(k *domain.Key) { k.State, k.DeleteTime = domain.KeyStatePendingDeletion, soon }),
		at("plain", func(*domain.Key) {}),
		at("rotated", func(k *domain.Key) {
			k.AutoRotation, k.RotationPeriod, k.NextRotationTime, k.MaxUsesPerVersion = true, 30*24*time.Hour, soon, 1<<32
			k.ExpireTime, k.DestroyWait = soon.Add(time.Hour), 48*time.Hour
		}),
	}
	for filter, want := range map[string]string{
		`state = EXPIRED`:                              "expired",
		`state = ENABLED`:                              "import plain rotated",
		`auto_rotation = true`:                         "rotated",
		`auto_rotation != true`:                        "expired import pending plain",
		`import_only = false`:                          "expired pending plain rotated",
		`expire_time:"*"`:                              "expired rotated",
		`NOT expire_time:"*"`:                          "import pending plain",
		`managed_by = "svc"`:                           "import",
		`delete_time:"*"`:                              "pending",
		`origin = GENERATED`:                           "expired import pending plain rotated",
		`rotate_time:"*"`:                              "",
		`next_rotation_time:"*"`:                       "rotated",
		`expire_time < "2200-01-01T00:00:00Z"`:         "expired rotated",
		`expire_time > "2000-01-01T00:00:00Z"`:         "expired rotated",
		`expire_time != "2000-01-01T00:00:00Z"`:        "expired import pending plain rotated",
		`next_rotation_time <= "2200-01-01T00:00:00Z"`: "rotated",
	} {
		res, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, Filter: filter})
		if err != nil || ids(res.GetKeys()) != want {
			t.Errorf("%s: %q, %v, want %q", filter, ids(res.GetKeys()), err, want)
		}
	}
	for _, filter := range []string{`auto_rotation = "yes"`, `auto_rotation = import_only`, `auto_rotation > true`, `auto_rotation:true`, `auto_rotation`} {
		if _, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, Filter: filter}); reasonOf(t, err) != "BAD_FIELD" {
			t.Errorf("%s: %v", filter, err)
		}
	}
	res, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, OrderBy: "expire_time desc, name"})
	if err != nil || ids(res.GetKeys()) != "rotated expired import pending plain" {
		t.Errorf("by expiry: %q, %v", ids(res.GetKeys()), err)
	}
	rotated := res.GetKeys()[0]
	for what, ok := range map[string]bool{
		"auto_rotation":        rotated.GetAutoRotation(),
		"rotation_period":      rotated.GetRotationPeriod().AsDuration() == 30*24*time.Hour,
		"next_rotation_time":   rotated.GetNextRotationTime().AsTime().Equal(soon),
		"max_uses_per_version": rotated.GetMaxUsesPerVersion() == 1<<32,
		"expire_time":          rotated.GetExpireTime().AsTime().Equal(soon.Add(time.Hour)),
		"destroy_wait":         rotated.GetDestroyWait().AsDuration() == 48*time.Hour,
		"origin":               rotated.GetOrigin() == kmsv1.KeyVersion_GENERATED,
		"state":                res.GetKeys()[1].GetState() == kmsv1.Key_EXPIRED,
		"import_only":          res.GetKeys()[2].GetImportOnly() && res.GetKeys()[2].GetManagedBy() == "svc",
		"nothing else":         res.GetKeys()[4].GetExpireTime() == nil && res.GetKeys()[4].GetRotationPeriod() == (*durationpb.Duration)(nil),
	} {
		if !ok {
			t.Errorf("%s is not shown as it is: %v", what, res.GetKeys())
		}
	}
}
