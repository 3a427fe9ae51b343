package eventstore

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"time"

	"github.com/keyledger/kms/domain"
)

// Revision is the position in KMS_EVENTS of an aggregate's last commit. Zero means that the aggregate has none.
type Revision uint64

// Commit is one command's effect on one aggregate, stored as one message: all its events or none. A command that found
// nothing to change has a commit too, without events, which remembers its request id.
type Commit struct {
	Aggregate Aggregate
	KeyUID    domain.UID
	// CommandID is made once per execution and kept over its retries. By it a commit is found whose acknowledgement was lost.
	CommandID domain.UID
	// RequestID is the caller's, and RequestHash that of the normalised request; zero without one. They make the request
	// idempotent for ever, scoped to (principal, aggregate).
	RequestID   domain.UID
	RequestHash [32]byte
	Operation   string // the RPC's name, e.g. "RotateKey"
	Caller      domain.Caller
	GrantedBy   string
	// Time is the effective time, to the microsecond: max(clock, time of the aggregate's previous commit).
	Time    time.Time
	Lineage domain.UID
	// Prev is the Hash of the aggregate's previous commit; zero in the first.
	Prev       [32]byte
	Protection domain.ProtectionLevel
	Version    domain.Version // the version acted on; zero: the key
	LedgerTag  [32]byte
	Duration   time.Duration // of the work before the append, to the microsecond

	// The events are of the kind of the aggregate: only one of these has any.

	Events    []domain.Event // of a key
	Ring      []domain.RingEvent
	Alias     []domain.AliasEvent
	ImportJob []domain.ImportJobEvent
	Site      []SiteEvent

	// Set when read or appended.

	Revision Revision
	Hash     [32]byte // SHA-256 of the message as stored
	// StoredTime is the server's when it stored the message. Only set when read.
	StoredTime time.Time
}

// OnlyLeases reports whether the commit does nothing but to let nodes make some of the uses that a key allows.
func (c Commit) OnlyLeases() bool {
	for _, e := range c.Events {
		if _, lease := e.(domain.UsesLeased); !lease {
			return false
		}
	}
	return len(c.Events) > 0
}

// SiteEvent is something that happened to the site.
//
//sumtype:decl
type SiteEvent interface{ isSiteEvent() }

type (
	// SiteCreated is the first event of a site and begins its lineage.
	SiteCreated struct{ Lineage domain.UID }
	// RootCreated says that the token has this root from here on.
	RootCreated struct{ Root Root }
)

func (SiteCreated) isSiteEvent() {}
func (RootCreated) isSiteEvent() {}

// What happens in a shred: the change of roots after which nothing that was erased before can be unwrapped any more.
type (
	// ShredStarted begins a shred.
	ShredStarted struct {
		ID domain.UID
		// NoBackupOK: the caller does not want the newly wrapped material to be in a backup before the old root goes.
		NoBackupOK bool
	}
	// RootPlanned says that a node sets out to make a root, and under which id. It comes before the root is made.
	RootPlanned struct {
		ID   string
		Node domain.UID
	}
	// RootAdopted says that no node makes keys under an older root any more; Nodes are those that were alive and said so.
	RootAdopted struct {
		ID    string
		Nodes []domain.UID
	}
	// MaterialRewrapped says that the material of all Living versions is under the newest root. Orphans, which no event
	// names, stay as they are and end with the root that they are under.
	MaterialRewrapped struct{ Living, Orphans uint64 }
	// RootRetired says that nothing living is under the root any more: no node needs it, or expects it in the token.
	RootRetired struct{ ID string }
	// RootDestroyed says that the root is not in the token any more.
	RootDestroyed struct{ ID string }
	// ShredCompleted ends a shred.
	ShredCompleted struct{ ID domain.UID }
)

func (ShredStarted) isSiteEvent()      {}
func (RootPlanned) isSiteEvent()       {}
func (RootAdopted) isSiteEvent()       {}
func (MaterialRewrapped) isSiteEvent() {}
func (RootRetired) isSiteEvent()       {}
func (RootDestroyed) isSiteEvent()     {}
func (ShredCompleted) isSiteEvent()    {}

// Root is a root key of the token, under which key material is wrapped.
type Root struct {
	ID string
	// Sentinel is a MAC made with the root, by which it is recognised at every start. It is not secret.
	Sentinel    []byte
	TokenSerial string
}

// Empty reports whether the commit changes nothing.
func (c Commit) Empty() bool {
	return len(c.Events)+len(c.Ring)+len(c.Alias)+len(c.ImportJob)+len(c.Site) == 0
}

// ActivityRecord is the row of the activity log that a successful command makes.
func (c Commit) ActivityRecord() domain.ActivityRecord {
	project, location, _ := splitName(c.Aggregate.Name)
	return domain.ActivityRecord{
		Time: c.Time, Project: project, Location: location, KeyUID: c.KeyUID, KeyName: c.Aggregate.Name, Version: c.Version,
		Operation: c.Operation, Category: domain.CategoryManagement, Outcome: domain.OutcomeOK,
		Caller: c.Caller, GrantedBy: c.GrantedBy, Protection: c.Protection, LedgerTag: c.LedgerTag, Duration: c.Duration,
	}
}

// Names of streams and the subjects they take.
const (
	streamEvents     = "KMS_EVENTS"
	streamMaterial   = "KMS_MATERIAL"
	streamProjection = "KMS_PROJECTION"
	activityPrefix   = "KMS_ACTIVITY_"
	streamActivity1  = activityPrefix + "1"

	subjectEvents     = "kms.events."
	subjectActivity   = "kms.activity."
	subjectMaterial   = "kms.material."
	subjectProjection = "kms.projection."
)

// lowerBase32 makes tokens of subjects: they hold hashes and identifiers, never a user's text.
var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// subjectToken is the part of a subject that stands for s: the first 20 bytes of its SHA-256.
func subjectToken(s string) string {
	h := sha256.Sum256([]byte(s))
	return lowerBase32.EncodeToString(h[:20])
}

func (a Aggregate) subject() string {
	return subjectEvents + subjectToken(a.Project) + "." + subjectToken(a.Name)
}

// splitName returns the project and the location in a resource name, and what follows them. They are empty, and rest is the
// whole name, if it has none.
func splitName(name string) (project, location, rest string) {
	after, ok := strings.CutPrefix(name, "projects/")
	if !ok {
		return "", "", name
	}
	project, after, ok = strings.Cut(after, "/locations/")
	if !ok || strings.Contains(project, "/") {
		return "", "", name
	}
	location, rest, ok = strings.Cut(after, "/")
	if !ok {
		return "", "", name
	}
	return project, location, rest
}
