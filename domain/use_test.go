package domain_test

import (
	"errors"
	"fmt"
	"testing"

	. "github.com/keyledger/kms/domain"
)

// checkUse checks that a use takes the wanted version, or is refused for the wanted reason.
func checkUse(t *testing.T, got KeyVersion, err error, version Version, reason Reason) {
	t.Helper()
	if reason != "" {
		if !errors.Is(err, &Error{Reason: reason}) {
			t.Errorf("error = %v, want reason %s", err, reason)
		}
		if got.Version != 0 {
			t.Errorf("version %d was given though the use is refused", got.Version)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != version || got.MaterialID != uid(0x20+byte(version)) {
		t.Errorf("got version %d with material %s, want version %d", got.Version, got.MaterialID, version)
	}
}

func TestVersionForInEveryKeyState(t *testing.T) {
	want := map[KeyState]map[Use]Reason{
		KeyStateAbsent:          {Protecting: ReasonKeyNotFound, Opening: ReasonKeyNotFound},
		KeyStateEnabled:         {Protecting: "", Opening: ""},
		KeyStateDisabled:        {Protecting: ReasonKeyDisabled, Opening: ReasonKeyDisabled},
		KeyStatePendingImport:   {Protecting: ReasonKeyPendingImport, Opening: ReasonKeyPendingImport},
		KeyStatePendingDeletion: {Protecting: ReasonKeyPendingDeletion, Opening: ReasonKeyPendingDeletion},
		KeyStateExpired:         {Protecting: ReasonKeyExpired, Opening: ""},
		KeyStateArchived:        {Protecting: ReasonKeyArchived, Opening: ""},
		KeyStateDestroyed:       {Protecting: ReasonKeyDestroyed, Opening: ReasonKeyDestroyed},
	}
	for _, s := range states[KeyState](t, "KeyState") {
		for _, use := range []Use{Protecting, Opening} {
			for asked, version := range map[Version]Version{0: 2, 1: 1, 2: 2} {
				t.Run(fmt.Sprintf("%s/%d/version %d", s, use, asked), func(t *testing.T) {
					reason, ok := want[s][use]
					if !ok {
						t.Fatal("no row says what shall happen")
					}
					got, err := keyIn(s).VersionFor(use, EncryptDecrypt, asked, day1)
					checkUse(t, got, err, version, reason)
				})
			}
		}
	}
}

func TestVersionForInEveryVersionState(t *testing.T) {
	want := map[VersionState]Reason{
		VersionStateEnabled:          "",
		VersionStateDisabled:         ReasonVersionDisabled,
		VersionStatePendingImport:    ReasonVersionPending,
		VersionStateDestroyScheduled: ReasonVersionScheduled,
		VersionStateDestroyed:        ReasonVersionDestroyed,
	}
	for _, s := range states[VersionState](t, "VersionState") {
		for _, use := range []Use{Protecting, Opening} {
			for _, asked := range []Version{0, 2} { // the primary, unnamed and named
				t.Run(fmt.Sprintf("%s/%d/version %d", s, use, asked), func(t *testing.T) {
					reason, ok := want[s]
					if !ok {
						t.Fatal("no row says what shall happen")
					}
					got, err := keyWithVersionIn(2, s).VersionFor(use, EncryptDecrypt, asked, day1)
					checkUse(t, got, err, 2, reason)
				})
			}
		}
	}
}

func TestVersionForRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		key     Key
		purpose Purpose
		version Version
		reason  Reason
	}{
		"another purpose":                          {keyIn(KeyStateEnabled), "SIGN_VERIFY", 0, ReasonWrongPurpose},
		"another purpose of a disabled key":        {keyIn(KeyStateDisabled), "SIGN_VERIFY", 0, ReasonKeyDisabled},
		"the primary of a key without any":         {given(created), EncryptDecrypt, 0, ReasonNoPrimaryVersion},
		"a version after the newest":               {keyIn(KeyStateEnabled), EncryptDecrypt, 3, ReasonVersionNotFound},
		"a version before the first":               {keyIn(KeyStateEnabled), EncryptDecrypt, -1, ReasonVersionNotFound},
		"a key whose deletion is due and not done": {given(created, added1, primary1, scheduled), EncryptDecrypt, 1, ReasonKeyPendingDeletion},
	} {
		for _, use := range []Use{Protecting, Opening} {
			t.Run(fmt.Sprintf("%s/%d", name, use), func(t *testing.T) {
				got, err := tt.key.VersionFor(use, tt.purpose, tt.version, day9)
				checkUse(t, got, err, 0, tt.reason)
			})
		}
	}
}

// TestVersionForByTheClock: a key expires at its time, recorded or not.
func TestVersionForByTheClock(t *testing.T) {
	for name, k := range map[string]Key{"recorded": keyIn(KeyStateEnabled, andMore(expiring, KeyExpired{})...), "not recorded": keyIn(KeyStateEnabled, expiring...)} {
		t.Run(name, func(t *testing.T) {
			got, err := k.VersionFor(Protecting, EncryptDecrypt, 0, day3)
			checkUse(t, got, err, 0, ReasonKeyExpired)
			got, err = k.VersionFor(Opening, EncryptDecrypt, 0, day3)
			checkUse(t, got, err, 2, "")
		})
	}
	got, err := keyIn(KeyStateEnabled, expiring...).VersionFor(Protecting, EncryptDecrypt, 0, day3.Add(-1))
	checkUse(t, got, err, 2, "")
}
