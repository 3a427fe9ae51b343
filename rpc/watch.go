package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// DefaultStreamPatience is how long one message of a stream may take to be read when Config.StreamPatience is zero.
const DefaultStreamPatience = 15 * time.Second

var errStopping = &domain.Error{Reason: domain.ReasonStopping, Message: "this server is being stopped; watch on another node, from the newest revision that was sent"}

// EndStreams ends the streams that last as long as their callers want, so that the server can be shut down. It is for
// http.Server.RegisterOnShutdown.
func (s *Server) EndStreams() { s.endStreams() }

func (k *keyService) WatchKeys(ctx context.Context, r *kmsv1.WatchKeysRequest, stream *connect.ServerStream[kmsv1.WatchKeysResponse]) error {
	ring, err := k.s.ringName(r.GetParent())
	if err != nil {
		return err
	}
	filter, err := keyLists.prepare(listQuery{filter: r.GetFilter()}, k.s.pages)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(k.s.streams, func() { cancel(errStopping) })()
	read := callFrom(ctx).read(domain.KeyRef{Name: ring.Key("")})
	err = k.s.cfg.Commands.WatchKeys(ctx, callerOf(ctx), read, ring, commands.Revision(r.GetStartRevision()), func(update commands.WatchUpdate) error {
		message := updateProto(update, filter)
		if message == nil {
			return nil
		}
		return k.sendInTime(ctx, stream, message)
	})
	if errors.Is(context.Cause(ctx), errStopping) {
		return errStopping
	}
	return err
}

// updateProto is an update as the API shows it; nil if it is of a key that the filter never matched.
func updateProto(u commands.WatchUpdate, filter *list[*commands.KeyState]) *kmsv1.WatchKeysResponse {
	out := &kmsv1.WatchKeysResponse{Revision: uint64(u.Revision)}
	if u.Change == nil {
		out.Update = &kmsv1.WatchKeysResponse_Progress_{Progress: &kmsv1.WatchKeysResponse_Progress{CaughtUp: u.CaughtUp}}
		return out
	}
	before, after, commit := u.Change.Before, u.Change.After, u.Change.Commit
	created := before.Revision == 0
	matched, matches := !created && filter.match(&before), filter.match(&after)
	if !matched && !matches {
		return nil
	}
	change := &kmsv1.WatchKeysResponse_Change{
		Key: keyProto(after, commit.Time), Time: timeProto(commit.Time), Operation: commit.Operation, Removed: !matches, Created: created,
	}
	for _, e := range commit.Events {
		change.Events = append(change.Events, eventName(e))
	}
	out.Update = &kmsv1.WatchKeysResponse_Change_{Change: change}
	return out
}

// sendInTime sends a message, and refuses to go on with a caller who is too slow: the log keeps what comes meanwhile, not
// this server.
func (k *keyService) sendInTime(ctx context.Context, stream *connect.ServerStream[kmsv1.WatchKeysResponse], message *kmsv1.WatchKeysResponse) error {
	start, patience := time.Now(), k.s.cfg.StreamPatience
	// Who takes nothing at all is cut off. The answer to who is slow needs time, too.
	if err := callFrom(ctx).untilSent(start.Add(2 * patience)); err != nil {
		return err
	}
	if err := stream.Send(message); err != nil {
		return err
	}
	if time.Since(start) > patience {
		return &domain.Error{
			Reason: domain.ReasonTooSlow, Message: fmt.Sprintf("a message of this watch took more than %s to be read; go on with start_revision %d, and read faster", patience, message.GetRevision()),
		}
	}
	return nil
}

// untilSent lets the answer take until then, whatever the server's limits are for answers, and the request as long as it
// likes.
func (c *call) untilSent(deadline time.Time) error {
	if err := c.control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("lifting the limit of a stream: %w", err)
	}
	if err := c.control.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("limiting the sending of a message: %w", err)
	}
	return nil
}
