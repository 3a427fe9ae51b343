package domain_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	. "github.com/keyledger/kms/domain"
)

// wish is what the owner of a key asks for at some hour.
type wish struct {
	hour    int
	command Command
}

// span is from one hour to before another.
type span struct{ from, to int }

func (s span) has(hour int) bool { return s.from <= hour && hour < s.to }

const scheduleHours = 2 * 365 * 24

// plan is two years of one key's life: what is asked for and when no node runs.
type plan struct {
	period int // days, at the start
	wishes []wish
	away   []span
}

// makePlan makes a random plan: a change of the key every few weeks, and some outages, one of which may be long.
func makePlan(r *rand.Rand) plan {
	p := plan{period: 1 + r.IntN(120)}
	disabled, pending := false, false
	for hour := r.IntN(500); hour < scheduleHours; hour += 1 + r.IntN(1200) {
		var c Command
		switch n := r.IntN(12); {
		case pending:
			c, pending, disabled = CancelKeyDeletion{}, false, true
		case n == 0:
			c, pending = ScheduleKeyDeletion{Wait: 120 * day}, true
		case n <= 2:
			c = UpdateRotationPeriod{Period: time.Duration(1+r.IntN(120)) * day}
		case n == 3:
			c = DisableAutoRotation{}
		case n <= 5:
			c = EnableAutoRotation{Period: time.Duration(r.IntN(60)) * day}
		case n <= 7 && !disabled:
			c = RotateKey{}
		case n <= 9 && disabled:
			c, disabled = EnableKey{}, false
		case n == 10:
			next := day0.Add(time.Duration(hour+1+r.IntN(2000)) * time.Hour)
			c = UpdateKey{NextRotationTime: &next}
		default:
			c, disabled = DisableKey{}, true
		}
		p.wishes = append(p.wishes, wish{hour, c})
	}
	for range r.IntN(4) {
		from := r.IntN(scheduleHours)
		p.away = append(p.away, span{from, from + 1 + r.IntN(6000)>>r.IntN(8)})
	}
	return p
}

// carryOut is the hours at which the rules rotate the key, if nodes do what is due as soon as NextDue says so and they run.
func (p plan) carryOut(t *testing.T) (rotations []int) {
	t.Helper()
	at := func(hour int) time.Time { return day0.Add(time.Duration(hour) * time.Hour) }
	c := create
	c.AutoRotation, c.RotationPeriod = true, time.Duration(p.period)*day
	made, err := Decide(Key{}, at(0), c)
	if err != nil {
		t.Fatal(err)
	}
	k := Fold(Key{}, at(0), made...)
	// workUntil does what falls due before the hour.
	workUntil := func(now, end int) {
		for {
			next := k.NextDue()
			if next.IsZero() {
				return
			}
			hour := max(now, int(next.Sub(day0)/time.Hour))
			for slices.ContainsFunc(p.away, func(s span) bool { return s.has(hour) }) {
				hour++
			}
			if hour >= end {
				return
			}
			for _, w := range k.Due(at(hour)) {
				if w != WorkRotation {
					t.Fatalf("%s is due at hour %d", w, hour)
				}
			}
			made, err := Decide(k, at(hour), RotateDueKey{MaterialID: material1})
			if err != nil || len(made) == 0 {
				t.Fatalf("hour %d: what is due makes %v, %v", hour, made, err)
			}
			k = Fold(k, at(hour), made...)
			rotations = append(rotations, hour)
		}
	}
	now := 0
	for _, w := range p.wishes {
		workUntil(now, w.hour)
		now = w.hour
		if made, err := Decide(k, at(now), w.command); err == nil { // some wishes can't be granted, as without automatic rotation
			k = Fold(k, at(now), made...)
		}
	}
	workUntil(now, scheduleHours)
	return rotations
}

// expect is the hours at which the key should be rotated, found by going through all hours one by one.
func (p plan) expect() (rotations []int) {
	on, pending := true, false
	period := p.period * 24
	anchor := period // an hour at which it is due; the others are whole periods away
	missed := false
	wishes := p.wishes
	for hour := range scheduleHours {
		if len(wishes) > 0 && wishes[0].hour == hour {
			switch c := wishes[0].command.(type) { //nolint:gochecksumtype // others do not touch the schedule
			case ScheduleKeyDeletion:
				pending = true
			case CancelKeyDeletion:
				pending = false
			case UpdateRotationPeriod:
				if hours := int(c.Period.Hours()); on && !pending && hours != period {
					period, anchor, missed = hours, hour+hours, false
				}
			case DisableAutoRotation:
				if !pending {
					on, missed = false, false
				}
			case EnableAutoRotation:
				hours := int(c.Period.Hours())
				if hours == 0 {
					hours = period
				}
				if !pending && (!on || hours != period) {
					on, period, anchor, missed = true, hours, hour+hours, false
				}
			case UpdateKey:
				if on {
					anchor, missed = int(c.NextRotationTime.Sub(day0).Hours()), false
				}
			}
			wishes = wishes[1:]
		}
		if on && hour >= anchor && (hour-anchor)%period == 0 {
			missed = true
		}
		if missed && !pending && !slices.ContainsFunc(p.away, func(s span) bool { return s.has(hour) }) {
			rotations = append(rotations, hour)
			missed = false
		}
	}
	return rotations
}

// TestRotationSchedule: two years of automatic rotation of 1,000 keys, with outages, disabled spans, pending deletions and
// changes of the period, happen when a calendar kept by hand says so.
func TestRotationSchedule(t *testing.T) {
	const keys = 1000
	total, kinds := 0, map[string]int{}
	for seed := range uint64(keys) {
		p := makePlan(rand.New(rand.NewPCG(seed, 3)))
		got, want := p.carryOut(t), p.expect()
		if !slices.Equal(got, want) {
			t.Fatalf("plan %d %+v: rotated at hours\n%v, want\n%v", seed, p, got, want)
		}
		total += len(got)
		for _, w := range p.wishes {
			kinds[fmt.Sprintf("%T", w.command)]++
		}
	}
	if total < 10*keys || len(kinds) != 9 {
		t.Errorf("the plans made only %d rotations of wishes %v: they show little", total, kinds)
	}
}

// TestDue has a row for everything that comes with time, and for what stops it.
func TestDue(t *testing.T) {
	never := time.Time{}
	for name, tt := range map[string]struct {
		key  Key
		next time.Time
		due  []Work // at day9
	}{
		"no key":                       {Key{}, never, nil},
		"a plain key":                  {keyIn(KeyStateEnabled), never, nil},
		"a destroyed key":              {keyIn(KeyStateDestroyed, append(expiring, rotating...)...), never, nil},
		"a rotation":                   {keyIn(KeyStateEnabled, rotating...), day3, []Work{WorkRotation}},
		"a rotation while disabled":    {keyIn(KeyStateDisabled, rotating...), day3, []Work{WorkRotation}},
		"a rotation while archived":    {keyIn(KeyStateArchived, rotating...), never, nil},
		"a rotation while expired":     {keyIn(KeyStateExpired, rotating...), never, nil},
		"a rotation without material":  {keyIn(KeyStatePendingImport, rotating...), never, nil},
		"a deletion, and a rotation":   {keyIn(KeyStatePendingDeletion, rotating...), day3, []Work{WorkDeletion}},
		"an expiry":                    {keyIn(KeyStateEnabled, expiring...), day3, []Work{WorkExpiry}},
		"an expiry while disabled":     {keyIn(KeyStateDisabled, expiring...), never, nil},
		"an expiry before a rotation":  {keyIn(KeyStateEnabled, append(expiring, AutoRotationEnabled{RotationPeriod: day, NextRotationTime: day9})...), day3, []Work{WorkExpiry}},
		"a rotation before an expiry":  {keyIn(KeyStateEnabled, append(rotating, KeyExpiryChanged{ExpireTime: day9})...), day3, []Work{WorkExpiry}},
		"a destruction":                {keyIn(KeyStateArchived, scheduled1), day3, []Work{WorkDestruction}},
		"a destruction and a rotation": {keyIn(KeyStateEnabled, scheduled1, AutoRotationEnabled{RotationPeriod: day, NextRotationTime: day1}), day1, []Work{WorkDestruction, WorkRotation}},
		"a budget that is leased":      {keyIn(KeyStateEnabled, append(budgetLeased, rotating...)...), day0, []Work{WorkRotation}},
		"a budget, but no rotation":    {keyIn(KeyStateEnabled, budgetLeased...), never, nil},
		"a budget of an older version": {keyIn(KeyStateEnabled, append(budgetLeased, added3, primary3, rotating[0])...), day3, []Work{WorkRotation}},
	} {
		t.Run(name, func(t *testing.T) {
			if next := tt.key.NextDue(); !next.Equal(tt.next) {
				t.Errorf("NextDue = %s, want %s", next, tt.next)
			}
			if got := tt.key.Due(day9); !slices.Equal(got, tt.due) {
				t.Errorf("Due = %v, want %v", got, tt.due)
			}
		})
	}
}
