package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// pastFlags belong to reads that can be of the past.
type pastFlags struct {
	AsOf *asOf `placeholder:"MOMENT" help:"Show what was then: a time, as how long ago, like 2h or 7d, a day, or RFC 3339; or a revision, as a number. The read is on the activity log."`
}

// asOf is a past moment: a time, or a revision.
type asOf struct {
	time     time.Time
	revision uint64 // if time is zero
}

// UnmarshalText implements encoding.TextUnmarshaler. How long ago is reckoned from now on, so that all pages of a list are
// of one moment.
func (a *asOf) UnmarshalText(text []byte) error {
	if digits := string(text); strings.Trim(digits, "0123456789") == "" && digits != "" {
		revision, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || revision == 0 {
			return fmt.Errorf("%q is not a revision: they are numbers from 1", text)
		}
		a.revision = revision
		return nil
	}
	var m moment
	if err := m.UnmarshalText(text); err != nil {
		return fmt.Errorf("%q is neither a revision nor a time like 2h, 7d, 2026-01-31 or 2026-01-31T09:30:00Z", text)
	}
	a.time = m.timestamp(time.Now()).AsTime()
	return nil
}

// String is the moment as it can be given again.
func (a *asOf) String() string {
	if a.time.IsZero() {
		return strconv.FormatUint(a.revision, 10)
	}
	return a.time.Format(time.RFC3339Nano)
}

// past makes a request one for the moment of the flags, if there is one. All such requests have the same two fields.
func past[Request proto.Message](f pastFlags, req Request) Request {
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	switch {
	case f.AsOf == nil:
	case f.AsOf.time.IsZero():
		m.Set(fields.ByName("as_of_revision"), protoreflect.ValueOfUint64(f.AsOf.revision))
	default:
		m.Set(fields.ByName("as_of_time"), protoreflect.ValueOfMessage(timestamppb.New(f.AsOf.time).ProtoReflect()))
	}
	return req
}

// more tells how to see the rest of a list. A page token holds for one moment only, so that one given as how long ago must
// be given as what it was.
func (f pastFlags) more(s *session, token string) {
	if token != "" && f.AsOf != nil {
		s.remark("there are more: --as-of %s --page-token %s", f.AsOf, printable(token))
		return
	}
	s.more(token)
}

type historyCmd struct {
	keyArg
	readFlags
	formatFlags
	Limit     int    `placeholder:"N" help:"Show at most so many commits."`
	PageToken string `placeholder:"TOKEN" help:"Go on where an earlier history ended."`
}

func (c *historyCmd) Run(ctx context.Context, s *session) error {
	name, err := s.scope.key(c.Key)
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	all := &kmsv1.GetKeyHistoryResponse{}
	err = pageFlags{PageToken: c.PageToken}.pages(c.Limit, func(size int32, token string) (int, string, error) {
		page, err := call(ctx, cl, cl.GetKeyHistory, &kmsv1.GetKeyHistoryRequest{Name: name, MinRevision: c.MinRevision, PageSize: size, PageToken: token})
		if err != nil {
			return 0, "", err
		}
		n := len(page.GetCommits())
		page.Commits = append(all.GetCommits(), page.GetCommits()...)
		all = page
		return n, page.GetNextPageToken(), nil
	})
	if err != nil {
		return err
	}
	err = s.print(c.formatFlags, all, func(r *rows) {
		r.add("REVISION", "TIME", "OPERATION", "PRINCIPAL", "ADDRESS", "REQUEST", "HASH", "EVENTS")
		for _, commit := range all.GetCommits() {
			r.add(number(commit.GetRevision()), exactly(commit.GetTime()), commit.GetOperation(), commit.GetPrincipal(), commit.GetClientAddress(),
				commit.GetRequestId(), shortHash(commit.GetHash()), eventsText(commit.GetEvents()))
		}
	})
	if err != nil {
		return err
	}
	s.more(all.GetNextPageToken())
	return nil
}

// shortHash is as much of a hash as tells commits apart; the whole is shown as JSON.
func shortHash(hash []byte) string { return hex.EncodeToString(hash[:min(len(hash), 6)]) }

// eventsText shows events on one line, with those of their fields that are words or numbers.
func eventsText(events []*kmsv1.KeyEvent) string {
	if len(events) == 0 {
		return "nothing to change"
	}
	texts := make([]string, len(events))
	for i, e := range events {
		texts[i] = e.GetName()
		switch fields := e.GetFields().GetFields(); {
		case fields["version"] != nil:
			texts[i] += " " + valueText(fields["version"])
		case len(fields) == 1:
			for _, name := range slices.Sorted(maps.Keys(fields)) {
				texts[i] += " " + name + "=" + valueText(fields[name])
			}
		}
	}
	return strings.Join(texts, ", ")
}

func valueText(v *structpb.Value) string { return fmt.Sprint(v.AsInterface()) }

type watchKeysCmd struct {
	formatFlags
	StartRevision uint64 `placeholder:"REVISION" help:"First show what happened after this revision; by default only what happens from now on."`
	Filter        string `placeholder:"EXPRESSION" help:"Only keys for which this holds, before or after the change, as with list."`
	Once          bool   `help:"End as soon as everything is shown that has happened."`
}

// rewatchPause is how long a watch that broke waits before it goes on.
const rewatchPause = time.Second

// Run shows changes until it is interrupted. A stream that breaks off is taken up where it was.
func (c *watchKeysCmd) Run(ctx context.Context, s *session) error {
	ring, err := s.scope.ring()
	if err != nil {
		return err
	}
	cl, err := s.client()
	if err != nil {
		return err
	}
	w := &watching{s: s, f: c.formatFlags, anyRing: ring.Ring == "-", once: c.Once, at: c.StartRevision}
	for {
		heard, err := w.follow(ctx, cl, &kmsv1.WatchKeysRequest{Parent: ring.String(), StartRevision: w.at, Filter: c.Filter})
		again, delay := repeatable(err)
		if _, broken := errors.AsType[*connect.Error](err); err == nil || ctx.Err() != nil || !broken || !again || !heard {
			return err
		}
		s.remark("kmsctl: %s; going on after revision %d", describe(err), w.at)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(delay, rewatchPause)):
		}
	}
}

// watching is a watch over all its streams.
type watching struct {
	s       *session
	f       formatFlags
	anyRing bool
	once    bool
	at      uint64 // up to where everything is shown
}

// follow shows what one stream sends, and reports whether it sent anything.
func (w *watching) follow(ctx context.Context, cl *client, req *kmsv1.WatchKeysRequest) (heard bool, err error) {
	stream, err := cl.WatchKeys(ctx, req)
	if err != nil {
		return false, err
	}
	for stream.Receive() {
		heard = true
		m := stream.Msg()
		if err := w.show(m); err != nil {
			return true, errors.Join(err, stream.Close())
		}
		w.at = m.GetRevision()
		if w.once && m.GetProgress().GetCaughtUp() {
			return true, stream.Close()
		}
	}
	err = stream.Err()
	if err == nil {
		err = connect.NewError(connect.CodeUnavailable, errors.New("the server ended the watch"))
	}
	return heard, errors.Join(err, stream.Close())
}

// show prints a message: as a line of JSON, or a change as a line of text. A line is written at once.
func (w *watching) show(m *kmsv1.WatchKeysResponse) error {
	if w.f.Output == "json" {
		return w.printLine(m)
	}
	change := m.GetChange()
	if change == nil {
		return nil
	}
	key := change.GetKey()
	name := lastPart(key.GetName())
	if w.anyRing {
		name = key.GetName()
	}
	cells := []string{strconv.FormatUint(m.GetRevision(), 10), exactly(change.GetTime()), name, key.GetState().String(), change.GetOperation(), strings.Join(change.GetEvents(), ",")}
	if change.GetRemoved() {
		cells = append(cells, "(no longer matches)")
	}
	_, err := fmt.Fprintln(w.s.out, strings.TrimRight(printable(strings.Join(cells, "  ")), " "))
	return err
}

// printLine writes m as one line, always the same way.
func (w *watching) printLine(m proto.Message) error {
	b, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("showing a change: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return fmt.Errorf("showing a change: %w", err)
	}
	line.WriteByte('\n')
	_, err = w.s.out.Write(line.Bytes())
	return err
}
