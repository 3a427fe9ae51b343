package deploy_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// cluster starts the three NATS nodes of docker-compose.yml in this process, with its configuration file and its
// environment; only addresses and folders are other. url is the client URL of docker-compose.yml, pointed here.
func cluster(t *testing.T) (clientURL func(service string) string, options []*server.Options) {
	t.Helper()
	dir, project := site(t)
	hosts := map[string]string{} // nats-1:4222 → 127.0.0.1:…
	for n := range 3 {
		for _, port := range []string{"4222", "6222"} {
			hosts[fmt.Sprintf("nats-%d:%s", n+1, port)] = freeAddress(t)
		}
	}
	point := func(list string) string {
		for host, address := range hosts {
			list = strings.ReplaceAll(list, host, address)
		}
		return list
	}
	var nodes []*server.Server
	for n := range 3 {
		name := fmt.Sprintf("nats-%d", n+1)
		for k, v := range environment(project.Services[name]) {
			t.Setenv(k, point(v))
		}
		o, err := server.ProcessConfigFile(filepath.Join(dir, "deploy", "nats", "nats.conf"))
		if err != nil {
			t.Fatalf("reading nats.conf as %s: %v", name, err)
		}
		options = append(options, o.Clone())
		o.Host, o.Port = split(t, hosts[name+":4222"])
		o.Cluster.Host, o.Cluster.Port = split(t, hosts[name+":6222"])
		o.HTTPHost, o.HTTPPort = "", 0
		o.StoreDir = t.TempDir()
		o.NoSigs, o.NoLog = true, true
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatalf("starting %s: %v", name, err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		nodes = append(nodes, s)
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range nodes {
		for !s.ReadyForConnections(time.Second) || !s.JetStreamIsCurrent() || s.NumRoutes() == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%s did not join the cluster: %d routes", s.Name(), s.NumRoutes())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return func(service string) string { return point(environment(project.Services[service])["KMS_NATS"]) }, options
}

// freeAddress is a loopback address that was free a moment ago: routes have to be known before the servers start.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	return l.Addr().String()
}

func split(t *testing.T, address string) (host string, port int) {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Addr().String(), int(a.Port())
}

func open(t *testing.T, natsURL string) *eventstore.Store {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := eventstore.Open(t.Context(), eventstore.Config{URL: natsURL, DataDir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func uid(t *testing.T) domain.UID {
	t.Helper()
	var u domain.UID
	if _, err := rand.Read(u[:]); err != nil {
		t.Fatal(err)
	}
	return u
}

// TestNATS uses the event store as init and as a node do, each with its own credential on the cluster as configured: what
// the service needs is allowed, and what could make the log forget is not.
func TestNATS(t *testing.T) {
	clientURL, options := cluster(t)
	for _, o := range options {
		if !o.SyncAlways {
			t.Error("an acknowledgement must mean that the message is on disk")
		}
		if o.Cluster.Username == "" || o.Cluster.Password == "" || o.HTTPHost != "127.0.0.1" {
			t.Error("anybody can join the cluster, or read the monitoring page")
		}
		if o.JetStreamKey != "" {
			t.Error("encryption by NATS keeps deleted material recoverable")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	operator := open(t, clientURL("init"))
	err := operator.Provision(ctx, 3)
	for errors.Is(err, eventstore.ErrUnavailable) && ctx.Err() == nil { // the nodes are still finding each other; init waits too
		time.Sleep(200 * time.Millisecond)
		err = operator.Provision(ctx, 3)
	}
	if err != nil {
		t.Fatalf("init can't make the streams: %v", err)
	}
	node := open(t, clientURL("kms-1"))
	if err := node.Verify(ctx); err != nil {
		t.Fatalf("verifying as a node: %v", err)
	}
	use(ctx, t, node)
	refused(ctx, t, clientURL("kms-1"))

	u, err := url.Parse(strings.Split(clientURL("kms-1"), ",")[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*url.Userinfo{nil, url.UserPassword("kms", "wrong"), url.User("kms")} {
		u.User = user
		if nc, err := nats.Connect(u.String()); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("connecting as %v: %v, want an authorization error", user, err)
			if nc != nil {
				nc.Close()
			}
		}
	}
}

// use makes every kind of call of the service.
func use(ctx context.Context, t *testing.T, s *eventstore.Store) {
	t.Helper()
	name := domain.KeyName{Project: "shop", Location: "local", Ring: "default", ID: "k"}
	now := time.Now().Truncate(time.Microsecond)
	caller := domain.Caller{Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, RequestID: uid(t)}
	b := domain.Binding{
		Project: name.Project, KeyUID: uid(t), Version: 1, MaterialID: uid(t), Algorithm: domain.AES256GCM,
		Purpose: domain.EncryptDecrypt, Protection: domain.HSM, Origin: domain.Generated,
	}
	if err := s.PutMaterial(ctx, b, []byte("wrapped")); err != nil {
		t.Fatalf("storing material: %v", err)
	}
	commit, err := s.Append(ctx, 0, eventstore.Commit{
		Aggregate: eventstore.KeyAggregate(name), KeyUID: b.KeyUID, CommandID: uid(t), Operation: "CreateKey", Caller: caller,
		GrantedBy: "admin", Time: now, Protection: domain.HSM,
		Events: []domain.Event{domain.KeyCreated{
			UID: b.KeyUID, Name: name, Purpose: b.Purpose, Algorithm: b.Algorithm, Protection: b.Protection, Creator: "admin",
		}},
	})
	if err != nil {
		t.Fatalf("appending: %v", err)
	}
	receipt, err := s.Record(ctx, []domain.ActivityRecord{{
		Time: now, Project: name.Project, Location: name.Location, KeyUID: b.KeyUID, KeyName: name.String(), Operation: "Encrypt",
		Category: domain.CategoryCrypto, Outcome: domain.OutcomeOK, Caller: caller, GrantedBy: "admin", Protection: domain.HSM,
	}})
	if err != nil {
		t.Fatalf("recording: %v", err)
	}
	if blob, err := s.Blob(ctx, b); err != nil || string(blob) != "wrapped" {
		t.Errorf("reading material: %q, %v", blob, err)
	}
	if err := s.EraseMaterial(ctx, b); err != nil {
		t.Errorf("erasing material: %v", err)
	}
	found := false
	for c, err := range s.LoadConfirmed(ctx, commit.Aggregate, 0) {
		if err != nil {
			t.Fatalf("loading: %v", err)
		}
		found = found || c.Hash == commit.Hash
	}
	if !found {
		t.Error("the commit is not there")
	}
	errEnough := errors.New("enough")
	if err := s.Subscribe(ctx, 0, nil, func(c eventstore.Commit) error {
		if c.Hash == commit.Hash {
			return errEnough
		}
		return nil
	}); !errors.Is(err, errEnough) {
		t.Errorf("subscribing: %v", err)
	}
	streams, err := s.ActivityStreams(ctx)
	if err != nil || len(streams) == 0 {
		t.Fatalf("listing the activity streams: %v, %v", streams, err)
	}
	for r, err := range s.ReadRecords(ctx, streams[len(streams)-1], 0) {
		if err != nil {
			t.Fatalf("reading records: %v", err)
		}
		if len(r.Records) == 1 && r.Records[0].KeyUID == b.KeyUID {
			break
		}
	}
	if _, err := s.SaveCheckpoint(ctx, "test", []byte("x"), 0); err != nil {
		t.Errorf("saving a checkpoint: %v", err)
	}
	if data, _, err := s.LoadCheckpoint(ctx, "test"); err != nil || string(data) != "x" {
		t.Errorf("loading a checkpoint: %q, %v", data, err)
	}
	if err := s.Ready(ctx); err != nil {
		t.Errorf("after receipt %v the store is not ready: %v", receipt, err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("a permission is missing: %v", err)
	}
}

// refused tries, with a node's credential, what only init or nobody may.
func refused(ctx context.Context, t *testing.T, natsURL string) {
	t.Helper()
	violations := make(chan error, 64)
	nc, err := nats.Connect(natsURL, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, subject := range []string{
		"$JS.API.STREAM.CREATE.KMS_OTHER", "$JS.API.STREAM.UPDATE.KMS_EVENTS", "$JS.API.STREAM.DELETE.KMS_EVENTS",
		"$JS.API.STREAM.DELETE.KMS_MATERIAL", "$JS.API.STREAM.PURGE.KMS_ACTIVITY_1", "$JS.API.STREAM.PURGE.KMS_MATERIAL",
		"$JS.API.STREAM.MSG.DELETE.KMS_EVENTS", "$JS.API.STREAM.MSG.DELETE.KMS_ACTIVITY_1", "$JS.API.STREAM.RESTORE.KMS_EVENTS",
		"$JS.API.STREAM.SNAPSHOT.KMS_MATERIAL", "kms.other", "$SYS.REQ.SERVER.PING",
	} {
		if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.FlushWithContext(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-violations:
			if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
				t.Errorf("publishing to %s: %v", subject, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("a node may publish to %s", subject)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	info, err := js.Stream(ctx, "KMS_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if got := info.CachedInfo().Config.Replicas; got != 3 {
		t.Errorf("KMS_EVENTS has %d copies, want 3", got)
	}
}

func TestMain(m *testing.M) {
	// What the caller has set for a real site must not reach the site of the tests.
	for _, v := range os.Environ() {
		if k, _, _ := strings.Cut(v, "="); strings.HasPrefix(k, "KMS_") || strings.HasPrefix(k, "NATS_") {
			if err := os.Unsetenv(k); err != nil {
				panic(err)
			}
		}
	}
	os.Exit(m.Run())
}
