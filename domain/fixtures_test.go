package domain_test

import (
	"time"

	. "github.com/keyledger/kms/domain"
)

var (
	day0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	day1 = day0.AddDate(0, 0, 1)
	day3 = day0.AddDate(0, 0, 3)
	day9 = day0.AddDate(0, 0, 9)

	keyUID    = uid(0x10)
	material1 = uid(0x21)
	material2 = uid(0x22)
	material3 = uid(0x23)
	ledgerTag = [32]byte{1, 2, 3}

	ring    = RingName{Project: "shop", Location: "local", Ring: "default"}
	keyName = ring.Key("orders")
)

// The events of one key's life, as Decide makes them.
var (
	created = KeyCreated{
		UID: keyUID, Name: keyName, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
		DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
	}
	added1    = KeyVersionAdded{Version: 1, MaterialID: material1, Algorithm: AES256GCM, Origin: Generated}
	added2    = KeyVersionAdded{Version: 2, MaterialID: material2, Algorithm: AES256GCM, Origin: Generated}
	added3    = KeyVersionAdded{Version: 3, MaterialID: material3, Algorithm: AES256GCM, Origin: Generated}
	primary1  = PrimaryVersionSet{Version: 1}
	primary2  = PrimaryVersionSet{Version: 2}
	primary3  = PrimaryVersionSet{Version: 3}
	scheduled = KeyDeletionScheduled{DeleteTime: day3}
	destroyed = KeyDestroyed{}
)

var create = CreateKey{
	UID: keyUID, Name: keyName, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
	DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
	MaterialID: material1,
}

func uid(n byte) UID { return UID{0: n, 6: 0x70, 8: 0x80, 15: n} }

func events(e ...Event) []Event { return e }

// keyIn is a key with two versions, of which the second is primary, in the given state. States that no command leads to
// yet are set by hand, so that their answers are fixed before the first key can be in them.
func keyIn(s KeyState) Key {
	k := Fold(Key{}, day0, created, added1, primary1, added2, primary2)
	switch s {
	case KeyStateAbsent:
		return Key{}
	case KeyStateEnabled:
	case KeyStateDisabled:
		k = Fold(k, day0, KeyDisabled{})
	case KeyStatePendingDeletion:
		k = Fold(k, day0, scheduled)
	case KeyStateDestroyed:
		k = Fold(k, day0, destroyed)
	case KeyStatePendingImport, KeyStateExpired, KeyStateArchived:
		k.State, k.StateTime = s, day0
	}
	return k
}

// keyWithVersionIn is an enabled key whose version v is in the given state.
func keyWithVersionIn(v Version, s VersionState) Key {
	k := keyIn(KeyStateEnabled)
	kv, _ := k.Versions.Get(v)
	kv.State = s
	k.Versions = k.Versions.With(kv)
	return k
}
