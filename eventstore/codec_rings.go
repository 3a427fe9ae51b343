package eventstore

import (
	"fmt"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

func encodeRingEvent(e domain.RingEvent) (*eventsv1.Event, error) {
	switch e := e.(type) {
	case domain.KeyRingCreated:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyRingCreated{KeyRingCreated: &eventsv1.KeyRingCreated{
			Name: e.Name.String(), Labels: e.Labels, Creator: e.Creator,
		}}}, nil
	case domain.KeyRingArchived:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyRingArchived{KeyRingArchived: &eventsv1.KeyRingArchived{}}}, nil
	case domain.KeyRingUnarchived:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyRingUnarchived{KeyRingUnarchived: &eventsv1.KeyRingUnarchived{}}}, nil
	}
	return nil, fmt.Errorf("encoding an event: there is no stored form of %T", e)
}

// ringEvent is nil if e is of another kind of aggregate.
func (d *decoder) ringEvent(e *eventsv1.Event) domain.RingEvent {
	switch e := e.GetEvent().(type) {
	case *eventsv1.Event_KeyRingCreated:
		m := e.KeyRingCreated
		name, err := domain.ParseRingName(m.GetName())
		if err != nil {
			d.fail(err)
		}
		return domain.KeyRingCreated{Name: name, Labels: m.GetLabels(), Creator: m.GetCreator()}
	case *eventsv1.Event_KeyRingArchived:
		return domain.KeyRingArchived{}
	case *eventsv1.Event_KeyRingUnarchived:
		return domain.KeyRingUnarchived{}
	}
	return nil
}

func encodeAliasEvent(e domain.AliasEvent) (*eventsv1.Event, error) {
	switch e := e.(type) {
	case domain.KeyAliasSet:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyAliasSet{KeyAliasSet: &eventsv1.KeyAliasSet{
			Name: e.Name.String(), KeyUid: uidBytes(e.KeyUID), KeyName: e.Key.String(),
		}}}, nil
	case domain.KeyAliasRemoved:
		return &eventsv1.Event{Event: &eventsv1.Event_KeyAliasRemoved{KeyAliasRemoved: &eventsv1.KeyAliasRemoved{}}}, nil
	}
	return nil, fmt.Errorf("encoding an event: there is no stored form of %T", e)
}

// aliasEvent is nil if e is of another kind of aggregate.
func (d *decoder) aliasEvent(e *eventsv1.Event) domain.AliasEvent {
	switch e := e.GetEvent().(type) {
	case *eventsv1.Event_KeyAliasSet:
		m := e.KeyAliasSet
		name, err := domain.ParseAliasName(m.GetName())
		if err != nil {
			d.fail(err)
		}
		key, err := domain.ParseKeyRef(m.GetKeyName())
		if err != nil {
			d.fail(err)
		}
		return domain.KeyAliasSet{Name: name, KeyUID: d.uid(m.GetKeyUid()), Key: key.Name}
	case *eventsv1.Event_KeyAliasRemoved:
		return domain.KeyAliasRemoved{}
	}
	return nil
}
