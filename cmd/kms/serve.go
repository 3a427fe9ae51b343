package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel"
	"golang.org/x/sync/errgroup"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/projections"
	"github.com/keyledger/kms/rpc"
)

const (
	// drainTime is how long requests may go on after the signal to stop; everything together takes less than 10 s.
	drainTime = 6 * time.Second
	// closeTime is what giving up the rest may take after that.
	closeTime = 3 * time.Second
)

type serveCommand struct {
	siteFlags
	listenFlags
}

// Validate checks the flags before anything is touched.
func (c serveCommand) Validate() error {
	return errors.Join(c.siteFlags.Validate(), c.listenFlags.Validate())
}

// Run serves until ctx ends, or until something happens after which serving on would be wrong.
func (c serveCommand) Run(ctx context.Context, stdout io.Writer) (err error) {
	widen()
	log, err := newLogger(os.Stderr, c.LogLevel)
	if err != nil {
		return err
	}
	telemetry, err := startTelemetry(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveUp(telemetry.stop)) }()
	tlsConfig, err := c.tls()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen) // first: an occupied port shall change nothing
	if err != nil {
		return fmt.Errorf("listening: %w; stop what uses the address, or choose another with --listen", err)
	}
	defer listener.Close() //nolint:errcheck // closed by the HTTP server already when all went well

	s, err := openSite(ctx, c.siteFlags, log, c.NATS == "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveUp(s.close)) }()
	key, made, err := c.adminKey()
	if err != nil {
		return err
	}
	activity, err := openActivity(ctx, c.siteFlags, s.store, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveUp(activity.close)) }()

	// The loops end after the last request is answered, since requests need them.
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoops()
	group, loops := errgroup.WithContext(loops)
	keys := projections.NewKeys(log, evictor(s.token))
	caughtUp := make(chan struct{})
	group.Go(func() error { return keys.Run(loops, s.store, func() { close(caughtUp) }) })
	select {
	case <-caughtUp:
	case <-loops.Done():
		return group.Wait()
	case <-ctx.Done():
		return ctx.Err()
	}
	group.Go(func() error { return tuneMemory(loops) })
	service := commands.New(commands.Config{
		Location: c.Location, Keys: keys, Events: s.store, Material: s.store, Activity: s.store, Uses: uses{activity.log}, Token: token{s.token}, Log: log,
	})
	if err := service.RegisterMetrics(otel.Meter("github.com/keyledger/kms/commands")); err != nil {
		return err
	}
	roots, err := commands.NewRoots(service, s.store, token{s.token})
	if err != nil {
		return err
	}
	if err := roots.Join(ctx); err != nil {
		return fmt.Errorf("joining the nodes of the site: %w", err)
	}
	group.Go(func() error { return roots.Run(loops) })
	group.Go(func() error { return service.RunDue(loops) })
	group.Go(func() error { return service.RunImportJobs(loops) })
	group.Go(func() error { return activity.log.Run(loops) })

	pageKey, err := s.token.Derive(ctx, "page tokens")
	if err != nil {
		return fmt.Errorf("making the key for page tokens: %w", err)
	}
	node := node{flags: c.siteFlags, site: s, keys: keys, activity: activity, started: time.Now()}
	edge, err := rpc.New(rpc.Config{
		Commands: service, Keys: keys, Roots: roots, Activity: activity.reader, Authenticator: rpc.AdminKey(sha256.Sum256([]byte(key))),
		ServerInfo: node.info, Location: c.Location, Lineage: s.store.Lineage(), PageTokenKey: pageKey,
		AllowClearImport: c.AllowClearImport,
		Checks:           node.checks(), Metrics: telemetry.metrics, Log: log,
		TracerProvider: telemetry.tracer, MeterProvider: otel.GetMeterProvider(),
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return edge.Run(loops) })
	group.Go(func() error { return watchStore(loops, s.store) })
	server := rpc.NewHTTPServer(c.Listen, edge, tlsConfig, log)
	server.RegisterOnShutdown(edge.EndStreams)
	group.Go(func() error { return serve(server, listener, tlsConfig != nil) })
	if err := c.profiles(loops, group); err != nil {
		return err
	}
	c.announce(stdout, listener.Addr(), made)

	select {
	case <-ctx.Done():
		log.InfoContext(ctx, "stopping: no new requests, the running ones are finished")
	case <-loops.Done(): // something failed; Wait tells what
	}
	err = drain(server)
	stopLoops()
	return errors.Join(err, group.Wait())
}

func serve(server *http.Server, l net.Listener, withTLS bool) error {
	var err error
	if withTLS {
		err = server.ServeTLS(l, "", "") // the certificate is in TLSConfig
	} else {
		err = server.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving: %w", err)
}

// widen lets twice as many threads run Go code as there are cores, unless GOMAXPROCS says how many: syncing a file and
// calling the token block threads, and the runtime gives such a thread's place to another only after a while. On two cores
// it is measured to give 15 to 25 % more operations per second.
func widen() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2 * runtime.GOMAXPROCS(0))
	}
}

// gcPercent lets the heap grow to three times what is live before it is collected, which is measured to save about 7 % of
// the CPU of a use; what is live is small.
const gcPercent = 200

// settleTime is after how long the start is over on every account: the activity log, too, has read what it had missed.
const settleTime = 3 * time.Second

// tuneMemory gives back what the replay of the log has left, now and once more when the rest of the start is over, and sets
// the pace of the collector unless GOGC does. An idle server would keep it until the collector runs by itself, minutes later.
func tuneMemory(ctx context.Context) error {
	debug.FreeOSMemory()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	select {
	case <-ctx.Done():
	case <-time.After(settleTime):
		debug.FreeOSMemory()
	}
	return nil
}

// watchStore ends the process when the event store can't be trusted or used any more, which waiting does not cure.
func watchStore(ctx context.Context, store *eventstore.Store) error {
	select {
	case <-ctx.Done():
		return nil
	case <-store.Failed():
		return fmt.Errorf("using the event store: %w", store.Err())
	}
}

// profiles serves Go's profiles to operators on this machine, if asked to.
func (c serveCommand) profiles(ctx context.Context, group *errgroup.Group) error {
	if c.DebugListen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.DebugListen)
	if err != nil {
		return fmt.Errorf("listening for profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // a profile is cut off, nothing is lost
	group.Go(func() error { return serve(server, l, false) })
	return nil
}

// drain lets running requests finish, and cuts those that take too long.
func drain(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

// giveUp runs a part's end with the time that is left for it.
func giveUp(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return f(ctx)
}

func (c serveCommand) tls() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("reading the TLS certificate and its key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}

// evictor makes the token forget cached keys as soon as this node learns that they may not be used any more.
func evictor(t interface {
	Evict(domain.UID, domain.Version)
},
) func(eventstore.KeyState, eventstore.Commit) {
	return func(state eventstore.KeyState, c eventstore.Commit) {
		for _, e := range c.Events {
			switch e := e.(type) { //nolint:gochecksumtype // the other events leave the cache as it is
			case domain.KeyDisabled, domain.KeyImportAwaited, domain.KeyDeletionScheduled, domain.KeyDestroyed:
				t.Evict(state.Key.UID, 0)
			case domain.KeyVersionDisabled:
				t.Evict(state.Key.UID, e.Version)
			case domain.KeyVersionDestructionScheduled:
				t.Evict(state.Key.UID, e.Version)
			case domain.KeyVersionDestroyed:
				t.Evict(state.Key.UID, e.Version)
			case domain.KeyMaterialDeleted:
				t.Evict(state.Key.UID, e.Version)
			}
		}
	}
}

// announce tells a person where the server is and what to type next.
func (c serveCommand) announce(w io.Writer, at net.Addr, firstStart bool) {
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	url := scheme + "://" + at.String()
	note := ""
	if firstStart {
		note = " (made just now)"
	}
	fmt.Fprintf(w, `listening on %[1]s
admin access key in %[2]s%[3]s

Try, in another terminal:
  export KMS_ADDR=%[1]s KMS_TOKEN=$(cat %[2]s)
  bin/kmsctl keys create demo
  echo hello | bin/kmsctl encrypt demo | bin/kmsctl decrypt demo
  bin/kmsctl activity demo
`, url, c.path(adminKeyFile), note)
}
