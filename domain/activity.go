package domain

import (
	"strings"
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
		ReasonWrongPurpose, ReasonNotPendingDeletion, ReasonNotArchived, ReasonKeyInUse, ReasonKeyImportOnly, ReasonAutoRotationOff, ReasonTooManyBindings,
		ReasonNotScheduled, ReasonVersionUsedUp, ReasonKeyRecentlyUsed, ReasonNotImported, ReasonMaterialInPlace, ReasonErasurePending, ReasonRingArchived,
		ReasonImportJobExpired, ReasonImportJobCanceled, ReasonTooManyImports, ReasonWrappedKeyUsed, ReasonClearImportOff, ReasonNoBackup:
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

// Trimmed returns r as the log can keep it: long texts cut, bytes that are not UTF-8 replaced (a client may send any in
// its headers, and one record that can't be stored would fail all that are stored with it), and times to the microsecond.
func (r ActivityRecord) Trimmed() ActivityRecord {
	r.Time = r.Time.Truncate(time.Microsecond)
	r.Duration = r.Duration.Truncate(time.Microsecond)
	r.KeyName = cut(r.KeyName, maxRecordName)
	r.Message = cut(r.Message, maxRecordMessage)
	r.Caller = r.Caller.Trimmed()
	return r
}

// Trimmed returns c as the log can keep it, like ActivityRecord.Trimmed. An IPv4 address in IPv6 form becomes IPv4.
func (c Caller) Trimmed() Caller {
	c.UserAgent = cut(c.UserAgent, maxRecordUserAgent)
	c.ClientRequestID = cut(c.ClientRequestID, maxRecordClientID)
	c.CorrelationID = cut(c.CorrelationID, maxRecordClientID)
	c.Address = c.Address.Unmap()
	return c
}

// cut makes s valid UTF-8 of at most n bytes without splitting a character.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
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
