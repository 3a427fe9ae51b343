package rpc

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyledger/kms/domain"
)

// errorDomain is the domain of every google.rpc.ErrorInfo.
const errorDomain = "kms.v1"

// Reasons of errors that no rule of the domain causes.
const (
	reasonUnimplemented domain.Reason = "UNIMPLEMENTED"
	reasonNotFound      domain.Reason = "NOT_FOUND" // no such path
	reasonDeadline      domain.Reason = "DEADLINE_EXCEEDED"
	reasonCanceled      domain.Reason = "CANCELED"
)

// answer is how a reason leaves the service.
type answer struct {
	code connect.Code
	// retry is how long a caller should wait before trying the same again; zero when trying again is of no use.
	retry time.Duration
}

// answers is the one table from reasons to codes. A FAILED_PRECONDITION gets a violation beside its ErrorInfo, a retry
// delay a RetryInfo.
var answers = map[domain.Reason]answer{
	domain.ReasonBadName:         {code: connect.CodeInvalidArgument},
	domain.ReasonBadField:        {code: connect.CodeInvalidArgument},
	domain.ReasonBadCiphertext:   {code: connect.CodeInvalidArgument},
	domain.ReasonWrongLocation:   {code: connect.CodeInvalidArgument},
	domain.ReasonRequestIDReused: {code: connect.CodeInvalidArgument},
	domain.ReasonBadPageToken:    {code: connect.CodeInvalidArgument},
	domain.ReasonUnsupported:     {code: connect.CodeInvalidArgument},
	domain.ReasonTooLarge:        {code: connect.CodeInvalidArgument},
	domain.ReasonFutureMoment:    {code: connect.CodeInvalidArgument},
	domain.ReasonTwoCredentials:  {code: connect.CodeInvalidArgument},

	domain.ReasonBadCredential:     {code: connect.CodeUnauthenticated},
	domain.ReasonMissingCredential: {code: connect.CodeUnauthenticated},
	domain.ReasonPermissionDenied:  {code: connect.CodePermissionDenied},

	domain.ReasonKeyNotFound:     {code: connect.CodeNotFound},
	domain.ReasonVersionNotFound: {code: connect.CodeNotFound},
	domain.ReasonRingNotFound:    {code: connect.CodeNotFound},
	domain.ReasonAliasNotFound:   {code: connect.CodeNotFound},
	domain.ReasonKeyExists:       {code: connect.CodeAlreadyExists},
	domain.ReasonRingExists:      {code: connect.CodeAlreadyExists},
	domain.ReasonAliasExists:     {code: connect.CodeAlreadyExists},

	domain.ReasonRingArchived:       {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyDisabled:        {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyPendingImport:   {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyPendingDeletion: {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyExpired:         {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyArchived:        {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyDestroyed:       {code: connect.CodeFailedPrecondition},
	domain.ReasonNotPendingDeletion: {code: connect.CodeFailedPrecondition},
	domain.ReasonNoPrimaryVersion:   {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionDisabled:    {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionPending:     {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionScheduled:   {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionDestroyed:   {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionIsPrimary:   {code: connect.CodeFailedPrecondition},
	domain.ReasonNotArchived:        {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyInUse:           {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyImportOnly:      {code: connect.CodeFailedPrecondition},
	domain.ReasonAutoRotationOff:    {code: connect.CodeFailedPrecondition},
	domain.ReasonTooManyBindings:    {code: connect.CodeFailedPrecondition},
	domain.ReasonNotScheduled:       {code: connect.CodeFailedPrecondition},
	domain.ReasonVersionUsedUp:      {code: connect.CodeFailedPrecondition},
	domain.ReasonKeyRecentlyUsed:    {code: connect.CodeFailedPrecondition},
	domain.ReasonNotImported:        {code: connect.CodeFailedPrecondition},
	domain.ReasonMaterialInPlace:    {code: connect.CodeFailedPrecondition},
	domain.ReasonMaterialDiffers:    {code: connect.CodeInvalidArgument},
	domain.ReasonMaterialKnown:      {code: connect.CodeInvalidArgument},
	domain.ReasonErasurePending:     {code: connect.CodeFailedPrecondition},
	domain.ReasonWrongPurpose:       {code: connect.CodeFailedPrecondition},

	domain.ReasonImportJobNotFound: {code: connect.CodeNotFound},
	domain.ReasonImportJobExists:   {code: connect.CodeAlreadyExists},
	domain.ReasonImportJobExpired:  {code: connect.CodeFailedPrecondition},
	domain.ReasonImportJobCanceled: {code: connect.CodeFailedPrecondition},
	domain.ReasonTooManyImports:    {code: connect.CodeFailedPrecondition},
	domain.ReasonWrappedKeyUsed:    {code: connect.CodeFailedPrecondition},
	domain.ReasonClearImportOff:    {code: connect.CodeFailedPrecondition},
	domain.ReasonBadMaterial:       {code: connect.CodeInvalidArgument},
	domain.ReasonNoBackup:          {code: connect.CodeFailedPrecondition},

	domain.ReasonEtagMismatch: {code: connect.CodeAborted},
	domain.ReasonContention:   {code: connect.CodeAborted},

	domain.ReasonOverloaded: {code: connect.CodeResourceExhausted, retry: time.Second},
	domain.ReasonTooSlow:    {code: connect.CodeResourceExhausted, retry: time.Second},

	domain.ReasonFutureRevision:   {code: connect.CodeUnavailable, retry: time.Second},
	domain.ReasonNotRecorded:      {code: connect.CodeUnavailable, retry: time.Second},
	domain.ReasonOutcomeUnknown:   {code: connect.CodeUnavailable, retry: time.Second},
	domain.ReasonStoreFull:        {code: connect.CodeUnavailable, retry: time.Minute},
	domain.ReasonTokenUnavailable: {code: connect.CodeUnavailable, retry: 2 * time.Second},
	domain.ReasonStaleProjection:  {code: connect.CodeUnavailable, retry: time.Second},
	domain.ReasonStoreAway:        {code: connect.CodeUnavailable, retry: 2 * time.Second},
	domain.ReasonClockBehind:      {code: connect.CodeUnavailable, retry: 5 * time.Second},
	domain.ReasonActivityAway:     {code: connect.CodeUnavailable, retry: 5 * time.Second},
	domain.ReasonStopping:         {code: connect.CodeUnavailable, retry: time.Second},

	domain.ReasonMaterialMissing: {code: connect.CodeDataLoss},
	domain.ReasonInternal:        {code: connect.CodeInternal},

	reasonUnimplemented: {code: connect.CodeUnimplemented},
	reasonNotFound:      {code: connect.CodeNotFound},
	reasonDeadline:      {code: connect.CodeDeadlineExceeded},
	reasonCanceled:      {code: connect.CodeCanceled},
}

// unrecordedError is a refusal made in this package. Refusals that come from commands are on the log already; this one
// has to be put there before it is answered.
type unrecordedError struct{ refusal *domain.Error }

func (e *unrecordedError) Error() string { return e.refusal.Message }

func (e *unrecordedError) Unwrap() error { return e.refusal }

// syntax marks err, a refusal by a parser of the domain or one of this package, as not yet recorded.
func syntax(err error) error {
	if refusal, ok := errors.AsType[*domain.Error](err); ok {
		return &unrecordedError{refusal}
	}
	return err
}

func badField(message string) error {
	return &unrecordedError{&domain.Error{Reason: domain.ReasonBadField, Message: message}}
}

func unsupported(message string) error {
	return &unrecordedError{&domain.Error{Reason: domain.ReasonUnsupported, Message: message}}
}

// refusalOf is what a caller is told of err. Anything but a refusal is an internal error whose text stays in the log.
func refusalOf(err error) *domain.Error {
	if refusal, ok := errors.AsType[*domain.Error](err); ok {
		return refusal
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &domain.Error{Reason: reasonDeadline, Message: "the request was not done in its time; a change may still have been made: repeat it with the same request_id to find out"}
	case errors.Is(err, context.Canceled):
		return &domain.Error{Reason: reasonCanceled, Message: "the caller canceled the request; a change may still have been made"}
	}
	return &domain.Error{Reason: domain.ReasonInternal, Message: "internal error; the server's log has the details under this request's kms-request-id"}
}

// answerTo is the table's row for a reason. A reason without one is a mistake that a test finds; it is answered as an
// internal error.
func answerTo(r domain.Reason) answer {
	a, ok := answers[r]
	if !ok {
		return answer{code: connect.CodeInternal}
	}
	return a
}

// connectError is err as every protocol sends it: the table's code, the sentence, and the details that belong to it.
// The resource is what the request acts on; it may be empty.
func connectError(err error, resource string) *connect.Error {
	refusal := refusalOf(err)
	a := answerTo(refusal.Reason)
	out := connect.NewError(a.code, errors.New(refusal.Message))
	addDetail(out, &errdetails.ErrorInfo{Reason: string(refusal.Reason), Domain: errorDomain})
	if a.code == connect.CodeFailedPrecondition {
		addDetail(out, &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{
			{Type: string(refusal.Reason), Subject: resource, Description: refusal.Message},
		}})
	}
	if a.retry > 0 {
		addDetail(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(a.retry)})
		out.Meta().Set("Retry-After", strconv.Itoa(int(a.retry.Seconds()))) // for HTTP clients (RFC 9110, section 10.2.3)
	}
	if invalid, ok := errors.AsType[*invalidMessageError](err); ok {
		addDetail(out, &errdetails.BadRequest{FieldViolations: invalid.fields})
	}
	return out
}

func addDetail(err *connect.Error, detail proto.Message) {
	d, failed := connect.NewErrorDetail(detail)
	if failed != nil { // only a message that can't be marshaled fails, and these are made here
		panic("rpc: error detail: " + failed.Error())
	}
	err.AddDetail(d)
}

// invalidMessageError is a request that breaks the rules of its proto file.
type invalidMessageError struct {
	refusal *domain.Error
	fields  []*errdetails.BadRequest_FieldViolation
}

func (e *invalidMessageError) Error() string { return e.refusal.Message }

func (e *invalidMessageError) Unwrap() error { return &unrecordedError{e.refusal} }

// maxViolations bounds an answer: a message can break a rule once for each of its labels.
const maxViolations = 8

// invalidMessage makes sentences of what the validator found.
func invalidMessage(v *protovalidate.ValidationError) error {
	violations := v.Violations[:min(len(v.Violations), maxViolations)]
	out := &invalidMessageError{refusal: &domain.Error{Reason: domain.ReasonBadField}}
	sentences := make([]string, 0, len(violations))
	for _, violation := range violations {
		field := protovalidate.FieldPathString(violation.Proto.GetField())
		if strings.HasSuffix(violation.Proto.GetRuleId(), "_name") {
			out.refusal.Reason = domain.ReasonBadName
		}
		sentence := violation.Proto.GetMessage()
		if field != "" {
			sentence = field + " " + sentence
		}
		sentences = append(sentences, sentence)
		out.fields = append(out.fields, &errdetails.BadRequest_FieldViolation{
			Field: field, Description: violation.Proto.GetMessage(), Reason: violation.Proto.GetRuleId(),
		})
	}
	out.refusal.Message = strings.Join(sentences, "; ")
	return out
}

// logIfOurs logs what the caller is not told: the cause of an answer that is this service's fault. Refusals say all
// there is to say and are on the activity log.
func logIfOurs(ctx context.Context, log *slog.Logger, call *call, err error) {
	refusal := refusalOf(err)
	//nolint:exhaustive // the other codes are the caller's doing
	switch answerTo(refusal.Reason).code {
	case connect.CodeInternal, connect.CodeDataLoss:
		log.LogAttrs(ctx, slog.LevelError, "request failed", call.attrs(err)...)
	case connect.CodeUnavailable, connect.CodeResourceExhausted:
		log.LogAttrs(ctx, slog.LevelWarn, "request not served", call.attrs(err)...)
	}
}
