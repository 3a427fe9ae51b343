package domain_test

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

// TestOutcomeOf has one row for every reason, so that a new one can't be recorded as something nobody thought of.
func TestOutcomeOf(t *testing.T) {
	denied := []Reason{
		ReasonPermissionDenied, ReasonKeyDisabled, ReasonKeyPendingImport, ReasonKeyPendingDeletion, ReasonKeyExpired, ReasonKeyArchived, ReasonKeyDestroyed,
		ReasonNotPendingDeletion, ReasonNoPrimaryVersion, ReasonVersionDisabled, ReasonVersionPending, ReasonVersionScheduled, ReasonVersionDestroyed,
		ReasonVersionIsPrimary, ReasonWrongPurpose, ReasonNotArchived, ReasonKeyInUse, ReasonKeyImportOnly, ReasonAutoRotationOff, ReasonTooManyBindings,
		ReasonNotScheduled, ReasonVersionUsedUp, ReasonKeyRecentlyUsed, ReasonNotImported, ReasonMaterialInPlace, ReasonErasurePending, ReasonRingArchived,
		ReasonImportJobExpired, ReasonImportJobCanceled, ReasonTooManyImports, ReasonWrappedKeyUsed, ReasonClearImportOff, ReasonNoBackup,
	}
	failed := []Reason{
		ReasonBadName, ReasonBadField, ReasonBadCiphertext, ReasonWrongLocation, ReasonRequestIDReused, ReasonBadPageToken, ReasonUnsupported,
		ReasonFutureRevision, ReasonTooLarge, ReasonTwoCredentials, ReasonBadCredential, ReasonMissingCredential, ReasonKeyNotFound, ReasonVersionNotFound,
		ReasonKeyExists, ReasonEtagMismatch, ReasonContention, ReasonNotRecorded, ReasonOutcomeUnknown, ReasonStoreFull, ReasonTokenUnavailable,
		ReasonStaleProjection, ReasonClockBehind, ReasonActivityAway, ReasonStoreAway, ReasonInternal, ReasonOverloaded, ReasonMaterialMissing,
		ReasonRingNotFound, ReasonRingExists, ReasonAliasNotFound, ReasonAliasExists,
		ReasonMaterialDiffers, ReasonMaterialKnown, ReasonImportJobNotFound, ReasonImportJobExists, ReasonBadMaterial,
		ReasonFutureMoment, ReasonTooSlow, ReasonStopping,
	}
	want := make(map[Reason]Outcome)
	for _, r := range denied {
		want[r] = OutcomeDenied
	}
	for _, r := range failed {
		want[r] = OutcomeFailed
	}
	for name, value := range stringConstants(t, "Reason") {
		outcome, ok := want[Reason(value)]
		if !ok {
			t.Errorf("no row says what a refusal with %s is recorded as", name)
		} else if got := OutcomeOf(Reason(value)); got != outcome {
			t.Errorf("OutcomeOf(%s) = %s, want %s", name, got, outcome)
		}
	}
	if got := OutcomeOf(""); got != OutcomeOK {
		t.Errorf("OutcomeOf without a reason = %s, want OK", got)
	}
}

// textLimits are the longest texts that a record keeps, in bytes.
var textLimits = map[string]int{"KeyName": 280, "Message": 160, "Caller.UserAgent": 80, "Caller.ClientRequestID": 128, "Caller.CorrelationID": 128}

func limitedTexts(r *ActivityRecord) map[string]*string {
	return map[string]*string{
		"KeyName": &r.KeyName, "Message": &r.Message, "Caller.UserAgent": &r.Caller.UserAgent,
		"Caller.ClientRequestID": &r.Caller.ClientRequestID, "Caller.CorrelationID": &r.Caller.CorrelationID,
	}
}

func TestTrimmedTexts(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(limitedTexts(new(ActivityRecord)))), slices.Sorted(maps.Keys(textLimits)); !slices.Equal(got, want) {
		t.Fatalf("texts %v, limits %v", got, want)
	}
	for field, limit := range textLimits {
		for name, tt := range map[string]struct{ text, want string }{
			"empty":                     {"", ""},
			"short":                     {"kmsctl/1.0", "kmsctl/1.0"},
			"just fits":                 {strings.Repeat("a", limit), strings.Repeat("a", limit)},
			"one too long":              {strings.Repeat("a", limit+1), strings.Repeat("a", limit-3) + "…"},
			"far too long":              {strings.Repeat("a", 1<<20), strings.Repeat("a", limit-3) + "…"},
			"multi-byte fits":           {strings.Repeat("a", limit-3) + "€", strings.Repeat("a", limit-3) + "€"},
			"multi-byte, clean cut":     {strings.Repeat("a", limit-6) + "€€€", strings.Repeat("a", limit-6) + "€…"},
			"multi-byte in the way, 1":  {strings.Repeat("a", limit-5) + "€€€", strings.Repeat("a", limit-5) + "…"},
			"multi-byte in the way, 2":  {strings.Repeat("a", limit-4) + "€€€", strings.Repeat("a", limit-4) + "…"},
			"four bytes in the way":     {strings.Repeat("a", limit-6) + "😀😀", strings.Repeat("a", limit-6) + "…"},
			"not UTF-8":                 {"ab\xffcd", "ab\uFFFDcd"},
			"not UTF-8 and too long":    {strings.Repeat("a", limit-4) + "\xff\xffaaaa", strings.Repeat("a", limit-4) + "…"},
			"half a character, at last": {"a\xe2\x82", "a\uFFFD"},
			"continuation bytes only":   {strings.Repeat("\x80", 1000), "\uFFFD"},
		} {
			t.Run(field+"/"+name, func(t *testing.T) {
				var r ActivityRecord
				*limitedTexts(&r)[field] = tt.text
				trimmed := r.Trimmed()
				if got := *limitedTexts(&trimmed)[field]; got != tt.want {
					t.Errorf("kept %q, want %q", got, tt.want)
				}
			})
		}
	}
}

// TestTrimmedAnyText: whatever a client sends, what is kept is valid UTF-8 within its limit, and trimming again changes
// nothing.
func TestTrimmedAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(rapid.SampledFrom([]byte{'a', 0x80, 0xbf, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0xff}), 0, 400).Draw(t, "text"))
		var r ActivityRecord
		for _, s := range limitedTexts(&r) {
			*s = text
		}
		trimmed := r.Trimmed()
		for field, s := range limitedTexts(&trimmed) {
			if !utf8.ValidString(*s) || len(*s) > textLimits[field] {
				t.Fatalf("%s keeps %d bytes %q", field, len(*s), *s)
			}
			if utf8.ValidString(text) && len(text) <= textLimits[field] && *s != text {
				t.Fatalf("%s keeps %q of %q, which fits", field, *s, text)
			}
		}
		if diff := cmp.Diff(trimmed, trimmed.Trimmed(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatalf("trimmed twice:\n%s", diff)
		}
	})
}

func TestTrimmedKeepsTheRest(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC)
	record := ActivityRecord{
		Time: at, Project: "shop", Location: "local", KeyUID: keyUID, KeyName: keyText, Version: 3, Operation: "Encrypt", Category: CategoryCrypto,
		Outcome: OutcomeDenied, Reason: ReasonKeyDisabled, Message: "disabled", GrantedBy: "admin", Protection: HSM, LedgerTag: ledgerTag,
		BytesIn: 1, BytesOut: 2, Duration: 1_234_567,
		Caller: Caller{
			Principal: "admin", Kind: KindAdmin, Request: RequestAPI, Address: netip.MustParseAddr("::ffff:192.0.2.7"), UserAgent: "kmsctl",
			RequestID: uid(1), ClientRequestID: "client", CorrelationID: "correlation", TraceID: [16]byte{9},
		},
	}
	for _, v := range []reflect.Value{reflect.ValueOf(record), reflect.ValueOf(record.Caller)} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Fatalf("%s.%s is not set, so the test can't see whether it is kept", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
	want := record
	want.Time = at.Truncate(time.Microsecond)
	want.Duration = 1234 * time.Microsecond
	want.Caller.Address = netip.MustParseAddr("192.0.2.7")
	got := record.Trimmed()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("trimmed (-want +got):\n%s", diff)
	}
	if got.Time.Nanosecond() != 678_901_000 {
		t.Errorf("time %s is not to the microsecond", got.Time)
	}
}

func TestTrimmedAddress(t *testing.T) {
	for from, want := range map[netip.Addr]netip.Addr{
		{}:                                    {},
		netip.MustParseAddr("192.0.2.7"):      netip.MustParseAddr("192.0.2.7"),
		netip.MustParseAddr("2001:db8::7"):    netip.MustParseAddr("2001:db8::7"),
		netip.MustParseAddr("::ffff:1.2.3.4"): netip.MustParseAddr("1.2.3.4"),
	} {
		if got := (Caller{Address: from}).Trimmed().Address; got != want {
			t.Errorf("address %s is kept as %s, want %s", from, got, want)
		}
	}
}
