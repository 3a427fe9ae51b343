package domain_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/keyledger/kms/domain"
)

// given folds events that happened at day0.
func given(e ...Event) Key { return Fold(Key{}, day0, e...) }

// TestDecide tells stories: what happened, what is asked for, what comes of it. That no pair of state and command is
// forgotten is the matter of TestDecideInEveryKeyState.
func TestDecide(t *testing.T) {
	erased1, erased2 := MaterialErased{Version: 1, MaterialID: material1}, MaterialErased{Version: 2, MaterialID: material2}
	failed1 := MaterialErasureFailed{Version: 1, MaterialID: material1, Cause: "disk"}
	empty := create
	empty.MaterialID = UID{}
	unsupported := create
	unsupported.Algorithm = "ROT13"
	signing := create
	signing.Purpose = "SIGN_VERIFY"
	alive := events(created, added1, primary1)
	andThen := func(more ...Event) []Event { return append(slices.Clip(alive), more...) }
	wait := func(d time.Duration) Command { return ScheduleKeyDeletion{Wait: d} }

	for name, tt := range map[string]struct {
		given []Event
		at    time.Time
		when  Command
		then  answer
	}{
		"create":                                   {nil, day0, create, makes(created, added1, primary1)},
		"create without a version":                 {nil, day0, empty, makes(created)},
		"create with an unknown algorithm":         {nil, day0, unsupported, refuses(ReasonUnsupported)},
		"create with another purpose":              {nil, day0, signing, refuses(ReasonUnsupported)},
		"create twice with an unknown algorithm":   {alive, day0, unsupported, refuses(ReasonKeyExists)},
		"create after destroy":                     {andThen(destroyed), day9, create, refuses(ReasonKeyExists)},
		"rotate":                                   {alive, day1, RotateKey{MaterialID: material2}, makes(added2, primary2)},
		"rotate a key without a version":           {events(created), day1, RotateKey{MaterialID: material1}, makes(added1, primary1)},
		"rotate when the newest is not primary":    {andThen(added2), day1, RotateKey{MaterialID: material3}, makes(added3, primary3)},
		"rotate though every version is disabled":  {andThen(KeyVersionDisabled{Version: 1}), day1, RotateKey{MaterialID: material2}, makes(added2, primary2)},
		"rotate again once enabled":                {andThen(KeyDisabled{}, KeyEnabled{}), day1, RotateKey{MaterialID: material2}, makes(added2, primary2)},
		"enable a canceled deletion":               {andThen(scheduled, KeyDeletionCanceled{}), day1, EnableKey{}, makes(KeyEnabled{})},
		"disable twice":                            {andThen(KeyDisabled{}), day1, DisableKey{}, alreadySo},
		"disable the primary twice needs no leave": {andThen(KeyVersionDisabled{Version: 1}), day1, DisableKeyVersion{Version: 1}, alreadySo},
		"disable an old primary after rotation":    {andThen(added2, primary2), day1, DisableKeyVersion{Version: 1}, makes(KeyVersionDisabled{Version: 1})},
		"schedule without a wait":                  {alive, day1, wait(0), makes(KeyDeletionScheduled{DeleteTime: day1.Add(72 * time.Hour)})},
		"schedule with the least wait":             {alive, day1, wait(24 * time.Hour), makes(KeyDeletionScheduled{DeleteTime: day1.Add(24 * time.Hour)})},
		"schedule with too little":                 {alive, day1, wait(24*time.Hour - 1), refuses(ReasonBadField)},
		"schedule with the most wait":              {alive, day1, wait(120 * 24 * time.Hour), makes(KeyDeletionScheduled{DeleteTime: day1.AddDate(0, 0, 120)})},
		"schedule with too much":                   {alive, day1, wait(120*24*time.Hour + 1), refuses(ReasonBadField)},
		"schedule into the past":                   {alive, day1, wait(-72 * time.Hour), refuses(ReasonBadField)},
		"schedule again after canceling":           {andThen(scheduled, KeyDeletionCanceled{}), day9, wait(0), makes(KeyDeletionScheduled{DeleteTime: day9.Add(72 * time.Hour)})},
		"cancel":                                   {andThen(scheduled), day1, CancelKeyDeletion{}, makes(KeyDeletionCanceled{})},
		"cancel what is due but not done":          {andThen(scheduled), day3, CancelKeyDeletion{}, refuses(ReasonKeyPendingDeletion)},
		"cancel at the last moment":                {andThen(scheduled), day3.Add(-1), CancelKeyDeletion{}, makes(KeyDeletionCanceled{})},
		"cancel twice":                             {andThen(scheduled, KeyDeletionCanceled{}), day1, CancelKeyDeletion{}, refuses(ReasonNotPendingDeletion)},
		"cancel what is done":                      {andThen(scheduled, destroyed), day9, CancelKeyDeletion{}, refuses(ReasonKeyDestroyed)},
		"delete while pending":                     {andThen(scheduled), day1, DeleteKey{}, makes(KeyDestroyed{})},
		"delete when due":                          {andThen(scheduled), day9, DeleteKey{}, makes(KeyDestroyed{})},
		"delete at once":                           {alive, day1, DeleteKey{SkipWait: true}, makes(KeyDestroyed{})},
		"delete twice":                             {andThen(destroyed), day9, DeleteKey{SkipWait: true}, refuses(ReasonKeyDestroyed)},
		"erase several":                            {andThen(added2, primary2, destroyed), day9, RecordErasure{Erased: []Material{mat2}, Failed: m1, Cause: "disk"}, makes(erased2, failed1)},
		"erase one of them again":                  {andThen(added2, primary2, destroyed, erased2), day9, RecordErasure{Erased: []Material{m1[0], mat2}}, makes(erased1)},
		"erase the same twice in one go":           {andThen(destroyed), day9, RecordErasure{Erased: []Material{m1[0], m1[0]}}, makes(erased1)},
		"fail the same twice in one go":            {andThen(destroyed), day9, RecordErasure{Failed: []Material{m1[0], m1[0]}, Cause: "disk"}, makes(failed1)},
		"erase and fail the same":                  {andThen(destroyed), day9, RecordErasure{Erased: m1, Failed: m1, Cause: "disk"}, makes(erased1)},
		"erase none":                               {andThen(destroyed), day9, RecordErasure{}, alreadySo},
		"erase one that is not there":              {andThen(destroyed), day9, RecordErasure{Erased: []Material{m1[0], mat2}}, refuses(ReasonVersionNotFound)},
		"update nothing":                           {alive, day1, UpdateKey{}, alreadySo},
		"update to the same":                       {alive, day1, UpdateKey{DisplayName: new("Orders"), Memo: new("of the shop"), Labels: &map[string]string{"team": "shop"}}, alreadySo},
		"update the display name":                  {alive, day1, UpdateKey{DisplayName: new("Bills")}, makes(KeyUpdated{DisplayName: "Bills", Memo: "of the shop", Labels: created.Labels})},
		"update the memo":                          {alive, day1, UpdateKey{Memo: new("")}, makes(KeyUpdated{DisplayName: "Orders", Labels: created.Labels})},
		"update the labels":                        {alive, day1, UpdateKey{Labels: &map[string]string{"team": "billing"}}, makes(KeyUpdated{DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "billing"}})},
		"update the labels away":                   {alive, day1, UpdateKey{Labels: new(map[string]string)}, makes(KeyUpdated{DisplayName: "Orders", Memo: "of the shop"})},
		"update while the deletion is pending":     {andThen(scheduled), day1, UpdateKey{Memo: new("bye")}, makes(KeyUpdated{DisplayName: "Orders", Memo: "bye", Labels: created.Labels})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decide(given(tt.given...), tt.at, tt.when)
			tt.then.check(t, got, err)
		})
	}
}

// TestDecideCreate has a row for everything that may be chosen for a new key.
func TestDecideCreate(t *testing.T) {
	for name, tt := range map[string]struct {
		choose func(*CreateKey)
		then   func(*KeyCreated) // nil: refused as a bad field
	}{
		"automatic rotation": {
			func(c *CreateKey) { c.AutoRotation = true },
			func(e *KeyCreated) { e.RotationPeriod, e.NextRotationTime = 90*day, day1.Add(90*day) },
		},
		"automatic rotation with the shortest period": {
			func(c *CreateKey) { c.AutoRotation, c.RotationPeriod = true, day },
			func(e *KeyCreated) { e.RotationPeriod, e.NextRotationTime = day, day1.Add(day) },
		},
		"automatic rotation with the longest period": {
			func(c *CreateKey) { c.AutoRotation, c.RotationPeriod = true, 730*day },
			func(e *KeyCreated) { e.RotationPeriod, e.NextRotationTime = 730*day, day1.Add(730*day) },
		},
		"a period for later":           {func(c *CreateKey) { c.RotationPeriod = 7 * day }, func(e *KeyCreated) { e.RotationPeriod = 7 * day }},
		"a period too long":            {func(c *CreateKey) { c.RotationPeriod = 731 * day }, nil},
		"a period too short":           {func(c *CreateKey) { c.RotationPeriod = -day }, nil},
		"a fractional period":          {func(c *CreateKey) { c.AutoRotation, c.RotationPeriod = true, 36*time.Hour }, nil},
		"a budget":                     {func(c *CreateKey) { c.MaxUsesPerVersion = new(uint64(9)) }, func(e *KeyCreated) { e.MaxUsesPerVersion = 9 }},
		"no budget":                    {func(c *CreateKey) { c.MaxUsesPerVersion = new(uint64(0)) }, func(e *KeyCreated) { e.MaxUsesPerVersion = 0 }},
		"an expiry":                    {func(c *CreateKey) { c.ExpireTime = day3 }, func(e *KeyCreated) { e.ExpireTime = day3 }},
		"an expiry now":                {func(c *CreateKey) { c.ExpireTime = day1 }, nil},
		"an expiry long ago":           {func(c *CreateKey) { c.ExpireTime = time.Unix(0, 0) }, nil},
		"a finer expiry":               {func(c *CreateKey) { c.ExpireTime = day3.Add(1999) }, func(e *KeyCreated) { e.ExpireTime = day3.Add(1000) }},
		"a wait":                       {func(c *CreateKey) { c.DestroyWait = 24 * time.Hour }, func(e *KeyCreated) { e.DestroyWait = 24 * time.Hour }},
		"a wait too short":             {func(c *CreateKey) { c.DestroyWait = 24*time.Hour - 1 }, nil},
		"a wait too long":              {func(c *CreateKey) { c.DestroyWait = 120*day + 1 }, nil},
		"a manager":                    {func(c *CreateKey) { c.ManagedBy = "disks" }, func(e *KeyCreated) { e.ManagedBy = "disks" }},
		"imports only":                 {func(c *CreateKey) { c.ImportOnly = true }, func(e *KeyCreated) { e.ImportOnly = true }},
		"imports only, rotating":       {func(c *CreateKey) { c.ImportOnly, c.AutoRotation = true, true }, nil},
		"imports only, with a version": {func(c *CreateKey) { c.ImportOnly, c.MaterialID = true, material1 }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, e := create, created
			c.MaterialID = UID{}
			tt.choose(&c)
			want := refuses(ReasonBadField)
			if tt.then != nil {
				tt.then(&e)
				want = makes(e)
			}
			got, err := Decide(Key{}, day1, c)
			want.check(t, got, err)
		})
	}
}

// TestDecideWhatLimits tells of schedules, expiry, budgets, imports and bindings: what a key with two versions has besides,
// what is asked for, and what comes of it.
func TestDecideWhatLimits(t *testing.T) {
	period := func(d time.Duration) Command { return UpdateRotationPeriod{Period: d} }
	next := func(t time.Time) Command { return UpdateKey{NextRotationTime: &t} }
	expire := func(t time.Time) Command { return UpdateKey{ExpireTime: &t} }
	lease := func(n uint64) Command { return LeaseUses{Version: 2, N: n} }
	rotate := RotateDueKey{MaterialID: material3}
	rotatedUntil := func(t time.Time) answer { return makes(added3, primary3, RotationScheduled{NextRotationTime: t}) }
	budget := func(n uint64) Event { return MaxUsesChanged{MaxUsesPerVersion: n} }
	leased := func(n uint64) Event { return UsesLeased{Version: 2, Uses: n} }
	fingerprint := func(e KeyVersionAdded, f string) KeyVersionAdded { e.Fingerprint = []byte(f); return e }
	known := fingerprint(added3, "3")
	known.Origin = Imported
	again := ImportKeyVersion{Version: 3, MaterialID: uid(0x33), Origin: ImportedClear, ImportJob: "job", Fingerprint: []byte("3"), BlobDigest: []byte("d"), MakePrimary: true}
	other := again
	other.Fingerprint = []byte("4")
	fresh := again
	fresh.Version, fresh.Fingerprint, fresh.PublicKey = 0, []byte("4"), []byte("pub")
	twice := fresh
	twice.Fingerprint = []byte("3")
	homemade := fresh
	homemade.Origin = Generated
	deleted3 := events(known, KeyMaterialDeleted{Version: 3}, MaterialErased{Version: 3, MaterialID: material3})
	reimported := KeyVersionImported{Version: 3, MaterialID: uid(0x33), Origin: ImportedClear, ImportJob: "job", BlobDigest: []byte("d")}
	rotatingImports := []Event{imported(2), KeyMaterialDeleted{Version: 2}}
	var full []Event
	for i := range MaxUsageBindings {
		full = append(full, UsageBound{Resource: string(rune('ⓐ' + i))})
	}
	long := strings.Repeat("x", MaxResourceName)

	for name, tt := range map[string]struct {
		given []Event
		at    time.Time
		when  Command
		then  answer
	}{
		"a period of no days":                                 {rotating, day1, period(0), refuses(ReasonBadField)},
		"a period of 731 days":                                {rotating, day1, period(731 * day), refuses(ReasonBadField)},
		"a period of a day and a bit":                         {rotating, day1, period(day + time.Second), refuses(ReasonBadField)},
		"the same period":                                     {rotating, day1, period(2 * day), alreadySo},
		"automatic rotation, which is on":                     {rotating, day1, EnableAutoRotation{}, alreadySo},
		"automatic rotation, which is on so":                  {rotating, day1, EnableAutoRotation{Period: 2 * day}, alreadySo},
		"automatic rotation of half a day":                    {nil, day1, EnableAutoRotation{Period: day / 2}, refuses(ReasonBadField)},
		"automatic rotation as it was before":                 {andMore(rotating, AutoRotationDisabled{}), day9, EnableAutoRotation{}, makes(AutoRotationEnabled{RotationPeriod: 2 * day, NextRotationTime: day9.Add(2 * day)})},
		"no automatic rotation, which is off":                 {nil, day1, DisableAutoRotation{}, alreadySo},
		"rotation by hand leaves the schedule":                {rotating, day1, RotateKey{MaterialID: material3}, makes(added3, primary3)},
		"due rotation that is off":                            {nil, day9, rotate, alreadySo},
		"due rotation a moment early":                         {rotating, day3.Add(-1), rotate, alreadySo},
		"due rotation in time":                                {rotating, day3, rotate, rotatedUntil(day3.Add(2 * day))},
		"due rotation a period late, less a moment":           {rotating, day3.Add(2*day - 1), rotate, rotatedUntil(day3.Add(2 * day))},
		"due rotation a period late":                          {rotating, day3.Add(2 * day), rotate, rotatedUntil(day3.Add(4 * day))},
		"due rotation long after":                             {rotating, day3.Add(9 * day), rotate, rotatedUntil(day3.Add(10 * day))},
		"due rotation of an expired key":                      {andMore(rotating, KeyExpiryChanged{ExpireTime: day3}), day3, rotate, alreadySo},
		"due rotation for lack of budget":                     {andMore(rotating, budget(10), leased(8)), day1, rotate, makes(added3, primary3)},
		"due rotation for lack of budget, and in time":        {andMore(rotating, budget(10), leased(8)), day3, rotate, rotatedUntil(day3.Add(2 * day))},
		"due rotation with enough budget":                     {andMore(rotating, budget(10), leased(7)), day1, rotate, alreadySo},
		"due rotation of a disabled key without its material": {andMore(rotating, append(rotatingImports, KeyDisabled{})...), day3, rotate, alreadySo},
		"rotation set for now":                                {rotating, day1, next(day1), refuses(ReasonBadField)},
		"rotation set too far ahead":                          {rotating, day1, next(day1.Add(730*day + time.Microsecond)), refuses(ReasonBadField)},
		"rotation set as far ahead as can be":                 {rotating, day1, next(day1.Add(730 * day)), makes(RotationScheduled{NextRotationTime: day1.Add(730 * day)})},
		"rotation set for when it is":                         {rotating, day1, next(day3), alreadySo},
		"rotation set though it is off":                       {nil, day1, next(day3), refuses(ReasonAutoRotationOff)},
		"expiry now":                                          {nil, day1, expire(day1), refuses(ReasonBadField)},
		"expiry soon":                                         {nil, day1, expire(day3), makes(KeyExpiryChanged{ExpireTime: day3})},
		"expiry as it is":                                     {expiring, day1, expire(day3), alreadySo},
		"no expiry":                                           {expiring, day1, expire(time.Time{}), makes(KeyExpiryChanged{})},
		"no expiry, of an expired key":                        {andMore(expiring, KeyExpired{}), day9, expire(time.Time{}), makes(KeyExpiryChanged{}, KeyEnabled{})},
		"no expiry, before it was recorded":                   {expiring, day9, expire(time.Time{}), makes(KeyExpiryChanged{}, KeyEnabled{})},
		"expiry of a key that was disabled":                   {andMore(expiring, KeyDisabled{}), day9, expire(time.Time{}), makes(KeyExpiryChanged{})},
		"rotation by hand after the expiry":                   {expiring, day3, RotateKey{MaterialID: material3}, refuses(ReasonKeyExpired)},
		"expire twice":                                        {andMore(expiring, KeyExpired{}), day9, ExpireKey{}, alreadySo},
		"unarchive and enable after the expiry":               {andMore(expiring, KeyArchived{}), day9, UnarchiveKey{Enable: true}, makes(KeyUnarchived{}, KeyEnabled{}, KeyExpired{})},
		"keep and enable after the expiry":                    {andMore(expiring, KeyDeletionScheduled{DeleteTime: day9.Add(1)}), day9, CancelKeyDeletion{Enable: true}, makes(KeyDeletionCanceled{}, KeyEnabled{}, KeyExpired{})},
		"enable without the primary's material":               {append(rotatingImports, KeyImportAwaited{}, scheduled, KeyDeletionCanceled{}), day1, EnableKey{}, makes(KeyImportAwaited{})},
		"a lease":                                             {events(budget(10)), day1, lease(3), makes(leased(3))},
		"a lease of more than is left":                        {events(budget(10), leased(8)), day1, lease(3), makes(leased(2))},
		"a lease of nothing":                                  {nil, day1, lease(0), refuses(ReasonBadField)},
		"a lease of all":                                      {events(budget(10)), day1, lease(1 << 63), makes(leased(10))},
		"a lease too many":                                    {events(budget(10), leased(10)), day1, lease(1), refuses(ReasonVersionUsedUp)},
		"a lease after the budget was lowered":                {events(leased(10), budget(9)), day1, lease(1), refuses(ReasonVersionUsedUp)},
		"a lease after the budget was raised":                 {events(budget(9), leased(9), budget(11)), day1, lease(5), makes(leased(2))},
		"a lease without a budget":                            {events(budget(0)), day1, lease(5), alreadySo},
		"a lease after the expiry":                            {expiring, day3, lease(5), refuses(ReasonKeyExpired)},
		"a version's own wait too short":                      {nil, day1, ScheduleKeyVersionDestruction{Version: 1, Wait: time.Hour}, refuses(ReasonBadField)},
		"a version's own wait":                                {nil, day1, ScheduleKeyVersionDestruction{Version: 1, Wait: day}, makes(KeyVersionDestructionScheduled{Version: 1, DeleteTime: day1.Add(day)})},
		"a version restored at the last moment":               {events(scheduled1), day3.Add(-1), RestoreKeyVersion{Version: 1}, makes(KeyVersionRestored{Version: 1})},
		"a version restored too late":                         {events(scheduled1), day3, RestoreKeyVersion{Version: 1}, refuses(ReasonVersionScheduled)},
		"several versions due":                                {events(scheduled1, KeyVersionDestructionScheduled{Version: 2, DeleteTime: day9}), day9, DestroyDueVersions{}, makes(KeyVersionDestroyed{Version: 1}, KeyVersionDestroyed{Version: 2})},
		"one of several versions due":                         {events(scheduled1, KeyVersionDestructionScheduled{Version: 2, DeleteTime: day9}), day3, DestroyDueVersions{}, makes(KeyVersionDestroyed{Version: 1})},
		"import again":                                        {deleted3, day1, again, makes(reimported, primary3)},
		"import something else again":                         {deleted3, day1, other, refuses(ReasonMaterialDiffers)},
		"import as a new version":                             {deleted3, day1, fresh, makes(KeyVersionAdded{Version: 4, MaterialID: uid(0x33), Algorithm: AES256GCM, Origin: ImportedClear, Fingerprint: []byte("4"), PublicKey: []byte("pub"), BlobDigest: []byte("d"), ImportJob: "job"}, PrimaryVersionSet{Version: 4})},
		"import the same as a new version":                    {deleted3, day1, twice, refuses(ReasonMaterialKnown)},
		"import what the service made":                        {nil, day1, homemade, refuses(ReasonBadField)},
		"import into a key that expired":                      {expiring, day3, fresh, refuses(ReasonKeyExpired)},
		"erase material of another name":                      {deleted3, day1, RecordErasure{Erased: []Material{{Version: 3, ID: material1}}}, refuses(ReasonBadField)},
		"bind no resource":                                    {nil, day1, AddUsageBinding{}, refuses(ReasonBadField)},
		"bind a resource with the longest name":               {nil, day1, AddUsageBinding{Resource: long}, makes(UsageBound{Resource: long})},
		"bind a resource with too long a name":                {nil, day1, AddUsageBinding{Resource: long + "x"}, refuses(ReasonBadField)},
		"bind a resource twice":                               {bound, day1, AddUsageBinding{Resource: "disk-1", Creator: "other"}, alreadySo},
		"bind one too many":                                   {full, day1, AddUsageBinding{Resource: "disk-1"}, refuses(ReasonTooManyBindings)},
		"bind one of many again":                              {full, day1, AddUsageBinding{Resource: "ⓐ"}, alreadySo},
		"unbind what is not bound":                            {bound, day1, RemoveUsageBinding{Resource: "disk-2"}, alreadySo},
		"disable after unbinding":                             {andMore(bound, UsageUnbound{Resource: "disk-1"}), day1, DisableKey{}, makes(KeyDisabled{})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decide(keyIn(KeyStateEnabled, tt.given...), tt.at, tt.when)
			tt.then.check(t, got, err)
		})
	}
}

func andMore(given []Event, more ...Event) []Event { return slices.Concat(given, more) }

// TestDecideImportOnly follows a key that takes imported material only through its first days.
func TestDecideImportOnly(t *testing.T) {
	first := ImportKeyVersion{MaterialID: material1, Origin: Imported, Fingerprint: []byte("1")}
	added := KeyVersionAdded{Version: 1, MaterialID: material1, Algorithm: AES256GCM, Origin: Imported, Fingerprint: []byte("1")}
	waiting := events(createdImportOnly)
	arrived := append(slices.Clip(waiting), added, primary1, KeyEnabled{})
	emptied := append(slices.Clip(arrived), KeyMaterialDeleted{Version: 1}, KeyImportAwaited{}, MaterialErased{Version: 1, MaterialID: material1})
	again := ImportKeyVersion{MaterialID: material2, Origin: Imported, Version: 1, Fingerprint: []byte("1")}
	for name, tt := range map[string]struct {
		given []Event
		when  Command
		then  answer
	}{
		"rotate before the import":          {waiting, RotateKey{MaterialID: material1}, refuses(ReasonKeyPendingImport)},
		"rotate after the import":           {arrived, RotateKey{MaterialID: material2}, refuses(ReasonKeyImportOnly)},
		"add a version after the import":    {arrived, CreateKeyVersion{MaterialID: material2}, refuses(ReasonKeyImportOnly)},
		"rotate automatically":              {arrived, EnableAutoRotation{}, refuses(ReasonKeyImportOnly)},
		"first import":                      {waiting, first, makes(added, primary1, KeyEnabled{})},
		"first import after the expiry":     {append(slices.Clip(waiting), KeyExpiryChanged{ExpireTime: day1}), first, makes(added, primary1, KeyEnabled{}, KeyExpired{})},
		"enable before the import":          {append(slices.Clip(waiting), scheduled, KeyDeletionCanceled{}), EnableKey{}, makes(KeyImportAwaited{})},
		"keep and enable before the import": {append(slices.Clip(waiting), scheduled), CancelKeyDeletion{Enable: true}, makes(KeyDeletionCanceled{}, KeyImportAwaited{})},
		"delete the material":               {arrived, DeleteKeyMaterial{Version: 1}, makes(KeyMaterialDeleted{Version: 1}, KeyImportAwaited{})},
		"import it again":                   {emptied, again, makes(KeyVersionImported{Version: 1, MaterialID: material2, Origin: Imported}, KeyEnabled{})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decide(given(tt.given...), day1, tt.when)
			tt.then.check(t, got, err)
		})
	}
}

// TestDestroyWait: what the key was made with counts where a deletion names no wait.
func TestDestroyWait(t *testing.T) {
	made := created
	made.DestroyWait = 5 * day
	k := given(made, added1, primary1, added2, primary2)
	for name, tt := range map[string]struct {
		when Command
		then Event
	}{
		"the key":              {ScheduleKeyDeletion{}, KeyDeletionScheduled{DeleteTime: day1.Add(5 * day)}},
		"the key, sooner":      {ScheduleKeyDeletion{Wait: day}, KeyDeletionScheduled{DeleteTime: day1.Add(day)}},
		"a version":            {ScheduleKeyVersionDestruction{Version: 1}, KeyVersionDestructionScheduled{Version: 1, DeleteTime: day1.Add(5 * day)}},
		"a version, and later": {ScheduleKeyVersionDestruction{Version: 1, Wait: 9 * day}, KeyVersionDestructionScheduled{Version: 1, DeleteTime: day1.Add(9 * day)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decide(k, day1, tt.when)
			makes(tt.then).check(t, got, err)
		})
	}
}

// TestDestroyManyDueVersions: what one commit can't hold is left for the next.
func TestDestroyManyDueVersions(t *testing.T) {
	const n = MaxDestroyedVersions + 3
	k := given(created)
	for v := Version(1); v <= n; v++ {
		k = Fold(k, day0, KeyVersionAdded{Version: v}, KeyVersionDestructionScheduled{Version: v, DeleteTime: day1})
	}
	for i, want := range []int{MaxDestroyedVersions, 3, 0} {
		got, err := Decide(k, day1, DestroyDueVersions{})
		if err != nil || len(got) != want {
			t.Fatalf("round %d destroys %d versions, want %d: %v", i, len(got), want, err)
		}
		k = Fold(k, day1, got...)
	}
	if !k.NextDestroyTime.IsZero() || k.Unerased != n {
		t.Errorf("after all: next destruction %s, %d unerased", k.NextDestroyTime, k.Unerased)
	}
}

func TestBudget(t *testing.T) {
	for _, tt := range []struct{ budget, size, due uint64 }{
		{1, 1, 1},
		{2, 1, 2},
		{4, 1, 4},
		{5, 1, 4},
		{7, 1, 6},
		{10, 1, 8},
		{255, 1, 204},
		{512, 2, 410},
		{1 << 32, 1 << 24, 3435973837},
		{1<<64 - 1, 1<<56 - 1, 14757395258967641292},
	} {
		if got := LeaseSize(tt.budget); got != tt.size {
			t.Errorf("LeaseSize(%d) = %d, want %d", tt.budget, got, tt.size)
		}
		k := given(created, added1, primary1, MaxUsesChanged{MaxUsesPerVersion: tt.budget}, UsesLeased{Version: 1, Uses: tt.due - 1})
		if k.BudgetDue(1) {
			t.Errorf("with %d of %d leased it is time to rotate", tt.due-1, tt.budget)
		}
		if k = Fold(k, day0, UsesLeased{Version: 1, Uses: 1}); !k.BudgetDue(1) {
			t.Errorf("with %d of %d leased it is not time to rotate", tt.due, tt.budget)
		}
	}
	if k := given(created, added1, primary1, MaxUsesChanged{}, UsesLeased{Version: 1, Uses: 1 << 40}); k.BudgetDue(1) {
		t.Error("a budget that is not there is used up")
	}
	if got := DefaultMaxUses("ROT13"); got != 0 {
		t.Errorf("an algorithm without a rule has a budget of %d", got)
	}
}

// TestDecideKeepsItsOwnLabels: a caller that goes on changing its map changes no event.
func TestDecideKeepsItsOwnLabels(t *testing.T) {
	labels := map[string]string{"team": "shop"}
	c := create
	c.Labels = labels
	made, err := Decide(Key{}, day0, c)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := Decide(given(created), day0, UpdateKey{Memo: new("x"), Labels: &labels})
	if err != nil {
		t.Fatal(err)
	}
	labels["team"] = "other"
	if got := made[0].(KeyCreated).Labels["team"]; got != "shop" {
		t.Errorf("the created event has team %q, want shop", got)
	}
	if got := changed[0].(KeyUpdated).Labels["team"]; got != "shop" {
		t.Errorf("the updated event has team %q, want shop", got)
	}
}
