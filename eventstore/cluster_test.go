package eventstore_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// cluster starts three real servers that replicate to each other over loopback.
func cluster(t *testing.T) (nodes *[3]*server.Server, restart func(i int)) {
	t.Helper()
	nodes = new([3]*server.Server)
	var dirs [3]string
	var clientPorts, routePorts [3]int
	var routes []*url.URL
	for i := range nodes { // all must know all routes before the first starts
		dirs[i], clientPorts[i], routePorts[i] = t.TempDir(), freePort(t), freePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + strconv.Itoa(routePorts[i])})
	}
	start := func(i int) *server.Server {
		return launch(t, func(o *server.Options) {
			o.ServerName, o.StoreDir, o.Port = "node-"+strconv.Itoa(i), dirs[i], clientPorts[i]
			o.Cluster = server.ClusterOpts{Name: "kms", Host: "127.0.0.1", Port: routePorts[i]}
			o.Routes = routes
		})
	}
	for i := range nodes {
		nodes[i] = start(i)
	}
	for _, node := range nodes {
		waitListening(t, node)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !nodes[0].JetStreamIsCurrent() || nodes[0].NumRoutes() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the cluster finds no leader")
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nodes, func(i int) {
		nodes[i] = start(i)
		waitListening(t, nodes[i])
	}
}

// freePort is one that the kernel had free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // nothing was written to it
	return l.Addr().(*net.TCPAddr).Port
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers take some seconds")
	}
	nodes, restart := cluster(t)
	var stores []*eventstore.Store
	for i := range nodes {
		cfg := eventstoretest.Config(t, t.TempDir())
		var urls []string
		for j := range nodes {
			urls = append(urls, nodes[(i+j)%3].ClientURL())
		}
		cfg.URL, cfg.Logger = strings.Join(urls, ","), slog.New(slog.DiscardHandler) // nodes are stopped on purpose
		stores = append(stores, openExternal(t, cfg, 3))
	}
	if a, b, c := stores[0].Lineage(), stores[1].Lineage(), stores[2].Lineage(); a != b || b != c || a.IsZero() {
		t.Fatalf("lineages %s, %s, %s", a, b, c)
	}

	t.Run("many writers", func(t *testing.T) { race(t, stores, 9, 8) })

	t.Run("material is seen everywhere at once", func(t *testing.T) {
		for range 20 {
			b := domain.Binding{Project: "p", KeyUID: newUID(t), MaterialID: newUID(t)}
			if err := stores[0].PutMaterial(t.Context(), b, []byte("wrapped")); err != nil {
				t.Fatal(err)
			}
			for _, s := range stores {
				if blob, err := s.Blob(t.Context(), b); err != nil || string(blob) != "wrapped" {
					t.Fatalf("blob = %q, %v", blob, err)
				}
			}
			if err := stores[1].EraseMaterial(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("a node stops and comes back", func(t *testing.T) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		stopped := sync.OnceFunc(func() { close(stop); wg.Wait() })
		defer stopped()
		var mu sync.Mutex
		records := map[eventstore.Receipt]string{}
		commits := map[domain.UID]bool{}
		var unknown atomic.Int32
		for i := range 8 {
			s := stores[i%len(stores)]
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					r := record(t, "k")
					r.Operation = "op-" + strconv.Itoa(i) + "-" + strconv.Itoa(n)
					receipt, err := s.Record(ctx, []domain.ActivityRecord{r})
					var c eventstore.Commit
					var errAppend error
					if n%4 == 0 {
						c, errAppend = s.Append(ctx, 0, createKey(t, newUID(t).String()))
					}
					cancel()
					mu.Lock()
					if err == nil {
						records[receipt] = r.Operation
					}
					if n%4 == 0 && errAppend == nil {
						commits[c.CommandID] = true
					}
					mu.Unlock()
					for _, err := range []error{err, errAppend} {
						switch {
						case errors.Is(err, eventstore.ErrUnknownOutcome), errors.Is(err, eventstore.ErrUnavailable):
							unknown.Add(1)
						case err != nil:
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for i := range nodes {
			time.Sleep(500 * time.Millisecond)
			nodes[i].Shutdown()
			nodes[i].WaitForShutdown()
			time.Sleep(time.Second)
			restart(i)
			waitCurrent(t, nodes[i])
		}
		stopped()
		t.Logf("%d records and %d commits acknowledged, %d calls without an answer", len(records), len(commits), unknown.Load())

		got := stored(t, stores[0])
		operations := map[string]int{}
		for _, operation := range got {
			operations[operation]++
		}
		for at, operation := range records {
			if got[at] != operation {
				t.Errorf("record %s acknowledged at %+v is not there", operation, at)
			}
		}
		for operation, n := range operations {
			if n > 1 {
				t.Errorf("record %s is there %d times", operation, n)
			}
		}
		seen := map[domain.UID]int{}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := stores[1].Subscribe(ctx, 0, cancel, func(c eventstore.Commit) error { seen[c.CommandID]++; return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("reading the commits: %v", err)
		}
		for command := range commits {
			if seen[command] != 1 {
				t.Errorf("acknowledged command %s is there %d times", command, seen[command])
			}
		}
		for command, n := range seen {
			if n > 1 {
				t.Errorf("command %s is there %d times", command, n)
			}
		}
	})
	for _, s := range stores { // leaders may still be elected
		deadline := time.Now().Add(30 * time.Second)
		err := s.Verify(t.Context())
		for errors.Is(err, eventstore.ErrUnavailable) && time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
			err = s.Verify(t.Context())
		}
		if err != nil {
			t.Errorf("verify: %v", err)
		}
	}
}

func waitCurrent(t *testing.T, s *server.Server) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !s.JetStreamIsCurrent(); {
		if time.Now().After(deadline) {
			t.Fatal("the node does not catch up")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
