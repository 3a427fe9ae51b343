package domain_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/keyledger/kms/domain"
)

// answer is what Decide shall say: events, or nothing because it already holds, or a refusal.
type answer struct {
	events []Event
	reason Reason
}

var alreadySo = answer{}

func makes(e ...Event) answer      { return answer{events: e} }
func refuses(reason Reason) answer { return answer{reason: reason} }

func (want answer) check(t *testing.T, got []Event, err error) {
	t.Helper()
	var reason Reason
	if err != nil {
		refusal, ok := errors.AsType[*Error](err)
		if !ok {
			t.Fatalf("the refusal %v is no *Error", err)
		}
		if refusal.Message == "" {
			t.Errorf("refusal %s says nothing", refusal.Reason)
		}
		reason = refusal.Reason
	}
	if reason != want.reason {
		t.Errorf("refused with %q (%v), want %q", reason, err, want.reason)
	}
	if diff := cmp.Diff(want.events, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// variants are the commands with every setting that changes what they may do. Versions 1 and 2 exist, 2 is primary.
var variants = []struct {
	name    string
	command Command
}{
	{"CreateKey", create},
	{"RotateKey", RotateKey{MaterialID: material3}},
	{"EnableKey", EnableKey{}},
	{"DisableKey", DisableKey{}},
	{"EnableKeyVersion", EnableKeyVersion{Version: 1}},
	{"DisableKeyVersion", DisableKeyVersion{Version: 1}},
	{"DisableKeyVersion of the primary", DisableKeyVersion{Version: 2}},
	{"DisableKeyVersion of the primary, allow_primary", DisableKeyVersion{Version: 2, AllowPrimary: true}},
	{"ScheduleKeyDeletion", ScheduleKeyDeletion{}},
	{"CancelKeyDeletion", CancelKeyDeletion{}},
	{"CancelKeyDeletion, enable", CancelKeyDeletion{Enable: true}},
	{"DeleteKey", DeleteKey{}},
	{"DeleteKey, skip_wait", DeleteKey{SkipWait: true}},
	{"UpdateKey", UpdateKey{Memo: new("changed")}},
	{"RecordErasure", RecordErasure{Erased: []Version{1}}},
	{"RecordErasure that failed", RecordErasure{Failed: []Version{1}, Cause: "store away"}},
}

func TestVariantsCoverEveryCommand(t *testing.T) {
	var got []string
	for _, v := range variants {
		got = append(got, reflect.TypeOf(v.command).Name())
	}
	slices.Sort(got)
	if got, want := slices.Compact(got), sealedTypes(t, "isCommand"); !slices.Equal(got, want) {
		t.Errorf("variants cover %v, want %v", got, want)
	}
}

// keyAnswers has one row for every command and in it one answer for every key state, both versions being enabled.
var keyAnswers = func() map[string]map[KeyState]answer {
	const (
		absent   = KeyStateAbsent
		enabled  = KeyStateEnabled
		disabled = KeyStateDisabled
		imports  = KeyStatePendingImport
		pending  = KeyStatePendingDeletion
		expired  = KeyStateExpired
		archived = KeyStateArchived
		gone     = KeyStateDestroyed
	)
	exists := refuses(ReasonKeyExists)
	notPending := refuses(ReasonNotPendingDeletion)
	// onlyEnabled is a row that refuses with the state's own reason wherever the key isn't enabled.
	onlyEnabled := func(a answer) map[KeyState]answer {
		return map[KeyState]answer{
			absent: refuses(ReasonKeyNotFound), enabled: a, disabled: refuses(ReasonKeyDisabled), imports: refuses(ReasonKeyPendingImport),
			pending: refuses(ReasonKeyPendingDeletion), expired: refuses(ReasonKeyExpired), archived: refuses(ReasonKeyArchived), gone: refuses(ReasonKeyDestroyed),
		}
	}
	// living is a row with the same answer for every key that is there.
	living := func(a answer) map[KeyState]answer {
		return map[KeyState]answer{
			absent: refuses(ReasonKeyNotFound), enabled: a, disabled: a, imports: a, pending: a, expired: a, archived: a, gone: refuses(ReasonKeyDestroyed),
		}
	}
	with := func(row map[KeyState]answer, s KeyState, a answer) map[KeyState]answer {
		row[s] = a
		return row
	}
	notDestroyed := refuses(ReasonBadField)
	updated := KeyUpdated{DisplayName: "Orders", Memo: "changed", Labels: map[string]string{"team": "shop"}}
	return map[string]map[KeyState]answer{
		"CreateKey": {
			absent:  makes(created, added1, primary1),
			enabled: exists, disabled: exists, imports: exists, pending: exists, expired: exists, archived: exists, gone: exists,
		},
		"RotateKey":                        onlyEnabled(makes(added3, primary3)),
		"EnableKey":                        with(onlyEnabled(alreadySo), disabled, makes(KeyEnabled{})),
		"DisableKey":                       with(onlyEnabled(makes(KeyDisabled{})), disabled, alreadySo),
		"EnableKeyVersion":                 onlyEnabled(alreadySo),
		"DisableKeyVersion":                onlyEnabled(makes(KeyVersionDisabled{Version: 1})),
		"DisableKeyVersion of the primary": onlyEnabled(refuses(ReasonVersionIsPrimary)),
		"DisableKeyVersion of the primary, allow_primary": onlyEnabled(makes(KeyVersionDisabled{Version: 2})),
		"ScheduleKeyDeletion":                             with(living(makes(KeyDeletionScheduled{DeleteTime: day1.Add(DefaultDeletionWait)})), pending, refuses(ReasonKeyPendingDeletion)),
		"CancelKeyDeletion":                               with(living(notPending), pending, makes(KeyDeletionCanceled{})),
		"CancelKeyDeletion, enable":                       with(living(notPending), pending, makes(KeyDeletionCanceled{}, KeyEnabled{})),
		"DeleteKey":                                       with(living(notPending), pending, makes(KeyDestroyed{})),
		"DeleteKey, skip_wait":                            living(makes(KeyDestroyed{})),
		"UpdateKey":                                       living(makes(updated)),
		"RecordErasure":                                   with(living(notDestroyed), gone, makes(MaterialErased{Version: 1, MaterialID: material1})),
		"RecordErasure that failed":                       with(living(notDestroyed), gone, makes(MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "store away"})),
	}
}()

func TestDecideInEveryKeyState(t *testing.T) {
	all := states[KeyState](t, "KeyState")
	for _, v := range variants {
		for _, s := range all {
			t.Run(fmt.Sprintf("%s/%s", v.name, s), func(t *testing.T) {
				want, ok := keyAnswers[v.name][s]
				if !ok {
					t.Fatal("no row says what shall happen")
				}
				got, err := Decide(keyIn(s), day1, v.command)
				want.check(t, got, err)
			})
		}
	}
}

// versionAnswers says, for every command that names a version, what comes of it for each state of that version. The key
// is enabled, so RecordErasure is refused unless the version alone is destroyed.
var versionAnswers = func() map[string]map[VersionState]answer {
	row := func(enabled, disabled, imports, scheduled, gone answer) map[VersionState]answer {
		return map[VersionState]answer{
			VersionStateEnabled: enabled, VersionStateDisabled: disabled, VersionStatePendingImport: imports,
			VersionStateDestroyScheduled: scheduled, VersionStateDestroyed: gone,
		}
	}
	imports, scheduled, gone := refuses(ReasonVersionPending), refuses(ReasonVersionScheduled), refuses(ReasonVersionDestroyed)
	living := refuses(ReasonBadField)
	return map[string]map[VersionState]answer{
		"EnableKeyVersion":                                row(alreadySo, makes(KeyVersionEnabled{Version: 1}), imports, scheduled, gone),
		"DisableKeyVersion":                               row(makes(KeyVersionDisabled{Version: 1}), alreadySo, imports, scheduled, gone),
		"DisableKeyVersion of the primary":                row(refuses(ReasonVersionIsPrimary), alreadySo, imports, scheduled, gone),
		"DisableKeyVersion of the primary, allow_primary": row(makes(KeyVersionDisabled{Version: 2}), alreadySo, imports, scheduled, gone),
		"RecordErasure":                                   row(living, living, living, living, makes(MaterialErased{Version: 1, MaterialID: material1})),
		"RecordErasure that failed":                       row(living, living, living, living, makes(MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "store away"})),
	}
}()

// namedVersion is the version that a command names, and whether commands of its type name one.
func namedVersion(cmd Command) (Version, bool) {
	if c, ok := cmd.(RecordErasure); ok {
		return slices.Concat(c.Erased, c.Failed)[0], true
	}
	field := reflect.ValueOf(cmd).FieldByName("Version")
	if !field.IsValid() {
		return 0, false
	}
	return Version(field.Int()), true
}

func TestDecideInEveryVersionState(t *testing.T) {
	all := states[VersionState](t, "VersionState")
	for _, v := range variants {
		version, named := namedVersion(v.command)
		if !named {
			version = 1
		}
		for _, s := range all {
			t.Run(fmt.Sprintf("%s/%s", v.name, s), func(t *testing.T) {
				want, ok := versionAnswers[v.name][s]
				if !named { // what names no version does not depend on any
					want, ok = keyAnswers[v.name][KeyStateEnabled]
				}
				if !ok {
					t.Fatal("no row says what shall happen")
				}
				got, err := Decide(keyWithVersionIn(version, s), day1, v.command)
				want.check(t, got, err)
			})
		}
	}
}

// TestDecideOnNoSuchVersion: the version is missed before the key's state is looked at, except where there is no key.
func TestDecideOnNoSuchVersion(t *testing.T) {
	for _, v := range []Version{-1, 0, 3, 1 << 30} {
		for _, cmd := range []Command{EnableKeyVersion{Version: v}, DisableKeyVersion{Version: v}, RecordErasure{Erased: []Version{v}}, RecordErasure{Failed: []Version{v}}} {
			for _, s := range states[KeyState](t, "KeyState") {
				want := refuses(ReasonVersionNotFound)
				if _, erasure := cmd.(RecordErasure); s == KeyStateAbsent {
					want = refuses(ReasonKeyNotFound)
				} else if s == KeyStateDestroyed && !erasure {
					want = refuses(ReasonKeyDestroyed)
				}
				t.Run(fmt.Sprintf("%T %d/%s", cmd, v, s), func(t *testing.T) {
					got, err := Decide(keyIn(s), day1, cmd)
					want.check(t, got, err)
				})
			}
		}
	}
}

// TestDecideErasure has one row for every pair of what is known of the material and what is told now.
func TestDecideErasure(t *testing.T) {
	for _, step := range states[Erasure](t, "Erasure") {
		for _, failure := range []string{"", "store away"} {
			want := map[Erasure]map[string]answer{
				NotErased:     {"": makes(MaterialErased{Version: 1, MaterialID: material1}), "store away": makes(MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "store away"})},
				ErasureFailed: {"": makes(MaterialErased{Version: 1, MaterialID: material1}), "store away": alreadySo},
				Erased:        {"": alreadySo, "store away": alreadySo},
			}
			t.Run(fmt.Sprintf("%q/%q", step, failure), func(t *testing.T) {
				a, ok := want[step][failure]
				if !ok {
					t.Fatal("no row says what shall happen")
				}
				k := keyIn(KeyStateDestroyed)
				switch step {
				case NotErased:
				case ErasureFailed:
					k = Fold(k, day1, MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "disk"})
				case Erased:
					k = Fold(k, day1, MaterialErased{Version: 1, MaterialID: material1})
				}
				cmd := RecordErasure{Erased: []Version{1}}
				if failure != "" {
					cmd = RecordErasure{Failed: []Version{1}, Cause: failure}
				}
				got, err := Decide(k, day9, cmd)
				a.check(t, got, err)
			})
		}
	}
}
