package eventstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keyledger/kms/domain"
	eventsv1 "github.com/keyledger/kms/proto/gen/events/v1"
)

// Site is the site's own aggregate after one of its commits, as KeyState is a key's.
type Site struct {
	// Roots are those that keys may be wrapped under, oldest first; new keys are wrapped under the last.
	Roots []Root
	// Retired are the ids of those that came to their end. They are in the token only as long as a shred has not destroyed
	// them yet.
	Retired []string
	// Shred is the last one, the zero Shred if there was none, and Earlier are those before it.
	Shred   Shred
	Earlier []Shred
	Tip
}

// Shred is one change of roots. Its fields are set in the order in which it proceeds.
type Shred struct {
	ID         domain.UID
	Caller     string // principal
	NoBackupOK bool
	StartTime  time.Time
	// Planned are the roots that nodes set out to make, oldest first; more than one if a node died.
	Planned []RootPlanned
	// Root is the one that was made, and RootRevision the commit that says so; empty until then.
	Root         string
	RootRevision Revision
	// Adopted: no node makes keys under an older root any more.
	Adopted bool
	// Rewrapped: Living versions are under Root, and nothing that lives is under an older one.
	Rewrapped       bool
	Living, Orphans uint64
	// Retired are the older roots, and RetireRevision is the commit by which they ceased to be needed.
	Retired        []string
	RetireRevision Revision
	// EndTime is when all of them were destroyed; zero until then.
	EndTime time.Time
}

// ShredStep is what a shred is at.
type ShredStep int

// The steps in their order.
const (
	ShredNone     ShredStep = iota // there was no shred yet
	ShredMakeRoot                  // the new root is made in the token
	ShredAdopt                     // nodes take the new root for new keys
	ShredRewrap                    // living material is wrapped under it
	ShredRelease                   // nodes give up the old roots
	ShredDone                      // the old roots are destroyed
)

// Step is what the shred is at. Releasing the old roots is followed by destroying them, which is no step of its own.
func (s Shred) Step() ShredStep {
	switch {
	case s.ID.IsZero():
		return ShredNone
	case s.Root == "":
		return ShredMakeRoot
	case !s.Adopted:
		return ShredAdopt
	case !s.Rewrapped:
		return ShredRewrap
	case s.EndTime.IsZero():
		return ShredRelease
	}
	return ShredDone
}

// Running reports whether the shred has begun and not come to its end.
func (s Shred) Running() bool { return s.Step() != ShredNone && s.Step() != ShredDone }

// Apply returns the site after c. The error is a *ChainError if c is not its next commit.
func (s Site) Apply(c Commit) (Site, error) {
	tip, err := s.next(SiteAggregate.Name, c)
	if err != nil {
		return s, err
	}
	s.Tip = tip
	for _, e := range c.Site {
		s = s.evolve(e, c)
	}
	return s, nil
}

func (s Site) evolve(e SiteEvent, c Commit) Site {
	switch e := e.(type) {
	case SiteCreated:
	case RootCreated:
		s.Roots = append(slices.Clip(s.Roots), e.Root)
		if s.Shred.Step() == ShredMakeRoot {
			s.Shred.Root, s.Shred.RootRevision = e.Root.ID, c.Revision
		}
	case ShredStarted:
		if s.Shred.Step() != ShredNone {
			s.Earlier = append(slices.Clip(s.Earlier), s.Shred)
		}
		s.Shred = Shred{ID: e.ID, Caller: c.Caller.Principal, NoBackupOK: e.NoBackupOK, StartTime: c.Time}
	case RootPlanned:
		s.Shred.Planned = append(slices.Clip(s.Shred.Planned), e)
	case RootAdopted:
		s.Shred.Adopted = true
	case MaterialRewrapped:
		s.Shred.Rewrapped, s.Shred.Living, s.Shred.Orphans = true, e.Living, e.Orphans
	case RootRetired:
		s.Roots = slices.DeleteFunc(slices.Clone(s.Roots), func(r Root) bool { return r.ID == e.ID })
		s.Retired = append(slices.Clip(s.Retired), e.ID)
		s.Shred.Retired, s.Shred.RetireRevision = append(slices.Clip(s.Shred.Retired), e.ID), c.Revision
	case RootDestroyed: // the end of the shred says it of all
	case ShredCompleted:
		s.Shred.EndTime = c.Time
	}
	return s
}

// ShredByID is the shred with this id, if there was one.
func (s Site) ShredByID(id domain.UID) (Shred, bool) {
	if id.IsZero() {
		return Shred{}, false
	}
	if s.Shred.ID == id {
		return s.Shred, true
	}
	i := slices.IndexFunc(s.Earlier, func(e Shred) bool { return e.ID == id })
	if i < 0 {
		return Shred{}, false
	}
	return s.Earlier[i], true
}

// StoredMaterial is one message of KMS_MATERIAL. While material is being replaced its subject has two.
type StoredMaterial struct {
	// Project is what stands for the project in the subject: ProjectHash of its id.
	Project    string
	KeyUID     domain.UID
	MaterialID domain.UID
	StoredTime time.Time // by the server's clock
	// Sequence is the message's place in the stream.
	Sequence uint64
	Blob     []byte
}

func (m StoredMaterial) subject() string {
	return subjectMaterial + m.Project + "." + m.KeyUID.String() + "." + m.MaterialID.String()
}

// IsOf reports whether the material is stored where that of the binding is.
func (m StoredMaterial) IsOf(b domain.Binding) bool { return m.subject() == materialSubject(b) }

// ProjectHash is what stands for a project in the subjects of material.
func ProjectHash(project string) string { return subjectToken(project) }

// Materials yields all material that was stored before it was called and is still there, after a sequence, in the order in
// which it was stored, as the leader of the stream knows it. It ends with the first error.
func (s *Store) Materials(ctx context.Context, after uint64) iter.Seq2[StoredMaterial, error] {
	return func(yield func(StoredMaterial, error) bool) {
		head, err := s.headOf(ctx, streamMaterial)
		if err != nil {
			yield(StoredMaterial{}, fmt.Errorf("reading the stored material: %w", err))
			return
		}
		for after < head {
			m, err := s.retryGet(ctx, streamMaterial, getRequest{Seq: after + 1, NextFor: subjectMaterial + ">"})
			if errors.Is(err, errNoMessage) {
				return
			}
			var material StoredMaterial
			if err == nil {
				after = m.seq
				if after > head {
					return
				}
				material, err = decodeMaterial(m)
			}
			if err != nil {
				yield(StoredMaterial{}, fmt.Errorf("reading the stored material: %w", err))
				return
			}
			if !yield(material, nil) {
				return
			}
		}
	}
}

// decodeMaterial reads a message of KMS_MATERIAL.
func decodeMaterial(m storedMessage) (StoredMaterial, error) {
	damaged := func(err error) (StoredMaterial, error) {
		return StoredMaterial{}, &IntegrityError{Stream: streamMaterial, Message: fmt.Sprintf("message %d is not readable: %v", m.seq, err)}
	}
	if _, err := parseTypeHeader(m.header.Get(headerType), typeMaterial); err != nil {
		return damaged(err)
	}
	var blob eventsv1.MaterialBlob
	if err := proto.Unmarshal(m.data, &blob); err != nil {
		return damaged(err)
	}
	out := StoredMaterial{StoredTime: m.time.UTC(), Sequence: m.seq, Blob: blob.GetBlob()}
	parts := strings.Split(strings.TrimPrefix(m.subject, subjectMaterial), ".")
	if len(parts) != 3 {
		return damaged(errors.New("its subject is " + m.subject))
	}
	var err error
	out.Project = parts[0]
	if out.KeyUID, err = domain.ParseUID(parts[1]); err != nil {
		return damaged(err)
	}
	if out.MaterialID, err = domain.ParseUID(parts[2]); err != nil {
		return damaged(err)
	}
	return out, nil
}

// MaterialCount is how many messages KMS_MATERIAL has.
func (s *Store) MaterialCount(ctx context.Context) (uint64, error) {
	info, err := s.info(ctx, streamMaterial)
	if err != nil {
		return 0, err
	}
	return info.State.Msgs, nil
}

// ReplaceMaterial stores another form of the same material, then overwrites the old one where it is stored. A reader finds
// one of the two at any moment. If the material was replaced before, or erased meanwhile, only what is left of the old form
// is overwritten. Errors: as PutMaterial's, but for ErrMaterialExists.
func (s *Store) ReplaceMaterial(ctx context.Context, old StoredMaterial, blob []byte) (err error) {
	if err := s.usable(); err != nil {
		return err
	}
	ctx, span := s.tel.start(ctx, "eventstore.ReplaceMaterial")
	defer func() { end(span, err) }()
	began := time.Now()
	data, err := proto.Marshal(&eventsv1.MaterialBlob{Blob: blob})
	if err != nil {
		return fmt.Errorf("encoding material: %w", err)
	}
	if len(blob) == 0 || len(data) > maxMaterialBytes {
		return fmt.Errorf("replacing material: %w: %d bytes", ErrTooLarge, len(blob))
	}
	err = s.putNext(ctx, old, data)
	s.tel.appended(ctx, streamMaterial, time.Since(began), err)
	if err != nil {
		return fmt.Errorf("replacing material %s: %w", old.MaterialID, err)
	}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		_, err := s.retryGet(ctx, streamMaterial, getRequest{Seq: old.Sequence}) // the server fails to delete what is gone
		if errors.Is(err, errNoMessage) {
			return nil
		}
		if err == nil {
			err = s.secureDelete(ctx, streamMaterial, old.Sequence)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrUnavailable) || !sleep(ctx, pause) {
			return fmt.Errorf("overwriting the old form of material %s: %w", old.MaterialID, err)
		}
	}
}

// putNext makes attempts to store data after old, until something is stored after it or nothing is there any more.
func (s *Store) putNext(ctx context.Context, old StoredMaterial, data []byte) error {
	msg := newMessage(old.subject(), typeMaterial, s.Lineage(), old.Sequence, data)
	addTraceParent(msg, ctx)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		_, outcome, err := s.publish(ctx, msg)
		switch outcome {
		case stored:
			return nil
		case refused:
			return err
		case conflict, unknown:
			last, readErr := s.leaderGet(ctx, streamMaterial, getRequest{LastFor: old.subject()})
			if errors.Is(readErr, errNoMessage) || readErr == nil && last.seq > old.Sequence {
				return nil
			}
		case notStored:
		}
		if s.Err() != nil || !sleep(ctx, pause) {
			return errors.Join(s.Err(), err)
		}
	}
}
