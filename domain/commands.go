package domain

import "time"

// Command asks for a change to a key. Names are imperative.
//
//sumtype:decl
type Command interface{ isCommand() }

type (
	// CreateKey makes a key with its first version.
	CreateKey struct {
		UID         UID
		Name        KeyName
		Purpose     Purpose
		Algorithm   Algorithm
		Protection  ProtectionLevel
		DisplayName string
		Memo        string
		Labels      map[string]string
		Creator     string
		LedgerTag   [32]byte
		ManagedBy   string
		// ImportOnly: the key starts without a version and waits for material to be imported.
		ImportOnly bool
		// AutoRotation: the service rotates the key by itself, the first time after RotationPeriod.
		AutoRotation bool
		// RotationPeriod is whole days, 1 to 730; zero means DefaultRotationPeriod if automatic rotation is on.
		RotationPeriod time.Duration
		// MaxUsesPerVersion is zero for any number; nil means DefaultMaxUses.
		MaxUsesPerVersion *uint64
		ExpireTime        time.Time     // zero: never
		DestroyWait       time.Duration // zero: DefaultDeletionWait
		// MaterialID is where the first version's material will be. Zero: the key starts without a version.
		MaterialID UID
	}
	// RotateKey adds a version and makes it primary. It does not move the schedule of automatic rotation.
	RotateKey struct{ MaterialID UID }
	// RotateDueKey rotates the key if its automatic rotation is due by the schedule or by the primary version's use budget,
	// and does nothing otherwise. What fell due several times is done once. The service itself asks for it.
	RotateDueKey struct{ MaterialID UID }
	// CreateKeyVersion adds a version, and makes it primary if asked to.
	CreateKeyVersion struct {
		MaterialID  UID
		MakePrimary bool
	}
	// SetPrimaryVersion makes an enabled version primary.
	SetPrimaryVersion struct{ Version Version }
	// UpdateRotationPeriod gives automatic rotation another period, which begins now.
	UpdateRotationPeriod struct{ Period time.Duration }
	// EnableAutoRotation starts automatic rotation, the first time after Period; zero means the key's last one, or
	// DefaultRotationPeriod.
	EnableAutoRotation struct{ Period time.Duration }
	// DisableAutoRotation ends automatic rotation.
	DisableAutoRotation struct{}
	// EnableKey lets a disabled key be used again.
	EnableKey struct{}
	// DisableKey stops every use of the key until it is enabled.
	DisableKey struct{}
	// EnableKeyVersion lets a disabled version be used again.
	EnableKeyVersion struct{ Version Version }
	// DisableKeyVersion stops every use of one version, the primary only with AllowPrimary.
	DisableKeyVersion struct {
		Version      Version
		AllowPrimary bool
	}
	// ScheduleKeyVersionDestruction stops every use of one version, the primary only with AllowPrimary, and destroys it
	// after Wait; zero means the key's own wait.
	ScheduleKeyVersionDestruction struct {
		Version      Version
		Wait         time.Duration
		AllowPrimary bool
	}
	// RestoreKeyVersion keeps a version whose destruction is scheduled, and leaves it disabled.
	RestoreKeyVersion struct{ Version Version }
	// DestroyDueVersions destroys the versions whose scheduled destruction is due, at most MaxDestroyedVersions of them, and
	// does nothing if there is none. The service itself asks for it.
	DestroyDueVersions struct{}
	// ArchiveKey lets the key only decrypt.
	ArchiveKey struct{}
	// UnarchiveKey ends that and leaves the key disabled, or enabled if Enable is set.
	UnarchiveKey struct{ Enable bool }
	// ExpireKey records that an enabled key's expire time has come, and does nothing otherwise. The service itself asks for it.
	ExpireKey struct{}
	// ScheduleKeyDeletion stops every use of the key and destroys it after Wait; zero means the key's own wait.
	ScheduleKeyDeletion struct{ Wait time.Duration }
	// CancelKeyDeletion keeps the key: disabled, or enabled if Enable is set.
	CancelKeyDeletion struct{ Enable bool }
	// DeleteKey destroys the key for ever: while its deletion is pending, or at once with SkipWait.
	DeleteKey struct{ SkipWait bool }
	// DeleteDueKey destroys the key if its deletion is pending and due, and does nothing otherwise. The service itself asks
	// for it.
	DeleteDueKey struct{}
	// UpdateKey changes what describes the key and what limits it; nil leaves a field as it is.
	UpdateKey struct {
		DisplayName       *string
		Memo              *string
		Labels            *map[string]string
		ExpireTime        *time.Time // zero: never
		NextRotationTime  *time.Time
		MaxUsesPerVersion *uint64 // zero: any number
		ManagedBy         *string
	}
	// LeaseUses lets a node make up to N encryptions with a version, or as many as are left. Keys without a limit need no
	// leases and get none.
	LeaseUses struct {
		Version Version
		N       uint64
	}
	// ImportKeyVersion gives the key material that is already stored under MaterialID, bound to what ImportBinding says.
	ImportKeyVersion struct {
		MaterialID  UID
		Origin      Origin // Imported or ImportedClear
		ImportJob   string
		Version     Version // whose material was deleted and is imported again; zero: a new one
		Fingerprint []byte
		PublicKey   []byte
		BlobDigest  []byte
		MakePrimary bool // a key that waits for its first material makes it primary in any case
	}
	// DeleteKeyMaterial takes an imported version its material until it is imported again.
	DeleteKeyMaterial struct{ Version Version }
	// AddUsageBinding says that a resource depends on the key.
	AddUsageBinding struct {
		Resource string // 1 to MaxResourceName bytes
		Creator  string
	}
	// RemoveUsageBinding says that it no longer does.
	RemoveUsageBinding struct{ Resource string }
	// RecordErasure notes what came of erasing material that is no longer to be used.
	RecordErasure struct {
		Erased []Material
		Failed []Material
		Cause  string // of the failures
	}
)

// Material names what a version's wrapped key is, or was, stored under. A version whose material was imported again had
// another before.
type Material struct {
	Version Version
	ID      UID
}

// MaxDestroyedVersions bounds what one DestroyDueVersions does, and so the size of its commit.
const MaxDestroyedVersions = 500

func (CreateKey) isCommand()                     {}
func (RotateKey) isCommand()                     {}
func (RotateDueKey) isCommand()                  {}
func (CreateKeyVersion) isCommand()              {}
func (SetPrimaryVersion) isCommand()             {}
func (UpdateRotationPeriod) isCommand()          {}
func (EnableAutoRotation) isCommand()            {}
func (DisableAutoRotation) isCommand()           {}
func (EnableKey) isCommand()                     {}
func (DisableKey) isCommand()                    {}
func (EnableKeyVersion) isCommand()              {}
func (DisableKeyVersion) isCommand()             {}
func (ScheduleKeyVersionDestruction) isCommand() {}
func (RestoreKeyVersion) isCommand()             {}
func (DestroyDueVersions) isCommand()            {}
func (ArchiveKey) isCommand()                    {}
func (UnarchiveKey) isCommand()                  {}
func (ExpireKey) isCommand()                     {}
func (ScheduleKeyDeletion) isCommand()           {}
func (CancelKeyDeletion) isCommand()             {}
func (DeleteKey) isCommand()                     {}
func (DeleteDueKey) isCommand()                  {}
func (UpdateKey) isCommand()                     {}
func (LeaseUses) isCommand()                     {}
func (ImportKeyVersion) isCommand()              {}
func (DeleteKeyMaterial) isCommand()             {}
func (AddUsageBinding) isCommand()               {}
func (RemoveUsageBinding) isCommand()            {}
func (RecordErasure) isCommand()                 {}
