package domain_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

// commit is what one command made.
type commit struct {
	at     time.Time
	events []Event
}

func replay(k Key, history []commit) Key {
	for _, c := range history {
		k = Fold(k, c.at, c.events...)
	}
	return k
}

// memory is a key as it was at some moment and a copy of its versions from then.
type memory struct {
	key      Key
	versions []KeyVersion
}

// life drives random commands at one key and checks after each what must hold of any key.
type life struct {
	now     time.Time
	key     Key
	history []commit
	past    []memory
	next    byte // makes fresh material ids
}

func (l *life) do(t *rapid.T, cmd Command) {
	l.now = l.now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "hours")) * time.Hour)
	before := l.key
	made, err := Decide(before, l.now, cmd)
	if err != nil {
		if len(made) > 0 {
			t.Fatalf("%T was both refused and decided", cmd)
		}
		refusal, ok := errors.AsType[*Error](err)
		if !ok || refusal.Reason == "" || refusal.Message == "" {
			t.Fatalf("%T was refused with %#v, not with a reason and a sentence", cmd, err)
		}
		return
	}
	l.key = Fold(before, l.now, made...)
	l.past = append(l.past, memory{l.key, slices.Collect(l.key.Versions.All())})
	if len(made) > 0 {
		l.history = append(l.history, commit{l.now, made})
	}
	checkStep(t, cmd, before, l.key)
	checkRepeat(t, cmd, l.key, l.now)
}

// checkStep checks what may not change from one state to the next.
func checkStep(t *rapid.T, cmd Command, before, after Key) {
	switch {
	case before.State == KeyStateDestroyed && after.State != KeyStateDestroyed:
		t.Fatalf("%T revived a destroyed key", cmd)
	case after.Versions.Len() < before.Versions.Len():
		t.Fatalf("%T lost a version", cmd)
	case after.Versions.Len() > before.Versions.Len()+1:
		t.Fatalf("%T added more than one version", cmd)
	case after.Versions.Len() > before.Versions.Len() && after.Primary != Version(after.Versions.Len()):
		t.Fatalf("%T added a version that is not primary", cmd)
	case before.State != KeyStateAbsent && (after.UID != before.UID || after.Name != before.Name || after.Purpose != before.Purpose ||
		after.Algorithm != before.Algorithm || after.Protection != before.Protection || after.LedgerTag != before.LedgerTag ||
		after.Creator != before.Creator || !after.CreateTime.Equal(before.CreateTime)):
		t.Fatalf("%T made another key of it", cmd)
	}
	for was := range before.Versions.All() {
		is, _ := after.Versions.Get(was.Version)
		switch {
		case is.MaterialID != was.MaterialID || is.Algorithm != was.Algorithm || is.Origin != was.Origin || !is.CreateTime.Equal(was.CreateTime):
			t.Fatalf("%T made version %d name other material", cmd, was.Version)
		case was.State == VersionStateDestroyed && is.State != VersionStateDestroyed:
			t.Fatalf("%T revived destroyed version %d", cmd, was.Version)
		case was.Erasure == Erased && is.Erasure != Erased:
			t.Fatalf("%T brought erased version %d back", cmd, was.Version)
		}
	}
}

// checkRepeat checks that asking again for what was just done does nothing more.
func checkRepeat(t *rapid.T, cmd Command, k Key, at time.Time) {
	if _, more := cmd.(RotateKey); more {
		return // each rotation is another one
	}
	if made, _ := Decide(k, at, cmd); len(made) > 0 {
		t.Fatalf("%T, asked for again, made %v", cmd, made)
	}
}

// checkState checks what must hold of a key at any moment.
func checkState(t *rapid.T, k Key, now time.Time) {
	if (k.State == KeyStatePendingDeletion) != !k.DeleteTime.IsZero() {
		t.Fatalf("a key in state %q has delete time %s", k.State, k.DeleteTime)
	}
	if (k.State == KeyStateDestroyed) != !k.DestroyTime.IsZero() {
		t.Fatalf("a key in state %q has destroy time %s", k.State, k.DestroyTime)
	}
	if k.UpdateTime.Before(k.StateTime) || k.StateTime.Before(k.CreateTime) || now.Before(k.UpdateTime) {
		t.Fatalf("times run backwards: created %s, state %s, updated %s, now %s", k.CreateTime, k.StateTime, k.UpdateTime, now)
	}
	if n := k.Versions.Len(); int(k.Primary) != n {
		t.Fatalf("version %d is primary of %d", k.Primary, n)
	}
	next := Version(1)
	for kv := range k.Versions.All() {
		if kv.Version != next {
			t.Fatalf("version %d stands in the place of %d", kv.Version, next)
		}
		next++
		if (kv.State == VersionStateDestroyed) != (k.State == KeyStateDestroyed) {
			t.Fatalf("version %d is %s in a key that is %s", kv.Version, kv.State, k.State)
		}
		if kv.Erasure != NotErased && kv.State != VersionStateDestroyed {
			t.Fatalf("the material of version %d, which is %s, was erased", kv.Version, kv.State)
		}
		for _, use := range []Use{Protecting, Opening} {
			_, err := k.VersionFor(use, k.Purpose, kv.Version, now)
			if usable := k.State == KeyStateEnabled && kv.State == VersionStateEnabled; usable != (err == nil) {
				t.Fatalf("version %d, %s in a key that is %s: use %d gives %v", kv.Version, kv.State, k.State, use, err)
			}
		}
	}
}

// TestLifetime checks what must hold of any key whatever is asked for, in whatever order.
func TestLifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &life{now: day0}
		version := func(t *rapid.T) Version { return Version(rapid.IntRange(0, l.key.Versions.Len()+1).Draw(t, "version")) }
		yes := func(t *rapid.T, what string) bool { return rapid.Bool().Draw(t, what) }
		material := func() UID { l.next++; return uid(l.next) }
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				c := create
				c.MaterialID = UID{}
				if yes(t, "with a version") {
					c.MaterialID = material()
				}
				l.do(t, c)
			},
			"rotate":          func(t *rapid.T) { l.do(t, RotateKey{MaterialID: material()}) },
			"enable":          func(t *rapid.T) { l.do(t, EnableKey{}) },
			"disable":         func(t *rapid.T) { l.do(t, DisableKey{}) },
			"enable version":  func(t *rapid.T) { l.do(t, EnableKeyVersion{Version: version(t)}) },
			"disable version": func(t *rapid.T) { l.do(t, DisableKeyVersion{Version: version(t), AllowPrimary: yes(t, "allow")}) },
			"schedule": func(t *rapid.T) {
				l.do(t, ScheduleKeyDeletion{Wait: time.Duration(rapid.IntRange(-1, 121).Draw(t, "days")) * 24 * time.Hour})
			},
			"cancel": func(t *rapid.T) { l.do(t, CancelKeyDeletion{Enable: yes(t, "enable")}) },
			// Rarely at once, or most lives would be too short to show anything.
			"delete": func(t *rapid.T) { l.do(t, DeleteKey{SkipWait: rapid.IntRange(0, 9).Draw(t, "skip wait") == 0}) },
			"update": func(t *rapid.T) {
				l.do(t, UpdateKey{Memo: new(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "memo"))})
			},
			"erase": func(t *rapid.T) {
				l.do(t, RecordErasure{Erased: []Version{version(t)}, Failed: []Version{version(t)}, Cause: "disk"})
			},
			"": func(t *rapid.T) {
				checkState(t, l.key, l.now)
				cut := rapid.IntRange(0, len(l.history)).Draw(t, "cut")
				for name, other := range map[string]Key{
					"full replay":     replay(Key{}, l.history),
					"prefix and tail": replay(replay(Key{}, l.history[:cut]), l.history[cut:]),
				} {
					if diff := cmp.Diff(l.key, other); diff != "" {
						t.Fatalf("the key differs from its %s:\n%s", name, diff)
					}
				}
			},
		})
		for _, m := range l.past {
			if now := slices.Collect(m.key.Versions.All()); !slices.EqualFunc(m.versions, now, KeyVersion.Equal) {
				t.Fatalf("a key changed after a newer one was made of it:\n%s", cmp.Diff(m.versions, now))
			}
		}
	})
}

// TestLifetimeOfManyVersions: what a version list shares between keys stays true past several of its chunks.
func TestLifetimeOfManyVersions(t *testing.T) {
	const n = 200
	k := given(created)
	var keys []Key
	for i := range n {
		made, err := Decide(k, day1, RotateKey{MaterialID: UID{14: byte(i >> 8), 15: byte(i)}})
		if err != nil {
			t.Fatal(err)
		}
		k = Fold(k, day1, made...)
		keys = append(keys, k)
	}
	Fold(k, day3, destroyed)
	for i, old := range keys {
		if old.Versions.Len() != i+1 || old.Primary != Version(i+1) {
			t.Fatalf("key %d has %d versions, of which %d is primary", i, old.Versions.Len(), old.Primary)
		}
		for kv := range old.Versions.All() {
			j := int(kv.Version) - 1
			if kv.MaterialID != (UID{14: byte(j >> 8), 15: byte(j)}) || kv.State != VersionStateEnabled {
				t.Fatalf("key %d: version %d is %s with material %s", i, kv.Version, kv.State, kv.MaterialID)
			}
		}
	}
}
