package eventstore

import (
	"fmt"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

func encodeImportJobEvent(e domain.ImportJobEvent) (*eventsv1.Event, error) {
	switch e := e.(type) {
	case domain.ImportJobCreated:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportJobCreated{ImportJobCreated: &eventsv1.ImportJobCreated{
			Uid: uidBytes(e.UID), Name: e.Name.String(), Method: string(e.Method), ProtectionLevel: string(e.Protection),
			MaterialId: uidBytes(e.MaterialID), PublicKey: e.PublicKey, BlobDigest: e.BlobDigest, Creator: e.Creator,
			ExpireTimeMicros: timeMicros(e.ExpireTime),
		}}}, nil
	case domain.ImportJobUsed:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportJobUsed{ImportJobUsed: &eventsv1.ImportJobUsed{
			Digest: hashBytes(e.Digest), KeyUid: uidBytes(e.KeyUID), Version: int32(e.Version),
		}}}, nil
	case domain.ImportCompleted:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportCompleted{ImportCompleted: &eventsv1.ImportCompleted{Digest: hashBytes(e.Digest)}}}, nil
	case domain.ImportJobExpired:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportJobExpired{ImportJobExpired: &eventsv1.ImportJobExpired{}}}, nil
	case domain.ImportJobCanceled:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportJobCanceled{ImportJobCanceled: &eventsv1.ImportJobCanceled{}}}, nil
	case domain.ImportJobKeyErased:
		return &eventsv1.Event{Event: &eventsv1.Event_ImportJobKeyErased{ImportJobKeyErased: &eventsv1.ImportJobKeyErased{}}}, nil
	}
	return nil, fmt.Errorf("encoding an event: there is no stored form of %T", e)
}

// importJobEvent is nil if e is of another kind of aggregate.
func (d *decoder) importJobEvent(e *eventsv1.Event) domain.ImportJobEvent {
	switch e := e.GetEvent().(type) {
	case *eventsv1.Event_ImportJobCreated:
		m := e.ImportJobCreated
		name, err := domain.ParseImportJobName(m.GetName())
		if err != nil {
			d.fail(err)
		}
		return domain.ImportJobCreated{
			UID: d.uid(m.GetUid()), Name: name, Method: domain.ImportMethod(m.GetMethod()), Protection: domain.ProtectionLevel(m.GetProtectionLevel()),
			MaterialID: d.uid(m.GetMaterialId()), PublicKey: m.GetPublicKey(), BlobDigest: m.GetBlobDigest(), Creator: m.GetCreator(),
			ExpireTime: microsTime(m.GetExpireTimeMicros()),
		}
	case *eventsv1.Event_ImportJobUsed:
		m := e.ImportJobUsed
		return domain.ImportJobUsed{Digest: d.hash(m.GetDigest()), KeyUID: d.uid(m.GetKeyUid()), Version: domain.Version(m.GetVersion())}
	case *eventsv1.Event_ImportCompleted:
		return domain.ImportCompleted{Digest: d.hash(e.ImportCompleted.GetDigest())}
	case *eventsv1.Event_ImportJobExpired:
		return domain.ImportJobExpired{}
	case *eventsv1.Event_ImportJobCanceled:
		return domain.ImportJobCanceled{}
	case *eventsv1.Event_ImportJobKeyErased:
		return domain.ImportJobKeyErased{}
	}
	return nil
}
