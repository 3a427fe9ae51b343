package eventstore

import (
	"time"

	"github.com/keyledger/kms/domain"
)

// Tip is the end of an aggregate's chain of commits, which the next commit continues. The zero Tip is that of an
// aggregate without commits.
type Tip struct {
	Revision       Revision
	CreateRevision Revision
	// Edition is the newest commit that did more than lease uses. Etags are made of it: a key that is used does not change for
	// the people who change it.
	Edition Revision
	Hash    [32]byte  // of the last commit; the next one's Prev
	Time    time.Time // of the last commit; the next one's is not before it
}

// Last is the tip itself, for code that works on the states of all kinds of aggregates.
func (t Tip) Last() Tip { return t }

// next is the tip after c. name is that of the aggregate the tip is of, empty if it has no commits. The error is a
// *ChainError if c is not its next commit.
func (t Tip) next(name string, c Commit) (Tip, error) {
	broken := func(message string) (Tip, error) {
		return t, &ChainError{Aggregate: c.Aggregate, Revision: c.Revision, Message: message}
	}
	switch {
	case c.Revision <= t.Revision:
		return broken("it is older than what it should continue")
	case c.Prev != t.Hash:
		return broken("the hash of the previous commit is not the one it names: commits are missing or were changed; restore the event store from a backup")
	case c.Time.Before(t.Time):
		return broken("its time is before that of the previous commit")
	case t.Revision != 0 && name != c.Aggregate.Name:
		return broken("it belongs to another aggregate than " + name)
	}
	next := Tip{Revision: c.Revision, CreateRevision: t.CreateRevision, Edition: t.Edition, Hash: c.Hash, Time: c.Time}
	if !c.OnlyLeases() {
		next.Edition = c.Revision
	}
	if t.Revision == 0 {
		next.CreateRevision = c.Revision
	}
	return next, nil
}

// KeyState is a key's aggregate after one of its commits: what projections hold and commands decide on. The zero KeyState
// is that of a key which never existed. Like domain.Key it is a value that never changes.
type KeyState struct {
	Key domain.Key
	Tip
	// Aliases are the ids of those that stand for the key, sorted, and AliasRevision is the newest commit of any alias that
	// changed them. Aliases are aggregates of their own: a projection sets these, and Apply keeps them.
	Aliases       []string
	AliasRevision Revision
}

// Apply returns the state after c. The error is a *ChainError if c is not the next commit of this key.
func (s KeyState) Apply(c Commit) (KeyState, error) {
	tip, err := s.next(s.Key.Name.String(), c)
	if err != nil {
		return s, err
	}
	s.Key, s.Tip = domain.Fold(s.Key, c.Time, c.Events...), tip
	return s, nil
}

// RingState is a key ring's aggregate after one of its commits, as KeyState is a key's. The zero RingState is that of a
// ring of which nothing is recorded.
type RingState struct {
	Ring domain.Ring
	Tip
}

// Apply returns the state after c. The error is a *ChainError if c is not the next commit of this ring.
func (s RingState) Apply(c Commit) (RingState, error) {
	tip, err := s.next(s.Ring.Name.String(), c)
	if err != nil {
		return s, err
	}
	return RingState{domain.FoldRing(s.Ring, c.Time, c.Ring...), tip}, nil
}

// AliasState is an alias's aggregate after one of its commits, as KeyState is a key's. The zero AliasState is that of an
// alias which was never used.
type AliasState struct {
	Alias domain.Alias
	Tip
}

// Apply returns the state after c. The error is a *ChainError if c is not the next commit of this alias.
func (s AliasState) Apply(c Commit) (AliasState, error) {
	tip, err := s.next(s.Alias.Name.String(), c)
	if err != nil {
		return s, err
	}
	return AliasState{domain.FoldAlias(s.Alias, c.Time, c.Alias...), tip}, nil
}

// ImportJobState is an import job's aggregate after one of its commits, as KeyState is a key's. The zero ImportJobState is
// that of a job which never existed.
type ImportJobState struct {
	Job domain.ImportJob
	Tip
}

// Apply returns the state after c. The error is a *ChainError if c is not the next commit of this job.
func (s ImportJobState) Apply(c Commit) (ImportJobState, error) {
	tip, err := s.next(s.Job.Name.String(), c)
	if err != nil {
		return s, err
	}
	return ImportJobState{domain.FoldImportJob(s.Job, c.Time, c.ImportJob...), tip}, nil
}
