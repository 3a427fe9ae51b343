package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyledger/kms/domain"
)

// Nodes that share the streams know of each other by seats: checkpoints that each takes one of, and writes again every few
// seconds. The number of seats is small, and a seat whose node is gone is taken by the next.
const (
	// NodeInterval is how often a node has to say that it is there.
	NodeInterval = 5 * time.Second
	// NodeLease is how long after it last began to say so a node may act as one that the others wait for.
	NodeLease = 15 * time.Second
	// nodeTimeout is after which silence a node is taken for dead. It is well beyond NodeLease.
	nodeTimeout = 30 * time.Second
	// seatExpiry is after which silence its seat is given to another.
	seatExpiry = 10 * time.Minute
	maxSeats   = 64
)

// Node is one process that serves the site.
type Node struct {
	ID domain.UID
	// Site is the newest commit of the site that it has carried out.
	Site Revision
}

// seat is the one that this process has.
type seat struct {
	mu       sync.Mutex
	taken    bool
	number   int
	revision uint64
	beats    uint64
}

// beat is what is written to a seat.
type beat struct {
	Node domain.UID
	Site Revision
	// Beat makes all that one node writes different.
	Beat uint64
	// Left: the node has ended in an orderly manner.
	Left bool
}

func seatName(n int) string { return fmt.Sprintf("node-%d", n) }

// Shared reports whether other nodes may use the same streams. Those of the embedded server have one user.
func (s *Store) Shared() bool { return s.server == nil }

// Beat tells the other nodes that this one is there, and how far it is. Errors: those of SaveCheckpoint but for ErrConflict;
// after any error it may not be known to them.
func (s *Store) Beat(ctx context.Context, n Node) error { return s.beat(ctx, n, false) }

// Leave tells the other nodes that this one is no more, so that they don't wait for it.
func (s *Store) Leave(ctx context.Context, n Node) error { return s.beat(ctx, n, true) }

func (s *Store) beat(ctx context.Context, n Node, left bool) error {
	s.seat.mu.Lock()
	defer s.seat.mu.Unlock()
	for try := 0; ; try++ {
		if !s.seat.taken {
			if left {
				return nil
			}
			if err := s.findSeat(ctx, n.ID); err != nil {
				return fmt.Errorf("taking a seat among the nodes: %w", err)
			}
		}
		s.seat.beats++
		data, err := json.Marshal(beat{Node: n.ID, Site: n.Site, Beat: s.seat.beats, Left: left})
		if err != nil {
			return fmt.Errorf("encoding a sign of life: %w", err)
		}
		revision, err := s.SaveCheckpoint(ctx, seatName(s.seat.number), data, s.seat.revision)
		if err == nil {
			s.seat.taken, s.seat.revision = !left, revision
			return nil
		}
		s.seat.taken = false // with an unknown outcome too: what is there is read again
		if !errors.Is(err, ErrConflict) || try == maxSeats {
			return fmt.Errorf("telling the other nodes of this one: %w", err)
		}
	}
}

// findSeat finds the first seat that is free, or the node's own. Others may find the same; the first to write has it.
func (s *Store) findSeat(ctx context.Context, node domain.UID) error {
	for n := range maxSeats {
		b, age, revision, err := s.seatOf(ctx, n)
		if err != nil {
			return err
		}
		if revision == 0 || b.Left || b.Node == node || age > seatExpiry {
			s.seat.taken, s.seat.number, s.seat.revision = true, n, revision
			return nil
		}
	}
	return fmt.Errorf("%w: %d nodes are alive, which is all that one site can have", ErrFull, maxSeats)
}

// seatOf reads a seat, and how long ago it was written; revision zero if it never was.
func (s *Store) seatOf(ctx context.Context, n int) (b beat, age time.Duration, revision uint64, err error) {
	m, err := s.retryGet(ctx, streamProjection, getRequest{LastFor: subjectProjection + seatName(n)})
	if errors.Is(err, errNoMessage) {
		return b, 0, 0, nil
	}
	if err != nil {
		return b, 0, 0, fmt.Errorf("reading seat %d: %w", n, err)
	}
	if err := json.Unmarshal(m.data, &b); err != nil {
		return b, 0, 0, fmt.Errorf("reading seat %d: %w", n, err)
	}
	info, err := s.info(ctx, streamProjection) // for the time of the server, whose clock has stamped the message
	if err != nil {
		return b, 0, 0, err
	}
	return b, info.TimeStamp.Sub(m.time), m.seq, nil
}

// Nodes are those that are alive, as the leader of the stream knows: they have told so within 30 s and have not left.
func (s *Store) Nodes(ctx context.Context) ([]Node, error) {
	var nodes []Node
	for n := range maxSeats {
		b, age, revision, err := s.seatOf(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("asking which nodes are alive: %w", err)
		}
		if revision == 0 {
			break // seats are taken in order
		}
		if !b.Left && age < nodeTimeout {
			nodes = append(nodes, Node{ID: b.Node, Site: b.Site})
		}
	}
	return nodes, nil
}
