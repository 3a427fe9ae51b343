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
	aliasName = AliasName{Project: "shop", Location: "local", ID: "current"}
	otherKey  = ring.Key("other")
	otherUID  = uid(0x11)
	aliasSet  = KeyAliasSet{Name: aliasName, KeyUID: keyUID, Key: keyName}
	aliasElse = KeyAliasSet{Name: aliasName, KeyUID: otherUID, Key: otherKey}
)

func TestParseAliasName(t *testing.T) {
	if got, err := ParseAliasName(aliasName.String()); err != nil || got != aliasName {
		t.Errorf("read as %v, %v", got, err)
	}
	for _, text := range []string{"", "current", "projects/shop/locations/local/aliases/", "projects/shop/locations/local/aliases/a/b", "projects//locations/local/aliases/a", keyName.String()} {
		if got, err := ParseAliasName(text); !errors.Is(err, &Error{Reason: ReasonBadName}) || got != (AliasName{}) {
			t.Errorf("ParseAliasName(%q) = %v, %v, want reason BAD_NAME", text, got, err)
		}
	}
}

// TestDecideAlias has every command with every setting in every state: whose the alias is, and whether that key lives.
func TestDecideAlias(t *testing.T) {
	mine, dead := keyIn(KeyStateEnabled), keyIn(KeyStateDestroyed)
	states := map[string][]AliasEvent{
		"never used": nil, "mine": {aliasSet}, "another's": {aliasElse}, "removed": {aliasSet, KeyAliasRemoved{}}, "another's once": {aliasElse, KeyAliasRemoved{}},
	}
	type answer struct {
		events []AliasEvent
		reason Reason
	}
	taken := answer{events: []AliasEvent{aliasSet}}
	freed := answer{events: []AliasEvent{KeyAliasRemoved{}}}
	missing, exists, destroyed := answer{reason: ReasonAliasNotFound}, answer{reason: ReasonAliasExists}, answer{reason: ReasonKeyDestroyed}
	var commands []string
	for name, row := range map[string]struct {
		command AliasCommand
		answers map[string]answer
	}{
		"add": {AddKeyAlias{Name: aliasName, Key: mine}, map[string]answer{
			"never used": taken, "mine": {}, "another's": exists, "removed": taken, "another's once": taken,
		}},
		"add by moving": {AddKeyAlias{Name: aliasName, Key: mine, Move: true}, map[string]answer{
			"never used": taken, "mine": {}, "another's": taken, "removed": taken, "another's once": taken,
		}},
		"add, the holder is destroyed": {AddKeyAlias{Name: aliasName, Key: mine, HolderDestroyed: true}, map[string]answer{
			"another's": taken,
		}},
		"add to a destroyed key": {AddKeyAlias{Name: aliasName, Key: dead}, map[string]answer{
			"never used": destroyed, "mine": destroyed, "another's": destroyed, "removed": destroyed, "another's once": destroyed,
		}},
		"remove": {RemoveKeyAlias{Name: aliasName, Key: mine}, map[string]answer{
			"never used": missing, "mine": freed, "another's": missing, "removed": missing, "another's once": missing,
		}},
		"remove from a destroyed key": {RemoveKeyAlias{Name: aliasName, Key: dead, HolderDestroyed: true}, map[string]answer{
			"mine": missing,
		}},
	} {
		commands = append(commands, reflect.TypeOf(row.command).Name())
		for state, want := range row.answers {
			got, err := DecideAlias(FoldAlias(Alias{}, day0, states[state]...), row.command)
			var reason Reason
			if refusal, ok := errors.AsType[*Error](err); ok {
				reason = refusal.Reason
				if !strings.Contains(refusal.Message, keyName.String()) || strings.Contains(refusal.Message, otherKey.String()) {
					t.Errorf("%s, %s: the refusal %q must name the key that was meant and no other", name, state, refusal.Message)
				}
			}
			if diff := cmp.Diff(want.events, got); diff != "" || reason != want.reason {
				t.Errorf("%s, %s: refused with %q, want %q; events (-want +got):\n%s", name, state, reason, want.reason, diff)
			}
		}
	}
	slices.Sort(commands)
	if want := sealedTypes(t, "isAliasCommand"); !slices.Equal(slices.Compact(commands), want) {
		t.Errorf("the table speaks of %v, want %v", commands, want)
	}
}

// TestAliasLifetime: an alias is always that of the last who took it, until it is given up, and nobody loses one unasked.
func TestAliasLifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var alias Alias
		var holder UID // zero: free
		gone := map[UID]bool{}
		keyOf := func(n byte) Key {
			k := Key{UID: uid(n), Name: ring.Key(string('a' + rune(n))), State: KeyStateEnabled}
			if gone[k.UID] {
				k.State = KeyStateDestroyed
			}
			return k
		}
		decide := func(t *rapid.T, cmd AliasCommand) error {
			made, err := DecideAlias(alias, cmd)
			if err != nil && len(made) > 0 {
				t.Fatalf("%T was both refused and decided", cmd)
			}
			alias = FoldAlias(alias, day0, made...)
			return err
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				key, move := keyOf(rapid.ByteRange(1, 4).Draw(t, "key")), rapid.Bool().Draw(t, "move")
				allowed := !gone[key.UID] && (holder.IsZero() || holder == key.UID || gone[holder] || move)
				err := decide(t, AddKeyAlias{Name: aliasName, Key: key, Move: move, HolderDestroyed: gone[alias.KeyUID]})
				if (err == nil) != allowed {
					t.Fatalf("adding: %v, allowed: %t", err, allowed)
				}
				if allowed {
					holder = key.UID
				}
			},
			"remove": func(t *rapid.T) {
				key := keyOf(rapid.ByteRange(1, 4).Draw(t, "key"))
				allowed := !gone[key.UID] && holder == key.UID
				err := decide(t, RemoveKeyAlias{Name: aliasName, Key: key, HolderDestroyed: gone[alias.KeyUID]})
				if (err == nil) != allowed {
					t.Fatalf("removing: %v, allowed: %t", err, allowed)
				}
				if allowed {
					holder = UID{}
				}
			},
			"destroy a key": func(t *rapid.T) { gone[uid(rapid.ByteRange(1, 3).Draw(t, "key"))] = true },
			"": func(t *rapid.T) {
				if alias.Set != !holder.IsZero() || (alias.Set && alias.KeyUID != holder) {
					t.Fatalf("alias is %+v, want it to stand for %s", alias, holder)
				}
			},
		})
	})
}
