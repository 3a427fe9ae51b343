package domain_test

import (
	"slices"
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
		"cancel what is due but not done":          {andThen(scheduled), day9, CancelKeyDeletion{}, makes(KeyDeletionCanceled{})},
		"cancel twice":                             {andThen(scheduled, KeyDeletionCanceled{}), day1, CancelKeyDeletion{}, refuses(ReasonNotPendingDeletion)},
		"cancel what is done":                      {andThen(scheduled, destroyed), day9, CancelKeyDeletion{}, refuses(ReasonKeyDestroyed)},
		"delete while pending":                     {andThen(scheduled), day1, DeleteKey{}, makes(KeyDestroyed{})},
		"delete when due":                          {andThen(scheduled), day9, DeleteKey{}, makes(KeyDestroyed{})},
		"delete at once":                           {alive, day1, DeleteKey{SkipWait: true}, makes(KeyDestroyed{})},
		"delete twice":                             {andThen(destroyed), day9, DeleteKey{SkipWait: true}, refuses(ReasonKeyDestroyed)},
		"erase several":                            {andThen(added2, primary2, destroyed), day9, RecordErasure{Erased: []Version{2}, Failed: []Version{1}, Cause: "disk"}, makes(erased2, failed1)},
		"erase one of them again":                  {andThen(added2, primary2, destroyed, erased2), day9, RecordErasure{Erased: []Version{1, 2}}, makes(erased1)},
		"erase the same twice in one go":           {andThen(destroyed), day9, RecordErasure{Erased: []Version{1, 1}}, makes(erased1)},
		"fail the same twice in one go":            {andThen(destroyed), day9, RecordErasure{Failed: []Version{1, 1}, Cause: "disk"}, makes(failed1)},
		"erase and fail the same":                  {andThen(destroyed), day9, RecordErasure{Erased: []Version{1}, Failed: []Version{1}, Cause: "disk"}, makes(erased1)},
		"erase none":                               {andThen(destroyed), day9, RecordErasure{}, alreadySo},
		"erase one that is not there":              {andThen(destroyed), day9, RecordErasure{Erased: []Version{1, 2}}, refuses(ReasonVersionNotFound)},
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
