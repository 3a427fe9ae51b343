package domain

import "net/netip"

// Caller is who asks, from where, and in which request. Every operation takes one; nothing below rpc looks for it in a
// context.
type Caller struct {
	// Principal is e.g. "admin", "system", "serviceAccount:<project>/<id>".
	Principal string
	Kind      PrincipalKind
	Request   RequestType
	// Address is the client's; not valid for SYSTEM callers.
	Address   netip.Addr
	UserAgent string
	// RequestID is made by this server for each attempt and returned as kms-request-id.
	RequestID UID
	// ClientRequestID and CorrelationID are the caller's own x-request-id and correlation-id: any text up to 128 bytes.
	ClientRequestID string
	CorrelationID   string
	// TraceID is the W3C trace id (Trace Context level 1), zero without one.
	TraceID [16]byte
}

// PrincipalKind says how a principal proved who it is.
type PrincipalKind string

// The kinds of principals so far.
const (
	KindAdmin  PrincipalKind = "ADMIN"  // the access key written at first start
	KindSystem PrincipalKind = "SYSTEM" // this service itself, doing due work
)

// RequestType says what kind of client asked.
type RequestType string

// The request types; automatic work is SYSTEM.
const (
	RequestAPI     RequestType = "API"
	RequestConsole RequestType = "CONSOLE"
	RequestSystem  RequestType = "SYSTEM"
)

// System is the caller of automatic work.
func System(requestID UID) Caller {
	return Caller{Principal: "system", Kind: KindSystem, Request: RequestSystem, RequestID: requestID}
}
