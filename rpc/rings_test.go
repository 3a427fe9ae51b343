package rpc_test

import (
	"encoding/json"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

const (
	placePath = "projects/p/locations/local"
	aliasPath = placePath + "/keyRings/-/keys/alias:current"
)

func TestRings(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	const id = "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f"
	made, err := client.CreateKeyRing(t.Context(), &kmsv1.CreateKeyRingRequest{
		Parent: placePath, KeyRingId: "r", RequestId: id, KeyRing: &kmsv1.KeyRing{Labels: map[string]string{"team": "x"}},
	})
	if err != nil || made.GetName() != ringPath || made.GetState() != kmsv1.KeyRing_ACTIVE || made.GetLabels()["team"] != "x" || made.GetRevision() != 7 || made.GetEtag() != "r7" || made.GetCreateTime() == nil {
		t.Errorf("made %v, %v", made, err)
	}
	if s.mutation.RequestID.String() != id {
		t.Errorf("mutation = %+v", s.mutation)
	}
	got, err := client.GetKeyRing(t.Context(), &kmsv1.GetKeyRingRequest{Name: ringPath, MinRevision: 5})
	if err != nil || got.GetName() != ringPath {
		t.Errorf("got %v, %v", got, err)
	}
	if s.read.Operation != "GetKeyRing" || s.read.Permission != domain.PermissionRingsGet || s.read.MinRevision != 5 || s.read.Ref.Name.Ring != "r" {
		t.Errorf("the gate was asked %+v", s.read)
	}
	archived, err := client.ArchiveKeyRing(t.Context(), &kmsv1.ArchiveKeyRingRequest{Name: ringPath, Etag: "r7"})
	if err != nil || archived.GetState() != kmsv1.KeyRing_ARCHIVED || s.mutation.Etag != "r7" {
		t.Errorf("archived %v, %v", archived, err)
	}
	if again, err := client.UnarchiveKeyRing(t.Context(), &kmsv1.UnarchiveKeyRingRequest{Name: ringPath}); err != nil || again.GetState() != kmsv1.KeyRing_ACTIVE {
		t.Errorf("unarchived %v, %v", again, err)
	}
	for name, refused := range map[string]error{
		"any ring":       second(client.GetKeyRing(t.Context(), &kmsv1.GetKeyRingRequest{Name: placePath + "/keyRings/-"})),
		"other location": second(client.ArchiveKeyRing(t.Context(), &kmsv1.ArchiveKeyRingRequest{Name: "projects/p/locations/mars/keyRings/r"})),
		"bad id":         second(client.CreateKeyRing(t.Context(), &kmsv1.CreateKeyRingRequest{Parent: placePath, KeyRingId: "-"})),
		"a ring in one":  second(client.CreateKeyRing(t.Context(), &kmsv1.CreateKeyRingRequest{Parent: ringPath, KeyRingId: "a"})),
		"labels":         second(client.CreateKeyRing(t.Context(), &kmsv1.CreateKeyRingRequest{Parent: placePath, KeyRingId: "a", KeyRing: &kmsv1.KeyRing{Labels: map[string]string{"a": "\n"}}})),
	} {
		if connect.CodeOf(refused) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, refused)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestListKeyRings(t *testing.T) {
	s := serve(t)
	for i, id := range []string{"a", "default", "z"} {
		s.rings = append(s.rings, ringState(domain.RingName{Project: "p", Location: "local", Ring: id}, eventstore.Revision(i+1), map[string]string{"n": id}))
	}
	s.rings[1].Ring = domain.Ring{Name: s.rings[1].Ring.Name, State: domain.RingStateActive} // as it is before anything is recorded of it
	s.rings[2].Ring.State = domain.RingStateArchived
	s.rings = append(s.rings, ringState(domain.RingName{Project: "q", Location: "local", Ring: "elsewhere"}, 9, nil))
	client := s.keyClient(t)
	for name, tt := range map[string]struct {
		req  *kmsv1.ListKeyRingsRequest
		want string
	}{
		"all":                     {&kmsv1.ListKeyRingsRequest{}, "a default z"},
		"state":                   {&kmsv1.ListKeyRingsRequest{Filter: "state = ARCHIVED"}, "z"},
		"label":                   {&kmsv1.ListKeyRingsRequest{Filter: `labels.n = "a" OR key_ring_id = "z"`}, "a z"},
		"created at all":          {&kmsv1.ListKeyRingsRequest{Filter: `create_time:"*"`}, "a z"},
		"order":                   {&kmsv1.ListKeyRingsRequest{OrderBy: "name desc"}, "z default a"},
		"order by time, the rest": {&kmsv1.ListKeyRingsRequest{OrderBy: "create_time", Skip: 1}, "a z"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.req.Parent, tt.req.PageSize, tt.req.IncludeTotalSize = placePath, 2, true
			var got []string
			for {
				res, err := client.ListKeyRings(t.Context(), tt.req)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range res.GetKeyRings() {
					got = append(got, r.GetName()[strings.LastIndex(r.GetName(), "/")+1:])
				}
				if tt.req.PageToken, tt.req.Skip = res.GetNextPageToken(), 0; tt.req.PageToken == "" {
					break
				}
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("rings = %q, want %q", got, tt.want)
			}
		})
	}
	if s.read.Operation != "ListKeyRings" || s.read.Permission != domain.PermissionRingsList || s.read.Ref.Name.Project != "p" {
		t.Errorf("the gate was asked %+v", s.read)
	}
	if _, err := client.ListKeyRings(t.Context(), &kmsv1.ListKeyRingsRequest{Parent: placePath, Filter: "purpose = MAC"}); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("a key's field: %v", err)
	}
}

func TestCountKeys(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	for name, tt := range map[string]struct {
		req  *kmsv1.CountKeysRequest
		want int64
	}{
		"ring":           {&kmsv1.CountKeysRequest{Parent: ringPath}, 3},
		"any ring":       {&kmsv1.CountKeysRequest{Parent: placePath + "/keyRings/-"}, 5},
		"with destroyed": {&kmsv1.CountKeysRequest{Parent: ringPath, ShowDestroyed: true}, 4},
		"destroyed":      {&kmsv1.CountKeysRequest{Parent: ringPath, Filter: "state = DESTROYED"}, 1},
		"filter":         {&kmsv1.CountKeysRequest{Parent: ringPath, Filter: `labels.team = "core"`}, 1},
		"none":           {&kmsv1.CountKeysRequest{Parent: ringPath, Filter: `memo = "x"`}, 0},
	} {
		if res, err := client.CountKeys(t.Context(), tt.req); err != nil || res.GetCount() != tt.want || res.GetRevision() != 99 {
			t.Errorf("%s: %v, %v, want %d", name, res, err, tt.want)
		}
	}
	if s.read.Operation != "CountKeys" || s.read.Permission != domain.PermissionKeysList {
		t.Errorf("the gate was asked %+v", s.read)
	}
	if _, err := client.CountKeys(t.Context(), &kmsv1.CountKeysRequest{Parent: ringPath, Filter: "colour = 1"}); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestAliases(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	named, err := client.AddKeyAlias(t.Context(), &kmsv1.AddKeyAliasRequest{Name: keyPath, Alias: "current", Move: true})
	if err != nil || strings.Join(named.GetAliases(), " ") != "current" || named.GetRevision() != 9 || named.GetEtag() != "r7" {
		t.Errorf("answer %v, %v", named, err)
	}
	if _, err := client.RemoveKeyAlias(t.Context(), &kmsv1.RemoveKeyAliasRequest{Name: aliasPath, Alias: "current"}); err != nil {
		t.Error(err)
	}
	for name, refused := range map[string]error{
		"no alias":      second(client.AddKeyAlias(t.Context(), &kmsv1.AddKeyAliasRequest{Name: keyPath})),
		"with a prefix": second(client.AddKeyAlias(t.Context(), &kmsv1.AddKeyAliasRequest{Name: keyPath, Alias: "alias:a"})),
		"in a ring":     second(client.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: ringPath + "/keys/alias:a"})),
		"given to new":  second(client.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: ringPath, KeyId: "a", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT, Aliases: []string{"a"}}})),
	} {
		if connect.CodeOf(refused) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, refused)
		}
	}
	// Lists are filtered by them.
	s.keys = someKeys()
	s.keys[1].Aliases = []string{"blue", "current"}
	for filter, want := range map[string]string{`aliases:"current"`: "k1", `aliases:current`: "k1", `aliases:"cur"`: "", `aliases:"*"`: "k1", `NOT aliases:blue`: "k2 k4"} {
		if res, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, Filter: filter}); err != nil || ids(res.GetKeys()) != want {
			t.Errorf("%s: %v, %v, want %q", filter, ids(res.GetKeys()), err, want)
		}
	}
	if _, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, Filter: `aliases = "current"`}); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("comparing a list: %v", err)
	}
}

// TestAliasesOverREST: the colon of an alias is no verb's, escaped or not.
func TestAliasesOverREST(t *testing.T) {
	s := serve(t)
	alias := "/api/v1/" + aliasPath
	for name, tt := range map[string]struct {
		method, path, body, field, want string
	}{
		"get":             {"GET", alias, "", "name", aliasPath},
		"escaped":         {"GET", strings.Replace(alias, "alias:", "alias%3A", 1), "", "name", aliasPath},
		"verb":            {"POST", alias + ":rotate", "{}", "name", aliasPath},
		"version":         {"POST", alias + "/versions/1:disable", "{}", "name", aliasPath + "/versions/1"},
		"encrypt":         {"POST", alias + ":encrypt", `{"plaintext":"YQ=="}`, "ciphertext", "ZW5jOmE="},
		"list of it":      {"GET", alias + "/versions", "", "revision", "7"},
		"update":          {"PATCH", alias + "?update_mask=memo", `{"memo":"x"}`, "name", aliasPath},
		"add":             {"POST", alias + ":addAlias", `{"alias":"b"}`, "revision", "8"},
		"remove":          {"POST", "/api/v1/" + keyPath + ":removeAlias", `{"alias":"b"}`, "name", keyPath},
		"create a ring":   {"POST", "/api/v1/" + placePath + "/keyRings?key_ring_id=r", `{"labels":{"a":"b"}}`, "name", ringPath},
		"get a ring":      {"GET", "/api/v1/" + ringPath, "", "name", ringPath},
		"archive a ring":  {"POST", "/api/v1/" + ringPath + ":archive", "{}", "state", "ARCHIVED"},
		"unarchive":       {"POST", "/api/v1/" + ringPath + ":unarchive", "", "state", "ACTIVE"},
		"list the rings":  {"GET", "/api/v1/" + placePath + "/keyRings", "", "revision", "99"},
		"count":           {"GET", "/api/v1/" + ringPath + "/keys:count?filter=state%20%3D%20ENABLED", "", "revision", "99"},
		"count any ring":  {"GET", "/api/v1/" + placePath + "/keyRings/-/keys:count", "", "revision", "99"},
		"list any ring's": {"GET", "/api/v1/" + placePath + "/keyRings/-/keys", "", "revision", "99"},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.send(t, tt.method, tt.path, tt.body)
			var got map[string]any
			if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got[tt.field] != tt.want {
				t.Errorf("answer = %d %s, want %s %s", a.status, a.body, tt.field, tt.want)
			}
		})
	}
	if recorded := s.recorded(); len(recorded) > 0 {
		t.Errorf("recorded %+v", recorded)
	}
	// What the transcoder refuses is recorded under the method and the key that were meant.
	if a := s.send(t, "POST", alias+":rotate", "{"); a.status != 400 {
		t.Errorf("answer = %d %s", a.status, a.body)
	}
	if got := s.recorded(); len(got) != 1 || got[0].read.Operation != "RotateKey" || got[0].read.Ref.Alias != "current" {
		t.Errorf("recorded %+v", got)
	}
}
