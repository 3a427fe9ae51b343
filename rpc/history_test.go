package rpc_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/rpc"
)

func (s *site) ListKeysAsOf(ctx context.Context, c domain.Caller, r commands.Read, keys iter.Seq[*eventstore.KeyState], list func(iter.Seq[*eventstore.KeyState]) error) error {
	s.read = r
	if err := s.called(ctx, c); err != nil {
		return err
	}
	return list(func(yield func(*eventstore.KeyState) bool) {
		for k := range keys {
			s.looked = append(s.looked, k.Key.Name.ID)
			then := *k
			then.Key.Memo = "then"
			if !yield(&then) {
				return
			}
		}
	})
}

func (s *site) GetKeyHistory(ctx context.Context, c domain.Caller, r commands.Read, after eventstore.Revision, limit int) (commands.KeyHistory, error) {
	s.read = r
	history := commands.KeyHistory{Key: s.state(r.Ref)}
	if s.uid != (domain.UID{}) {
		history.Key.Key.UID = s.uid
	}
	for _, commit := range s.commits {
		if commit.Revision > after {
			history.Commits = append(history.Commits, commit)
		}
	}
	if history.More = len(history.Commits) > limit; history.More {
		history.Commits = history.Commits[:limit]
	}
	return history, s.called(ctx, c)
}

func (s *site) WatchKeys(ctx context.Context, c domain.Caller, r commands.Read, ring domain.RingName, after eventstore.Revision, send func(commands.WatchUpdate) error) error {
	s.read = r
	if err := s.called(ctx, c); err != nil {
		return err
	}
	if s.updates == nil {
		return errors.New("nothing to watch")
	}
	return s.updates(ctx, after, send)
}

// TestAsOf: what a request says of the past reaches the command; what can't be is refused and recorded.
func TestAsOf(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	at := time.Date(2026, 1, 3, 4, 5, 6, 7000, time.UTC)
	revision, moment := &kmsv1.GetKeyRequest_AsOfRevision{AsOfRevision: 5}, &kmsv1.GetKeyRequest_AsOfTime{AsOfTime: timestamppb.New(at)}
	for name, tt := range map[string]struct {
		ask  func() error
		want commands.Read
	}{
		"key at a revision": {func() error {
			return second(client.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: keyPath, AsOf: revision}))
		}, commands.Read{Operation: "GetKey", AsOf: commands.Moment{Revision: 5}}},
		"key at a time": {func() error {
			return second(client.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: keyPath, AsOf: moment}))
		}, commands.Read{Operation: "GetKey", AsOf: commands.Moment{Time: at}}},
		"key now": {func() error { return second(client.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: keyPath})) }, commands.Read{Operation: "GetKey"}},
		"version at a revision": {func() error {
			return second(client.GetKeyVersion(t.Context(), &kmsv1.GetKeyVersionRequest{Name: keyPath + "/versions/1", AsOf: &kmsv1.GetKeyVersionRequest_AsOfRevision{AsOfRevision: 5}}))
		}, commands.Read{Operation: "GetKeyVersion", AsOf: commands.Moment{Revision: 5}}},
		"versions at a time": {func() error {
			return second(client.ListKeyVersions(t.Context(), &kmsv1.ListKeyVersionsRequest{Parent: keyPath, AsOf: &kmsv1.ListKeyVersionsRequest_AsOfTime{AsOfTime: timestamppb.New(at)}}))
		}, commands.Read{Operation: "ListKeyVersions", AsOf: commands.Moment{Time: at}}},
		"keys at a time": {func() error {
			return second(client.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: ringPath, AsOf: &kmsv1.ListKeysRequest_AsOfTime{AsOfTime: timestamppb.New(at)}}))
		}, commands.Read{Operation: "ListKeys", AsOf: commands.Moment{Time: at}}},
		"count at a revision": {func() error {
			return second(client.CountKeys(t.Context(), &kmsv1.CountKeysRequest{Parent: ringPath, AsOf: &kmsv1.CountKeysRequest_AsOfRevision{AsOfRevision: 5}}))
		}, commands.Read{Operation: "CountKeys", AsOf: commands.Moment{Revision: 5}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.ask(); err != nil {
				t.Fatal(err)
			}
			if s.read.Operation != tt.want.Operation || s.read.AsOf.Revision != tt.want.AsOf.Revision || !s.read.AsOf.Time.Equal(tt.want.AsOf.Time) {
				t.Errorf("the gate was asked %+v", s.read)
			}
		})
	}
	for name, tt := range map[string]struct{ path, query, reason string }{
		"both":                {"/api/v1/" + keyPath, "as_of_revision=5&as_of_time=2026-01-03T04:05:06Z", "BAD_FIELD"},
		"revision 0":          {"/api/v1/" + keyPath, "as_of_revision=0", "BAD_FIELD"},
		"a negative revision": {"/api/v1/" + keyPath, "as_of_revision=-1", "BAD_FIELD"},
		"not a time":          {"/api/v1/" + ringPath + "/keys", "as_of_time=yesterday", "BAD_FIELD"},
		"list both":           {"/api/v1/" + ringPath + "/keys", "as_of_revision=5&as_of_time=2026-01-03T04:05:06Z", "BAD_FIELD"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.recorded())
			a := s.send(t, "GET", tt.path+"?"+tt.query, "")
			if a.status != http.StatusBadRequest || !strings.Contains(a.body, tt.reason) {
				t.Errorf("answer = %d %s", a.status, a.body)
			}
			if got := s.recorded(); len(got) != before+1 {
				t.Errorf("recorded %+v", got[before:])
			}
		})
	}
	if a := s.send(t, "GET", "/api/v1/"+keyPath+"?as_of_time="+url.QueryEscape(at.Format(time.RFC3339Nano)), ""); a.status != http.StatusOK || !s.read.AsOf.Time.Equal(at) {
		t.Errorf("over REST: %d %s, asked %+v", a.status, a.body, s.read)
	}
	_, err := client.GetKey(t.Context(), &kmsv1.GetKeyRequest{Name: keyPath, AsOf: &kmsv1.GetKeyRequest_AsOfTime{AsOfTime: &timestamppb.Timestamp{Seconds: 1 << 60}}})
	if reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("a time beyond all calendars: %v", err)
	}
}

// TestListsOfThePast: they are filtered by what was then, their pages are of one moment, and what the pages before have
// shown is not looked at again.
func TestListsOfThePast(t *testing.T) {
	s := serve(t)
	s.keys = someKeys()
	client := s.keyClient(t)
	asOf := func(rev uint64) *kmsv1.ListKeysRequest {
		return &kmsv1.ListKeysRequest{Parent: ringPath, PageSize: 1, Filter: `memo = "then"`, AsOf: &kmsv1.ListKeysRequest_AsOfRevision{AsOfRevision: rev}}
	}
	first, err := client.ListKeys(t.Context(), asOf(5))
	if err != nil || ids(first.GetKeys()) != "k1" || first.GetRevision() != 5 {
		t.Fatalf("%v, %v", first, err)
	}
	req := asOf(5)
	req.PageToken, s.looked = first.GetNextPageToken(), nil
	next, err := client.ListKeys(t.Context(), req)
	if err != nil || ids(next.GetKeys()) != "k2" {
		t.Fatalf("%v, %v", next, err)
	}
	if got := strings.Join(s.looked, " "); strings.Contains(got, "k1") {
		t.Errorf("the second page looked at %s", got)
	}
	for name, change := range map[string]func(*kmsv1.ListKeysRequest){
		"another revision": func(r *kmsv1.ListKeysRequest) { r.AsOf = &kmsv1.ListKeysRequest_AsOfRevision{AsOfRevision: 6} },
		"a time": func(r *kmsv1.ListKeysRequest) {
			r.AsOf = &kmsv1.ListKeysRequest_AsOfTime{AsOfTime: timestamppb.Now()}
		},
		"now": func(r *kmsv1.ListKeysRequest) { r.AsOf = nil },
	} {
		req := asOf(5)
		req.PageToken = first.GetNextPageToken()
		change(req)
		if _, err := client.ListKeys(t.Context(), req); reasonOf(t, err) != "BAD_PAGE_TOKEN" {
			t.Errorf("%s: %v", name, err)
		}
	}
	all := asOf(5)
	all.PageSize, all.IncludeTotalSize, all.OrderBy = 10, true, "name desc"
	if res, err := client.ListKeys(t.Context(), all); err != nil || ids(res.GetKeys()) != "k4 k2 k1" || res.GetTotalSize() != 3 {
		t.Errorf("%v, %v", res, err)
	}
	count, err := client.CountKeys(t.Context(), &kmsv1.CountKeysRequest{Parent: ringPath, ShowDestroyed: true, Filter: `memo = "then"`, AsOf: &kmsv1.CountKeysRequest_AsOfTime{AsOfTime: timestamppb.Now()}})
	if err != nil || count.GetCount() != 4 || count.GetRevision() != 99 {
		t.Errorf("%v, %v", count, err)
	}
}

// allEvents are one of each, every field of which says something.
func allEvents(t *testing.T) (events []domain.Event) {
	t.Helper()
	known := map[string]domain.Event{}
	for _, e := range []domain.Event{
		domain.KeyCreated{},
		domain.KeyVersionAdded{},
		domain.PrimaryVersionSet{},
		domain.KeyEnabled{},
		domain.KeyDisabled{},
		domain.KeyVersionEnabled{},
		domain.KeyVersionDisabled{},
		domain.KeyDeletionScheduled{},
		domain.KeyDeletionCanceled{},
		domain.KeyDestroyed{},
		domain.KeyUpdated{},
		domain.KeyArchived{},
		domain.KeyUnarchived{},
		domain.KeyExpired{},
		domain.KeyExpiryChanged{},
		domain.KeyManagerChanged{},
		domain.KeyImportAwaited{},
		domain.AutoRotationEnabled{},
		domain.AutoRotationDisabled{},
		domain.RotationPeriodChanged{},
		domain.RotationScheduled{},
		domain.MaxUsesChanged{},
		domain.UsesLeased{},
		domain.KeyVersionDestructionScheduled{},
		domain.KeyVersionRestored{},
		domain.KeyVersionDestroyed{},
		domain.KeyVersionImported{},
		domain.KeyMaterialDeleted{},
		domain.UsageBound{},
		domain.UsageUnbound{},
		domain.MaterialErased{},
		domain.MaterialErasureFailed{},
	} {
		v := reflect.New(reflect.TypeOf(e)).Elem()
		fill(t, v)
		e, _ = reflect.TypeAssert[domain.Event](v)
		known[v.Type().Name()], events = e, append(events, e)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../domain/events.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil && fn.Name.Name == "isEvent" {
			if name := fn.Recv.List[0].Type.(*ast.Ident).Name; known[name] == nil {
				t.Errorf("domain.%s is not among the events that are shown here", name)
			}
		}
	}
	return events
}

// fill makes every field something else than zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)))
		return
	case time.Duration:
		v.Set(reflect.ValueOf(36 * time.Hour))
		return
	}
	switch v.Kind() { //nolint:exhaustive // what events hold
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(1))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"team": "pay"}))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32:
		v.SetInt(3)
	case reflect.Uint64:
		v.SetUint(1 << 60)
	case reflect.Uint8:
		v.SetUint(7)
	default:
		t.Fatalf("what to put into a %s?", v.Type())
	}
}

// TestGetKeyHistory: every kind of event shows with all that it says, in pages that stay as they are.
func TestGetKeyHistory(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for i, e := range append(allEvents(t), nil) {
		commit := commands.Commit{
			Revision: commands.Revision(10 + i), Operation: "RotateKey", Time: at, StoredTime: at.Add(time.Second), Version: 3, RequestID: domain.UID{1}, GrantedBy: "admin",
			Caller: domain.Caller{
				Principal: "admin", Kind: domain.KindAdmin, Address: netip.MustParseAddr("10.1.2.3"), UserAgent: "agent", RequestID: domain.UID{2},
				ClientRequestID: "mine", CorrelationID: "ours", TraceID: [16]byte{3},
			},
			Lineage: domain.UID{4}, Hash: [32]byte{byte(i + 1)}, Prev: [32]byte{byte(i)},
		}
		if e != nil {
			commit.Events = []domain.Event{e}
		}
		s.commits = append(s.commits, commit)
	}
	req := &kmsv1.GetKeyHistoryRequest{Name: keyPath, PageSize: 20, MinRevision: 6}
	first, err := client.GetKeyHistory(t.Context(), req)
	if err != nil || len(first.GetCommits()) != 20 || first.GetNextPageToken() == "" || first.GetRevision() != 7 {
		t.Fatalf("%d commits, %v", len(first.GetCommits()), err)
	}
	if s.read.Operation != "GetKeyHistory" || s.read.Permission != domain.PermissionKeysGetHistory || s.read.MinRevision != 6 {
		t.Errorf("the gate was asked %+v", s.read)
	}
	second := proto.CloneOf(req)
	second.PageToken, second.PageSize = first.GetNextPageToken(), 0
	rest, err := client.GetKeyHistory(t.Context(), second)
	if err != nil || rest.GetNextPageToken() != "" || len(rest.GetCommits()) != len(s.commits)-20 {
		t.Fatalf("the second page: %v, %v", rest, err)
	}
	for i, c := range append(first.GetCommits(), rest.GetCommits()...) {
		stored := s.commits[i]
		if c.GetRevision() != uint64(stored.Revision) || c.GetEtag() != commands.EtagAfter(stored) || c.GetHash()[0] != byte(i+1) || (i > 0) != (len(c.GetPreviousHash()) == 32) {
			t.Errorf("commit %d: %v", i, c)
		}
		if len(stored.Events) == 0 {
			if len(c.GetEvents()) != 0 {
				t.Errorf("commit %d has events %v", i, c.GetEvents())
			}
			continue
		}
		want := reflect.TypeOf(stored.Events[0])
		if e := c.GetEvents()[0]; e.GetName() != want.Name() || len(e.GetFields().GetFields()) != want.NumField() {
			t.Errorf("event %s shows as %v", want.Name(), e)
		}
	}
	a := s.send(t, "GET", "/api/v1/"+keyPath+"/history?page_size=1", "")
	var body map[string]any
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	got, err := json.Marshal(body["commits"])
	if err != nil {
		t.Fatal(err)
	}
	uid := "07070707-0707-0707-0707-070707070707"
	bytes32 := strings.Repeat("07", 32)
	want := `[{"clientAddress":"10.1.2.3","clientRequestId":"mine","correlationId":"ours","etag":"ra","events":[{"fields":{` +
		`"algorithm":"x","creator":"x","destroy_wait":"129600s","display_name":"x","expire_time":"2026-01-02T03:04:05.000006Z",` +
		`"import_only":true,"labels":{"team":"pay"},"ledger_tag":"` + bytes32 + `","managed_by":"x","max_uses_per_version":"1152921504606846976","memo":"x",` +
		`"name":"projects/x/locations/x/keyRings/x/keys/x","next_rotation_time":"2026-01-02T03:04:05.000006Z","protection":"x","purpose":"x","rotation_period":"129600s",` +
		`"uid":"` + uid + `"},"name":"KeyCreated"}],"grantedBy":"admin","hash":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","idempotencyId":"01000000-0000-0000-0000-000000000000",` +
		`"lineage":"04000000-0000-0000-0000-000000000000","operation":"RotateKey","previousHash":"","principal":"admin","principalKind":"ADMIN","requestId":"02000000-0000-0000-0000-000000000000",` +
		`"revision":"10","storedTime":"2026-01-02T03:04:06.000006Z","time":"2026-01-02T03:04:05.000006Z","traceId":"03000000000000000000000000000000","userAgent":"agent","version":3}]`
	if string(got) != want {
		t.Errorf("over REST:\n%s\nwant\n%s", got, want)
	}
	for name, change := range map[string]func(*kmsv1.GetKeyHistoryRequest){
		"another key":   func(r *kmsv1.GetKeyHistoryRequest) { r.Name = ringPath + "/keys/other" },
		"not a token":   func(r *kmsv1.GetKeyHistoryRequest) { r.PageToken = "x" },
		"a moved alias": func(*kmsv1.GetKeyHistoryRequest) { s.uid = domain.UID{99} },
	} {
		again := proto.CloneOf(second)
		change(again)
		if _, err := client.GetKeyHistory(t.Context(), again); reasonOf(t, err) != "BAD_PAGE_TOKEN" {
			t.Errorf("%s: %v", name, err)
		}
		s.uid = domain.UID{}
	}
	if _, err := client.GetKeyHistory(t.Context(), &kmsv1.GetKeyHistoryRequest{Name: keyPath, PageSize: 1001}); reasonOf(t, err) != "BAD_FIELD" {
		t.Errorf("too large a page: %v", err)
	}
}

// watchOf is a watch that tells these changes and then waits.
func watchOf(changes ...commands.KeyChange) func(context.Context, eventstore.Revision, func(commands.WatchUpdate) error) error {
	return func(ctx context.Context, _ eventstore.Revision, send func(commands.WatchUpdate) error) error {
		for _, change := range changes {
			if err := send(commands.WatchUpdate{Revision: change.Commit.Revision, Change: &change}); err != nil {
				return err
			}
		}
		if err := send(commands.WatchUpdate{Revision: 50, CaughtUp: true}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

// TestWatchKeys over every protocol: changes with what they were, those that the filter leaves out left out, progress, and
// an end when the server stops.
func TestWatchKeys(t *testing.T) {
	state := func(rev eventstore.Revision, s domain.KeyState) eventstore.KeyState {
		k := keyState(domain.KeyName{Project: "p", Location: "local", Ring: "r", ID: "k"}, rev, day0)
		k.Key.State = s
		return k
	}
	commit := func(rev eventstore.Revision, events ...domain.Event) commands.Commit {
		return commands.Commit{Revision: rev, Time: day0, Operation: "Op", Events: events}
	}
	enabled, disabled, destroyed := domain.KeyStateEnabled, domain.KeyStateDisabled, domain.KeyStateDestroyed
	changes := []commands.KeyChange{
		{After: state(10, enabled), Commit: commit(10, domain.KeyCreated{}, domain.KeyVersionAdded{})},
		{Before: state(10, enabled), After: state(11, disabled), Commit: commit(11, domain.KeyDisabled{})},
		{Before: state(11, disabled), After: state(12, disabled), Commit: commit(12)},
		{Before: state(12, disabled), After: state(13, destroyed), Commit: commit(13, domain.KeyDestroyed{})},
	}
	for protocol, option := range map[string]connect.ClientOption{"gRPC": connect.WithGRPC(), "gRPC-Web": connect.WithGRPCWeb(), "Connect": connect.WithProtoJSON()} {
		for filter, want := range map[string]string{
			"":                 "created ENABLED KeyCreated KeyVersionAdded; DISABLED KeyDisabled; DISABLED; DESTROYED KeyDestroyed; ",
			"state = ENABLED":  "created ENABLED KeyCreated KeyVersionAdded; removed DISABLED KeyDisabled; ",
			"state = DISABLED": "DISABLED KeyDisabled; DISABLED; removed DESTROYED KeyDestroyed; ",
		} {
			t.Run(protocol+" "+filter, func(t *testing.T) {
				s := serve(t)
				s.updates = watchOf(changes...)
				stream, err := s.keyClient(t, option).WatchKeys(t.Context(), &kmsv1.WatchKeysRequest{Parent: ringPath, StartRevision: 9, Filter: filter})
				if err != nil {
					t.Fatal(err)
				}
				var got strings.Builder
				for stream.Receive() {
					m := stream.Msg()
					if p := m.GetProgress(); p != nil {
						if m.GetRevision() != 50 || !p.GetCaughtUp() {
							t.Errorf("progress %v", m)
						}
						break
					}
					c := m.GetChange()
					if c.GetCreated() {
						got.WriteString("created ")
					}
					if c.GetRemoved() {
						got.WriteString("removed ")
					}
					got.WriteString(strings.Join(append([]string{c.GetKey().GetState().String()}, c.GetEvents()...), " ") + "; ")
					if m.GetRevision() != c.GetKey().GetRevision() || c.GetOperation() != "Op" || !c.GetTime().AsTime().Equal(day0) {
						t.Errorf("change %v", m)
					}
				}
				if got.String() != want {
					t.Errorf("told %q, want %q; %v", got.String(), want, stream.Err())
				}
				s.handler.EndStreams()
				for stream.Receive() {
				}
				if err := stream.Err(); connect.CodeOf(err) != connect.CodeUnavailable || reasonOf(t, err) != "STOPPING" {
					t.Errorf("at the end: %v", err)
				}
			})
		}
	}
}

// TestWatchRefusals: they come as errors of the stream, and are recorded with what was meant.
func TestWatchRefusals(t *testing.T) {
	s := serve(t)
	client := s.keyClient(t)
	ask := func(req *kmsv1.WatchKeysRequest) error {
		t.Helper()
		stream, err := client.WatchKeys(t.Context(), req)
		if err == nil {
			for stream.Receive() {
			}
			err = stream.Err()
		}
		return err
	}
	for name, tt := range map[string]struct {
		req    *kmsv1.WatchKeysRequest
		reason string
	}{
		"a bad filter":     {&kmsv1.WatchKeysRequest{Parent: ringPath, Filter: "colour = red"}, "BAD_FIELD"},
		"a bad name":       {&kmsv1.WatchKeysRequest{Parent: ringPath + "/keys/k"}, "BAD_NAME"},
		"a long filter":    {&kmsv1.WatchKeysRequest{Parent: ringPath, Filter: strings.Repeat("x", 3000)}, "BAD_FIELD"},
		"another location": {&kmsv1.WatchKeysRequest{Parent: strings.Replace(ringPath, "local", "mars", 1)}, "WRONG_LOCATION"},
	} {
		before := len(s.recorded())
		if err := ask(tt.req); reasonOf(t, err) != tt.reason {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.recorded(); len(got) != before+1 || got[before].read.Operation != "WatchKeys" || (tt.reason == "BAD_FIELD" && got[before].read.Ref.Name.Ring != "r") {
			t.Errorf("%s: recorded %+v", name, got[before:])
		}
	}
	s.fail = &domain.Error{Reason: domain.ReasonFutureMoment, Message: "not yet"}
	if err := ask(&kmsv1.WatchKeysRequest{Parent: ringPath, StartRevision: 1000}); connect.CodeOf(err) != connect.CodeInvalidArgument || reasonOf(t, err) != "FUTURE_MOMENT" {
		t.Errorf("a revision to come: %v", err)
	}
	if a := s.send(t, "POST", "/api/v1/"+ringPath+"/keys:watch", "{}"); a.status != http.StatusNotFound {
		t.Errorf("over REST: %d %s", a.status, a.body)
	}
}

// TestSlowWatch: a caller who does not read is cut off, with what was read intact; one who reads again late is told where
// to go on.
func TestSlowWatch(t *testing.T) {
	const patience = time.Second
	big := keyState(domain.KeyName{Project: "p", Location: "local", Ring: "r", ID: "k"}, 10, day0)
	noise := make([]byte, 256<<10) // does not compress
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	big.Key.Memo = base64.StdEncoding.EncodeToString(noise)
	for name, late := range map[string]bool{"late": true, "never": false} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c *rpc.Config) { c.StreamPatience = patience })
			var sending atomic.Int64 // since when, in Unix nanoseconds
			ended := make(chan error, 1)
			s.updates = func(_ context.Context, _ eventstore.Revision, send func(commands.WatchUpdate) error) error {
				for rev := eventstore.Revision(1); ; rev++ {
					sending.Store(time.Now().UnixNano())
					err := send(commands.WatchUpdate{Revision: rev, Change: &commands.KeyChange{After: big, Commit: commands.Commit{Revision: rev}}})
					if err != nil {
						ended <- err
						return err
					}
				}
			}
			stream, err := s.keyClient(t, connect.WithGRPC()).WatchKeys(t.Context(), &kmsv1.WatchKeysRequest{Parent: ringPath})
			if err != nil || !stream.Receive() {
				t.Fatal(err, stream.Err())
			}
			if late {
				for time.Since(time.Unix(0, sending.Load())) < patience*6/5 {
					time.Sleep(patience / 20)
				}
				for stream.Receive() {
				}
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the watch ended without a cause")
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the watch goes on")
			}
			if err := stream.Err(); late && (connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "start_revision")) {
				t.Errorf("read late: %v", err)
			}
		})
	}
}
