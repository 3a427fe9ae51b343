package domain_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

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

// variant is a command with settings that change what it may do.
type variant struct {
	name    string
	command Command
	given   []Event   // what the key has besides; none
	at      time.Time // zero: day1
}

func (v variant) decide(k Key) ([]Event, error) {
	at := v.at
	if at.IsZero() {
		at = day1
	}
	return Decide(k, at, v.command)
}

func (v variant) key(s KeyState) Key { return keyIn(s, v.given...) }

// withVersionIn is the variant's enabled key, the version that it names, or else the first, being in the given state.
func (v variant) withVersionIn(s VersionState) Key {
	version, named := namedVersion(v.command)
	if !named {
		version = 1
	}
	return keyWithVersionIn(version, s, v.given...)
}

var (
	createImportOnly = func() CreateKey {
		c := create
		c.ImportOnly, c.MaterialID = true, UID{}
		return c
	}()
	createdImportOnly = func() KeyCreated {
		e := created
		e.ImportOnly = true
		return e
	}()
	rotating = []Event{AutoRotationEnabled{RotationPeriod: 2 * day, NextRotationTime: day3}}
	bound    = []Event{UsageBound{Resource: "disk-1", Creator: "admin"}}
	expiring = []Event{KeyExpiryChanged{ExpireTime: day3}}
	importOf = func(v Version) ImportKeyVersion {
		return ImportKeyVersion{Version: v, MaterialID: material3, Origin: Imported}
	}
	rebuilt = func(v Version) KeyVersionImported {
		return KeyVersionImported{Version: v, MaterialID: material3, Origin: Imported}
	}
	erasedEarlier = func(v Version) []Event {
		return []Event{imported(v), KeyMaterialDeleted{Version: v}, MaterialErased{Version: v, MaterialID: uid(0x20 + byte(v))}}
	}
	m1   = []Material{{Version: 1, ID: material1}}
	mat2 = Material{Version: 2, ID: material2}
)

// variants are the commands with every setting that changes what they may do. Versions 1 and 2 exist, 2 is primary.
var variants = []variant{
	{name: "CreateKey", command: create},
	{name: "CreateKey, import_only", command: createImportOnly},
	{name: "UpdateKey", command: UpdateKey{Memo: new("changed")}},
	{name: "UpdateKey, expire_time", command: UpdateKey{ExpireTime: &day9}},
	{name: "UpdateKey, next_rotation_time", command: UpdateKey{NextRotationTime: &day9}, given: rotating},
	{name: "UpdateKey, max_uses_per_version and managed_by", command: UpdateKey{MaxUsesPerVersion: new(uint64(7)), ManagedBy: new("disks")}},
	{name: "EnableKey", command: EnableKey{}},
	{name: "EnableKey, after its expire_time", command: EnableKey{}, given: expiring, at: day3},
	{name: "DisableKey", command: DisableKey{}},
	{name: "DisableKey, in use", command: DisableKey{}, given: bound},
	{name: "ArchiveKey", command: ArchiveKey{}},
	{name: "ArchiveKey, in use", command: ArchiveKey{}, given: bound},
	{name: "UnarchiveKey", command: UnarchiveKey{}},
	{name: "UnarchiveKey, enable", command: UnarchiveKey{Enable: true}},
	{name: "RotateKey", command: RotateKey{MaterialID: material3}},
	{name: "CreateKeyVersion", command: CreateKeyVersion{MaterialID: material3}},
	{name: "CreateKeyVersion, make_primary", command: CreateKeyVersion{MaterialID: material3, MakePrimary: true}},
	{name: "SetPrimaryVersion", command: SetPrimaryVersion{Version: 1}},
	{name: "EnableAutoRotation", command: EnableAutoRotation{}},
	{name: "EnableAutoRotation, another period", command: EnableAutoRotation{Period: 3 * day}, given: rotating},
	{name: "UpdateRotationPeriod", command: UpdateRotationPeriod{Period: 3 * day}, given: rotating},
	{name: "UpdateRotationPeriod, without automatic rotation", command: UpdateRotationPeriod{Period: 3 * day}},
	{name: "DisableAutoRotation", command: DisableAutoRotation{}, given: rotating},
	{name: "EnableKeyVersion", command: EnableKeyVersion{Version: 1}},
	{name: "DisableKeyVersion", command: DisableKeyVersion{Version: 1}},
	{name: "DisableKeyVersion of the primary", command: DisableKeyVersion{Version: 2}},
	{name: "DisableKeyVersion of the primary, allow_primary", command: DisableKeyVersion{Version: 2, AllowPrimary: true}},
	{name: "ScheduleKeyVersionDestruction", command: ScheduleKeyVersionDestruction{Version: 1}},
	{name: "ScheduleKeyVersionDestruction, in use", command: ScheduleKeyVersionDestruction{Version: 1}, given: bound},
	{name: "ScheduleKeyVersionDestruction of the primary", command: ScheduleKeyVersionDestruction{Version: 2}},
	{name: "ScheduleKeyVersionDestruction of the primary, allow_primary", command: ScheduleKeyVersionDestruction{Version: 2, AllowPrimary: true}},
	{name: "RestoreKeyVersion", command: RestoreKeyVersion{Version: 1}, given: []Event{scheduled1}},
	{name: "RestoreKeyVersion, after its time", command: RestoreKeyVersion{Version: 1}, given: []Event{scheduled1}, at: day3},
	{name: "ImportKeyVersion", command: importOf(0)},
	{name: "ImportKeyVersion, of an old version", command: importOf(1), given: erasedEarlier(1)},
	{name: "ImportKeyVersion, of the primary", command: importOf(2), given: erasedEarlier(2)},
	{name: "ImportKeyVersion, before the old material is erased", command: importOf(1), given: []Event{imported(1), KeyMaterialDeleted{Version: 1}}},
	{name: "DeleteKeyMaterial", command: DeleteKeyMaterial{Version: 1}, given: []Event{imported(1)}},
	{name: "DeleteKeyMaterial of the primary", command: DeleteKeyMaterial{Version: 2}, given: []Event{imported(2)}},
	{name: "DeleteKeyMaterial of the primary, in use", command: DeleteKeyMaterial{Version: 2}, given: []Event{imported(2), bound[0]}},
	{name: "DeleteKeyMaterial, not imported", command: DeleteKeyMaterial{Version: 1}},
	{name: "LeaseUses", command: LeaseUses{Version: 1, N: 5}},
	{name: "LeaseUses, used up", command: LeaseUses{Version: 1, N: 5}, given: []Event{MaxUsesChanged{MaxUsesPerVersion: 9}, UsesLeased{Version: 1, Uses: 9}}},
	{name: "AddUsageBinding", command: AddUsageBinding{Resource: "disk-2", Creator: "admin"}},
	{name: "RemoveUsageBinding", command: RemoveUsageBinding{Resource: "disk-1"}, given: bound},
	{name: "ScheduleKeyDeletion", command: ScheduleKeyDeletion{}},
	{name: "ScheduleKeyDeletion, in use", command: ScheduleKeyDeletion{}, given: bound},
	{name: "CancelKeyDeletion", command: CancelKeyDeletion{}},
	{name: "CancelKeyDeletion, enable", command: CancelKeyDeletion{Enable: true}},
	{name: "CancelKeyDeletion, after its time", command: CancelKeyDeletion{}, at: day3},
	{name: "DeleteKey", command: DeleteKey{}},
	{name: "DeleteKey, skip_wait", command: DeleteKey{SkipWait: true}},
	{name: "DeleteKey, skip_wait and in use", command: DeleteKey{SkipWait: true}, given: bound},
	{name: "DeleteDueKey, too early", command: DeleteDueKey{}},
	{name: "DeleteDueKey, when due", command: DeleteDueKey{}, at: day3},
	{name: "DestroyDueVersions, too early", command: DestroyDueVersions{}, given: []Event{scheduled1}},
	{name: "DestroyDueVersions, when due", command: DestroyDueVersions{}, given: []Event{scheduled1}, at: day3},
	{name: "ExpireKey, too early", command: ExpireKey{}, given: expiring},
	{name: "ExpireKey, when due", command: ExpireKey{}, given: expiring, at: day3},
	{name: "RotateDueKey, too early", command: RotateDueKey{MaterialID: material3}, given: rotating},
	{name: "RotateDueKey, when due", command: RotateDueKey{MaterialID: material3}, given: rotating, at: day3},
	{name: "RotateDueKey, when the budget is leased", command: RotateDueKey{MaterialID: material3}, given: append(budgetLeased, rotating...)},
	{name: "RecordErasure", command: RecordErasure{Erased: m1}},
	{name: "RecordErasure that failed", command: RecordErasure{Failed: m1, Cause: "store away"}},
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

// in is the answer in one state, where it differs from the rest of the row.
type in struct {
	state  KeyState
	answer answer
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
	notArchived := refuses(ReasonNotArchived)
	inUse := refuses(ReasonKeyInUse)
	with := func(row map[KeyState]answer, differing ...in) map[KeyState]answer {
		for _, d := range differing {
			row[d.state] = d.answer
		}
		return row
	}
	// row refuses with the state's own reason but where it says otherwise; of ENABLED it always must say.
	row := func(differing ...in) map[KeyState]answer {
		return with(map[KeyState]answer{ //nolint:exhaustive // see above
			absent: refuses(ReasonKeyNotFound), disabled: refuses(ReasonKeyDisabled), imports: refuses(ReasonKeyPendingImport),
			pending: refuses(ReasonKeyPendingDeletion), expired: refuses(ReasonKeyExpired), archived: refuses(ReasonKeyArchived), gone: refuses(ReasonKeyDestroyed),
		}, differing...)
	}
	onlyEnabled := func(a answer) map[KeyState]answer { return row(in{enabled, a}) }
	// schedules is for what changes automatic rotation.
	schedules := func(a answer) map[KeyState]answer { return row(in{enabled, a}, in{disabled, a}) }
	// living is a row with the same answer for every key that is there.
	living := func(a answer) map[KeyState]answer {
		return row(in{enabled, a}, in{disabled, a}, in{imports, a}, in{pending, a}, in{expired, a}, in{archived, a})
	}
	// keeping is for what is possible with every key that shall be kept.
	keeping := func(a answer) map[KeyState]answer {
		return row(in{enabled, a}, in{disabled, a}, in{imports, a}, in{expired, a}, in{archived, a})
	}
	// destroys is for what is possible with the versions of keys that have material to lose.
	destroys := func(a answer) map[KeyState]answer {
		return row(in{enabled, a}, in{disabled, a}, in{expired, a}, in{archived, a})
	}
	// idle is a row for due work that there is only in some states.
	idle := func(differing ...in) map[KeyState]answer { return with(living(alreadySo), differing...) }
	creates := func(a answer) map[KeyState]answer {
		return map[KeyState]answer{absent: a, enabled: exists, disabled: exists, imports: exists, pending: exists, expired: exists, archived: exists, gone: exists}
	}
	notDestroyed := refuses(ReasonBadField)
	rotates := makes(added3, primary3, RotationScheduled{NextRotationTime: day3.Add(2 * day)})
	updated := KeyUpdated{DisplayName: "Orders", Memo: "changed", Labels: map[string]string{"team": "shop"}}
	imported3 := KeyVersionAdded{Version: 3, MaterialID: material3, Algorithm: AES256GCM, Origin: Imported}
	return map[string]map[KeyState]answer{
		"CreateKey":                     creates(makes(created, added1, primary1)),
		"CreateKey, import_only":        creates(makes(createdImportOnly)),
		"UpdateKey":                     living(makes(updated)),
		"UpdateKey, expire_time":        with(living(makes(KeyExpiryChanged{ExpireTime: day9})), in{expired, makes(KeyExpiryChanged{ExpireTime: day9}, KeyEnabled{})}),
		"UpdateKey, next_rotation_time": living(makes(RotationScheduled{NextRotationTime: day9})),
		"UpdateKey, max_uses_per_version and managed_by": living(makes(MaxUsesChanged{MaxUsesPerVersion: 7}, KeyManagerChanged{ManagedBy: "disks"})),
		"EnableKey":                          with(onlyEnabled(alreadySo), in{disabled, makes(KeyEnabled{})}),
		"EnableKey, after its expire_time":   row(in{enabled, refuses(ReasonKeyExpired)}, in{disabled, makes(KeyEnabled{}, KeyExpired{})}),
		"DisableKey":                         row(in{enabled, makes(KeyDisabled{})}, in{disabled, alreadySo}, in{expired, makes(KeyDisabled{})}),
		"DisableKey, in use":                 row(in{enabled, inUse}, in{disabled, alreadySo}, in{expired, inUse}),
		"ArchiveKey":                         row(in{enabled, makes(KeyArchived{})}, in{disabled, makes(KeyArchived{})}, in{archived, alreadySo}),
		"ArchiveKey, in use":                 row(in{enabled, inUse}, in{disabled, inUse}, in{archived, alreadySo}),
		"UnarchiveKey":                       with(living(notArchived), in{archived, makes(KeyUnarchived{})}),
		"UnarchiveKey, enable":               with(living(notArchived), in{archived, makes(KeyUnarchived{}, KeyEnabled{})}),
		"RotateKey":                          onlyEnabled(makes(added3, primary3)),
		"CreateKeyVersion":                   onlyEnabled(makes(added3)),
		"CreateKeyVersion, make_primary":     onlyEnabled(makes(added3, primary3)),
		"SetPrimaryVersion":                  onlyEnabled(makes(primary1)),
		"EnableAutoRotation":                 schedules(makes(AutoRotationEnabled{RotationPeriod: 90 * day, NextRotationTime: day1.Add(90 * day)})),
		"EnableAutoRotation, another period": schedules(makes(RotationPeriodChanged{RotationPeriod: 3 * day, NextRotationTime: day1.Add(3 * day)})),
		"UpdateRotationPeriod":               schedules(makes(RotationPeriodChanged{RotationPeriod: 3 * day, NextRotationTime: day1.Add(3 * day)})),
		"UpdateRotationPeriod, without automatic rotation":            schedules(refuses(ReasonAutoRotationOff)),
		"DisableAutoRotation":                                         schedules(makes(AutoRotationDisabled{})),
		"EnableKeyVersion":                                            onlyEnabled(alreadySo),
		"DisableKeyVersion":                                           onlyEnabled(makes(KeyVersionDisabled{Version: 1})),
		"DisableKeyVersion of the primary":                            onlyEnabled(refuses(ReasonVersionIsPrimary)),
		"DisableKeyVersion of the primary, allow_primary":             onlyEnabled(makes(KeyVersionDisabled{Version: 2})),
		"ScheduleKeyVersionDestruction":                               destroys(makes(KeyVersionDestructionScheduled{Version: 1, DeleteTime: day1.Add(DefaultDeletionWait)})),
		"ScheduleKeyVersionDestruction, in use":                       destroys(inUse),
		"ScheduleKeyVersionDestruction of the primary":                destroys(refuses(ReasonVersionIsPrimary)),
		"ScheduleKeyVersionDestruction of the primary, allow_primary": destroys(makes(KeyVersionDestructionScheduled{Version: 2, DeleteTime: day1.Add(DefaultDeletionWait)})),
		"RestoreKeyVersion":                                           keeping(makes(KeyVersionRestored{Version: 1})),
		"RestoreKeyVersion, after its time":                           keeping(refuses(ReasonVersionScheduled)),
		"ImportKeyVersion":                                            row(in{enabled, makes(imported3)}, in{imports, makes(imported3, primary3, KeyEnabled{})}),
		"ImportKeyVersion, of an old version":                         row(in{enabled, makes(rebuilt(1))}, in{imports, makes(rebuilt(1))}),
		// The fixture of PENDING_IMPORT deletes the primary's material once more, and has not erased that yet.
		"ImportKeyVersion, of the primary":                    row(in{enabled, makes(rebuilt(2))}, in{imports, refuses(ReasonErasurePending)}),
		"ImportKeyVersion, before the old material is erased": row(in{enabled, refuses(ReasonErasurePending)}, in{imports, refuses(ReasonErasurePending)}),
		"DeleteKeyMaterial":                                   row(in{enabled, makes(KeyMaterialDeleted{Version: 1})}, in{imports, makes(KeyMaterialDeleted{Version: 1})}),
		"DeleteKeyMaterial of the primary":                    row(in{enabled, makes(KeyMaterialDeleted{Version: 2}, KeyImportAwaited{})}, in{imports, alreadySo}),
		"DeleteKeyMaterial of the primary, in use":            row(in{enabled, inUse}, in{imports, alreadySo}),
		"DeleteKeyMaterial, not imported":                     row(in{enabled, refuses(ReasonNotImported)}, in{imports, refuses(ReasonNotImported)}),
		"LeaseUses":                                           onlyEnabled(makes(UsesLeased{Version: 1, Uses: 5})),
		"LeaseUses, used up":                                  onlyEnabled(refuses(ReasonVersionUsedUp)),
		"AddUsageBinding":                                     keeping(makes(UsageBound{Resource: "disk-2", Creator: "admin"})),
		"RemoveUsageBinding":                                  living(makes(UsageUnbound{Resource: "disk-1"})),
		"ScheduleKeyDeletion":                                 with(living(makes(KeyDeletionScheduled{DeleteTime: day1.Add(DefaultDeletionWait)})), in{pending, refuses(ReasonKeyPendingDeletion)}),
		"ScheduleKeyDeletion, in use":                         with(living(inUse), in{pending, refuses(ReasonKeyPendingDeletion)}),
		"CancelKeyDeletion":                                   with(living(notPending), in{pending, makes(KeyDeletionCanceled{})}),
		"CancelKeyDeletion, enable":                           with(living(notPending), in{pending, makes(KeyDeletionCanceled{}, KeyEnabled{})}),
		"CancelKeyDeletion, after its time":                   with(living(notPending), in{pending, refuses(ReasonKeyPendingDeletion)}),
		"DeleteKey":                                           with(living(notPending), in{pending, makes(KeyDestroyed{})}),
		"DeleteKey, skip_wait":                                living(makes(KeyDestroyed{})),
		"DeleteKey, skip_wait and in use":                     with(living(inUse), in{pending, makes(KeyDestroyed{})}),
		"DeleteDueKey, too early":                             idle(),
		"DeleteDueKey, when due":                              idle(in{pending, makes(KeyDestroyed{})}),
		"DestroyDueVersions, too early":                       idle(),
		"DestroyDueVersions, when due":                        living(makes(KeyVersionDestroyed{Version: 1})),
		"ExpireKey, too early":                                idle(),
		"ExpireKey, when due":                                 idle(in{enabled, makes(KeyExpired{})}),
		"RotateDueKey, too early":                             idle(),
		"RotateDueKey, when due":                              idle(in{enabled, rotates}, in{disabled, rotates}),
		"RotateDueKey, when the budget is leased":             idle(in{enabled, makes(added3, primary3)}, in{disabled, makes(added3, primary3)}),
		"RecordErasure":                                       with(living(notDestroyed), in{gone, makes(MaterialErased{Version: 1, MaterialID: material1})}),
		"RecordErasure that failed":                           with(living(notDestroyed), in{gone, makes(MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "store away"})}),
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
				got, err := v.decide(v.key(s))
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
	same := func(a answer) map[VersionState]answer { return row(a, a, a, a, a) }
	erased := makes(MaterialErased{Version: 1, MaterialID: material1})
	failed := makes(MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "store away"})
	schedules := func(v Version) answer {
		return makes(KeyVersionDestructionScheduled{Version: v, DeleteTime: day1.Add(DefaultDeletionWait)})
	}
	inPlace, pending := refuses(ReasonMaterialInPlace), refuses(ReasonErasurePending)
	deletes := makes(KeyMaterialDeleted{Version: 1})
	deletesPrimary := makes(KeyMaterialDeleted{Version: 2}, KeyImportAwaited{})
	inUse, isPrimary, notScheduled, notImported := refuses(ReasonKeyInUse), refuses(ReasonVersionIsPrimary), refuses(ReasonNotScheduled), refuses(ReasonNotImported)
	usedUp := refuses(ReasonVersionUsedUp)
	return map[string]map[VersionState]answer{
		"EnableKeyVersion":                                            row(alreadySo, makes(KeyVersionEnabled{Version: 1}), imports, scheduled, gone),
		"DisableKeyVersion":                                           row(makes(KeyVersionDisabled{Version: 1}), alreadySo, imports, scheduled, gone),
		"DisableKeyVersion of the primary":                            row(refuses(ReasonVersionIsPrimary), alreadySo, imports, scheduled, gone),
		"DisableKeyVersion of the primary, allow_primary":             row(makes(KeyVersionDisabled{Version: 2}), alreadySo, imports, scheduled, gone),
		"SetPrimaryVersion":                                           row(makes(primary1), refuses(ReasonVersionDisabled), imports, scheduled, gone),
		"ScheduleKeyVersionDestruction":                               row(schedules(1), schedules(1), imports, scheduled, gone),
		"ScheduleKeyVersionDestruction, in use":                       row(inUse, inUse, imports, scheduled, gone),
		"ScheduleKeyVersionDestruction of the primary":                row(isPrimary, isPrimary, imports, scheduled, gone),
		"ScheduleKeyVersionDestruction of the primary, allow_primary": row(schedules(2), schedules(2), imports, scheduled, gone),
		"RestoreKeyVersion":                                           row(notScheduled, notScheduled, notScheduled, makes(KeyVersionRestored{Version: 1}), gone),
		"RestoreKeyVersion, after its time":                           row(notScheduled, notScheduled, notScheduled, scheduled, gone),
		"ImportKeyVersion, of an old version":                         row(inPlace, inPlace, pending, scheduled, gone),
		"ImportKeyVersion, of the primary":                            row(inPlace, inPlace, pending, scheduled, gone),
		"ImportKeyVersion, before the old material is erased":         row(inPlace, inPlace, pending, scheduled, gone),
		"DeleteKeyMaterial":                                           row(deletes, deletes, alreadySo, scheduled, gone),
		"DeleteKeyMaterial of the primary":                            row(deletesPrimary, deletesPrimary, alreadySo, scheduled, gone),
		"DeleteKeyMaterial of the primary, in use":                    row(inUse, inUse, alreadySo, scheduled, gone),
		"DeleteKeyMaterial, not imported":                             row(notImported, notImported, alreadySo, scheduled, gone),
		"LeaseUses":                                                   row(makes(UsesLeased{Version: 1, Uses: 5}), refuses(ReasonVersionDisabled), imports, scheduled, gone),
		"LeaseUses, used up":                                          row(usedUp, refuses(ReasonVersionDisabled), imports, scheduled, gone),
		"DestroyDueVersions, too early":                               same(alreadySo),
		"DestroyDueVersions, when due":                                row(alreadySo, alreadySo, alreadySo, makes(KeyVersionDestroyed{Version: 1}), alreadySo),
		"RecordErasure":                                               row(living, living, erased, living, erased),
		"RecordErasure that failed":                                   row(living, living, failed, living, failed),
	}
}()

// namedVersion is the version that a command names or picks by its state, and whether there is one.
func namedVersion(cmd Command) (Version, bool) {
	switch c := cmd.(type) { //nolint:gochecksumtype // of the others the field tells
	case RecordErasure:
		return slices.Concat(c.Erased, c.Failed)[0].Version, true
	case DestroyDueVersions:
		return 1, true
	}
	field := reflect.ValueOf(cmd).FieldByName("Version")
	if !field.IsValid() || field.IsZero() {
		return 0, false
	}
	return Version(field.Int()), true
}

func TestDecideInEveryVersionState(t *testing.T) {
	all := states[VersionState](t, "VersionState")
	for _, v := range variants {
		_, named := namedVersion(v.command)
		for _, s := range all {
			t.Run(fmt.Sprintf("%s/%s", v.name, s), func(t *testing.T) {
				want, ok := versionAnswers[v.name][s]
				if !named { // what names no version does not depend on any
					want, ok = keyAnswers[v.name][KeyStateEnabled]
				}
				if !ok {
					t.Fatal("no row says what shall happen")
				}
				got, err := v.decide(v.withVersionIn(s))
				want.check(t, got, err)
			})
		}
	}
}

// TestDecideOnNoSuchVersion: the version is missed before the key's state is looked at, except where there is no key.
func TestDecideOnNoSuchVersion(t *testing.T) {
	for _, v := range []Version{-1, 0, 3, 1 << 30} {
		commands := []Command{
			EnableKeyVersion{Version: v},
			DisableKeyVersion{Version: v},
			SetPrimaryVersion{Version: v},
			ScheduleKeyVersionDestruction{Version: v},
			RestoreKeyVersion{Version: v},
			DeleteKeyMaterial{Version: v},
			LeaseUses{Version: v, N: 1},
			RecordErasure{Erased: []Material{{Version: v}}},
			RecordErasure{Failed: []Material{{Version: v}}},
		}
		if v != 0 { // which is a new version
			commands = append(commands, ImportKeyVersion{Version: v, Origin: Imported})
		}
		for _, cmd := range commands {
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
				cmd := RecordErasure{Erased: m1}
				if failure != "" {
					cmd = RecordErasure{Failed: m1, Cause: failure}
				}
				got, err := Decide(k, day9, cmd)
				a.check(t, got, err)
			})
		}
	}
}
