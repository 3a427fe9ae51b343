package main

import (
	"encoding"
	"testing"
	"time"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

func TestEnums(t *testing.T) {
	for text, want := range map[string]int32{
		"ENCRYPT_DECRYPT": int32(kmsv1.Key_ENCRYPT_DECRYPT), "encrypt-decrypt": int32(kmsv1.Key_ENCRYPT_DECRYPT), "mac": int32(kmsv1.Key_MAC),
		"": 0, "PURPOSE_UNSPECIFIED": 0, "AES_256_GCM": 0, "1": 0,
	} {
		var p purpose
		if err := p.UnmarshalText([]byte(text)); int32(p) != want || (err != nil) != (want == 0) {
			t.Errorf("purpose %q is %d, %v, want %d", text, p, err, want)
		}
	}
	var a algorithm
	var l protection
	var o outcome
	for text, into := range map[string]encoding.TextUnmarshaler{"aes_256_gcm": &a, "hsm": &l, "Denied": &o} {
		if err := into.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if a != algorithm(kmsv1.Key_AES_256_GCM) || l != protection(kmsv1.Key_HSM) || o != outcome(kmsv1.ActivityLog_DENIED) {
		t.Errorf("read %d, %d, %d", a, l, o)
	}
}

func TestPeriod(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute, "0": 0,
		"7d": 168 * time.Hour, "2w": 336 * time.Hour, "120d": 2880 * time.Hour, "15250w": 15250 * 168 * time.Hour,
		"": -1, "d": -1, "-1d": -1, "-1h": -1, "1.5d": -1, "7": -1, "7 d": -1, "1d12h": -1, "15251w": -1, "99999999999999999999d": -1,
	} {
		got, err := parsePeriod(text)
		if want == -1 {
			if err == nil {
				t.Errorf("%q is %s, want it refused", text, got)
			}
			continue
		}
		if got != want || err != nil {
			t.Errorf("%q is %s, %v, want %s", text, got, err, want)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2h":                        now.Add(-2 * time.Hour),
		"7d":                        now.AddDate(0, 0, -7),
		"2026-01-31T09:30:00Z":      time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC),
		"2026-01-31T09:30:00+09:00": time.Date(2026, 1, 31, 0, 30, 0, 0, time.UTC),
		"2026-01-31T09:30:00.125Z":  time.Date(2026, 1, 31, 9, 30, 0, 125e6, time.UTC),
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
	} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := m.timestamp(now).AsTime(); !got.Equal(want) {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", "yesterday", "2026-13-01", "-2h", "2026-01-31 09:30"} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %+v, want it refused", text, m)
		}
	}
	if got := (*moment)(nil).timestamp(now); got != nil {
		t.Errorf("no moment is %s, want none", got)
	}
}
