package eventstore

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startServer runs a JetStream server in this process. It listens nowhere: only connections made inside the process reach it.
// Each message is synced before it is acknowledged. JetStream's own encryption stays off, since with it secure deletion does
// not overwrite anything.
func startServer(ctx context.Context, dir string, log *slog.Logger) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "kms",
		DontListen: true,
		NoSigs:     true,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		// No stream is kept in memory but the state of consumers.
		JetStreamMaxMemory: 64 << 20,
		// The limits of the streams are what counts; the server must not refuse them because the disk is smaller today.
		JetStreamMaxStore:      1 << 50,
		DisableJetStreamBanner: true,
		NoHeaderSupport:        false,
	})
	if err != nil {
		return nil, fmt.Errorf("configuring the embedded NATS server: %w", err)
	}
	srv.SetLoggerV2(&serverLog{log.With(slog.String("component", "nats"))}, false, false, false)
	srv.Start()
	for !srv.ReadyForConnections(100 * time.Millisecond) {
		if ctx.Err() != nil || !srv.Running() {
			srv.Shutdown()
			return nil, fmt.Errorf("starting the embedded NATS server on %s: %w", dir, ErrUnavailable)
		}
	}
	if !srv.JetStreamEnabled() {
		srv.Shutdown()
		return nil, fmt.Errorf("starting the embedded NATS server: JetStream could not use %s; the log says why", dir)
	}
	return srv, nil
}

// serverLog passes the embedded server's messages on. Its notices are details to us.
type serverLog struct{ log *slog.Logger }

func (l *serverLog) Noticef(f string, v ...any) { l.write(slog.LevelDebug, f, v) }
func (l *serverLog) Warnf(f string, v ...any)   { l.write(slog.LevelWarn, f, v) }
func (l *serverLog) Errorf(f string, v ...any)  { l.write(slog.LevelError, f, v) }
func (l *serverLog) Fatalf(f string, v ...any)  { l.write(slog.LevelError, f, v) }
func (l *serverLog) Debugf(f string, v ...any)  { l.write(slog.LevelDebug, f, v) }
func (l *serverLog) Tracef(f string, v ...any)  { l.write(slog.LevelDebug, f, v) }

func (l *serverLog) write(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.LogAttrs(ctx, level, "embedded NATS server", slog.String("message", strings.TrimSpace(fmt.Sprintf(format, v...))))
	}
}

// redactURL is a list of NATS URLs without the credentials that may be in them.
func redactURL(list string) string {
	if list == "" {
		return "the embedded server"
	}
	parts := strings.Split(list, ",")
	for i, p := range parts {
		u, err := url.Parse(strings.TrimSpace(p))
		if err != nil {
			parts[i] = "an unreadable URL"
			continue
		}
		u.User = nil
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}
