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
	kmsv1.Key_SIGN_VERIFY:         domain.SignVerify,
	kmsv1.Key_ENCRYPT_SIGN:        "",
	kmsv1.Key_ASYMMETRIC_DECRYPT:  domain.AsymmetricDecrypt,
	kmsv1.Key_MAC:                 domain.MAC,
	kmsv1.Key_RAW_ENCRYPT_DECRYPT: "",
	kmsv1.Key_KEY_AGREEMENT:       "",
	kmsv1.Key_KEY_ENCAPSULATION:   "",
	kmsv1.Key_WRAP:                "",
	kmsv1.Key_STORED_SECRET:       "",
}

// algorithms lists those of the domain; all others of the API are refused.
var algorithms = enum[kmsv1.Key_Algorithm, domain.Algorithm]{
	kmsv1.Key_AES_256_GCM:           domain.AES256GCM,
	kmsv1.Key_HMAC_SHA256:           domain.HMACSHA256,
	kmsv1.Key_HMAC_SHA384:           domain.HMACSHA384,
	kmsv1.Key_HMAC_SHA512:           domain.HMACSHA512,
	kmsv1.Key_EC_P256_SHA256:        domain.ECP256SHA256,
	kmsv1.Key_EC_P384_SHA384:        domain.ECP384SHA384,
	kmsv1.Key_EC_P521_SHA512:        domain.ECP521SHA512,
	kmsv1.Key_EC_SECP256K1_SHA256:   domain.ECSecp256k1SHA256,
	kmsv1.Key_RSA_2048_PSS_SHA256:   domain.RSA2048PSSSHA256,
	kmsv1.Key_RSA_2048_PSS_SHA384:   domain.RSA2048PSSSHA384,
	kmsv1.Key_RSA_2048_PSS_SHA512:   domain.RSA2048PSSSHA512,
	kmsv1.Key_RSA_2048_PKCS1_SHA256: domain.RSA2048PKCS1SHA256,
	kmsv1.Key_RSA_2048_PKCS1_SHA384: domain.RSA2048PKCS1SHA384,
	kmsv1.Key_RSA_2048_PKCS1_SHA512: domain.RSA2048PKCS1SHA512,
	kmsv1.Key_RSA_3072_PSS_SHA256:   domain.RSA3072PSSSHA256,
	kmsv1.Key_RSA_3072_PSS_SHA384:   domain.RSA3072PSSSHA384,
	kmsv1.Key_RSA_3072_PSS_SHA512:   domain.RSA3072PSSSHA512,
	kmsv1.Key_RSA_3072_PKCS1_SHA256: domain.RSA3072PKCS1SHA256,
	kmsv1.Key_RSA_3072_PKCS1_SHA384: domain.RSA3072PKCS1SHA384,
	kmsv1.Key_RSA_3072_PKCS1_SHA512: domain.RSA3072PKCS1SHA512,
	kmsv1.Key_RSA_4096_PSS_SHA256:   domain.RSA4096PSSSHA256,
	kmsv1.Key_RSA_4096_PSS_SHA384:   domain.RSA4096PSSSHA384,
	kmsv1.Key_RSA_4096_PSS_SHA512:   domain.RSA4096PSSSHA512,
	kmsv1.Key_RSA_4096_PKCS1_SHA256: domain.RSA4096PKCS1SHA256,
	kmsv1.Key_RSA_4096_PKCS1_SHA384: domain.RSA4096PKCS1SHA384,
	kmsv1.Key_RSA_4096_PKCS1_SHA512: domain.RSA4096PKCS1SHA512,
	kmsv1.Key_RSA_3072_OAEP_SHA256:  domain.RSA3072OAEPSHA256,
	kmsv1.Key_RSA_3072_OAEP_SHA1:    domain.RSA3072OAEPSHA1,
	kmsv1.Key_RSA_2048_OAEP_SHA256:  domain.RSA2048OAEPSHA256,
	kmsv1.Key_RSA_2048_OAEP_SHA1:    domain.RSA2048OAEPSHA1,
	kmsv1.Key_RSA_4096_OAEP_SHA256:  domain.RSA4096OAEPSHA256,
	kmsv1.Key_RSA_4096_OAEP_SHA1:    domain.RSA4096OAEPSHA1,
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

// keyProto is a key as the API shows it at that time: from its expire time on it is expired.
func keyProto(state commands.KeyState, at time.Time) *kmsv1.Key {
	k := state.Key
	return &kmsv1.Key{
		Name: k.Name.String(), Uid: k.UID.String(), State: keyStates.toProto(k.StateAt(at)), Purpose: purposes.toProto(k.Purpose),
		Algorithm: algorithms.toProto(k.Algorithm), ProtectionLevel: protectionLevels.toProto(k.Protection),
		DisplayName: k.DisplayName, Memo: k.Memo, Labels: k.Labels, Creator: k.Creator, Primary: int32(k.Primary),
		CreateTime: timeProto(k.CreateTime), UpdateTime: timeProto(k.UpdateTime), StateTime: timeProto(k.StateTime),
		RotateTime: timeProto(k.RotateTime), DeleteTime: timeProto(k.DeleteTime), DestroyTime: timeProto(k.DestroyTime),
		Number: uint64(state.CreateRevision), Aliases: state.Aliases, Revision: uint64(max(state.Revision, state.AliasRevision)), Etag: commands.Etag(state.Tip),
		RotationPeriod: durationProto(k.RotationPeriod), AutoRotation: k.AutoRotation, NextRotationTime: timeProto(k.NextRotationTime),
		MaxUsesPerVersion: new(int64(k.MaxUsesPerVersion)), //nolint:gosec // the API takes no larger one
		ExpireTime:        timeProto(k.ExpireTime), DestroyWait: durationProto(k.DestroyWait),
		ImportOnly: k.ImportOnly, ManagedBy: k.ManagedBy, Origin: origins.toProto(k.Origin()),
	}
}

// versionProto is a key's version as the API shows it. It changes with its key, so revision and etag are the key's.
func versionProto(state commands.KeyState, v domain.KeyVersion) *kmsv1.KeyVersion {
	k := state.Key
	opens := k.State == domain.KeyStateEnabled || k.State == domain.KeyStateExpired || k.State == domain.KeyStateArchived
	return &kmsv1.KeyVersion{
		Name: k.Name.VersionName(v.Version), Version: int32(v.Version), State: versionStates.toProto(v.State),
		Usable: opens && v.State == domain.VersionStateEnabled, IsPrimary: v.Version == k.Primary,
		Algorithm: algorithms.toProto(v.Algorithm), ProtectionLevel: protectionLevels.toProto(k.Protection), Origin: origins.toProto(v.Origin),
		CreateTime: timeProto(v.CreateTime), StateTime: timeProto(v.StateTime), DeleteTime: timeProto(v.DeleteTime), DestroyTime: timeProto(v.DestroyTime),
		Revision: uint64(state.Revision), Etag: commands.Etag(state.Tip),
		UsesLeased: int64(v.UsesLeased), //nolint:gosec // budgets given in the API fit
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

func durationProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
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
