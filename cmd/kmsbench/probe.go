package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The sizes of what CreateKey appends.
const (
	materialSize = 160
	commitSize   = 450
)

// probe measures what CreateKey and RotateKey can't be faster than: two synced appends, one after the other, each the
// first of its subject, to an embedded server as ours is configured. It does nothing else.
func probe(ctx context.Context, callers int, duration time.Duration) (r result, err error) {
	dir, err := os.MkdirTemp("", "kmsprobe")
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := natsserver.NewServer(&natsserver.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true, SyncAlways: true})
	if err != nil {
		return result{}, err
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		return result{}, errors.New("the probe's server did not start")
	}
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return result{}, err
	}
	for _, stream := range []string{"material", "events"} {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{stream + ".>"}, Storage: jetstream.FileStorage, AllowDirect: true}); err != nil {
			return result{}, err
		}
	}
	end := time.Now().Add(duration)
	latencies := make([][]time.Duration, callers)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range callers {
		wg.Go(func() { latencies[i], errs[i] = twoAppends(ctx, js, i, end) })
	}
	wg.Wait()
	r = result{callers: callers, elapsed: time.Since(start), latencies: slices.Concat(latencies...)}
	r.operations = len(r.latencies)
	slices.Sort(r.latencies)
	return r, errors.Join(errs...)
}

func twoAppends(ctx context.Context, js jetstream.JetStream, caller int, end time.Time) (latencies []time.Duration, err error) {
	material, commit := make([]byte, materialSize), make([]byte, commitSize)
	for n := 0; time.Now().Before(end); n++ {
		var id [10]byte
		for _, b := range [][]byte{material, commit, id[:]} {
			if _, err := rand.Read(b); err != nil {
				return nil, err
			}
		}
		subject := fmt.Sprintf("%d.%s", caller, hex.EncodeToString(id[:]))
		start := time.Now()
		if _, err := js.Publish(ctx, "material."+subject, material, jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
			return nil, err
		}
		if _, err := js.Publish(ctx, "events."+subject, commit, jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(start))
	}
	return latencies, nil
}
