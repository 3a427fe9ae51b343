package rpc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

var day0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// listed is a key as lists need it.
func listed(ring, id string, day int, change func(*domain.Key)) eventstore.KeyState {
	s := keyState(domain.KeyName{Project: "p", Location: "local", Ring: ring, ID: id}, eventstore.Revision(day), day0.AddDate(0, 0, day))
	if change != nil {
		change(&s.Key)
	}
	return s
}

func someKeys() []eventstore.KeyState {
	return []eventstore.KeyState{ // by ring and id, as the projection yields them
		listed("a", "z", 1, nil),
		listed("r", "k1", 5, func(k *domain.Key) { k.Memo, k.Labels = "for Invoices", map[string]string{"team": "core", "env": "x"} }),
		listed("r", "k2", 4, func(k *domain.Key) { k.State = domain.KeyStateDisabled }),
		listed("r", "k3", 3, func(k *domain.Key) { k.State = domain.KeyStateDestroyed }),
		listed("r", "k4", 2, func(k *domain.Key) { k.Labels = nil; k.DisplayName = "Four" }),
		listed("r-b", "k5", 1, nil),
	}
}

func ids(keys []*kmsv1.Key) string {
	var out []string
	for _, k := range keys {
		out = append(out, k.GetName()[strings.LastIndex(k.GetName(), "/")+1:])
	}
	return strings.Join(out, " ")
}

func TestListKeys(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	for name, tt := range map[string]struct {
		req  *kmsv1.ListKeysRequest
		want string
	}{
		"ring":                       {&kmsv1.ListKeysRequest{}, "k1 k2 k4"},
		"any ring":                   {&kmsv1.ListKeysRequest{Parent: "projects/p/locations/local/keyRings/-"}, "z k1 k2 k4 k5"},
		"with destroyed":             {&kmsv1.ListKeysRequest{ShowDestroyed: true}, "k1 k2 k3 k4"},
		"state filter":               {&kmsv1.ListKeysRequest{Filter: "state = DISABLED"}, "k2"},
		"state filter shows them":    {&kmsv1.ListKeysRequest{Filter: "state = DESTROYED"}, "k3"},
		"state differs":              {&kmsv1.ListKeysRequest{Filter: "state != ENABLED"}, "k2 k3"},
		"label":                      {&kmsv1.ListKeysRequest{Filter: `labels.team = "core"`}, "k1"},
		"label differs":              {&kmsv1.ListKeysRequest{Filter: `labels.team != "core"`}, "k2 k4"},
		"has label":                  {&kmsv1.ListKeysRequest{Filter: `labels:env`}, "k1"},
		"has any label":              {&kmsv1.ListKeysRequest{Filter: `labels:"*"`}, "k1 k2"},
		"label contains":             {&kmsv1.ListKeysRequest{Filter: `labels.team:COR`}, "k1"},
		"memo contains":              {&kmsv1.ListKeysRequest{Filter: `memo:invoice`}, "k1"},
		"and, or, not":               {&kmsv1.ListKeysRequest{Filter: `(state = DISABLED OR display_name = "Four") AND NOT key_id = "k2"`}, "k4"},
		"prefix":                     {&kmsv1.ListKeysRequest{Filter: `display_name = "Fo*"`}, "k4"},
		"suffix":                     {&kmsv1.ListKeysRequest{Filter: `display_name = "*ur"`}, "k4"},
		"infix":                      {&kmsv1.ListKeysRequest{Filter: `display_name = "*ou*"`}, "k4"},
		"any text":                   {&kmsv1.ListKeysRequest{Filter: `display_name = "*"`}, "k1 k2 k4"},
		"not the prefix":             {&kmsv1.ListKeysRequest{Filter: `display_name != "Fo*"`}, "k1 k2"},
		"time":                       {&kmsv1.ListKeysRequest{Filter: `create_time >= "2026-01-05T00:00:00Z"`}, "k1 k2"},
		"time, zone":                 {&kmsv1.ListKeysRequest{Filter: `create_time < timestamp("2026-01-05T09:00:00+09:00")`}, "k4"},
		"text order":                 {&kmsv1.ListKeysRequest{Filter: `key_id > "k1" AND key_id <= "k2"`}, "k2"},
		"full name":                  {&kmsv1.ListKeysRequest{Filter: `name = "` + ringPath + `/keys/k4"`}, "k4"},
		"enums":                      {&kmsv1.ListKeysRequest{Filter: `purpose = ENCRYPT_DECRYPT AND algorithm = AES_256_GCM AND protection_level = HSM`}, "k1 k2 k4"},
		"order by time":              {&kmsv1.ListKeysRequest{OrderBy: "create_time"}, "k4 k2 k1"},
		"order by time, newest":      {&kmsv1.ListKeysRequest{OrderBy: "update_time desc"}, "k1 k2 k4"},
		"order by name, last first":  {&kmsv1.ListKeysRequest{OrderBy: "name desc"}, "k4 k2 k1"},
		"rings in order, not names":  {&kmsv1.ListKeysRequest{Parent: "projects/p/locations/local/keyRings/-", OrderBy: "name"}, "z k1 k2 k4 k5"},
		"skip":                       {&kmsv1.ListKeysRequest{Skip: 2}, "k4"},
		"skip, other order":          {&kmsv1.ListKeysRequest{Skip: 1, OrderBy: "create_time"}, "k2 k1"},
		"skip all":                   {&kmsv1.ListKeysRequest{Skip: 9}, ""},
		"nothing of injected syntax": {&kmsv1.ListKeysRequest{Filter: `memo = "' OR 1=1 --"`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.req.Parent == "" {
				tt.req.Parent = ringPath
			}
			res, err := client.ListKeys(t.Context(), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(res.GetKeys()); got != tt.want {
				t.Errorf("keys = %q, want %q", got, tt.want)
			}
			if res.GetTotalSize() != 0 || res.GetRevision() != 99 {
				t.Errorf("total = %d, revision = %d", res.GetTotalSize(), res.GetRevision())
			}
		})
	}
}

func TestListRefusals(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	for name, req := range map[string]*kmsv1.ListKeysRequest{
		"unknown field":      {Filter: `colour = "red"`},
		"unknown state":      {Filter: "state = ENABLD"},
		"lower case":         {Filter: "state = enabled"},
		"deeply nested":      {Filter: strings.Repeat("(", 1000)},
		"not a comparison":   {Filter: `"red"`},
		"a sequence":         {Filter: "red green"},
		"unfinished":         {Filter: "state ="},
		"bad time":           {Filter: `create_time > "yesterday"`},
		"wrong type":         {Filter: "memo = 3"},
		"two fields":         {Filter: "memo = display_name"},
		"state of a state":   {Filter: "state = state"},
		"order by nothing":   {OrderBy: "colour"},
		"order of no kind":   {OrderBy: "name up"},
		"order injected":     {OrderBy: "name; drop"},
		"page size":          {PageSize: 1001},
		"negative page size": {PageSize: -1},
		"negative skip":      {Skip: -1},
	} {
		t.Run(name, func(t *testing.T) {
			req.Parent = ringPath
			before := len(s.recorded())
			_, err := client.ListKeys(t.Context(), req)
			if connect.CodeOf(err) != connect.CodeInvalidArgument || reasonOf(t, err) != "BAD_FIELD" {
				t.Errorf("error = %v", err)
			}
			if strings.Contains(err.Error(), "check call") || len(err.Error()) > 400 {
				t.Errorf("text = %q", err)
			}
			if got := s.recorded(); len(got) != before+1 || got[before].read.Operation != "ListKeys" || got[before].read.Ref.Name.Ring != "r" {
				t.Errorf("recorded %+v", got[before:])
			}
		})
	}
}

// TestPagesMeetNoKeyTwice walks in every order, while keys come and go.
func TestPagesMeetNoKeyTwice(t *testing.T) {
	for _, order := range []string{"", "name desc", "create_time", "create_time desc", "update_time desc, name"} {
		t.Run(order, func(t *testing.T) {
			s := serve(t)
			for i := range 25 {
				s.keys = append(s.keys, listed("r", fmt.Sprintf("k%02d", i), i/3, nil)) // times with equals
			}
			client := s.keyClient(t)
			req := &kmsv1.ListKeysRequest{Parent: ringPath, PageSize: 4, OrderBy: order, IncludeTotalSize: true}
			seen := make(map[string]int)
			for pages := 0; ; pages++ {
				res, err := client.ListKeys(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range res.GetKeys() {
					seen[k.GetName()]++
				}
				if pages == 0 && res.GetTotalSize() != 25 {
					t.Errorf("total = %d", res.GetTotalSize())
				}
				if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
					break
				}
				if pages == 2 { // one that was shown goes, one comes
					s.keys = slices.Delete(s.keys, 12, 13)
					s.keys = append(s.keys, listed("r", "k99", 50, nil))
				}
				if pages > 20 {
					t.Fatal("the pages do not end")
				}
			}
			for name, n := range seen {
				if n != 1 {
					t.Errorf("%s was met %d times", name, n)
				}
			}
			if len(seen) < 24 {
				t.Errorf("met %d of 25 keys", len(seen))
			}
		})
	}
}

func TestPageTokensAreBoundToTheirQuery(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	first, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, PageSize: 1})
	if err != nil || first.GetNextPageToken() == "" {
		t.Fatal(first, err)
	}
	token := first.GetNextPageToken()
	if res, err := client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, PageSize: 5, Skip: 1, PageToken: token}); err != nil || ids(res.GetKeys()) != "k4" {
		t.Errorf("another page size and skip: %v %v", res, err)
	}
	flipped := []byte(token)
	flipped[len(flipped)-2] ^= 1
	for name, req := range map[string]*kmsv1.ListKeysRequest{
		"another filter":  {Parent: ringPath, PageToken: token, Filter: "state = ENABLED"},
		"another order":   {Parent: ringPath, PageToken: token, OrderBy: "create_time"},
		"another parent":  {Parent: "projects/p/locations/local/keyRings/-", PageToken: token},
		"with destroyed":  {Parent: ringPath, PageToken: token, ShowDestroyed: true},
		"changed":         {Parent: ringPath, PageToken: string(flipped)},
		"not a token":     {Parent: ringPath, PageToken: "x"},
		"not even base64": {Parent: ringPath, PageToken: "***"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.ListKeys(t.Context(), req)
			if connect.CodeOf(err) != connect.CodeInvalidArgument || reasonOf(t, err) != "BAD_PAGE_TOKEN" {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestListKeyVersions(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	res, err := client.ListKeyVersions(t.Context(), &kmsv1.ListKeyVersionsRequest{Parent: keyPath, MinRevision: 5, Filter: "version <= 1 AND state = ENABLED", OrderBy: "version desc"})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetKeyVersions()) != 1 || res.GetRevision() != 7 {
		t.Fatalf("answer = %v", res)
	}
	v := res.GetKeyVersions()[0]
	if v.GetName() != keyPath+"/versions/1" || !v.GetIsPrimary() || !v.GetUsable() || v.GetState() != kmsv1.KeyVersion_ENABLED || v.GetOrigin() != kmsv1.KeyVersion_GENERATED {
		t.Errorf("version = %v", v)
	}
	if s.read.Operation != "ListKeyVersions" || s.read.Permission != domain.PermissionVersionsList || s.read.MinRevision != 5 {
		t.Errorf("the gate was asked %+v", s.read)
	}
	if _, err := client.ListKeyVersions(t.Context(), &kmsv1.ListKeyVersionsRequest{Parent: keyPath, Filter: "memo = \"x\""}); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("a key's field: %v", err)
	}
}
