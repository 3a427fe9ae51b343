package commands

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// keyKind is how keys are changed.
type keyKind struct{ s *Service }

// projected is the key that is named; the zero state under a name that was never used, where Decide refuses, or creates.
func (k keyKind) projected(ctx context.Context, ref domain.KeyRef) (eventstore.KeyState, error) {
	state, err := k.s.key(ref)
	switch {
	case err == nil:
		return state, nil
	case ref.Alias != "": // this node may not know of it yet
		known := k.s.cfg.Keys.Alias(ref.AliasName())
		if _, failed := catchUp(ctx, k.s, eventstore.AliasAggregate(ref.AliasName()), known); failed != nil {
			return eventstore.KeyState{}, failed
		}
		return k.s.key(ref)
	case ref.UID.IsZero():
		return eventstore.KeyState{}, nil
	}
	return eventstore.KeyState{}, err
}

func (keyKind) aggregate(ref domain.KeyRef, state eventstore.KeyState) eventstore.Aggregate {
	if state.Revision != 0 {
		return eventstore.KeyAggregate(state.Key.Name)
	}
	return eventstore.KeyAggregate(ref.Name)
}

func (keyKind) about(a *attempt, state eventstore.KeyState) { a.about(state.Key, a.ref.Version) }

func (keyKind) decide(_ context.Context, ref domain.KeyRef, state eventstore.KeyState, at time.Time, cmd domain.Command) (eventstore.Commit, error) {
	events, err := domain.Decide(state.Key, at, cmd)
	if err != nil {
		return eventstore.Commit{}, err
	}
	after := domain.Fold(state.Key, at, events...)
	return eventstore.Commit{KeyUID: after.UID, Version: versionOf(ref, events), Protection: after.Protection, LedgerTag: after.LedgerTag, Events: events}, nil
}

// versionOf is the version that a commit is about: the one that is named, or the only one that is destroyed; else zero.
func versionOf(ref domain.KeyRef, events []domain.Event) domain.Version {
	if ref.Version == 0 && len(events) == 1 {
		if destroyed, ok := events[0].(domain.KeyVersionDestroyed); ok {
			return destroyed.Version
		}
	}
	return ref.Version
}

// makeMaterial makes and stores the material of every version that the commit adds, unless it was imported, and completes
// its events. It returns what was stored.
func (k keyKind) makeMaterial(ctx context.Context, state eventstore.KeyState, commit *eventstore.Commit) ([]domain.Binding, error) {
	var made []domain.Binding
	after := domain.Fold(state.Key, commit.Time, commit.Events...)
	for i, e := range commit.Events {
		added, ok := e.(domain.KeyVersionAdded)
		if !ok || added.Origin != domain.Generated { // imported material is there already
			continue
		}
		b := after.Binding(added.Version)
		wrapped, err := k.s.cfg.Token.Generate(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("making version %d in the token: %w", added.Version, err)
		}
		if err := k.s.cfg.Material.PutMaterial(ctx, b, wrapped.Blob); err != nil {
			return nil, fmt.Errorf("storing the wrapped key: %w", storeError(err))
		}
		digest := sha256.Sum256(wrapped.Blob)
		added.Fingerprint, added.PublicKey, added.BlobDigest = wrapped.Fingerprint, wrapped.PublicKey, digest[:]
		commit.Events[i], commit.Version = added, added.Version
		made = append(made, b)
	}
	return made, nil
}
