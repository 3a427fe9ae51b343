package rpc

import (
	"context"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func (k *keyService) GetKeyHistory(ctx context.Context, r *kmsv1.GetKeyHistoryRequest) (*kmsv1.GetKeyHistoryResponse, error) {
	ref, err := k.s.keyRef(r.GetName())
	if err != nil {
		return nil, err
	}
	binding := []string{"GetKeyHistory", ref.String()}
	from, err := k.historyPage(r.GetPageToken(), binding)
	if err != nil {
		return nil, err
	}
	limit := int(r.GetPageSize())
	if limit == 0 {
		limit = defaultPageSize
	}
	read := callFrom(ctx).read(ref)
	read.MinRevision = commands.Revision(r.GetMinRevision())
	history, err := k.s.cfg.Commands.GetKeyHistory(ctx, callerOf(ctx), read, from.after, limit)
	if err != nil {
		return nil, err
	}
	uid := history.Key.Key.UID
	if from.key != "" && from.key != uid.String() { // an alias was moved since the page before
		return nil, errPageToken
	}
	out := &kmsv1.GetKeyHistoryResponse{Revision: uint64(history.Key.Revision)}
	for _, commit := range history.Commits {
		shown, err := commitProto(commit)
		if err != nil {
			return nil, err
		}
		out.Commits = append(out.Commits, shown)
	}
	if n := len(history.Commits); history.More && n > 0 {
		out.NextPageToken = k.s.pages.seal(uid.String()+" "+strconv.FormatUint(uint64(history.Commits[n-1].Revision), 10), binding...)
	}
	return out, nil
}

// historyPage is where a page of a history begins. Commits are only ever added at the end, so that it is the same for ever.
type historyPage struct {
	key   string // uid; empty on the first page
	after commands.Revision
}

func (k *keyService) historyPage(token string, binding []string) (historyPage, error) {
	if token == "" {
		return historyPage{}, nil
	}
	position, err := k.s.pages.open(token, binding...)
	if err != nil {
		return historyPage{}, err
	}
	key, after, _ := strings.Cut(position, " ")
	revision, err := strconv.ParseUint(after, 10, 64)
	if err != nil {
		return historyPage{}, errPageToken
	}
	return historyPage{key, commands.Revision(revision)}, nil
}

// commitProto is a commit of a key as the API shows it.
func commitProto(c commands.Commit) (*kmsv1.KeyCommit, error) {
	out := &kmsv1.KeyCommit{
		Revision: uint64(c.Revision), Etag: commands.EtagAfter(c), Time: timeProto(c.Time), StoredTime: timeProto(c.StoredTime),
		Operation: c.Operation, Version: int32(c.Version), Principal: c.Caller.Principal, PrincipalKind: string(c.Caller.Kind),
		ClientAddress: addressText(c.Caller.Address), UserAgent: c.Caller.UserAgent, RequestId: uidText(c.Caller.RequestID),
		ClientRequestId: c.Caller.ClientRequestID, CorrelationId: c.Caller.CorrelationID, TraceId: traceText(c.Caller.TraceID),
		IdempotencyId: uidText(c.RequestID), GrantedBy: c.GrantedBy, Hash: c.Hash[:], Lineage: uidText(c.Lineage),
	}
	if c.Prev != [32]byte{} {
		out.PreviousHash = c.Prev[:]
	}
	for _, e := range c.Events {
		shown, err := eventProto(e)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, shown)
	}
	return out, nil
}

// eventProto shows an event by its name and fields, whichever it is, so that a new one needs nothing here. Events hold no
// secrets: that is a rule for events, not for what shows them.
func eventProto(e domain.Event) (*kmsv1.KeyEvent, error) {
	v := reflect.ValueOf(e)
	fields := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		name := v.Type().Field(i).Name
		shown, err := fieldValue(v.Field(i).Interface())
		if err != nil {
			return nil, fmt.Errorf("showing %s of a %s: %w", name, eventName(e), err)
		}
		fields.Fields[snakeCase(name)] = shown
	}
	return &kmsv1.KeyEvent{Name: eventName(e), Fields: fields}, nil
}

func eventName(e domain.Event) string { return reflect.TypeOf(e).Name() }

// fieldValue shows one field of an event, as the proto file says.
func fieldValue(field any) (*structpb.Value, error) {
	switch f := field.(type) {
	case time.Time:
		return structpb.NewStringValue(f.UTC().Format(time.RFC3339Nano)), nil
	case time.Duration:
		return structpb.NewStringValue(strconv.FormatFloat(f.Seconds(), 'f', -1, 64) + "s"), nil
	case fmt.Stringer: // names and uids
		return structpb.NewStringValue(f.String()), nil
	case []byte:
		return structpb.NewStringValue(hex.EncodeToString(f)), nil
	case [32]byte:
		return structpb.NewStringValue(hex.EncodeToString(f[:])), nil
	case map[string]string:
		labels := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for name, value := range f {
			labels.Fields[name] = structpb.NewStringValue(value)
		}
		return structpb.NewStructValue(labels), nil
	}
	switch v := reflect.ValueOf(field); v.Kind() { //nolint:exhaustive // a test shows an event of each kind
	case reflect.String:
		return structpb.NewStringValue(v.String()), nil
	case reflect.Bool:
		return structpb.NewBoolValue(v.Bool()), nil
	case reflect.Int32:
		return structpb.NewNumberValue(float64(v.Int())), nil
	case reflect.Uint64:
		return structpb.NewStringValue(strconv.FormatUint(v.Uint(), 10)), nil
	}
	return nil, fmt.Errorf("there is no way to show a %T", field)
}

// snakeCase makes a Go field's name one of the API: MaterialID is material_id.
func snakeCase(name string) string {
	var out strings.Builder
	lower := false // the letter before is
	for _, c := range name {
		if unicode.IsUpper(c) && lower {
			out.WriteByte('_')
		}
		lower = !unicode.IsUpper(c)
		out.WriteRune(unicode.ToLower(c))
	}
	return out.String()
}
