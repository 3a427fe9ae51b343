package domain

import (
	"fmt"
	"strings"
	"time"
)

// AliasName is the resource name of an alias: projects/{project}/locations/{location}/aliases/{id}. Callers name the key
// that it stands for: projects/{project}/locations/{location}/keyRings/-/keys/alias:{id}.
type AliasName struct {
	Project, Location, ID string
}

func (n AliasName) String() string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/aliases/" + n.ID
}

// ParseAliasName reads the name of an alias. The error has ReasonBadName.
func ParseAliasName(s string) (AliasName, error) {
	const pattern = "projects/{project}/locations/{location}/aliases/{alias}"
	after, isProject := strings.CutPrefix(s, "projects/")
	project, after, isLocation := strings.Cut(after, "/locations/")
	location, id, isAlias := strings.Cut(after, "/aliases/")
	if !isProject || !isLocation || !isAlias || !ValidID(project) || !ValidID(location) || !ValidID(id) {
		return AliasName{}, badName(s, pattern)
	}
	return AliasName{project, location, id}, nil
}

// Alias is a second name for a key, unique in its project and location. It may be moved from key to key. The zero Alias
// was never used. Like Key it is a value.
type Alias struct {
	Name AliasName
	// KeyUID and Key are the key that the alias stands for, or, while it is not Set, last stood for.
	KeyUID UID
	Key    KeyName
	// Set says that the alias was given to the key and not taken away again. It is free all the same once the key is
	// destroyed.
	Set bool
}

// AliasCommand asks for a change to an alias. Names are imperative.
//
//sumtype:decl
type AliasCommand interface{ isAliasCommand() }

type (
	// AddKeyAlias makes the alias stand for Key, away from another key only with Move.
	AddKeyAlias struct {
		Name AliasName
		Key  Key
		Move bool
		// HolderDestroyed says that the key which the alias stands for so far is destroyed, for ever: the alias is free.
		HolderDestroyed bool
	}
	// RemoveKeyAlias frees the alias, if it stands for Key.
	RemoveKeyAlias struct {
		Name            AliasName
		Key             Key
		HolderDestroyed bool // as in AddKeyAlias
	}
)

func (AddKeyAlias) isAliasCommand()    {}
func (RemoveKeyAlias) isAliasCommand() {}

// AliasEvent is something that happened to an alias; see Event.
//
//sumtype:decl
type AliasEvent interface{ isAliasEvent() }

type (
	// KeyAliasSet makes the alias stand for a key, and for no other any more.
	KeyAliasSet struct {
		Name   AliasName
		KeyUID UID
		Key    KeyName
	}
	// KeyAliasRemoved frees the alias.
	KeyAliasRemoved struct{}
)

func (KeyAliasSet) isAliasEvent()     {}
func (KeyAliasRemoved) isAliasEvent() {}

// DecideAlias returns the events that the command causes in this state, none if what it asks for already holds, or the
// refusal as an *Error.
func DecideAlias(a Alias, cmd AliasCommand) ([]AliasEvent, error) {
	switch cmd := cmd.(type) {
	case AddKeyAlias:
		switch taken := a.Set && !cmd.HolderDestroyed; {
		case cmd.Key.State == KeyStateDestroyed:
			return nil, refuse(ReasonKeyDestroyed, "key %s is destroyed and can't have aliases; choose another key", cmd.Key.Name)
		case taken && a.KeyUID == cmd.Key.UID:
			return nil, nil
		case taken && !cmd.Move:
			return nil, refuse(ReasonAliasExists, "alias %s stands for another key already, and so not for %s; say move to take it from there, or choose another alias", cmd.Name.ID, cmd.Key.Name)
		}
		return []AliasEvent{KeyAliasSet{Name: cmd.Name, KeyUID: cmd.Key.UID, Key: cmd.Key.Name}}, nil
	case RemoveKeyAlias:
		if !a.Set || cmd.HolderDestroyed || a.KeyUID != cmd.Key.UID {
			return nil, refuse(ReasonAliasNotFound, "key %s has no alias %s; GetKey shows those it has", cmd.Key.Name, cmd.Name.ID)
		}
		return []AliasEvent{KeyAliasRemoved{}}, nil
	}
	panic(fmt.Sprintf("domain: undecided alias command %T", cmd))
}

// EvolveAlias returns a after e. It never refuses: e already happened.
func EvolveAlias(a Alias, _ time.Time, e AliasEvent) Alias {
	switch e := e.(type) {
	case KeyAliasSet:
		return Alias{Name: e.Name, KeyUID: e.KeyUID, Key: e.Key, Set: true}
	case KeyAliasRemoved:
		a.Set = false
	}
	return a
}

// FoldAlias replays events that happened at onto a.
func FoldAlias(a Alias, at time.Time, events ...AliasEvent) Alias {
	for _, e := range events {
		a = EvolveAlias(a, at, e)
	}
	return a
}
