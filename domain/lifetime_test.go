package domain_test

import (
	"bytes"
	"errors"
	"reflect"
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

// life drives random commands at one key and checks after each what must hold of any key, and that a model of it agrees.
type life struct {
	now     time.Time
	key     Key
	model   model
	history []commit
	past    []memory
	next    byte // makes fresh material ids
}

func (l *life) do(t *rapid.T, cmd Command) {
	l.now = l.now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "hours")) * time.Hour)
	before := l.key
	made, err := Decide(before, l.now, cmd)
	if allowed := l.model.do(cmd, l.now); allowed != (err == nil) {
		t.Fatalf("%#v of a key in state %q: refused with %v, but the model says %t", cmd, before.StateAt(l.now), err, allowed)
	}
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
	case after.Primary < before.Primary && reflect.TypeOf(cmd) != reflect.TypeFor[SetPrimaryVersion]() && reflect.TypeOf(cmd) != reflect.TypeFor[ImportKeyVersion]():
		t.Fatalf("%T made an older version primary", cmd)
	case before.State != KeyStateAbsent && (after.UID != before.UID || after.Name != before.Name || after.Purpose != before.Purpose ||
		after.Algorithm != before.Algorithm || after.Protection != before.Protection || after.LedgerTag != before.LedgerTag ||
		after.Creator != before.Creator || after.ImportOnly != before.ImportOnly || after.DestroyWait != before.DestroyWait || !after.CreateTime.Equal(before.CreateTime)):
		t.Fatalf("%T made another key of it", cmd)
	}
	for was := range before.Versions.All() {
		is, _ := after.Versions.Get(was.Version)
		switch {
		case is.Algorithm != was.Algorithm || !bytes.Equal(is.Fingerprint, was.Fingerprint) || !is.CreateTime.Equal(was.CreateTime):
			t.Fatalf("%T made version %d another", cmd, was.Version)
		case is.MaterialID != was.MaterialID && (was.State != VersionStatePendingImport || was.Erasure != Erased):
			t.Fatalf("%T made version %d, which was %s, forget material that is not erased", cmd, was.Version, was.State)
		case is.UsesLeased < was.UsesLeased:
			t.Fatalf("%T gave uses of version %d back", cmd, was.Version)
		case was.State == VersionStateDestroyed && is.State != VersionStateDestroyed:
			t.Fatalf("%T revived destroyed version %d", cmd, was.Version)
		case was.Erasure == Erased && is.Erasure != Erased && is.MaterialID == was.MaterialID:
			t.Fatalf("%T brought erased version %d back", cmd, was.Version)
		}
	}
}

// checkRepeat checks that asking again for what was just done does nothing more.
func checkRepeat(t *rapid.T, cmd Command, k Key, at time.Time) {
	switch cmd.(type) { //nolint:gochecksumtype // of the others each is done once
	case RotateKey, CreateKeyVersion, LeaseUses:
		return // each is another one
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
	if n := k.Versions.Len(); int(k.Primary) > n {
		t.Fatalf("version %d is primary of %d", k.Primary, n)
	}
	if k.AutoRotation != !k.NextRotationTime.IsZero() || k.AutoRotation && k.RotationPeriod == 0 {
		t.Fatalf("automatic rotation is %t, but the next one is %s and the period %s", k.AutoRotation, k.NextRotationTime, k.RotationPeriod)
	}
	next := Version(1)
	unerased, firstDestroy := 0, time.Time{}
	for kv := range k.Versions.All() {
		if kv.Version != next {
			t.Fatalf("version %d stands in the place of %d", kv.Version, next)
		}
		next++
		if k.State == KeyStateDestroyed && kv.State != VersionStateDestroyed {
			t.Fatalf("version %d is %s in a key that is %s", kv.Version, kv.State, k.State)
		}
		if kv.Erasure != NotErased && kv.State != VersionStateDestroyed && kv.State != VersionStatePendingImport {
			t.Fatalf("the material of version %d, which is %s, was erased", kv.Version, kv.State)
		}
		if (kv.State == VersionStateDestroyScheduled) != !kv.DeleteTime.IsZero() || (kv.State == VersionStateDestroyed) != !kv.DestroyTime.IsZero() {
			t.Fatalf("version %d is %s with delete time %s and destroy time %s", kv.Version, kv.State, kv.DeleteTime, kv.DestroyTime)
		}
		if kv.MustErase() {
			unerased++
		}
		if !kv.DeleteTime.IsZero() && (firstDestroy.IsZero() || kv.DeleteTime.Before(firstDestroy)) {
			firstDestroy = kv.DeleteTime
		}
		for _, use := range []Use{Protecting, Opening} {
			_, err := k.VersionFor(use, k.Purpose, kv.Version, now)
			s := k.StateAt(now)
			usable := s == KeyStateEnabled || use == Opening && (s == KeyStateExpired || s == KeyStateArchived)
			if usable = usable && kv.State == VersionStateEnabled; usable != (err == nil) {
				t.Fatalf("version %d, %s in a key that is %s: use %d gives %v", kv.Version, kv.State, k.State, use, err)
			}
		}
	}
	if k.Unerased != unerased || !k.NextDestroyTime.Equal(firstDestroy) {
		t.Fatalf("%d versions are unerased and the first destruction is due %s, but the key says %d and %s", unerased, firstDestroy, k.Unerased, k.NextDestroyTime)
	}
}

// checkDue checks that Due names just the works whose commands would do something, and that NextDue is when the first of
// them would.
func checkDue(t *rapid.T, k Key, now time.Time) {
	does := func(at time.Time) (works []Work) {
		for _, w := range dueCommands {
			if made, _ := Decide(k, at, w.command); len(made) > 0 {
				works = append(works, w.work)
				if w.work == WorkDeletion { // and with the key everything else
					break
				}
			}
		}
		return works
	}
	next := k.NextDue()
	for _, at := range []time.Time{now, next, next.Add(-1)} {
		if at.Before(now) {
			continue
		}
		got, want := k.Due(at), does(at)
		if !slices.Equal(got, want) {
			t.Fatalf("at %s %v are due, but %v do something", at, got, want)
		}
		if due := !next.IsZero() && !at.Before(next); due != (len(want) > 0) {
			t.Fatalf("at %s %v are due, but the next is said to be so at %s", at, want, next)
		}
	}
}

var dueCommands = []struct {
	work    Work
	command Command
}{
	{WorkDeletion, DeleteDueKey{}},
	{WorkDestruction, DestroyDueVersions{}},
	{WorkExpiry, ExpireKey{}},
	{WorkRotation, RotateDueKey{MaterialID: uid(0xff)}},
}

func TestEveryWorkHasItsCommand(t *testing.T) {
	var works []Work
	for _, w := range dueCommands {
		works = append(works, w.work)
	}
	slices.Sort(works)
	if want := states[Work](t, "Work"); !slices.Equal(works, want) {
		t.Errorf("commands are known for %v, want %v", works, want)
	}
}

// TestLifetime checks what must hold of any key whatever is asked for, in whatever order, and that a simpler model of keys
// agrees on every refusal and every state. By default it makes a few thousand steps; for 100,000 and more:
//
//	go test ./domain -run TestLifetime$ -rapid.checks=1000 -rapid.steps=100
func TestLifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &life{now: day0, model: model{bound: map[string]bool{}}}
		version := func(t *rapid.T) Version { return Version(rapid.IntRange(0, l.key.Versions.Len()+1).Draw(t, "version")) }
		yes := func(t *rapid.T, what string) bool { return rapid.Bool().Draw(t, what) }
		seldom := func(t *rapid.T, what string) bool { return rapid.IntRange(0, 9).Draw(t, what) == 0 }
		days := func(t *rapid.T, from, to int) time.Duration {
			return time.Duration(rapid.IntRange(from, to).Draw(t, "days")) * day
		}
		moment := func(t *rapid.T) time.Time { return l.now.Add(days(t, 0, 20) - day/2) }
		material := func() UID { l.next++; return UID{1: l.next, 6: 0x70} }
		resource := func(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "resource") }
		// What a material's version is told by; any of them may have been erased.
		known := func(t *rapid.T) []Material {
			v := version(t)
			kv, _ := l.key.Versions.Get(v)
			if seldom(t, "wrong") {
				kv.MaterialID = uid(1)
			}
			return []Material{{Version: v, ID: kv.MaterialID}}
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": func(t *rapid.T) {
				c := create
				c.MaterialID = UID{}
				c.ImportOnly = seldom(t, "import only")
				if !c.ImportOnly && yes(t, "with a version") || seldom(t, "wrongly") {
					c.MaterialID = material()
				}
				if c.AutoRotation = !c.ImportOnly && yes(t, "rotate"); c.AutoRotation && yes(t, "period") {
					c.RotationPeriod = days(t, 0, 8)
				}
				if yes(t, "expire") {
					c.ExpireTime = moment(t)
				}
				c.DestroyWait = days(t, 0, 3)
				if yes(t, "budget") {
					c.MaxUsesPerVersion = new(rapid.Uint64Range(0, 20).Draw(t, "uses"))
				}
				l.do(t, c)
			},
			"rotate":          func(t *rapid.T) { l.do(t, RotateKey{MaterialID: material()}) },
			"add version":     func(t *rapid.T) { l.do(t, CreateKeyVersion{MaterialID: material(), MakePrimary: yes(t, "primary")}) },
			"set primary":     func(t *rapid.T) { l.do(t, SetPrimaryVersion{Version: version(t)}) },
			"change period":   func(t *rapid.T) { l.do(t, UpdateRotationPeriod{Period: days(t, 0, 8)}) },
			"start rotating":  func(t *rapid.T) { l.do(t, EnableAutoRotation{Period: days(t, 0, 8)}) },
			"stop rotating":   func(t *rapid.T) { l.do(t, DisableAutoRotation{}) },
			"enable":          func(t *rapid.T) { l.do(t, EnableKey{}) },
			"disable":         func(t *rapid.T) { l.do(t, DisableKey{}) },
			"archive":         func(t *rapid.T) { l.do(t, ArchiveKey{}) },
			"unarchive":       func(t *rapid.T) { l.do(t, UnarchiveKey{Enable: yes(t, "enable")}) },
			"enable version":  func(t *rapid.T) { l.do(t, EnableKeyVersion{Version: version(t)}) },
			"disable version": func(t *rapid.T) { l.do(t, DisableKeyVersion{Version: version(t), AllowPrimary: yes(t, "allow")}) },
			"schedule version": func(t *rapid.T) {
				l.do(t, ScheduleKeyVersionDestruction{Version: version(t), Wait: days(t, 0, 4), AllowPrimary: yes(t, "allow")})
			},
			"restore version": func(t *rapid.T) { l.do(t, RestoreKeyVersion{Version: version(t)}) },
			"schedule": func(t *rapid.T) {
				l.do(t, ScheduleKeyDeletion{Wait: time.Duration(rapid.IntRange(-1, 121).Draw(t, "days")) * 24 * time.Hour})
			},
			"cancel": func(t *rapid.T) { l.do(t, CancelKeyDeletion{Enable: yes(t, "enable")}) },
			// Rarely at once, or most lives would be too short to show anything.
			"delete": func(t *rapid.T) { l.do(t, DeleteKey{SkipWait: seldom(t, "skip wait") && seldom(t, "really")}) },
			"update": func(t *rapid.T) {
				l.do(t, UpdateKey{Memo: new(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "memo"))})
			},
			"limit": func(t *rapid.T) {
				var c UpdateKey
				if yes(t, "expire") {
					c.ExpireTime = new(moment(t))
					if yes(t, "never") {
						c.ExpireTime = new(time.Time{})
					}
				}
				if yes(t, "next rotation") {
					c.NextRotationTime = new(moment(t))
				}
				if yes(t, "budget") {
					c.MaxUsesPerVersion = new(rapid.Uint64Range(0, 20).Draw(t, "uses"))
				}
				l.do(t, c)
			},
			"lease": func(t *rapid.T) { l.do(t, LeaseUses{Version: version(t), N: rapid.Uint64Range(0, 9).Draw(t, "uses")}) },
			"import": func(t *rapid.T) {
				c := ImportKeyVersion{MaterialID: material(), Origin: Imported, MakePrimary: yes(t, "primary")}
				if yes(t, "again") {
					c.Version = version(t)
				}
				kv, _ := l.key.Versions.Get(c.Version)
				if c.Fingerprint = kv.Fingerprint; c.Version == 0 || seldom(t, "another") {
					c.Fingerprint = []byte{rapid.Byte().Draw(t, "fingerprint")}
				}
				l.do(t, c)
			},
			"delete material": func(t *rapid.T) { l.do(t, DeleteKeyMaterial{Version: version(t)}) },
			"bind":            func(t *rapid.T) { l.do(t, AddUsageBinding{Resource: resource(t), Creator: "admin"}) },
			"unbind":          func(t *rapid.T) { l.do(t, RemoveUsageBinding{Resource: resource(t)}) },
			"do what is due": func(t *rapid.T) {
				w := rapid.SampledFrom(dueCommands).Draw(t, "work").command
				if r, ok := w.(RotateDueKey); ok {
					r.MaterialID = material()
					w = r
				}
				l.do(t, w)
			},
			"erase": func(t *rapid.T) { l.do(t, RecordErasure{Erased: known(t), Failed: known(t), Cause: "disk"}) },
			"": func(t *rapid.T) {
				checkState(t, l.key, l.now)
				checkDue(t, l.key, l.now)
				if diff := cmp.Diff(l.model.view(l.now), viewOf(l.key, l.now)); diff != "" {
					t.Fatalf("the key differs from its model (-model +key):\n%s", diff)
				}
				cut := rapid.IntRange(0, len(l.history)).Draw(t, "cut")
				for name, other := range map[string]Key{
					"full replay":     replay(Key{}, l.history),
					"prefix and tail": replay(replay(Key{}, l.history[:cut]), l.history[cut:]),
				} {
					if !reflect.DeepEqual(l.key, other) { // go-cmp takes long, and is needed only to show what differs
						t.Fatalf("the key differs from its %s:\n%s", name, cmp.Diff(l.key, other))
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
