package domain

import "fmt"

// Reason is why an operation is refused: one of the closed list below, which is part of the API. A new meaning is a new
// reason. Each edge maps reasons to its own codes; nothing else decides what a caller sees.
type Reason string

// What is wrong with the request itself.
const (
	ReasonBadName            Reason = "BAD_NAME"
	ReasonBadField           Reason = "BAD_FIELD"
	ReasonBadCiphertext      Reason = "BAD_CIPHERTEXT"    // malformed, of another key, tampered with, or with another AAD or context: one answer for all
	ReasonWrongLocation      Reason = "WRONG_LOCATION"    // the name belongs to a location that this server does not serve
	ReasonRequestIDReused    Reason = "REQUEST_ID_REUSED" // the request id was used for a different request before
	ReasonBadPageToken       Reason = "BAD_PAGE_TOKEN"
	ReasonUnsupported        Reason = "UNSUPPORTED"     // by this server or its token
	ReasonFutureRevision     Reason = "FUTURE_REVISION" // min_revision has not been reached in time
	ReasonFutureMoment       Reason = "FUTURE_MOMENT"   // as_of, or the beginning of a watch, has not been yet
	ReasonTooLarge           Reason = "TOO_LARGE"
	ReasonTwoCredentials     Reason = "TWO_CREDENTIALS"
	ReasonBadCredential      Reason = "BAD_CREDENTIAL"
	ReasonMissingCredential  Reason = "MISSING_CREDENTIAL"
	ReasonPermissionDenied   Reason = "PERMISSION_DENIED"
	ReasonKeyNotFound        Reason = "KEY_NOT_FOUND"
	ReasonVersionNotFound    Reason = "VERSION_NOT_FOUND"
	ReasonKeyExists          Reason = "KEY_EXISTS" // the id is in use or was used before
	ReasonRingNotFound       Reason = "RING_NOT_FOUND"
	ReasonRingExists         Reason = "RING_EXISTS"
	ReasonRingArchived       Reason = "RING_ARCHIVED"
	ReasonAliasNotFound      Reason = "ALIAS_NOT_FOUND" // the key has no such alias
	ReasonAliasExists        Reason = "ALIAS_EXISTS"    // the alias stands for another key
	ReasonKeyDisabled        Reason = "KEY_DISABLED"
	ReasonKeyPendingImport   Reason = "KEY_PENDING_IMPORT"
	ReasonKeyPendingDeletion Reason = "KEY_PENDING_DELETION"
	ReasonKeyExpired         Reason = "KEY_EXPIRED"
	ReasonKeyArchived        Reason = "KEY_ARCHIVED"
	ReasonKeyDestroyed       Reason = "KEY_DESTROYED"
	ReasonNotPendingDeletion Reason = "NOT_PENDING_DELETION"
	ReasonNotArchived        Reason = "NOT_ARCHIVED"
	ReasonKeyInUse           Reason = "KEY_IN_USE"        // a usage binding says that something depends on the key
	ReasonKeyImportOnly      Reason = "KEY_IMPORT_ONLY"   // the key takes imported material only
	ReasonAutoRotationOff    Reason = "AUTO_ROTATION_OFF" // there is no schedule that could be changed
	ReasonTooManyBindings    Reason = "TOO_MANY_BINDINGS"
	ReasonNoPrimaryVersion   Reason = "NO_PRIMARY_VERSION"
	ReasonVersionDisabled    Reason = "VERSION_DISABLED"
	ReasonVersionPending     Reason = "VERSION_PENDING_IMPORT"
	ReasonVersionScheduled   Reason = "VERSION_DESTROY_SCHEDULED"
	ReasonVersionDestroyed   Reason = "VERSION_DESTROYED"
	ReasonVersionIsPrimary   Reason = "VERSION_IS_PRIMARY"
	ReasonNotScheduled       Reason = "VERSION_NOT_SCHEDULED" // no destruction of the version is scheduled
	ReasonVersionUsedUp      Reason = "VERSION_USED_UP"       // max_uses_per_version encryptions were made with it
	ReasonKeyRecentlyUsed    Reason = "KEY_RECENTLY_USED"     // within the time for which its deletion was to require no use
	ReasonNotImported        Reason = "VERSION_NOT_IMPORTED"  // its material was made by the service
	ReasonMaterialInPlace    Reason = "MATERIAL_IN_PLACE"     // a version takes material only after its own was deleted
	ReasonMaterialDiffers    Reason = "MATERIAL_DIFFERS"      // from the material that the version had before
	ReasonMaterialKnown      Reason = "MATERIAL_KNOWN"        // another version of the key has, or had, this material
	ReasonErasurePending     Reason = "ERASURE_PENDING"       // the deleted material is not known to be erased yet
	ReasonImportJobNotFound  Reason = "IMPORT_JOB_NOT_FOUND"
	ReasonImportJobExists    Reason = "IMPORT_JOB_EXISTS" // the id is in use or was used before
	ReasonImportJobExpired   Reason = "IMPORT_JOB_EXPIRED"
	ReasonImportJobCanceled  Reason = "IMPORT_JOB_CANCELED"
	ReasonTooManyImports     Reason = "TOO_MANY_IMPORTS"
	ReasonWrappedKeyUsed     Reason = "WRAPPED_KEY_USED" // it was sent to be imported before
	ReasonBadMaterial        Reason = "BAD_MATERIAL"     // it can't be unwrapped, or is no material for the key's algorithm
	ReasonClearImportOff     Reason = "CLEAR_IMPORT_OFF" // material in the clear is not taken, or not over this connection
	ReasonWrongPurpose       Reason = "WRONG_PURPOSE"
	ReasonEtagMismatch       Reason = "ETAG_MISMATCH"
	ReasonContention         Reason = "CONTENTION"           // other changes of the same resource won every attempt
	ReasonNotRecorded        Reason = "NOT_RECORDED"         // no durable record could be made, so there is no answer
	ReasonOutcomeUnknown     Reason = "OUTCOME_UNKNOWN"      // the change may or may not have been stored: repeat it with the same request_id
	ReasonStoreFull          Reason = "STORE_FULL"           // the event store or the activity log has no room
	ReasonTokenUnavailable   Reason = "TOKEN_UNAVAILABLE"    // the HSM does not answer
	ReasonStaleProjection    Reason = "STALE_PROJECTION"     // this node does not know the newest state
	ReasonClockBehind        Reason = "CLOCK_BEHIND"         // this node's clock is behind the log
	ReasonActivityAway       Reason = "ACTIVITY_UNAVAILABLE" // the activity database does not answer; keys can still be used
	ReasonStoreAway          Reason = "STORE_UNAVAILABLE"    // the event store does not answer
	ReasonNoBackup           Reason = "NO_BACKUP"            // no backup target is registered, and nobody said that none is needed
	ReasonInternal           Reason = "INTERNAL"             // a fault of the service; details are in its log
	ReasonOverloaded         Reason = "OVERLOADED"
	ReasonTooSlow            Reason = "TOO_SLOW"         // the caller does not take what a stream sends
	ReasonStopping           Reason = "STOPPING"         // this server is being stopped
	ReasonMaterialMissing    Reason = "MATERIAL_MISSING" // the wrapped key is not where the log says it is, or is damaged
)

// Error is a refusal: a reason for programs and a sentence for people that says what is wrong and what to do. It never
// holds anything secret, and its text may be sent to callers.
type Error struct {
	Reason  Reason
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is compare reasons: errors.Is(err, &Error{Reason: ReasonKeyDisabled}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

func refuse(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}
