package domain

import (
	"net/netip"
	"time"
	"unicode/utf8"
)

// ActivityRecord is what the log keeps of one attempt to use or to change a key, or to read what is protected. It never
// holds plaintext, key bytes, credentials or PINs.
type ActivityRecord struct {
	Time     time.Time // effective time, to the microsecond
	Project  string
	Location string
	// KeyUID is zero when the name given was of no key; KeyName is what the caller named.
	KeyUID  UID
	KeyName string
	Version Version

	Operation string // the RPC's name, e.g. "Encrypt"
	Category  Category
	Outcome   Outcome
	Reason    Reason // why it was refused; empty when OK
	Message   string // the refusal's sentence; empty when OK

	Caller Caller
	// GrantedBy names what allowed it, e.g. "admin"; empty when refused.
	GrantedBy  string
	Protection ProtectionLevel
	LedgerTag  [32]byte
	BytesIn    uint32
	BytesOut   uint32
	Duration   time.Duration // of the work before the record was made, to the microsecond
}

// Category groups operations for auditors.
type Category string

// The categories.
const (
	CategoryManagement Category = "MANAGEMENT"
	CategoryCrypto     Category = "CRYPTO"
	CategoryAccess     Category = "ACCESS"
	CategoryAudit      Category = "AUDIT"
)

// Outcome says what came of an attempt.
type Outcome string

// The outcomes. DENIED: the caller may not, or the key's state forbids it. FAILED: the request was wrong or the service
// could not do it.
const (
	OutcomeOK     Outcome = "OK"
	OutcomeDenied Outcome = "DENIED"
	OutcomeFailed Outcome = "FAILED"
)

// OutcomeOf is the outcome that a refusal with this reason is recorded with.
func OutcomeOf(r Reason) Outcome {
	switch r { //nolint:exhaustive // every other reason is a failure
	case "":
		return OutcomeOK
	case ReasonPermissionDenied, ReasonKeyDisabled, ReasonKeyPendingImport, ReasonKeyPendingDeletion, ReasonKeyExpired, ReasonKeyArchived, ReasonKeyDestroyed,
		ReasonVersionDisabled, ReasonVersionPending, ReasonVersionScheduled, ReasonVersionDestroyed, ReasonVersionIsPrimary, ReasonNoPrimaryVersion,
		ReasonWrongPurpose, ReasonNotPendingDeletion:
		return OutcomeDenied
	}
	return OutcomeFailed
}

// The longest texts that a record keeps, in bytes, so that one stays below 700 bytes as stored. Only pathological names
// and headers are cut.
const (
	maxRecordName      = 280
	maxRecordMessage   = 160
	maxRecordUserAgent = 80
	maxRecordClientID  = 128
)

// Trimmed returns r with its long texts cut to what the log keeps and its times to microseconds.
func (r ActivityRecord) Trimmed() ActivityRecord {
	r.Time = r.Time.Truncate(time.Microsecond)
	r.KeyName = cut(r.KeyName, maxRecordName)
	r.Message = cut(r.Message, maxRecordMessage)
	r.Caller.UserAgent = cut(r.Caller.UserAgent, maxRecordUserAgent)
	r.Caller.ClientRequestID = cut(r.Caller.ClientRequestID, maxRecordClientID)
	r.Caller.CorrelationID = cut(r.Caller.CorrelationID, maxRecordClientID)
	if r.Caller.Address.Is4In6() {
		r.Caller.Address = netip.AddrFrom4(r.Caller.Address.As4())
	}
	return r
}

// cut shortens s to at most n bytes without splitting a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "…"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
