package eventstore

import (
	"strings"

	"github.com/keyledger/kms/domain"
)

// Aggregate is what one stream of commits is about: a key, a key ring, an alias, an import job, or the site itself.
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

// RingAggregate is the aggregate of the key ring with this name.
func RingAggregate(n domain.RingName) Aggregate {
	return Aggregate{Project: n.Project, Name: n.String()}
}

// AliasAggregate is the aggregate of the alias with this name: whatever key it stands for, its history is one.
func AliasAggregate(n domain.AliasName) Aggregate {
	return Aggregate{Project: n.Project, Name: n.String()}
}

// ImportJobAggregate is the aggregate of the import job with this name.
func ImportJobAggregate(n domain.ImportJobName) Aggregate {
	return Aggregate{Project: n.Project, Name: n.String()}
}

// Kind is what an aggregate is, and so which events its commits hold.
type Kind int

// The kinds of aggregates.
const (
	KindUnknown Kind = iota // of a newer version of this program
	KindSite
	KindKey
	KindRing
	KindAlias
	KindImportJob
)

// Kind reads from the name what the aggregate is.
func (a Aggregate) Kind() Kind {
	if a == SiteAggregate {
		return KindSite
	}
	_, _, rest := splitName(a.Name)
	collection, rest, _ := strings.Cut(rest, "/")
	_, child, isChild := strings.Cut(rest, "/")
	switch {
	case collection == "keyRings" && !isChild:
		return KindRing
	case collection == "keyRings" && strings.HasPrefix(child, "keys/"):
		return KindKey
	case collection == "keyRings" && strings.HasPrefix(child, "importJobs/"):
		return KindImportJob
	case collection == "aliases" && !isChild:
		return KindAlias
	}
	return KindUnknown
}

// ofOneKind reports whether all events are of the kind of the aggregate.
func (c *Commit) ofOneKind() bool {
	kind := c.Aggregate.Kind()
	return (len(c.Events) == 0 || kind == KindKey) && (len(c.Ring) == 0 || kind == KindRing) &&
		(len(c.Alias) == 0 || kind == KindAlias) && (len(c.ImportJob) == 0 || kind == KindImportJob) && (len(c.Site) == 0 || kind == KindSite)
}
