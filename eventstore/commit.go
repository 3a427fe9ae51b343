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

// Aggregate is what one stream of commits is about: a key, or the site itself.
type Aggregate struct {
	Project string // empty for the site
	Name    string // the full resource name
}

// SiteAggregate holds what concerns the whole site: its lineage and the roots of its token.
var SiteAggregate = Aggregate{Name: "site"}

// KeyAggregate is the aggregate of the key with this name. The name is never used again, so that "this id was never used"
// is the expectation that the aggregate has no commit.
func KeyAggregate(n domain.KeyName) Aggregate {
	return Aggregate{Project: n.Project, Name: n.String()}
}

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
	Events     []domain.Event
	// Site holds the events of SiteAggregate; a commit has either Events or Site.
	Site []SiteEvent

	// Set when read or appended.

	Revision Revision
	Hash     [32]byte // SHA-256 of the message as stored
	// StoredTime is the server's when it stored the message. Only set when read.
	StoredTime time.Time
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

// Root is a root key of the token, under which key material is wrapped.
type Root struct {
	ID string
	// Sentinel is a MAC made with the root, by which it is recognised at every start. It is not secret.
	Sentinel    []byte
	TokenSerial string
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

// KeyState is a key's aggregate after one of its commits: what projections hold and commands decide on. The zero KeyState
// is that of a key which never existed. Like domain.Key it is a value that never changes.
type KeyState struct {
	Key            domain.Key
	Revision       Revision
	CreateRevision Revision
	Hash           [32]byte  // of the last commit; the next one's Prev
	Time           time.Time // of the last commit; the next one's is not before it
}

// Apply returns the state after c. The error is a *ChainError if c is not the next commit of this key.
func (s KeyState) Apply(c Commit) (KeyState, error) {
	broken := func(message string) (KeyState, error) {
		return s, &ChainError{Aggregate: c.Aggregate, Revision: c.Revision, Message: message}
	}
	switch {
	case c.Revision <= s.Revision:
		return broken("it is older than what it should continue")
	case c.Prev != s.Hash:
		return broken("the hash of the previous commit is not the one it names: commits are missing or were changed; restore the event store from a backup")
	case c.Time.Before(s.Time):
		return broken("its time is before that of the previous commit")
	case s.Revision != 0 && s.Key.Name.String() != c.Aggregate.Name:
		return broken("it belongs to another key than " + s.Key.Name.String())
	}
	next := KeyState{
		Key:      domain.Fold(s.Key, c.Time, c.Events...),
		Revision: c.Revision, CreateRevision: s.CreateRevision, Hash: c.Hash, Time: c.Time,
	}
	if s.Revision == 0 {
		next.CreateRevision = c.Revision
	}
	return next, nil
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
