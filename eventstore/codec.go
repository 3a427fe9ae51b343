package eventstore

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

var lineageEncoding = base64.RawURLEncoding

func typeHeader(kind string, lineage domain.UID) string {
	return kind + " " + lineageEncoding.EncodeToString(lineage[:])
}

// parseTypeHeader reads what typeHeader made and requires the type to be kind: bytes of another type are never guessed at.
func parseTypeHeader(header, kind string) (lineage domain.UID, err error) {
	name, text, ok := strings.Cut(header, " ")
	if !ok || name != kind {
		return lineage, fmt.Errorf("the message's type is %q, not %s: it was stored by something else, or by a newer version of this program", header, kind)
	}
	b, err := lineageEncoding.DecodeString(text)
	if err != nil || len(b) != len(lineage) {
		return lineage, fmt.Errorf("the message's lineage %q is not readable", text)
	}
	return domain.UID(b), nil
}

// encodeCommit returns the stored form of c.
func encodeCommit(c Commit) ([]byte, error) {
	if project, _, _ := splitName(c.Aggregate.Name); project != c.Aggregate.Project {
		return nil, fmt.Errorf("encoding a commit: aggregate %q is not in project %q", c.Aggregate.Name, c.Aggregate.Project)
	}
	if !c.ofOneKind() {
		return nil, fmt.Errorf("encoding a commit: aggregate %q is not of the kind of its events", c.Aggregate.Name)
	}
	protection, err := protectionLevels.toProto(c.Protection)
	if err != nil {
		return nil, err
	}
	caller := new(eventsv1.Caller)
	if err := encodeCaller(caller, &c.Caller, new([16]byte)); err != nil {
		return nil, err
	}
	m := &eventsv1.Commit{Metadata: &eventsv1.Metadata{
		CommandId: uidBytes(c.CommandID), IdempotencyId: uidBytes(c.RequestID), RequestHash: hashBytes(c.RequestHash),
		Caller: caller, TimeMicros: c.Time.UnixMicro(), Lineage: uidBytes(c.Lineage), PreviousHash: hashBytes(c.Prev),
		Aggregate: c.Aggregate.Name, KeyUid: uidBytes(c.KeyUID), Version: int32(c.Version), Operation: c.Operation,
		GrantedBy: c.GrantedBy, DurationMicros: micros(c.Duration), ProtectionLevel: protection, LedgerTag: hashBytes(c.LedgerTag),
	}}
	for _, e := range c.Events {
		encoded, err := encodeEvent(e)
		if err != nil {
			return nil, err
		}
		m.Events = append(m.Events, encoded)
	}
	for _, e := range c.Ring {
		encoded, err := encodeRingEvent(e)
		if err != nil {
			return nil, err
		}
		m.Events = append(m.Events, encoded)
	}
	for _, e := range c.Alias {
		encoded, err := encodeAliasEvent(e)
		if err != nil {
			return nil, err
		}
		m.Events = append(m.Events, encoded)
	}
	for _, e := range c.ImportJob {
		encoded, err := encodeImportJobEvent(e)
		if err != nil {
			return nil, err
		}
		m.Events = append(m.Events, encoded)
	}
	for _, e := range c.Site {
		encoded, err := encodeSiteEvent(e)
		if err != nil {
			return nil, err
		}
		m.Events = append(m.Events, encoded)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding a commit of %s: %w", c.Aggregate.Name, err)
	}
	return data, nil
}

// decodeCommit reads a stored commit, of this or of any earlier version of this program.
func decodeCommit(m storedMessage) (Commit, error) {
	c, err := decodeCommitMessage(m)
	if err != nil {
		return Commit{}, &IntegrityError{Stream: streamEvents, Message: fmt.Sprintf("commit %d is not readable: %v", m.seq, err)}
	}
	return c, nil
}

func decodeCommitMessage(m storedMessage) (Commit, error) {
	if _, err := parseTypeHeader(m.header.Get(headerType), typeCommit); err != nil {
		return Commit{}, err
	}
	var p eventsv1.Commit
	if err := proto.Unmarshal(m.data, &p); err != nil {
		return Commit{}, err
	}
	md := p.GetMetadata()
	c := Commit{
		Operation: md.GetOperation(), GrantedBy: md.GetGrantedBy(), Time: time.UnixMicro(md.GetTimeMicros()).UTC(), Version: domain.Version(md.GetVersion()),
		Duration: duration(md.GetDurationMicros()),
		Revision: Revision(m.seq), Hash: sha256.Sum256(m.data), StoredTime: m.time.UTC(),
	}
	c.Aggregate.Name = md.GetAggregate()
	c.Aggregate.Project, _, _ = splitName(c.Aggregate.Name)
	if c.Aggregate.subject() != m.subject {
		return Commit{}, errors.New("it names another aggregate than its subject")
	}
	var d decoder
	c.CommandID, c.RequestID = d.uid(md.GetCommandId()), d.uid(md.GetIdempotencyId())
	c.KeyUID, c.Lineage = d.uid(md.GetKeyUid()), d.uid(md.GetLineage())
	c.RequestHash, c.Prev, c.LedgerTag = d.hash(md.GetRequestHash()), d.hash(md.GetPreviousHash()), d.hash(md.GetLedgerTag())
	c.Caller = d.caller(md.GetCaller())
	c.Protection = fromProto(&d, protectionLevels, md.GetProtectionLevel())
	for _, e := range upcast(p.GetEvents()) {
		d.add(&c, e)
	}
	if !c.ofOneKind() {
		d.fail(errors.New("it holds an event of another kind of aggregate"))
	}
	return c, d.err
}

func encodeEvent(e domain.Event) (*eventsv1.Event, error) {
	switch e := e.(type) {
	case domain.KeyCreated:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyCreated{KeyCreated: &eventsv1.KeyCreated{
			Uid: uidBytes(e.UID), Name: e.Name.String(), Purpose: string(e.Purpose), Algorithm: string(e.Algorithm), ProtectionLevel: string(e.Protection),
			DisplayName: e.DisplayName, Memo: e.Memo, Labels: e.Labels, Creator: e.Creator, LedgerTag: hashBytes(e.LedgerTag),
			ManagedBy: e.ManagedBy, ImportOnly: e.ImportOnly, RotationPeriodMicros: e.RotationPeriod.Microseconds(), NextRotationTimeMicros: timeMicros(e.NextRotationTime),
			MaxUsesPerVersion: e.MaxUsesPerVersion, ExpireTimeMicros: timeMicros(e.ExpireTime), DestroyWaitMicros: e.DestroyWait.Microseconds(),
		}}}, nil
	case domain.KeyVersionAdded:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionAdded{KeyVersionAdded: &eventsv1.KeyVersionAdded{
			Version: int32(e.Version), MaterialId: uidBytes(e.MaterialID), Algorithm: string(e.Algorithm), Origin: string(e.Origin),
			Fingerprint: e.Fingerprint, PublicKey: e.PublicKey, BlobDigest: e.BlobDigest, ImportJob: e.ImportJob,
		}}}, nil
	case domain.PrimaryVersionSet:
		return &eventsv1.Event{Event: &eventsv1.Event_PrimaryVersionSet{PrimaryVersionSet: &eventsv1.PrimaryVersionSet{Version: int32(e.Version)}}}, nil
	case domain.KeyEnabled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyEnabled{KeyEnabled: &eventsv1.KeyEnabled{}}}, nil
	case domain.KeyDisabled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyDisabled{KeyDisabled: &eventsv1.KeyDisabled{}}}, nil
	case domain.KeyVersionEnabled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionEnabled{KeyVersionEnabled: &eventsv1.KeyVersionEnabled{Version: int32(e.Version)}}}, nil
	case domain.KeyVersionDisabled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionDisabled{KeyVersionDisabled: &eventsv1.KeyVersionDisabled{Version: int32(e.Version)}}}, nil
	case domain.KeyDeletionScheduled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyDeletionScheduled{KeyDeletionScheduled: &eventsv1.KeyDeletionScheduled{
			DeleteTimeMicros: e.DeleteTime.UnixMicro(),
		}}}, nil
	case domain.KeyDeletionCanceled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyDeletionCanceled{KeyDeletionCanceled: &eventsv1.KeyDeletionCanceled{}}}, nil
	case domain.KeyDestroyed:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyDestroyed{KeyDestroyed: &eventsv1.KeyDestroyed{}}}, nil
	case domain.KeyUpdated:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyUpdated{KeyUpdated: &eventsv1.KeyUpdated{
			DisplayName: e.DisplayName, Memo: e.Memo, Labels: e.Labels,
		}}}, nil
	case domain.KeyArchived:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyArchived{KeyArchived: &eventsv1.KeyArchived{}}}, nil
	case domain.KeyUnarchived:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyUnarchived{KeyUnarchived: &eventsv1.KeyUnarchived{}}}, nil
	case domain.KeyExpired:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyExpired{KeyExpired: &eventsv1.KeyExpired{}}}, nil
	case domain.KeyExpiryChanged:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyExpiryChanged{KeyExpiryChanged: &eventsv1.KeyExpiryChanged{
			ExpireTimeMicros: timeMicros(e.ExpireTime),
		}}}, nil
	case domain.KeyManagerChanged:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyManagerChanged{KeyManagerChanged: &eventsv1.KeyManagerChanged{ManagedBy: e.ManagedBy}}}, nil
	case domain.KeyImportAwaited:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyImportAwaited{KeyImportAwaited: &eventsv1.KeyImportAwaited{}}}, nil
	case domain.AutoRotationEnabled:
		return &eventsv1.Event{Event: &eventsv1.Event_AutoRotationEnabled{AutoRotationEnabled: &eventsv1.AutoRotationEnabled{
			RotationPeriodMicros: e.RotationPeriod.Microseconds(), NextRotationTimeMicros: timeMicros(e.NextRotationTime),
		}}}, nil
	case domain.AutoRotationDisabled:
		return &eventsv1.Event{Event: &eventsv1.Event_AutoRotationDisabled{AutoRotationDisabled: &eventsv1.AutoRotationDisabled{}}}, nil
	case domain.RotationPeriodChanged:
		return &eventsv1.Event{Event: &eventsv1.Event_RotationPeriodChanged{RotationPeriodChanged: &eventsv1.RotationPeriodChanged{
			RotationPeriodMicros: e.RotationPeriod.Microseconds(), NextRotationTimeMicros: timeMicros(e.NextRotationTime),
		}}}, nil
	case domain.RotationScheduled:
		return &eventsv1.Event{Event: &eventsv1.Event_RotationScheduled{RotationScheduled: &eventsv1.RotationScheduled{
			NextRotationTimeMicros: timeMicros(e.NextRotationTime),
		}}}, nil
	case domain.MaxUsesChanged:
		return &eventsv1.Event{Event: &eventsv1.Event_MaxUsesChanged{MaxUsesChanged: &eventsv1.MaxUsesChanged{MaxUsesPerVersion: e.MaxUsesPerVersion}}}, nil
	case domain.UsesLeased:
		return &eventsv1.Event{Event: &eventsv1.Event_UsesLeased{UsesLeased: &eventsv1.UsesLeased{Version: int32(e.Version), Uses: e.Uses}}}, nil
	case domain.KeyVersionDestructionScheduled:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionDestructionScheduled{KeyVersionDestructionScheduled: &eventsv1.KeyVersionDestructionScheduled{
			Version: int32(e.Version), DeleteTimeMicros: timeMicros(e.DeleteTime),
		}}}, nil
	case domain.KeyVersionRestored:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionRestored{KeyVersionRestored: &eventsv1.KeyVersionRestored{Version: int32(e.Version)}}}, nil
	case domain.KeyVersionDestroyed:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionDestroyed{KeyVersionDestroyed: &eventsv1.KeyVersionDestroyed{Version: int32(e.Version)}}}, nil
	case domain.KeyVersionImported:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyVersionImported{KeyVersionImported: &eventsv1.KeyVersionImported{
			Version: int32(e.Version), MaterialId: uidBytes(e.MaterialID), Origin: string(e.Origin), ImportJob: e.ImportJob, BlobDigest: e.BlobDigest,
		}}}, nil
	case domain.KeyMaterialDeleted:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyMaterialDeleted{KeyMaterialDeleted: &eventsv1.KeyMaterialDeleted{Version: int32(e.Version)}}}, nil
	case domain.UsageBound:
		return &eventsv1.Event{Event: &eventsv1.Event_UsageBound{UsageBound: &eventsv1.UsageBound{Resource: e.Resource, Creator: e.Creator}}}, nil
	case domain.UsageUnbound:
		return &eventsv1.Event{Event: &eventsv1.Event_UsageUnbound{UsageUnbound: &eventsv1.UsageUnbound{Resource: e.Resource}}}, nil
	case domain.MaterialErased:
		return &eventsv1.Event{Event: &eventsv1.Event_MaterialErased{MaterialErased: &eventsv1.MaterialErased{
			Version: int32(e.Version), MaterialId: uidBytes(e.MaterialID),
		}}}, nil
	case domain.MaterialErasureFailed:
		return &eventsv1.Event{Event: &eventsv1.Event_MaterialErasureFailed{MaterialErasureFailed: &eventsv1.MaterialErasureFailed{
			Version: int32(e.Version), MaterialId: uidBytes(e.MaterialID), Cause: e.Cause,
		}}}, nil
	}
	return nil, fmt.Errorf("encoding an event: there is no stored form of %T", e)
}

func encodeSiteEvent(e SiteEvent) (*eventsv1.Event, error) {
	switch e := e.(type) {
	case SiteCreated:
		return &eventsv1.Event{Event: &eventsv1.Event_SiteCreated{SiteCreated: &eventsv1.SiteCreated{Lineage: uidBytes(e.Lineage)}}}, nil
	case RootCreated:
		return &eventsv1.Event{Event: &eventsv1.Event_RootCreated{RootCreated: &eventsv1.RootCreated{
			Id: e.Root.ID, Sentinel: e.Root.Sentinel, TokenSerial: e.Root.TokenSerial,
		}}}, nil
	case ShredStarted:
		return &eventsv1.Event{Event: &eventsv1.Event_ShredStarted{ShredStarted: &eventsv1.ShredStarted{Id: uidBytes(e.ID), NoBackupOk: e.NoBackupOK}}}, nil
	case RootPlanned:
		return &eventsv1.Event{Event: &eventsv1.Event_RootPlanned{RootPlanned: &eventsv1.RootPlanned{Id: e.ID, Node: uidBytes(e.Node)}}}, nil
	case RootAdopted:
		m := &eventsv1.RootAdopted{Id: e.ID}
		for _, node := range e.Nodes {
			m.Nodes = append(m.Nodes, uidBytes(node))
		}
		return &eventsv1.Event{Event: &eventsv1.Event_RootAdopted{RootAdopted: m}}, nil
	case MaterialRewrapped:
		return &eventsv1.Event{Event: &eventsv1.Event_MaterialRewrapped{MaterialRewrapped: &eventsv1.MaterialRewrapped{Living: e.Living, Orphans: e.Orphans}}}, nil
	case RootRetired:
		return &eventsv1.Event{Event: &eventsv1.Event_RootRetired{RootRetired: &eventsv1.RootRetired{Id: e.ID}}}, nil
	case RootDestroyed:
		return &eventsv1.Event{Event: &eventsv1.Event_RootDestroyed{RootDestroyed: &eventsv1.RootDestroyed{Id: e.ID}}}, nil
	case ShredCompleted:
		return &eventsv1.Event{Event: &eventsv1.Event_ShredCompleted{ShredCompleted: &eventsv1.ShredCompleted{Id: uidBytes(e.ID)}}}, nil
	}
	return nil, fmt.Errorf("encoding an event: there is no stored form of %T", e)
}

// decoder reads the parts of a message and keeps the first error.
type decoder struct{ err error }

// add adds an event to the commit, or sets the error: an event that this program does not know can't be left out of the
// history that it decides on.
func (d *decoder) add(c *Commit, e *eventsv1.Event) {
	if ring := d.ringEvent(e); ring != nil {
		c.Ring = append(c.Ring, ring)
	} else if alias := d.aliasEvent(e); alias != nil {
		c.Alias = append(c.Alias, alias)
	} else if job := d.importJobEvent(e); job != nil {
		c.ImportJob = append(c.ImportJob, job)
	} else if event, site := d.event(e); site != nil {
		c.Site = append(c.Site, site)
	} else if event != nil {
		c.Events = append(c.Events, event)
	}
}

// event returns one of the two, or sets the error.
func (d *decoder) event(e *eventsv1.Event) (domain.Event, SiteEvent) {
	switch e := e.GetEvent().(type) {
	case *eventsv1.Event_KeyCreated:
		m := e.KeyCreated
		ref, err := domain.ParseKeyRef(m.GetName())
		if err != nil {
			d.fail(err)
		}
		return domain.KeyCreated{
			UID: d.uid(m.GetUid()), Name: ref.Name, Purpose: domain.Purpose(m.GetPurpose()), Algorithm: domain.Algorithm(m.GetAlgorithm()),
			Protection: domain.ProtectionLevel(m.GetProtectionLevel()), DisplayName: m.GetDisplayName(), Memo: m.GetMemo(), Labels: m.GetLabels(),
			Creator: m.GetCreator(), LedgerTag: d.hash(m.GetLedgerTag()), ManagedBy: m.GetManagedBy(), ImportOnly: m.GetImportOnly(),
			RotationPeriod: fromMicros(m.GetRotationPeriodMicros()), NextRotationTime: microsTime(m.GetNextRotationTimeMicros()),
			MaxUsesPerVersion: m.GetMaxUsesPerVersion(), ExpireTime: microsTime(m.GetExpireTimeMicros()), DestroyWait: fromMicros(m.GetDestroyWaitMicros()),
		}, nil
	case *eventsv1.Event_KeyVersionAdded:
		m := e.KeyVersionAdded
		return domain.KeyVersionAdded{
			Version: domain.Version(m.GetVersion()), MaterialID: d.uid(m.GetMaterialId()), Algorithm: domain.Algorithm(m.GetAlgorithm()),
			Origin: domain.Origin(m.GetOrigin()), Fingerprint: m.GetFingerprint(), PublicKey: m.GetPublicKey(), BlobDigest: m.GetBlobDigest(),
			ImportJob: m.GetImportJob(),
		}, nil
	case *eventsv1.Event_PrimaryVersionSet:
		return domain.PrimaryVersionSet{Version: domain.Version(e.PrimaryVersionSet.GetVersion())}, nil
	case *eventsv1.Event_KeyEnabled:
		return domain.KeyEnabled{}, nil
	case *eventsv1.Event_KeyDisabled:
		return domain.KeyDisabled{}, nil
	case *eventsv1.Event_KeyVersionEnabled:
		return domain.KeyVersionEnabled{Version: domain.Version(e.KeyVersionEnabled.GetVersion())}, nil
	case *eventsv1.Event_KeyVersionDisabled:
		return domain.KeyVersionDisabled{Version: domain.Version(e.KeyVersionDisabled.GetVersion())}, nil
	case *eventsv1.Event_KeyDeletionScheduled:
		return domain.KeyDeletionScheduled{DeleteTime: time.UnixMicro(e.KeyDeletionScheduled.GetDeleteTimeMicros()).UTC()}, nil
	case *eventsv1.Event_KeyDeletionCanceled:
		return domain.KeyDeletionCanceled{}, nil
	case *eventsv1.Event_KeyDestroyed:
		return domain.KeyDestroyed{}, nil
	case *eventsv1.Event_KeyUpdated:
		m := e.KeyUpdated
		return domain.KeyUpdated{DisplayName: m.GetDisplayName(), Memo: m.GetMemo(), Labels: m.GetLabels()}, nil
	case *eventsv1.Event_KeyArchived:
		return domain.KeyArchived{}, nil
	case *eventsv1.Event_KeyUnarchived:
		return domain.KeyUnarchived{}, nil
	case *eventsv1.Event_KeyExpired:
		return domain.KeyExpired{}, nil
	case *eventsv1.Event_KeyExpiryChanged:
		return domain.KeyExpiryChanged{ExpireTime: microsTime(e.KeyExpiryChanged.GetExpireTimeMicros())}, nil
	case *eventsv1.Event_KeyManagerChanged:
		return domain.KeyManagerChanged{ManagedBy: e.KeyManagerChanged.GetManagedBy()}, nil
	case *eventsv1.Event_KeyImportAwaited:
		return domain.KeyImportAwaited{}, nil
	case *eventsv1.Event_AutoRotationEnabled:
		m := e.AutoRotationEnabled
		return domain.AutoRotationEnabled{RotationPeriod: fromMicros(m.GetRotationPeriodMicros()), NextRotationTime: microsTime(m.GetNextRotationTimeMicros())}, nil
	case *eventsv1.Event_AutoRotationDisabled:
		return domain.AutoRotationDisabled{}, nil
	case *eventsv1.Event_RotationPeriodChanged:
		m := e.RotationPeriodChanged
		return domain.RotationPeriodChanged{RotationPeriod: fromMicros(m.GetRotationPeriodMicros()), NextRotationTime: microsTime(m.GetNextRotationTimeMicros())}, nil
	case *eventsv1.Event_RotationScheduled:
		return domain.RotationScheduled{NextRotationTime: microsTime(e.RotationScheduled.GetNextRotationTimeMicros())}, nil
	case *eventsv1.Event_MaxUsesChanged:
		return domain.MaxUsesChanged{MaxUsesPerVersion: e.MaxUsesChanged.GetMaxUsesPerVersion()}, nil
	case *eventsv1.Event_UsesLeased:
		return domain.UsesLeased{Version: domain.Version(e.UsesLeased.GetVersion()), Uses: e.UsesLeased.GetUses()}, nil
	case *eventsv1.Event_KeyVersionDestructionScheduled:
		m := e.KeyVersionDestructionScheduled
		return domain.KeyVersionDestructionScheduled{Version: domain.Version(m.GetVersion()), DeleteTime: microsTime(m.GetDeleteTimeMicros())}, nil
	case *eventsv1.Event_KeyVersionRestored:
		return domain.KeyVersionRestored{Version: domain.Version(e.KeyVersionRestored.GetVersion())}, nil
	case *eventsv1.Event_KeyVersionDestroyed:
		return domain.KeyVersionDestroyed{Version: domain.Version(e.KeyVersionDestroyed.GetVersion())}, nil
	case *eventsv1.Event_KeyVersionImported:
		m := e.KeyVersionImported
		return domain.KeyVersionImported{
			Version: domain.Version(m.GetVersion()), MaterialID: d.uid(m.GetMaterialId()), Origin: domain.Origin(m.GetOrigin()),
			ImportJob: m.GetImportJob(), BlobDigest: m.GetBlobDigest(),
		}, nil
	case *eventsv1.Event_KeyMaterialDeleted:
		return domain.KeyMaterialDeleted{Version: domain.Version(e.KeyMaterialDeleted.GetVersion())}, nil
	case *eventsv1.Event_UsageBound:
		return domain.UsageBound{Resource: e.UsageBound.GetResource(), Creator: e.UsageBound.GetCreator()}, nil
	case *eventsv1.Event_UsageUnbound:
		return domain.UsageUnbound{Resource: e.UsageUnbound.GetResource()}, nil
	case *eventsv1.Event_MaterialErased:
		m := e.MaterialErased
		return domain.MaterialErased{Version: domain.Version(m.GetVersion()), MaterialID: d.uid(m.GetMaterialId())}, nil
	case *eventsv1.Event_MaterialErasureFailed:
		m := e.MaterialErasureFailed
		return domain.MaterialErasureFailed{Version: domain.Version(m.GetVersion()), MaterialID: d.uid(m.GetMaterialId()), Cause: m.GetCause()}, nil
	case *eventsv1.Event_SiteCreated:
		return nil, SiteCreated{Lineage: d.uid(e.SiteCreated.GetLineage())}
	case *eventsv1.Event_RootCreated:
		m := e.RootCreated
		return nil, RootCreated{Root: Root{ID: m.GetId(), Sentinel: m.GetSentinel(), TokenSerial: m.GetTokenSerial()}}
	case *eventsv1.Event_ShredStarted:
		return nil, ShredStarted{ID: d.uid(e.ShredStarted.GetId()), NoBackupOK: e.ShredStarted.GetNoBackupOk()}
	case *eventsv1.Event_RootPlanned:
		return nil, RootPlanned{ID: e.RootPlanned.GetId(), Node: d.uid(e.RootPlanned.GetNode())}
	case *eventsv1.Event_RootAdopted:
		adopted := RootAdopted{ID: e.RootAdopted.GetId()}
		for _, node := range e.RootAdopted.GetNodes() {
			adopted.Nodes = append(adopted.Nodes, d.uid(node))
		}
		return nil, adopted
	case *eventsv1.Event_MaterialRewrapped:
		return nil, MaterialRewrapped{Living: e.MaterialRewrapped.GetLiving(), Orphans: e.MaterialRewrapped.GetOrphans()}
	case *eventsv1.Event_RootRetired:
		return nil, RootRetired{ID: e.RootRetired.GetId()}
	case *eventsv1.Event_RootDestroyed:
		return nil, RootDestroyed{ID: e.RootDestroyed.GetId()}
	case *eventsv1.Event_ShredCompleted:
		return nil, ShredCompleted{ID: d.uid(e.ShredCompleted.GetId())}
	}
	d.fail(errors.New("it holds an event of a newer version of this program"))
	return nil, nil
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) uid(b []byte) domain.UID {
	u, err := domain.UIDFromBytes(b)
	if err != nil {
		d.fail(err)
	}
	return u
}

func (d *decoder) hash(b []byte) (h [32]byte) {
	if len(b) != 0 && len(b) != len(h) {
		d.fail(fmt.Errorf("a hash has 32 bytes, not %d", len(b)))
		return h
	}
	copy(h[:], b)
	return h
}

func (d *decoder) caller(m *eventsv1.Caller) domain.Caller {
	c := domain.Caller{
		Principal: m.GetPrincipal(), Kind: domain.PrincipalKind(m.GetPrincipalKind()), Request: fromProto(d, requestTypes, m.GetRequestType()),
		UserAgent: m.GetUserAgent(), RequestID: d.uid(m.GetRequestId()), ClientRequestID: m.GetClientRequestId(), CorrelationID: m.GetCorrelationId(),
	}
	if b := m.GetAddress(); len(b) > 0 {
		address, ok := netip.AddrFromSlice(b)
		if !ok {
			d.fail(fmt.Errorf("an IP address has 4 or 16 bytes, not %d", len(b)))
		}
		c.Address = address
	}
	if b := m.GetTraceId(); len(b) > 0 {
		if len(b) != len(c.TraceID) {
			d.fail(fmt.Errorf("a trace id has 16 bytes, not %d", len(b)))
		}
		copy(c.TraceID[:], b)
	}
	return c
}

// encodeCaller fills m with c, whose bytes, and address, m then refers to. The zone of a link-local address means nothing on
// another host and is left out.
func encodeCaller(m *eventsv1.Caller, c *domain.Caller, address *[16]byte) (err error) {
	if m.RequestType, err = requestTypes.toProto(c.Request); err != nil {
		return err
	}
	m.Principal, m.PrincipalKind = text(c.Principal), string(c.Kind)
	m.UserAgent, m.ClientRequestId, m.CorrelationId = text(c.UserAgent), text(c.ClientRequestID), text(c.CorrelationID)
	m.RequestId, m.TraceId, m.Address = nil, nil, nil
	if !c.RequestID.IsZero() {
		m.RequestId = c.RequestID[:]
	}
	if c.TraceID != [16]byte{} {
		m.TraceId = c.TraceID[:]
	}
	switch {
	case c.Address.Is4():
		b := c.Address.As4()
		m.Address = address[:copy(address[:], b[:])]
	case c.Address.Is6():
		*address = c.Address.As16()
		m.Address = address[:]
	}
	return nil
}

// text is s with what is not UTF-8 replaced: texts that callers send, like a user agent, must not make a record impossible.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func uidBytes(u domain.UID) []byte {
	if u.IsZero() {
		return nil
	}
	return u[:]
}

func hashBytes(h [32]byte) []byte {
	if h == [32]byte{} {
		return nil
	}
	return h[:]
}

// timeMicros is t as events keep it; zero stays zero.
func timeMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func microsTime(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

func fromMicros(micros int64) time.Duration { return time.Duration(micros) * time.Microsecond }

func micros(d time.Duration) uint64 { return uint64(max(0, d.Microseconds())) }

func duration(micros uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Microsecond)
	return time.Duration(min(micros, most)) * time.Microsecond
}

// enum maps a closed list of the domain to an enum of the stored form. The zero of the one is the zero of the other.
type enum[D ~string, P ~int32] struct {
	what string
	list []struct {
		d D
		p P
	}
}

func (e enum[D, P]) toProto(d D) (P, error) {
	if d == "" {
		return 0, nil
	}
	for _, x := range e.list {
		if x.d == d {
			return x.p, nil
		}
	}
	return 0, fmt.Errorf("encoding %s: there is no stored form of %q", e.what, d)
}

func fromProto[D ~string, P ~int32](d *decoder, e enum[D, P], p P) D {
	if p == 0 {
		return ""
	}
	for _, x := range e.list {
		if x.p == p {
			return x.d
		}
	}
	d.fail(fmt.Errorf("%s %d is of a newer version of this program", e.what, p))
	return ""
}

type pair[D, P any] = struct {
	d D
	p P
}

var (
	protectionLevels = enum[domain.ProtectionLevel, eventsv1.ProtectionLevel]{"protection level", []pair[domain.ProtectionLevel, eventsv1.ProtectionLevel]{
		{domain.HSM, eventsv1.ProtectionLevel_PROTECTION_LEVEL_HSM},
		{domain.Software, eventsv1.ProtectionLevel_PROTECTION_LEVEL_SOFTWARE},
	}}
	requestTypes = enum[domain.RequestType, eventsv1.RequestType]{"request type", []pair[domain.RequestType, eventsv1.RequestType]{
		{domain.RequestAPI, eventsv1.RequestType_REQUEST_TYPE_API},
		{domain.RequestConsole, eventsv1.RequestType_REQUEST_TYPE_CONSOLE},
		{domain.RequestSystem, eventsv1.RequestType_REQUEST_TYPE_SYSTEM},
	}}
	categories = enum[domain.Category, eventsv1.ActivityRecord_Category]{"category", []pair[domain.Category, eventsv1.ActivityRecord_Category]{
		{domain.CategoryCrypto, eventsv1.ActivityRecord_CATEGORY_CRYPTO},
		{domain.CategoryManagement, eventsv1.ActivityRecord_CATEGORY_MANAGEMENT},
		{domain.CategoryAccess, eventsv1.ActivityRecord_CATEGORY_ACCESS},
		{domain.CategoryAudit, eventsv1.ActivityRecord_CATEGORY_AUDIT},
	}}
	outcomes = enum[domain.Outcome, eventsv1.ActivityRecord_Outcome]{"outcome", []pair[domain.Outcome, eventsv1.ActivityRecord_Outcome]{
		{domain.OutcomeOK, eventsv1.ActivityRecord_OUTCOME_OK},
		{domain.OutcomeDenied, eventsv1.ActivityRecord_OUTCOME_DENIED},
		{domain.OutcomeFailed, eventsv1.ActivityRecord_OUTCOME_FAILED},
	}}
)
