package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// Values of the API's enums, as they are typed: in any case, with - or _.
type (
	purpose    kmsv1.Key_Purpose
	algorithm  kmsv1.Key_Algorithm
	protection kmsv1.Key_ProtectionLevel
	outcome    kmsv1.ActivityLog_Outcome
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *purpose) UnmarshalText(text []byte) (err error) {
	*p, err = enumValue[purpose](text, kmsv1.Key_Purpose_value)
	return err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *algorithm) UnmarshalText(text []byte) (err error) {
	*a, err = enumValue[algorithm](text, kmsv1.Key_Algorithm_value)
	return err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *protection) UnmarshalText(text []byte) (err error) {
	*p, err = enumValue[protection](text, kmsv1.Key_ProtectionLevel_value)
	return err
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *outcome) UnmarshalText(text []byte) (err error) {
	*o, err = enumValue[outcome](text, kmsv1.ActivityLog_Outcome_value)
	return err
}

func enumValue[E ~int32](text []byte, values map[string]int32) (E, error) {
	v := values[strings.ToUpper(strings.ReplaceAll(string(text), "-", "_"))]
	if v == 0 { // also the name of the zero value, which means nothing
		names := slices.DeleteFunc(slices.Sorted(maps.Keys(values)), func(name string) bool { return values[name] == 0 })
		return 0, fmt.Errorf("%q is not one of %s", text, strings.Join(names, ", "))
	}
	return E(v), nil
}

// period is a duration that may also be given in days or weeks: 36h, 7d, 2w.
type period time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *period) UnmarshalText(text []byte) error {
	d, err := parsePeriod(string(text))
	*p = period(d)
	return err
}

func parsePeriod(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	for unit, length := range map[string]time.Duration{"d": day, "w": 7 * day} {
		count, ok := strings.CutSuffix(s, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(count, 10, 32)
		if err != nil || n < 0 || n > int64(math.MaxInt64/length) {
			return 0, fmt.Errorf("%q is not a time like 90m, 36h, 7d or 2w", s)
		}
		return time.Duration(n) * length, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a time like 90m, 36h, 7d or 2w", s)
	}
	return d, nil
}

// moment is a point in time: RFC 3339, a day (its beginning, here), or how long ago.
type moment struct {
	at  time.Time
	ago time.Duration // if at is zero
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		m.at = at
		return nil
	}
	if at, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		m.at = at
		return nil
	}
	ago, err := parsePeriod(s)
	if err != nil {
		return fmt.Errorf("%q is not a time like 2h, 7d, 2026-01-31 or 2026-01-31T09:30:00Z", s)
	}
	m.ago = ago
	return nil
}

// timestamp is the moment, seen from now; nil if there is none.
func (m *moment) timestamp(now time.Time) *timestamppb.Timestamp {
	switch {
	case m == nil:
		return nil
	case m.at.IsZero():
		return timestamppb.New(now.Add(-m.ago))
	}
	return timestamppb.New(m.at)
}
