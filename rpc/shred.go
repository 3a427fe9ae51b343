package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
	"github.com/keyledger/kms/proto/gen/kms/v1/kmsv1connect"
)

// Roots is what this package needs of commands.Roots. As with Commands, its methods authorize and record.
type Roots interface {
	// Shred begins a shred or joins the one that runs, and reports until it is done.
	Shred(ctx context.Context, caller domain.Caller, requestID domain.UID, noBackupOK bool, report func(commands.ShredProgress) error) error
	// ListOrphans returns material that no event names, at most limit pieces, and after what there is more; zero: nowhere.
	ListOrphans(ctx context.Context, caller domain.Caller, r commands.Read, after uint64, limit int) (orphans []commands.Orphan, next uint64, err error)
	// State is the site as this node knows it.
	State() commands.SiteState
}

func (y *systemService) Shred(ctx context.Context, r *kmsv1.ShredRequest, stream *connect.ServerStream[kmsv1.ShredProgress]) error {
	m, err := mutation(r.GetRequestId(), "")
	if err != nil {
		return err
	}
	var sent *kmsv1.ShredProgress
	return y.s.cfg.Roots.Shred(ctx, callerOf(ctx), m.RequestID, r.GetNoBackupOk(), func(p commands.ShredProgress) error {
		next := shredProto(p)
		if sent != nil && sent.GetStep() == next.GetStep() && sent.GetDone() == next.GetDone() && sent.GetWaiting() == next.GetWaiting() {
			return nil
		}
		sent = next
		return stream.Send(next)
	})
}

var shredSteps = map[commands.ShredStep]kmsv1.ShredProgress_Step{
	commands.ShredNone:     kmsv1.ShredProgress_STEP_UNSPECIFIED,
	commands.ShredMakeRoot: kmsv1.ShredProgress_MAKE_ROOT,
	commands.ShredAdopt:    kmsv1.ShredProgress_ADOPT_ROOT,
	commands.ShredRewrap:   kmsv1.ShredProgress_REWRAP,
	commands.ShredRelease:  kmsv1.ShredProgress_DESTROY_ROOTS,
	commands.ShredDone:     kmsv1.ShredProgress_DONE,
}

// shredProto is a shred as the API shows it.
func shredProto(p commands.ShredProgress) *kmsv1.ShredProgress {
	s := p.Shred
	out := &kmsv1.ShredProgress{
		ShredId: s.ID.String(), Step: shredSteps[s.Step()], StartTime: timeProto(s.StartTime), EndTime: timeProto(s.EndTime),
		Principal: s.Caller, NoBackupOk: s.NoBackupOK, NewRoot: s.Root, OldRoots: s.Retired, Living: s.Living, Orphans: s.Orphans,
	}
	if s.Running() {
		out.Waiting = p.Waiting
	}
	if s.Step() == commands.ShredRewrap {
		out.Done, out.Total = p.Done, p.Total
	}
	return out
}

// describeRoots adds what is known of the site's roots.
func (y *systemService) describeRoots(info *kmsv1.ServerInfo) {
	site := y.s.cfg.Roots.State()
	for _, r := range site.Roots {
		info.Roots = append(info.Roots, r.ID)
	}
	if site.Shred.Step() != commands.ShredNone {
		info.Shred = shredProto(commands.ShredProgress{Shred: site.Shred})
	}
}

func (k *keyService) ListOrphans(ctx context.Context, r *kmsv1.ListOrphansRequest) (*kmsv1.ListOrphansResponse, error) {
	const query = "ListOrphans"
	var after uint64
	if token := r.GetPageToken(); token != "" {
		position, err := k.s.pages.open(token, query)
		if err != nil {
			return nil, err
		}
		if after, err = strconv.ParseUint(position, 10, 64); err != nil {
			return nil, errPageToken
		}
	}
	limit := int(r.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	orphans, next, err := k.s.cfg.Roots.ListOrphans(ctx, callerOf(ctx), callFrom(ctx).read(domain.KeyRef{}), after, limit)
	if err != nil {
		return nil, err
	}
	out := &kmsv1.ListOrphansResponse{}
	for _, o := range orphans {
		out.Orphans = append(out.Orphans, &kmsv1.Orphan{
			MaterialId: o.MaterialID.String(), KeyUid: o.KeyUID.String(), ProjectHash: o.Project,
			StoreTime: timeProto(o.StoredTime), Size: int32(len(o.Blob)), //nolint:gosec // material has at most 60 KiB
		})
	}
	if next != 0 {
		out.NextPageToken = k.s.pages.seal(strconv.FormatUint(next, 10), query)
	}
	return out, nil
}

// unlimited lets a stream last as long as its caller wants: the server's time-outs are for single answers.
func unlimited(w http.ResponseWriter) error {
	c := http.NewResponseController(w)
	return errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}))
}

// ShredReport is what a client of a shred is told.
type ShredReport struct {
	Step             string // as the API names it
	Done, Total      uint64 // of the pass that is being made; zero: not known
	Waiting          string
	OldRoots         []string
	Living, Orphans  uint64
	Finished, Joined bool // Joined: the shred was begun by another call
}

// rejoinPause is how long a client of a shred waits before it calls again.
const rejoinPause = time.Second

// RequestShred asks the server at url for a shred and reports until it is done. When the connection breaks, or the server is
// restarted, it asks again until patience has gone by without an answer: asking again joins the same shred. An error that
// the server has answered with is returned as it is told to callers.
func RequestShred(ctx context.Context, c connect.HTTPClient, url, credential string, noBackupOK bool, patience time.Duration, report func(ShredReport)) error {
	client := kmsv1connect.NewSystemServiceClient(c, url)
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("making an id for the shred: %w", err)
	}
	req := &kmsv1.ShredRequest{NoBackupOk: noBackupOK, RequestId: id.String()}
	for heard := time.Now(); ; {
		err := askShred(ctx, client, req, credential, func(p *kmsv1.ShredProgress) {
			heard = time.Now()
			joined := p.GetShredId() != id.String()
			req.RequestId = p.GetShredId() // also when another one is joined: no new one is begun after it
			report(ShredReport{
				Step: p.GetStep().String(), Done: p.GetDone(), Total: p.GetTotal(), Waiting: p.GetWaiting(), OldRoots: p.GetOldRoots(),
				Living: p.GetLiving(), Orphans: p.GetOrphans(), Finished: p.GetStep() == kmsv1.ShredProgress_DONE, Joined: joined,
			})
		})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable || time.Since(heard) > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rejoinPause):
		}
	}
}

// errUnfinished: the stream ended as if the shred were done, and it was not.
var errUnfinished = errors.New("the server ended the connection")

// askShred makes one call. It returns nil when the shred is done.
func askShred(ctx context.Context, client kmsv1connect.SystemServiceClient, req *kmsv1.ShredRequest, credential string, heard func(*kmsv1.ShredProgress)) (err error) {
	ctx, call := connect.NewClientContext(ctx)
	call.RequestHeader().Set("Authorization", "Bearer "+credential)
	stream, err := client.Shred(ctx, req)
	if err != nil {
		return err
	}
	defer func() {
		if end := stream.Close(); err == nil {
			err = end
		}
	}()
	for stream.Receive() {
		heard(stream.Msg())
		if stream.Msg().GetStep() == kmsv1.ShredProgress_DONE {
			return nil
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return errUnfinished
}
