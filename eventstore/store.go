package eventstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
)

// Config says where the streams are.
type Config struct {
	// URL of an external NATS server or, separated by commas, of the nodes of a cluster. Empty: a server embedded in this
	// process. A client can't see an external server's sync_interval; it must be "always", as deploy/ has it.
	URL string
	// DataDir is this node's own folder, which it holds a lock on: the embedded server's files and the high-water marks.
	DataDir string
	// Limits of the streams in bytes; zero means the default. They are set by Provision.
	EventsMaxBytes, ActivityMaxBytes, MaterialMaxBytes int64
	// MinFreeDisk is how much room the embedded server leaves on its disk, in bytes; zero means 256 MiB. Below it the store
	// is full.
	MinFreeDisk int64
	// Logger is required.
	Logger *slog.Logger

	// dialer replaces the network connection in tests of lost acknowledgements.
	dialer nats.CustomDialer
}

const (
	// attemptTimeout bounds one attempt of an append or a read; attempts are repeated until the caller's context ends.
	attemptTimeout = time.Second
	// readTimeout bounds the calls that have no attempts, when the caller's context doesn't.
	readTimeout = 5 * time.Second
)

// Store is the connection to a site's streams. Its methods may be called by many goroutines at once.
type Store struct {
	cfg    Config
	log    *slog.Logger
	server *server.Server // nil if it is external
	nc     *nats.Conn
	js     jetstream.JetStream
	tel    *telemetry

	lineage atomic.Pointer[domain.UID]
	writer  *writer
	gauge   *gauge
	turns   *turns // nil if the server is external
	seat    seat

	life   context.Context // ends with Close
	end    context.CancelFunc
	bg     sync.WaitGroup
	closed atomic.Bool

	failOnce sync.Once
	failed   chan struct{}
	failure  error // written before failed is closed
}

// Open connects to the streams; it starts the embedded server when the configuration names no other. It reads the lineage if
// the site is provisioned. Call Provision if it may not be, and Verify before anything is served.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder: %w", err)
	}
	s := &Store{cfg: cfg, log: cfg.Logger, failed: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		s.disconnect()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.cfg.URL == "" {
		if s.server, err = startServer(ctx, filepath.Join(s.cfg.DataDir, "jetstream"), s.log); err != nil {
			return err
		}
		s.turns = newTurns()
	}
	if s.nc, err = s.connect(ctx); err != nil {
		return err
	}
	if s.js, err = jetstream.New(s.nc, jetstream.WithDefaultTimeout(readTimeout)); err != nil {
		return fmt.Errorf("using JetStream: %w", err)
	}
	s.gauge = newGauge(s)
	if s.tel, err = newTelemetry(s.gauge); err != nil {
		return err
	}
	if s.writer, err = newWriter(s); err != nil {
		return err
	}
	if err := s.readLineage(ctx); err != nil && !errors.Is(err, ErrNotProvisioned) {
		return err
	}
	s.bg.Go(s.writer.run)
	s.bg.Go(func() { s.gauge.run(s.life) })
	return nil
}

// connect retries until ctx ends: an external server may be starting too.
func (s *Store) connect(ctx context.Context) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("kms"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, time.Second),
		// What can't be sent now is refused at once, so that it is known not to be stored.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.natsError(err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if !s.closed.Load() {
				s.log.WarnContext(s.life, "disconnected from the event store", slog.Any("error", err))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { s.log.InfoContext(s.life, "connected to the event store again") }),
	}
	if s.server != nil {
		options = append(options, nats.InProcessServer(s.server))
	}
	if s.cfg.dialer != nil {
		options = append(options, nats.SetCustomDialer(s.cfg.dialer))
	}
	for {
		nc, err := nats.Connect(s.cfg.URL, options...)
		if err == nil {
			return nc, nil
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("connecting to NATS at %s: %w: %w", redactURL(s.cfg.URL), ErrPermission, err)
		}
		if !sleep(ctx, 250*time.Millisecond) {
			return nil, fmt.Errorf("connecting to NATS at %s: %w: %w", redactURL(s.cfg.URL), ErrUnavailable, err)
		}
	}
}

// natsError hears what NATS reports outside of any call. A missing permission shows nowhere else: the call itself only times
// out.
func (s *Store) natsError(err error) {
	if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrAuthorization) {
		s.fail(fmt.Errorf("%w: %w", ErrPermission, err))
		return
	}
	s.log.WarnContext(s.life, "event store connection", slog.Any("error", err))
}

// fail notes that the store will not work again in this process.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.failure = err
		close(s.failed)
		s.log.ErrorContext(s.life, "the event store failed for good", slog.Any("error", err))
	})
}

// Failed is closed when the store can't work again in this process: a missing permission, or a stream that lost messages.
// Err then says why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err is why the store failed for good, or nil.
func (s *Store) Err() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

// usable returns why nothing can be stored at all, or nil.
func (s *Store) usable() error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return ErrClosed
	}
	if s.lineage.Load() == nil {
		return ErrNotProvisioned
	}
	return nil
}

// Lineage is that of the site; zero before Provision.
func (s *Store) Lineage() domain.UID {
	if l := s.lineage.Load(); l != nil {
		return *l
	}
	return domain.UID{}
}

// Ready returns nil while the streams answer and take records. It does not wait longer than ctx or a second.
func (s *Store) Ready(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if !s.nc.IsConnected() {
		return fmt.Errorf("%w: disconnected", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	for _, stream := range []string{streamEvents, streamMaterial, s.writer.stream()} {
		if _, err := s.info(ctx, stream); err != nil {
			return err
		}
	}
	if s.gauge.full() {
		return ErrFull
	}
	return nil
}

// Close stores what is waiting to be recorded, within ctx, and disconnects; the embedded server is stopped cleanly. Calls
// that come later get ErrClosed.
func (s *Store) Close(ctx context.Context) error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.writer.close(ctx)
	if err == nil {
		err = s.gauge.flush(ctx)
	}
	s.disconnect()
	return err
}

func (s *Store) disconnect() {
	s.closed.Store(true)
	s.end()
	s.bg.Wait()
	if s.tel != nil {
		s.tel.close()
	}
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
}

// sleep waits d, or until ctx ends and then reports false.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
