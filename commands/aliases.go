package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// AddKeyAlias gives the key another name, unique in its project and location. One that stands for another key is refused
// with ReasonAliasExists, unless it is to be moved or that key is destroyed. The request id is remembered with the alias.
func (s *Service) AddKeyAlias(ctx context.Context, c domain.Caller, ref domain.KeyRef, alias string, move bool, m Mutation) (eventstore.KeyState, error) {
	name := aliasOf(ref, alias)
	return s.changeAlias(ctx, c, name, changeOf[aliasCommand]{
		operation: "AddKeyAlias", permission: domain.PermissionKeysAddAlias, ref: ref, mutation: m, arguments: []any{alias, move},
		command: just[aliasCommand](func(key domain.Key, holderDestroyed bool) domain.AliasCommand {
			return domain.AddKeyAlias{Name: name, Key: key, Move: move, HolderDestroyed: holderDestroyed}
		}),
	})
}

// RemoveKeyAlias frees an alias of the key. The request id is remembered with the alias.
func (s *Service) RemoveKeyAlias(ctx context.Context, c domain.Caller, ref domain.KeyRef, alias string, m Mutation) (eventstore.KeyState, error) {
	name := aliasOf(ref, alias)
	return s.changeAlias(ctx, c, name, changeOf[aliasCommand]{
		operation: "RemoveKeyAlias", permission: domain.PermissionKeysRemoveAlias, ref: ref, mutation: m, arguments: alias,
		command: just[aliasCommand](func(key domain.Key, holderDestroyed bool) domain.AliasCommand {
			return domain.RemoveKeyAlias{Name: name, Key: key, HolderDestroyed: holderDestroyed}
		}),
	})
}

func aliasOf(ref domain.KeyRef, alias string) domain.AliasName {
	return domain.AliasName{Project: ref.Name.Project, Location: ref.Name.Location, ID: alias}
}

// changeAlias changes the alias and returns its key as it was just after.
func (s *Service) changeAlias(ctx context.Context, c domain.Caller, name domain.AliasName, ch changeOf[aliasCommand]) (eventstore.KeyState, error) {
	alias, err := execute(ctx, s, c, aliasKind{s, name}, ch)
	if err != nil {
		return eventstore.KeyState{}, err
	}
	key, ok := s.cfg.Keys.GetByUID(alias.Alias.KeyUID)
	if !ok || key.Revision > alias.Revision { // it was changed since: this is a repeated request
		if key, err = s.keyAsOf(ctx, alias.Alias.Key, alias.Revision); err != nil {
			return eventstore.KeyState{}, err
		}
	}
	key.Aliases, key.AliasRevision = s.cfg.Keys.AliasesAt(key.Key.UID, alias.Revision)
	return key, nil
}

// keyAsOf is the key as the log had it at a revision, without its aliases.
func (s *Service) keyAsOf(ctx context.Context, name domain.KeyName, rev eventstore.Revision) (state eventstore.KeyState, err error) {
	for commit, err := range s.cfg.Events.LoadConfirmed(ctx, eventstore.KeyAggregate(name), 0) {
		if err == nil && commit.Revision > rev {
			break
		}
		if err == nil {
			state, err = state.Apply(commit)
		}
		if err != nil {
			return eventstore.KeyState{}, fmt.Errorf("reading the key as it was then: %w", storeError(err))
		}
	}
	return state, nil
}

// aliasCommand makes a command of what this node finds out of the key that is named, and of the key that the alias
// stands for so far.
type aliasCommand func(key domain.Key, holderDestroyed bool) domain.AliasCommand

// aliasKind is how one alias is changed. What names the resource of such a request is the key.
type aliasKind struct {
	s    *Service
	name domain.AliasName
}

func (k aliasKind) projected(context.Context, domain.KeyRef) (eventstore.AliasState, error) {
	return k.s.cfg.Keys.Alias(k.name), nil
}

func (k aliasKind) aggregate(domain.KeyRef, eventstore.AliasState) eventstore.Aggregate {
	return eventstore.AliasAggregate(k.name)
}

// about adds nothing: the attempt is about the key that is named.
func (aliasKind) about(*attempt, eventstore.AliasState) {}

func (k aliasKind) decide(ctx context.Context, ref domain.KeyRef, state eventstore.AliasState, at time.Time, cmd aliasCommand) (eventstore.Commit, error) {
	key, err := k.key(ctx, ref)
	if err != nil {
		return eventstore.Commit{}, err
	}
	holderDestroyed, err := k.holderDestroyed(ctx, state.Alias)
	if err != nil {
		return eventstore.Commit{}, err
	}
	events, err := domain.DecideAlias(state.Alias, cmd(key, holderDestroyed))
	return eventstore.Commit{KeyUID: key.UID, Protection: key.Protection, LedgerTag: key.LedgerTag, Alias: events}, err
}

// key is the key that is named, as the log has it if this node does not know it.
func (k aliasKind) key(ctx context.Context, ref domain.KeyRef) (domain.Key, error) {
	state, err := keyKind{k.s}.projected(ctx, ref)
	if err == nil && state.Revision == 0 {
		state, err = catchUp(ctx, k.s, eventstore.KeyAggregate(ref.Name), state)
	}
	if err == nil && state.Revision == 0 {
		err = keyNotFound(ref)
	}
	return state.Key, err
}

// holderDestroyed reports whether the alias was given to a key that is destroyed, and so is free. No key comes back from
// there: what was seen once holds. That it is not destroyed counts only if the log says the same.
func (k aliasKind) holderDestroyed(ctx context.Context, a domain.Alias) (bool, error) {
	if !a.Set {
		return false, nil
	}
	holder, _ := k.s.cfg.Keys.GetByUID(a.KeyUID)
	if holder.Key.State == domain.KeyStateDestroyed {
		return true, nil
	}
	holder, err := catchUp(ctx, k.s, eventstore.KeyAggregate(a.Key), holder)
	return holder.Key.State == domain.KeyStateDestroyed, err
}

// makeMaterial makes none: aliases have no material.
func (aliasKind) makeMaterial(context.Context, eventstore.AliasState, *eventstore.Commit) ([]domain.Binding, error) {
	return nil, nil
}
