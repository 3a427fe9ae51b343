package rpc

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// enum maps the values of the API to those of the domain. It lists every value of the API; "" stands for those that the
// domain does not have yet, and for "not said".
type enum[P protoEnum, D ~string] map[P]D

type protoEnum interface {
	~int32
	protoreflect.Enum
}

// fromProto refuses a value that the domain does not have. "Not said" is the zero value.
func (e enum[P, D]) fromProto(field string, v P) (D, error) {
	d, known := e[v]
	if v != 0 && (!known || d == "") {
		name := v.Descriptor().Values().ByNumber(v.Number())
		if name == nil {
			return "", badField(fmt.Sprintf("%s has no value %d", field, v))
		}
		return "", unsupported(fmt.Sprintf("%s %s is not offered by this server; GetServerInfo lists what is", field, name.Name()))
	}
	return d, nil
}

// toProto is "unspecified" for what is not said or has no value in the API.
func (e enum[P, D]) toProto(d D) P {
	if d == "" {
		return 0
	}
	for p, have := range e {
		if have == d {
			return p
		}
	}
	return 0
}

var purposes = enum[kmsv1.Key_Purpose, domain.Purpose]{
	kmsv1.Key_PURPOSE_UNSPECIFIED: "",
	kmsv1.Key_ENCRYPT_DECRYPT:     domain.EncryptDecrypt,
	kmsv1.Key_SIGN_VERIFY:         "",
	kmsv1.Key_ENCRYPT_SIGN:        "",
	kmsv1.Key_ASYMMETRIC_DECRYPT:  "",
	kmsv1.Key_MAC:                 "",
	kmsv1.Key_RAW_ENCRYPT_DECRYPT: "",
	kmsv1.Key_KEY_AGREEMENT:       "",
	kmsv1.Key_KEY_ENCAPSULATION:   "",
	kmsv1.Key_WRAP:                "",
	kmsv1.Key_STORED_SECRET:       "",
}

// algorithms lists those of the domain; all others of the API are refused.
var algorithms = enum[kmsv1.Key_Algorithm, domain.Algorithm]{
	kmsv1.Key_AES_256_GCM: domain.AES256GCM,
}

var protectionLevels = enum[kmsv1.Key_ProtectionLevel, domain.ProtectionLevel]{
	kmsv1.Key_PROTECTION_LEVEL_UNSPECIFIED: "",
	kmsv1.Key_HSM:                          domain.HSM,
	kmsv1.Key_SOFTWARE:                     domain.Software,
}

var keyStates = enum[kmsv1.Key_State, domain.KeyState]{
	kmsv1.Key_STATE_UNSPECIFIED: domain.KeyStateAbsent,
	kmsv1.Key_ENABLED:           domain.KeyStateEnabled,
	kmsv1.Key_DISABLED:          domain.KeyStateDisabled,
	kmsv1.Key_PENDING_IMPORT:    domain.KeyStatePendingImport,
	kmsv1.Key_PENDING_DELETION:  domain.KeyStatePendingDeletion,
	kmsv1.Key_EXPIRED:           domain.KeyStateExpired,
	kmsv1.Key_ARCHIVED:          domain.KeyStateArchived,
	kmsv1.Key_DESTROYED:         domain.KeyStateDestroyed,
}

var versionStates = enum[kmsv1.KeyVersion_State, domain.VersionState]{
	kmsv1.KeyVersion_STATE_UNSPECIFIED: "",
	kmsv1.KeyVersion_ENABLED:           domain.VersionStateEnabled,
	kmsv1.KeyVersion_DISABLED:          domain.VersionStateDisabled,
	kmsv1.KeyVersion_PENDING_IMPORT:    domain.VersionStatePendingImport,
	kmsv1.KeyVersion_DESTROY_SCHEDULED: domain.VersionStateDestroyScheduled,
	kmsv1.KeyVersion_DESTROYED:         domain.VersionStateDestroyed,
}

var origins = enum[kmsv1.KeyVersion_Origin, domain.Origin]{
	kmsv1.KeyVersion_ORIGIN_UNSPECIFIED: "",
	kmsv1.KeyVersion_GENERATED:          domain.Generated,
	kmsv1.KeyVersion_IMPORTED:           domain.Imported,
	kmsv1.KeyVersion_IMPORTED_CLEAR:     domain.ImportedClear,
}

var logCategories = enum[kmsv1.ActivityLog_Category, domain.Category]{
	kmsv1.ActivityLog_CATEGORY_UNSPECIFIED: "",
	kmsv1.ActivityLog_MANAGEMENT:           domain.CategoryManagement,
	kmsv1.ActivityLog_CRYPTO:               domain.CategoryCrypto,
	kmsv1.ActivityLog_ACCESS:               domain.CategoryAccess,
	kmsv1.ActivityLog_AUDIT:                domain.CategoryAudit,
}

var outcomes = enum[kmsv1.ActivityLog_Outcome, domain.Outcome]{
	kmsv1.ActivityLog_OUTCOME_UNSPECIFIED: "",
	kmsv1.ActivityLog_OK:                  domain.OutcomeOK,
	kmsv1.ActivityLog_DENIED:              domain.OutcomeDenied,
	kmsv1.ActivityLog_FAILED:              domain.OutcomeFailed,
}

var requestTypes = enum[kmsv1.ActivityLog_RequestType, domain.RequestType]{
	kmsv1.ActivityLog_REQUEST_TYPE_UNSPECIFIED: "",
	kmsv1.ActivityLog_CONSOLE:                  domain.RequestConsole,
	kmsv1.ActivityLog_API:                      domain.RequestAPI,
	kmsv1.ActivityLog_SYSTEM:                   domain.RequestSystem,
}

// keyProto is a key as the API shows it now.
func keyProto(state commands.KeyState) *kmsv1.Key { return keyProtoAt(state, time.Now()) }

// keyProtoAt is a key as the API shows, or would have shown, it at a time.
func keyProtoAt(state commands.KeyState, at time.Time) *kmsv1.Key {
	k := state.Key
	out := &kmsv1.Key{
		Name: k.Name.String(), Uid: k.UID.String(), State: keyStates.toProto(k.StateAt(at)), Purpose: purposes.toProto(k.Purpose),
		Algorithm: algorithms.toProto(k.Algorithm), ProtectionLevel: protectionLevels.toProto(k.Protection),
		DisplayName: k.DisplayName, Memo: k.Memo, Labels: k.Labels, Creator: k.Creator, Primary: int32(k.Primary),
		CreateTime: timeProto(k.CreateTime), UpdateTime: timeProto(k.UpdateTime), StateTime: timeProto(k.StateTime),
		RotateTime: timeProto(k.RotateTime), DeleteTime: timeProto(k.DeleteTime), DestroyTime: timeProto(k.DestroyTime),
		Number: uint64(state.CreateRevision), Aliases: state.Aliases, Revision: uint64(max(state.Revision, state.AliasRevision)), Etag: commands.Etag(state.Revision),
	}
	if first, ok := k.Versions.Get(1); ok {
		out.Origin = origins.toProto(first.Origin)
	}
	return out
}

// versionProto is a key's version as the API shows it. It changes with its key, so revision and etag are the key's.
func versionProto(state commands.KeyState, v domain.KeyVersion) *kmsv1.KeyVersion {
	k := state.Key
	opens := k.State == domain.KeyStateEnabled || k.State == domain.KeyStateExpired || k.State == domain.KeyStateArchived
	return &kmsv1.KeyVersion{
		Name: k.Name.VersionName(v.Version), Version: int32(v.Version), State: versionStates.toProto(v.State),
		Usable: opens && v.State == domain.VersionStateEnabled, IsPrimary: v.Version == k.Primary,
		Algorithm: algorithms.toProto(v.Algorithm), ProtectionLevel: protectionLevels.toProto(k.Protection), Origin: origins.toProto(v.Origin),
		CreateTime: timeProto(v.CreateTime), StateTime: timeProto(v.StateTime), DestroyTime: timeProto(v.DestroyTime),
		Revision: uint64(state.Revision), Etag: commands.Etag(state.Revision),
	}
}

// activityProto is a record as the API shows it.
func activityProto(e ActivityEntry) *kmsv1.ActivityLog {
	r := e.Record
	return &kmsv1.ActivityLog{
		Time: timeProto(r.Time), Project: r.Project, Location: r.Location, Key: r.KeyName, KeyUid: uidText(r.KeyUID), Version: int32(r.Version),
		Operation: r.Operation, Category: logCategories.toProto(r.Category), Outcome: outcomes.toProto(r.Outcome),
		Code: codeName(r.Reason), Reason: string(r.Reason), Message: r.Message,
		Principal: r.Caller.Principal, PrincipalKind: string(r.Caller.Kind), RequestType: requestTypes.toProto(r.Caller.Request),
		ClientAddress: addressText(r.Caller.Address), UserAgent: r.Caller.UserAgent, RequestId: uidText(r.Caller.RequestID),
		ClientRequestId: r.Caller.ClientRequestID, CorrelationId: r.Caller.CorrelationID, TraceId: traceText(r.Caller.TraceID),
		InputSize: r.BytesIn, OutputSize: r.BytesOut, Duration: durationpb.New(r.Duration), ProtectionLevel: protectionLevels.toProto(r.Protection),
		GrantedBy: r.GrantedBy,
		Position:  &kmsv1.ActivityLog_Position{Lineage: uidText(e.Position.Lineage), Stream: e.Position.Stream, Sequence: e.Position.Sequence, Record: e.Position.Record},
	}
}

// codeName is the canonical code that a refusal with this reason was answered with; empty for a success.
func codeName(r domain.Reason) string {
	if r == "" {
		return ""
	}
	return statusName(answerTo(r).code)
}

// itemError is why one item of a batch was refused, by the same table as whole requests.
func itemError(err error) *kmsv1.ItemError {
	refusal := refusalOf(err)
	return &kmsv1.ItemError{
		Code: code.Code(answerTo(refusal.Reason).code), Reason: string(refusal.Reason), Message: refusal.Message, //nolint:gosec // codes are 1 to 16
	}
}

func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func uidText(u domain.UID) string {
	if u.IsZero() {
		return ""
	}
	return u.String()
}

func traceText(id [16]byte) string {
	if id == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(id[:])
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
