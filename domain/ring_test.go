package domain_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

var (
	spare       = RingName{Project: "shop", Location: "local", Ring: "spare"}
	spareMade   = KeyRingCreated{Name: spare, Labels: map[string]string{"team": "shop"}, Creator: "admin"}
	createSpare = CreateKeyRing{Name: spare, Labels: map[string]string{"team": "shop"}, Creator: "admin"}
	defaultMade = KeyRingCreated{Name: ring, Creator: "admin"}
)

// ringIn is the ring spare in the given state.
func ringIn(s RingState) Ring {
	switch s {
	case RingStateAbsent:
	case RingStateActive:
		return FoldRing(Ring{}, day0, spareMade)
	case RingStateArchived:
		return FoldRing(Ring{}, day0, spareMade, KeyRingArchived{})
	}
	return Ring{}
}

type ringAnswer struct {
	events []RingEvent
	reason Reason
}

// ringAnswers has one row for every command and in it one answer for every state of a ring.
var ringAnswers = []struct {
	command RingCommand
	answers map[RingState]ringAnswer
}{
	{createSpare, map[RingState]ringAnswer{
		RingStateAbsent:   {events: []RingEvent{spareMade}},
		RingStateActive:   {reason: ReasonRingExists},
		RingStateArchived: {reason: ReasonRingExists},
	}},
	{ArchiveKeyRing{Name: spare, Creator: "admin"}, map[RingState]ringAnswer{
		RingStateAbsent:   {reason: ReasonRingNotFound},
		RingStateActive:   {events: []RingEvent{KeyRingArchived{}}},
		RingStateArchived: {},
	}},
	{UnarchiveKeyRing{Name: spare, Creator: "admin"}, map[RingState]ringAnswer{
		RingStateAbsent:   {reason: ReasonRingNotFound},
		RingStateActive:   {},
		RingStateArchived: {events: []RingEvent{KeyRingUnarchived{}}},
	}},
}

func TestDecideRingInEveryState(t *testing.T) {
	var commands []string
	for _, row := range ringAnswers {
		name := reflect.TypeOf(row.command).Name()
		commands = append(commands, name)
		for _, s := range states[RingState](t, "RingState") {
			want, ok := row.answers[s]
			if !ok {
				t.Errorf("no answer to %s of a ring that is %q", name, s)
			}
			got, err := DecideRing(ringIn(s), row.command)
			checkRing(t, name+" of a ring that is "+string(s), want, got, err)
		}
	}
	slices.Sort(commands)
	if want := sealedTypes(t, "isRingCommand"); !slices.Equal(commands, want) {
		t.Errorf("the table speaks of %v, want %v", commands, want)
	}
}

func checkRing(t *testing.T, what string, want ringAnswer, got []RingEvent, err error) {
	t.Helper()
	var reason Reason
	if refusal, ok := errors.AsType[*Error](err); ok {
		reason = refusal.Reason
		if !strings.Contains(refusal.Message, "keyRings/") {
			t.Errorf("%s: the refusal %q names no ring", what, refusal.Message)
		}
	}
	if diff := cmp.Diff(want.events, got); diff != "" || reason != want.reason {
		t.Errorf("%s: refused with %q, want %q; events (-want +got):\n%s", what, reason, want.reason, diff)
	}
}

// TestDefaultRing: it exists without having been made, and is recorded with the first change to it.
func TestDefaultRing(t *testing.T) {
	archived := FoldRing(Ring{}, day0, defaultMade, KeyRingArchived{})
	for what, tt := range map[string]struct {
		given   Ring
		command RingCommand
		want    ringAnswer
	}{
		"create":            {Ring{}, CreateKeyRing{Name: ring, Creator: "admin"}, ringAnswer{reason: ReasonRingExists}},
		"archive":           {Ring{}, ArchiveKeyRing{Name: ring, Creator: "admin"}, ringAnswer{events: []RingEvent{defaultMade, KeyRingArchived{}}}},
		"unarchive at once": {Ring{}, UnarchiveKeyRing{Name: ring, Creator: "admin"}, ringAnswer{events: []RingEvent{defaultMade}}},
		"archive again":     {archived, ArchiveKeyRing{Name: ring, Creator: "admin"}, ringAnswer{}},
		"unarchive":         {archived, UnarchiveKeyRing{Name: ring, Creator: "admin"}, ringAnswer{events: []RingEvent{KeyRingUnarchived{}}}},
	} {
		got, err := DecideRing(tt.given, tt.command)
		checkRing(t, what, tt.want, got, err)
	}
	if r, ok := RingAsKnown(ring, Ring{}); !ok || r.State != RingStateActive || r.Name != ring {
		t.Errorf("the default ring is %+v, %t", r, ok)
	}
	if r, ok := RingAsKnown(ring, archived); !ok || r.State != RingStateArchived {
		t.Errorf("the archived default ring is %+v, %t", r, ok)
	}
}

func TestCheckNewKey(t *testing.T) {
	for what, tt := range map[string]struct {
		name  RingName
		ring  Ring
		wants Reason
	}{
		"never made":     {spare, ringIn(RingStateAbsent), ReasonRingNotFound},
		"active":         {spare, ringIn(RingStateActive), ""},
		"archived":       {spare, ringIn(RingStateArchived), ReasonRingArchived},
		"unarchived":     {spare, FoldRing(ringIn(RingStateArchived), day1, KeyRingUnarchived{}), ""},
		"default":        {ring, Ring{}, ""},
		"default, taken": {ring, FoldRing(Ring{}, day0, defaultMade, KeyRingArchived{}), ReasonRingArchived},
	} {
		var reason Reason
		if refusal, ok := errors.AsType[*Error](CheckNewKey(tt.name, tt.ring)); ok {
			reason = refusal.Reason
		}
		if reason != tt.wants {
			t.Errorf("%s: refused with %q, want %q", what, reason, tt.wants)
		}
	}
}

func TestEvolveRing(t *testing.T) {
	made := Ring{Name: spare, State: RingStateActive, Labels: spareMade.Labels, Creator: "admin", CreateTime: day0, StateTime: day0}
	archived := made
	archived.State, archived.StateTime = RingStateArchived, day1
	again := made
	again.StateTime = day3
	if diff := cmp.Diff(made, EvolveRing(Ring{}, day0, spareMade)); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(archived, EvolveRing(made, day1, KeyRingArchived{})); diff != "" {
		t.Errorf("archived (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(again, EvolveRing(archived, day3, KeyRingUnarchived{})); diff != "" {
		t.Errorf("unarchived (-want +got):\n%s", diff)
	}
}

func TestEveryRingTypeIsHandled(t *testing.T) {
	for function, method := range map[string]string{
		"DecideRing": "isRingCommand", "EvolveRing": "isRingEvent", "DecideAlias": "isAliasCommand", "EvolveAlias": "isAliasEvent",
	} {
		if want, got := sealedTypes(t, method), casesOf(t, function); !slices.Equal(want, got) {
			t.Errorf("%s has cases for %v, want %v", function, got, want)
		}
	}
}

// TestRingLifetime: whatever is asked for, a ring that exists stays, refusals change nothing, asking again changes
// nothing, and a replay in two parts is the replay in one.
func TestRingLifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]RingName{ring, spare}).Draw(t, "ring")
		var history []RingEvent
		do := func(cmd RingCommand) func(*rapid.T) {
			return func(t *rapid.T) {
				before := FoldRing(Ring{}, day0, history...)
				made, err := DecideRing(before, cmd)
				if err != nil {
					if len(made) > 0 {
						t.Fatalf("%T was both refused and decided", cmd)
					}
					return
				}
				history = append(history, made...)
				after := FoldRing(before, day0, made...)
				if before.State != RingStateAbsent && (after.State == RingStateAbsent || after.CreateTime != before.CreateTime) {
					t.Fatalf("%T made the ring anew", cmd)
				}
				if _, ok := cmd.(CreateKeyRing); ok {
					return
				}
				if again, err := DecideRing(after, cmd); err != nil || len(again) > 0 {
					t.Fatalf("%T asked for again: %v, %v", cmd, again, err)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create":    do(CreateKeyRing{Name: name}),
			"archive":   do(ArchiveKeyRing{Name: name}),
			"unarchive": do(UnarchiveKeyRing{Name: name}),
			"": func(t *rapid.T) {
				cut := rapid.IntRange(0, len(history)).Draw(t, "cut")
				whole := FoldRing(Ring{}, day0, history...)
				if diff := cmp.Diff(whole, FoldRing(FoldRing(Ring{}, day0, history[:cut]...), day0, history[cut:]...)); diff != "" {
					t.Fatalf("full replay differs from prefix and tail:\n%s", diff)
				}
			},
		})
	})
}
