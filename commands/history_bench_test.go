package commands_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections"
)

// BenchmarkAsOf reads the past of a site with 100,000 keys, each changed twice since it was made.
func BenchmarkAsOf(b *testing.B) {
	const n, changes, writers = 100_000, 2, 256
	own := eventstoretest.New(b)
	name := func(i int) domain.KeyName { return ring.Key(fmt.Sprintf("k%06d", i)) }
	states := make([]eventstore.KeyState, n)
	commit := func(i int, events ...domain.Event) {
		s := states[i]
		c, err := own.Append(b.Context(), s.Revision, eventstore.Commit{
			Aggregate: eventstore.KeyAggregate(name(i)), CommandID: newID(), Operation: "Test", Caller: admin, Time: time.Now().UTC(), Prev: s.Hash, Events: events,
		})
		if err == nil {
			states[i], err = s.Apply(c)
		}
		if err != nil {
			b.Error(err)
		}
	}
	each := func(f func(i int)) {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := w; i < n; i += writers {
					f(i)
				}
			})
		}
		wg.Wait()
	}
	each(func(i int) { commit(i, domain.KeyCreated{UID: newID(), Name: name(i), Purpose: domain.EncryptDecrypt}) })
	head, err := own.Head(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for range changes {
		each(func(i int) { commit(i, domain.KeyUpdated{Memo: "changed"}) })
	}
	known := projections.NewKeys(slog.New(slog.DiscardHandler), nil)
	ctx, cancel := context.WithCancel(b.Context())
	caughtUp, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- known.Run(ctx, own, func() { close(caughtUp) }) }()
	<-caughtUp
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	s := newService(&faults{store: own, keys: known})
	then := commands.Moment{Revision: head.Last}

	b.Run("GetKey", func(b *testing.B) {
		for b.Loop() {
			state, err := s.GetKey(b.Context(), admin, getAsOf(domain.KeyRef{Name: name(rand.N(n))}, then))
			if err != nil || state.Key.Memo != "" {
				b.Fatal(state.Key.Memo, err)
			}
		}
	})
	b.Run("ListKeys", func(b *testing.B) {
		read := commands.Read{Operation: "ListKeys", Permission: domain.PermissionKeysList, Ref: domain.KeyRef{Name: ring.Key("")}, AsOf: then}
		for b.Loop() {
			count := 0
			err := s.ListKeysAsOf(b.Context(), admin, read, known.Keys(ring), func(keys iter.Seq[*eventstore.KeyState]) error {
				for range keys {
					if count++; count == 1000 {
						break
					}
				}
				return nil
			})
			if err != nil || count != 1000 {
				b.Fatal(count, err)
			}
		}
	})
}
