package domain_test

import (
	"time"

	. "github.com/keyledger/kms/domain"
)

const day = 24 * time.Hour

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
		MaxUsesPerVersion: 1 << 32,
	}
	added1       = KeyVersionAdded{Version: 1, MaterialID: material1, Algorithm: AES256GCM, Origin: Generated}
	added2       = KeyVersionAdded{Version: 2, MaterialID: material2, Algorithm: AES256GCM, Origin: Generated}
	added3       = KeyVersionAdded{Version: 3, MaterialID: material3, Algorithm: AES256GCM, Origin: Generated}
	primary1     = PrimaryVersionSet{Version: 1}
	primary2     = PrimaryVersionSet{Version: 2}
	primary3     = PrimaryVersionSet{Version: 3}
	scheduled    = KeyDeletionScheduled{DeleteTime: day3}
	scheduled1   = KeyVersionDestructionScheduled{Version: 1, DeleteTime: day3}
	budgetLeased = []Event{MaxUsesChanged{MaxUsesPerVersion: 10}, UsesLeased{Version: 2, Uses: 8}}
	destroyed    = KeyDestroyed{}
)

var create = CreateKey{
	UID: keyUID, Name: keyName, Purpose: EncryptDecrypt, Algorithm: AES256GCM, Protection: HSM,
	DisplayName: "Orders", Memo: "of the shop", Labels: map[string]string{"team": "shop"}, Creator: "admin", LedgerTag: ledgerTag,
	MaterialID: material1,
}

func uid(n byte) UID { return UID{0: n, 6: 0x70, 8: 0x80, 15: n} }

func events(e ...Event) []Event { return e }

// keyIn is a key with two versions, of which the second is primary, in the given state. What is given besides happened
// before it came into that state.
func keyIn(s KeyState, given ...Event) Key {
	k := Fold(Key{}, day0, created, added1, primary1, added2, primary2)
	k = Fold(k, day0, given...)
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
	case KeyStatePendingImport:
		k = Fold(k, day0, imported(2), KeyMaterialDeleted{Version: 2}, KeyImportAwaited{})
	case KeyStateExpired:
		k = Fold(k, day0, KeyExpiryChanged{ExpireTime: day0}, KeyExpired{})
	case KeyStateArchived:
		k = Fold(k, day0, KeyArchived{})
	}
	return k
}

// imported says that the material of version v was imported, in the place of that which the fixtures give it.
func imported(v Version) KeyVersionImported {
	return KeyVersionImported{Version: v, MaterialID: uid(0x20 + byte(v)), Origin: Imported}
}

// keyWithVersionIn is an enabled key whose version v came into the given state last.
func keyWithVersionIn(v Version, s VersionState, given ...Event) Key {
	k := Fold(keyIn(KeyStateEnabled, given...), day0, KeyVersionRestored{Version: v}, KeyVersionEnabled{Version: v})
	switch s {
	case VersionStateEnabled:
	case VersionStateDisabled:
		k = Fold(k, day0, KeyVersionDisabled{Version: v})
	case VersionStatePendingImport:
		k = Fold(k, day0, imported(v), KeyMaterialDeleted{Version: v})
	case VersionStateDestroyScheduled:
		k = Fold(k, day0, KeyVersionDestructionScheduled{Version: v, DeleteTime: day3})
	case VersionStateDestroyed:
		k = Fold(k, day0, KeyVersionDestroyed{Version: v})
	}
	return k
}
