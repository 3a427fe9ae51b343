package projections

import (
	"slices"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// aliasEntry is one alias that was ever used.
type aliasEntry struct {
	state    eventstore.AliasState
	requests requests
}

// aliasChange says that a key got or lost an alias.
type aliasChange struct {
	revision eventstore.Revision
	at       time.Time // effective time of the commit
	alias    string
	added    bool
}

func (k *Keys) applyAlias(c eventstore.Commit) error {
	e, known := k.aliases[c.Aggregate.Name]
	if !known {
		e = &aliasEntry{}
	}
	state, err := e.state.Apply(c)
	if err != nil {
		return err
	}
	if len(c.Alias) > 0 {
		if before := e.state.Alias; before.Set {
			k.rename(before, c, false)
		}
		if state.Alias.Set {
			k.rename(state.Alias, c, true)
		}
	}
	e.state = state
	e.requests.remember(c)
	k.aliases[c.Aggregate.Name] = e
	return nil
}

// rename gives the alias to its key, or takes it away. A destroyed key has none: whoever gave it one did not know yet.
func (k *Keys) rename(a domain.Alias, c eventstore.Commit, added bool) {
	e, ok := k.byUID[a.KeyUID]
	if !ok || e.state.Key.State == domain.KeyStateDestroyed {
		return
	}
	state := *e.state
	change := aliasChange{c.Revision, c.Time, a.Name.ID, added}
	state.Aliases, state.AliasRevision = change.apply(slices.Clone(state.Aliases)), c.Revision
	e.named = append(e.named, change)
	e.state = &state
}

// apply returns the sorted aliases after the change, in the same array if it has room.
func (c aliasChange) apply(aliases []string) []string {
	at, has := slices.BinarySearch(aliases, c.alias)
	switch {
	case has == c.added:
		return aliases
	case c.added:
		return slices.Insert(aliases, at, c.alias)
	case len(aliases) == 1:
		return nil
	}
	return slices.Delete(aliases, at, at+1)
}

// withoutAliases is the state of a key that is destroyed, which frees its aliases.
func (e *entry) withoutAliases(state eventstore.KeyState) eventstore.KeyState {
	for _, alias := range state.Aliases {
		e.named = append(e.named, aliasChange{state.Revision, state.Time, alias, false})
		state.AliasRevision = state.Revision
	}
	state.Aliases = nil
	return state
}

// Alias returns the alias with this name; the zero state if it was never used.
func (k *Keys) Alias(name domain.AliasName) eventstore.AliasState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e, ok := k.aliases[name.String()]; ok {
		return e.state
	}
	return eventstore.AliasState{}
}

// GetByAlias is Get for a key named by an alias. An alias of a destroyed key is free and names nothing.
func (k *Keys) GetByAlias(name domain.AliasName) (eventstore.KeyState, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	a, ok := k.aliases[name.String()]
	if !ok || !a.state.Alias.Set {
		return eventstore.KeyState{}, false
	}
	e, ok := k.byUID[a.state.Alias.KeyUID]
	if !ok || e.state.Key.State == domain.KeyStateDestroyed {
		return eventstore.KeyState{}, false
	}
	return *e.state, true
}

// AliasesAt returns the aliases that the key had just after a revision, sorted, and the commit that last changed them.
func (k *Keys) AliasesAt(key domain.UID, rev eventstore.Revision) (aliases []string, changed eventstore.Revision) {
	return k.AliasesAsOf(key, eventstore.Moment{Revision: rev})
}

// AliasesAsOf is AliasesAt for any moment.
func (k *Keys) AliasesAsOf(key domain.UID, m eventstore.Moment) (aliases []string, changed eventstore.Revision) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	e, ok := k.byUID[key]
	if !ok {
		return nil, 0
	}
	for _, c := range e.named {
		if m.Covers(c.revision, c.at) {
			aliases, changed = c.apply(aliases), c.revision
		}
	}
	return aliases, changed
}
