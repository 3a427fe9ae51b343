package rpc_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
	"github.com/keyledger/kms/rpc"
)

// shredScript is what the site reports of a shred; an error ends the call at that point.
type shredScript struct {
	ids     []domain.UID
	reports [][]commands.ShredProgress // of each call
	ends    []error
}

func (s *site) Shred(ctx context.Context, c domain.Caller, id domain.UID, noBackupOK bool, report func(commands.ShredProgress) error) error {
	if err := s.called(ctx, c); err != nil {
		return err
	}
	if !noBackupOK {
		return &domain.Error{Reason: domain.ReasonNoBackup, Message: "no backup"}
	}
	call := len(s.shred.ids)
	s.shred.ids = append(s.shred.ids, id)
	for _, p := range s.shred.reports[call] {
		if p.Shred.ID.IsZero() {
			p.Shred.ID = id
		}
		if err := report(p); err != nil {
			return err
		}
	}
	return s.shred.ends[call]
}

func (s *site) ListOrphans(ctx context.Context, c domain.Caller, r commands.Read, after uint64, limit int) ([]commands.Orphan, uint64, error) {
	s.read = r
	all := []commands.Orphan{
		{Project: "hash", KeyUID: domain.UID{1}, MaterialID: domain.UID{2}, StoredTime: time.Unix(3, 0), Sequence: 4, Blob: make([]byte, 5)},
		{Project: "hash", KeyUID: domain.UID{1}, MaterialID: domain.UID{6}, StoredTime: time.Unix(7, 0), Sequence: 8, Blob: make([]byte, 9)},
	}
	all = slices.DeleteFunc(all, func(o commands.Orphan) bool { return o.Sequence <= after })
	if len(all) > limit {
		return all[:limit], all[limit-1].Sequence, s.called(ctx, c)
	}
	return all, 0, s.called(ctx, c)
}

func (s *site) State() commands.SiteState {
	return commands.SiteState{
		Roots: []eventstore.Root{{ID: "old"}, {ID: "new"}},
		Shred: eventstore.Shred{ID: domain.UID{9}, Caller: "admin", NoBackupOK: true, Root: "new", StartTime: time.Unix(1, 0), Adopted: true},
	}
}

func rewrapping(done uint64) commands.ShredProgress {
	return commands.ShredProgress{Shred: eventstore.Shred{Root: "new", Adopted: true}, Done: done, Total: 10}
}

var shredded = commands.ShredProgress{Shred: eventstore.Shred{
	Root: "new", Adopted: true, Rewrapped: true, Living: 10, Orphans: 1, Retired: []string{"old"}, EndTime: time.Unix(2, 0),
}}

// TestRequestShred: the client is told of every step, and joins the same shred again when the connection breaks.
func TestRequestShred(t *testing.T) {
	s := serve(t)
	first := rewrapping(3)
	s.shred = shredScript{
		reports: [][]commands.ShredProgress{{first, first}, {rewrapping(7), shredded}},
		ends:    []error{&domain.Error{Reason: domain.ReasonStoreAway, Message: "away"}, nil},
	}
	var reports []rpc.ShredReport
	err := rpc.RequestShred(t.Context(), http.DefaultClient, s.url, adminKey, true, time.Minute, func(r rpc.ShredReport) { reports = append(reports, r) })
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 3 || reports[0].Done != 3 || reports[0].Total != 10 || reports[0].Step != "REWRAP" || reports[1].Done != 7 || !reports[2].Finished ||
		reports[2].Living != 10 || reports[2].Orphans != 1 || !slices.Equal(reports[2].OldRoots, []string{"old"}) || reports[2].Joined {
		t.Errorf("reports: %+v", reports)
	}
	if ids := s.shred.ids; len(ids) != 2 || ids[0] != ids[1] || ids[0].IsZero() {
		t.Errorf("request ids %v, want the same one twice", ids)
	}
}

// TestRequestShredJoins: after another's shred is joined, a broken connection does not begin one of the caller's own.
func TestRequestShredJoins(t *testing.T) {
	s := serve(t)
	running, done := rewrapping(3), shredded
	running.Shred.ID, done.Shred.ID = domain.UID{8, 6: 0x70, 8: 0x80}, domain.UID{8, 6: 0x70, 8: 0x80}
	s.shred = shredScript{
		reports: [][]commands.ShredProgress{{running}, {done}},
		ends:    []error{nil, nil}, // as if the server had been stopped
	}
	joined := false
	err := rpc.RequestShred(t.Context(), http.DefaultClient, s.url, adminKey, true, time.Minute, func(r rpc.ShredReport) { joined = r.Joined })
	if err != nil || !joined {
		t.Errorf("joined: %t, %v", joined, err)
	}
	if s.shred.ids[1] != running.Shred.ID {
		t.Errorf("the second call is for %s, want %s", s.shred.ids[1], running.Shred.ID)
	}
}

func TestRequestShredRefused(t *testing.T) {
	s := serve(t)
	err := rpc.RequestShred(t.Context(), http.DefaultClient, s.url, adminKey, false, time.Minute, func(rpc.ShredReport) { t.Error("reported") })
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("without a backup: %v", err)
	}
	err = rpc.RequestShred(t.Context(), http.DefaultClient, s.url, "wrong", true, time.Minute, func(rpc.ShredReport) { t.Error("reported") })
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("with a wrong credential: %v", err)
	}
	err = rpc.RequestShred(t.Context(), http.DefaultClient, "http://127.0.0.1:1", adminKey, true, 0, func(rpc.ShredReport) { t.Error("reported") })
	if err == nil || connect.IsWireError(err) {
		t.Errorf("with no server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rpc.RequestShred(ctx, http.DefaultClient, s.url, adminKey, true, time.Minute, func(rpc.ShredReport) {}); err == nil {
		t.Error("canceled: no error")
	}
}

// TestListOrphans reads them page by page.
func TestListOrphans(t *testing.T) {
	s := serve(t)
	client := kmsv1connect.NewKeyServiceClient(&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url)
	first, err := client.ListOrphans(t.Context(), &kmsv1.ListOrphansRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if o := first.GetOrphans(); len(o) != 1 || o[0].GetMaterialId() != (domain.UID{2}).String() || o[0].GetKeyUid() != (domain.UID{1}).String() ||
		o[0].GetProjectHash() != "hash" || o[0].GetStoreTime().GetSeconds() != 3 || o[0].GetSize() != 5 {
		t.Errorf("first page: %v", o)
	}
	second, err := client.ListOrphans(t.Context(), &kmsv1.ListOrphansRequest{PageToken: first.GetNextPageToken()})
	if err != nil || len(second.GetOrphans()) != 1 || second.GetOrphans()[0].GetSize() != 9 || second.GetNextPageToken() != "" {
		t.Errorf("second page: %v, %v", second, err)
	}
	if s.read.Operation != "ListOrphans" || s.read.Permission != domain.PermissionOrphansList {
		t.Errorf("authorized as %+v", s.read)
	}
	if _, err := client.ListOrphans(t.Context(), &kmsv1.ListOrphansRequest{PageToken: "x"}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("with a bad token: %v", err)
	}
}

// TestServerInfoShowsRoots: and the shred.
func TestServerInfoShowsRoots(t *testing.T) {
	s := serve(t)
	info, err := kmsv1connect.NewSystemServiceClient(&http.Client{Transport: bearer{adminKey, h2c(t)}}, s.url).GetServerInfo(t.Context(), &kmsv1.GetServerInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	shred := info.GetShred()
	if !slices.Equal(info.GetRoots(), []string{"old", "new"}) || shred.GetStep() != kmsv1.ShredProgress_REWRAP || shred.GetNewRoot() != "new" ||
		shred.GetPrincipal() != "admin" || !shred.GetNoBackupOk() || shred.GetStartTime().GetSeconds() != 1 || shred.GetEndTime() != nil {
		t.Errorf("info: %v", info)
	}
}
