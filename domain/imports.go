package domain

import (
	"bytes"
	"time"
)

// ImportBinding returns what the material of an import is to be bound to, or an *Error that says why the import is refused.
// What depends on the material itself is decided once it is there.
func (k Key) ImportBinding(at time.Time, c ImportKeyVersion) (Binding, error) {
	switch k.State {
	case KeyStateAbsent:
		return Binding{}, refuse(ReasonKeyNotFound, "there is no such key; create it, or look at the name for a mistake")
	case KeyStateDestroyed:
		return Binding{}, k.refuseState("given material")
	case KeyStateEnabled, KeyStateDisabled, KeyStatePendingImport, KeyStatePendingDeletion, KeyStateExpired, KeyStateArchived:
	}
	if c.Origin != Imported && c.Origin != ImportedClear {
		return Binding{}, refuse(ReasonBadField, "the origin of material imported into key %s can't be %q", k.Name, c.Origin)
	}
	b := Binding{
		Project: k.Name.Project, KeyUID: k.UID, Version: k.NextVersion(), MaterialID: c.MaterialID,
		Algorithm: k.Algorithm, Purpose: k.Purpose, Protection: k.Protection, Origin: c.Origin,
	}
	var kv KeyVersion
	if c.Version != 0 {
		var ok bool
		if kv, ok = k.Versions.Get(c.Version); !ok {
			return Binding{}, versionNotFound(k, c.Version)
		}
		b.Version, b.Algorithm = kv.Version, kv.Algorithm
	}
	k.State = k.StateAt(at)
	if k.State != KeyStateEnabled && k.State != KeyStatePendingImport {
		return Binding{}, k.refuseState("given material")
	}
	if c.Version == 0 {
		return b, nil
	}
	switch kv.State {
	case VersionStatePendingImport:
	case VersionStateEnabled, VersionStateDisabled:
		return Binding{}, refuse(ReasonMaterialInPlace, "version %d of key %s is %s and has its material; import a new version, or delete the material of this one first", c.Version, k.Name, kv.State)
	case VersionStateDestroyScheduled, VersionStateDestroyed:
		return Binding{}, versionStateError(k, kv)
	}
	if kv.MustErase() {
		return Binding{}, refuse(ReasonErasurePending, "the deleted material of version %d of key %s is still being erased; try again in a moment", c.Version, k.Name)
	}
	return b, nil
}

func decideImport(k Key, at time.Time, c ImportKeyVersion) ([]Event, error) {
	b, err := k.ImportBinding(at, c)
	if err != nil {
		return nil, err
	}
	if c.Version != 0 {
		if kv, _ := k.Versions.Get(c.Version); !bytes.Equal(kv.Fingerprint, c.Fingerprint) {
			return nil, refuse(ReasonMaterialDiffers, "the material is not what version %d of key %s had before, so it could not decrypt what that encrypted; import it as a new version", c.Version, k.Name)
		}
	} else if same, ok := k.versionWith(c.Fingerprint); ok {
		return nil, refuse(ReasonMaterialKnown, "the material is that of version %d of key %s already; a new version needs other material", same, k.Name)
	}
	var events []Event
	if c.Version == 0 {
		events = append(events, KeyVersionAdded{
			Version: b.Version, MaterialID: c.MaterialID, Algorithm: b.Algorithm, Origin: c.Origin,
			Fingerprint: c.Fingerprint, PublicKey: c.PublicKey, BlobDigest: c.BlobDigest, ImportJob: c.ImportJob,
		})
	} else {
		events = append(events, KeyVersionImported{Version: b.Version, MaterialID: c.MaterialID, Origin: c.Origin, ImportJob: c.ImportJob, BlobDigest: c.BlobDigest})
	}
	waiting := k.State == KeyStatePendingImport
	if b.Version != k.Primary && (c.MakePrimary || waiting && c.Version == 0) {
		events = append(events, PrimaryVersionSet{Version: b.Version})
	}
	if after := Fold(k, at, events...); waiting && !after.awaitsImport() {
		events = append(events, after.enabling(at)...)
	}
	return events, nil
}

// versionWith returns the version that has, or had, the material with this fingerprint.
func (k Key) versionWith(fingerprint []byte) (Version, bool) {
	for kv := range k.Versions.All() {
		if len(fingerprint) > 0 && bytes.Equal(kv.Fingerprint, fingerprint) {
			return kv.Version, true
		}
	}
	return 0, false
}

func decideDeleteMaterial(k Key, c DeleteKeyMaterial) ([]Event, error) {
	kv, ok := k.Versions.Get(c.Version)
	if !ok {
		return nil, versionNotFound(k, c.Version)
	}
	if k.State != KeyStateEnabled && k.State != KeyStatePendingImport {
		return nil, k.refuseState("changed in its versions")
	}
	switch kv.State {
	case VersionStatePendingImport:
		return nil, nil
	case VersionStateDestroyScheduled, VersionStateDestroyed:
		return nil, versionStateError(k, kv)
	case VersionStateEnabled, VersionStateDisabled:
	}
	if kv.Origin != Imported && kv.Origin != ImportedClear {
		return nil, refuse(ReasonNotImported, "version %d of key %s was made by the service, so nobody could import it again; schedule its destruction instead", c.Version, k.Name)
	}
	deleted := KeyMaterialDeleted(c)
	if c.Version != k.Primary {
		return []Event{deleted}, nil
	}
	if err := k.mustNotBeInUse("emptied"); err != nil {
		return nil, err
	}
	return []Event{deleted, KeyImportAwaited{}}, nil
}
