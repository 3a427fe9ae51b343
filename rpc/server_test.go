package rpc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/rpc"
)

const (
	adminKey = "test-admin-key"
	ringPath = "projects/p/locations/local/keyRings/r"
	keyPath  = ringPath + "/keys/k"
)

// site stands in for the service behind the edge. It answers enough to see what goes through and what comes back; how
// keys behave is tested with the real service.
type site struct {
	rpc.Commands // methods that no test calls

	mu       sync.Mutex
	refusals []refusal
	attempts []domain.ActivityRecord
	callers  []domain.Caller
	fail     error // of every command
	panics   bool
	wait     bool // commands wait for the end of their context
	unable   bool // to record
	keys     []eventstore.KeyState
	rings    []eventstore.RingState
	encrypt  commands.EncryptRequest
	update   domain.UpdateKey
	mutation commands.Mutation
	read     commands.Read
	logs     rpc.ActivityQuery
	page     rpc.ActivityPage
	uses     rpc.LatestUse
	usesErr  error
	waits    []time.Duration // of the last scheduled deletion: the wait, and how long unused
	deletion commands.ScheduledDeletion

	createJob commands.CreateImportJob
	imported  commands.ImportKeyVersion
	public    commands.PublicKey
	commits   []commands.Commit // of every key
	uid       domain.UID        // of the key whose history is asked for, if not that of all keys
	looked    []string          // ids of keys that a list of the past looked at
	updates   func(context.Context, eventstore.Revision, func(commands.WatchUpdate) error) error
	shred     shredScript
}

type refusal struct {
	read commands.Read
	err  *domain.Error
}

func (s *site) called(ctx context.Context, c domain.Caller) error {
	s.mu.Lock()
	s.callers = append(s.callers, c)
	fail, panics, wait := s.fail, s.panics, s.wait
	s.mu.Unlock()
	if panics {
		panic("boom: the secret is 42")
	}
	if wait {
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

func (s *site) state(ref domain.KeyRef) eventstore.KeyState {
	return keyState(ref.Name, 7, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
}

// keyState is an enabled key with one version.
func keyState(name domain.KeyName, rev eventstore.Revision, at time.Time) eventstore.KeyState {
	created := domain.KeyCreated{
		UID: domain.UID{1, 2, 3, byte(rev)}, Name: name, Purpose: domain.EncryptDecrypt, Algorithm: domain.AES256GCM, Protection: domain.HSM,
		Labels: map[string]string{"team": "pay"}, Creator: "admin",
	}
	k := domain.Fold(domain.Key{}, at, created, domain.KeyVersionAdded{Version: 1, MaterialID: domain.UID{9}, Algorithm: domain.AES256GCM, Origin: domain.Generated},
		domain.PrimaryVersionSet{Version: 1})
	return eventstore.KeyState{Key: k, Tip: eventstore.Tip{Revision: rev, CreateRevision: rev, Edition: rev, Time: at}}
}

func (s *site) CreateKey(ctx context.Context, c domain.Caller, r commands.CreateKey) (eventstore.KeyState, error) {
	if err := s.called(ctx, c); err != nil {
		return eventstore.KeyState{}, err
	}
	return s.state(domain.KeyRef{Name: r.Parent.Key(r.KeyID)}), nil
}

func (s *site) RotateKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, m commands.Mutation) (eventstore.KeyState, error) {
	err := s.called(ctx, c)
	s.mutation = m
	return s.state(ref), err
}

func (s *site) DisableKeyVersion(ctx context.Context, c domain.Caller, ref domain.KeyRef, _ bool, _ commands.Mutation) (eventstore.KeyState, error) {
	return s.state(ref), s.called(ctx, c)
}

func (s *site) UpdateKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, u domain.UpdateKey, m commands.Mutation) (eventstore.KeyState, error) {
	err := s.called(ctx, c)
	s.update, s.mutation = u, m
	return s.state(ref), err
}

func (s *site) ScheduleKeyDeletion(ctx context.Context, c domain.Caller, ref domain.KeyRef, wait, unusedFor time.Duration, _ commands.Mutation) (commands.ScheduledDeletion, error) {
	s.waits = []time.Duration{wait, unusedFor}
	s.deletion.KeyState = s.state(ref)
	return s.deletion, s.called(ctx, c)
}

func (s *site) DeleteKey(ctx context.Context, c domain.Caller, ref domain.KeyRef, _ bool, _ commands.Mutation) (eventstore.KeyState, error) {
	return s.state(ref), s.called(ctx, c)
}

func (s *site) Encrypt(ctx context.Context, c domain.Caller, r commands.EncryptRequest) (commands.EncryptResult, error) {
	err := s.called(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encrypt = r
	return commands.EncryptResult{Ciphertext: append([]byte("enc:"), r.Plaintext...), Name: r.Ref.Name, Version: 1}, err
}

func (s *site) Decrypt(ctx context.Context, c domain.Caller, r commands.DecryptRequest) (commands.DecryptResult, error) {
	return commands.DecryptResult{Plaintext: bytes.TrimPrefix(r.Ciphertext, []byte("enc:")), Name: r.Ref.Name, Version: 1}, s.called(ctx, c)
}

func (s *site) BatchEncrypt(ctx context.Context, c domain.Caller, ref domain.KeyRef, items []commands.EncryptItem) ([]commands.Outcome[commands.EncryptResult], error) {
	out := make([]commands.Outcome[commands.EncryptResult], len(items))
	for i, item := range items {
		out[i].Err = item.Err
		out[i].OK = commands.EncryptResult{Ciphertext: item.Plaintext, Name: ref.Name, Version: 1}
	}
	return out, s.called(ctx, c)
}

func (s *site) BatchDecrypt(ctx context.Context, c domain.Caller, _ string, items []commands.DecryptItem) ([]commands.Outcome[commands.DecryptResult], error) {
	out := make([]commands.Outcome[commands.DecryptResult], len(items))
	for i, item := range items {
		out[i].Err = item.Err
		out[i].OK = commands.DecryptResult{Plaintext: item.Ciphertext, Name: item.Ref.Name, Version: 1}
	}
	return out, s.called(ctx, c)
}

func (s *site) GenerateDataKey(ctx context.Context, c domain.Caller, r commands.DataKeyRequest) (commands.DataKeyResult, error) {
	return commands.DataKeyResult{EncryptResult: commands.EncryptResult{Ciphertext: make([]byte, r.Bytes), Name: r.Ref.Name, Version: 1}}, s.called(ctx, c)
}

func (s *site) GenerateRandomBytes(ctx context.Context, c domain.Caller, _ string, n int) ([]byte, error) {
	return make([]byte, n), s.called(ctx, c)
}

func (s *site) GetKey(ctx context.Context, c domain.Caller, r commands.Read) (eventstore.KeyState, error) {
	s.read = r
	return s.state(r.Ref), s.called(ctx, c)
}

func (s *site) Authorize(ctx context.Context, c domain.Caller, r commands.Read) error {
	s.read = r
	return s.called(ctx, c)
}

func (s *site) RecordRead(ctx context.Context, c domain.Caller, r commands.Read) (eventstore.KeyState, error) {
	s.read = r
	return s.state(r.Ref), s.called(ctx, c)
}

func (s *site) RecordRefusal(_ context.Context, _ domain.Caller, r commands.Read, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unable {
		return &domain.Error{Reason: domain.ReasonNotRecorded, Message: "no durable record could be made"}
	}
	reason, _ := errors.AsType[*domain.Error](err)
	s.refusals = append(s.refusals, refusal{r, reason})
	return err
}

func (s *site) RecordAttempts(_ context.Context, records []domain.ActivityRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unable {
		return errors.New("the log is away")
	}
	s.attempts = append(s.attempts, records...)
	return nil
}

func (s *site) Keys(ring domain.RingName) iter.Seq[*eventstore.KeyState] {
	return func(yield func(*eventstore.KeyState) bool) {
		for _, k := range s.keys {
			if ring.Ring != domain.AnyRing && k.Key.Name.RingName() != ring {
				continue
			}
			if !yield(&k) {
				return
			}
		}
	}
}

func (s *site) Rings(project, location string) []eventstore.RingState {
	return slices.DeleteFunc(slices.Clone(s.rings), func(r eventstore.RingState) bool {
		return r.Ring.Name.Project != project || r.Ring.Name.Location != location
	})
}

func (s *site) CreateKeyRing(ctx context.Context, c domain.Caller, r commands.CreateKeyRing) (eventstore.RingState, error) {
	s.mutation = r.Mutation
	return ringState(r.Name, 7, r.Labels), s.called(ctx, c)
}

func (s *site) GetKeyRing(ctx context.Context, c domain.Caller, r commands.Read) (eventstore.RingState, error) {
	s.read = r
	return ringState(r.Ref.Name.RingName(), 7, nil), s.called(ctx, c)
}

func (s *site) ArchiveKeyRing(ctx context.Context, c domain.Caller, name domain.RingName, m commands.Mutation) (eventstore.RingState, error) {
	s.mutation = m
	state := ringState(name, 7, nil)
	state.Ring.State = domain.RingStateArchived
	return state, s.called(ctx, c)
}

func (s *site) UnarchiveKeyRing(ctx context.Context, c domain.Caller, name domain.RingName, m commands.Mutation) (eventstore.RingState, error) {
	s.mutation = m
	return ringState(name, 7, nil), s.called(ctx, c)
}

// ringState is an active ring.
func ringState(name domain.RingName, rev eventstore.Revision, labels map[string]string) eventstore.RingState {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return eventstore.RingState{
		Ring: domain.FoldRing(domain.Ring{}, at, domain.KeyRingCreated{Name: name, Labels: labels, Creator: "admin"}), Tip: eventstore.Tip{Revision: rev, CreateRevision: rev, Edition: rev, Time: at},
	}
}

func (s *site) AddKeyAlias(ctx context.Context, c domain.Caller, ref domain.KeyRef, alias string, move bool, m commands.Mutation) (eventstore.KeyState, error) {
	s.mutation = m
	state := s.state(ref)
	state.Aliases, state.AliasRevision = []string{alias}, 8
	if move {
		state.AliasRevision = 9
	}
	return state, s.called(ctx, c)
}

func (s *site) RemoveKeyAlias(ctx context.Context, c domain.Caller, ref domain.KeyRef, _ string, m commands.Mutation) (eventstore.KeyState, error) {
	s.mutation = m
	return s.state(ref), s.called(ctx, c)
}

func (s *site) Revision() eventstore.Revision { return 99 }

func (s *site) Logs(_ context.Context, q rpc.ActivityQuery) (rpc.ActivityPage, error) {
	s.logs = q
	return s.page, s.usesErr
}

func (s *site) LatestUse(context.Context, domain.UID) (rpc.LatestUse, error) {
	return s.uses, s.usesErr
}

func (s *site) recorded() []refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]refusal(nil), s.refusals...)
}

// served is a server on a port of the loopback that the kernel chose.
type served struct {
	*site
	url     string
	handler *rpc.Server
	log     *syncBuffer
}

// newServer builds the whole edge before a site.
func newServer(t testing.TB, change ...func(*rpc.Config)) *served {
	t.Helper()
	s := &served{site: &site{}, log: new(syncBuffer)}
	cfg := rpc.Config{
		Commands: s.site, Keys: s.site, Roots: s.site, Activity: s.site, Authenticator: rpc.AdminKey(sha256.Sum256([]byte(adminKey))),
		ServerInfo: func(context.Context) (rpc.ServerInfo, error) { return rpc.ServerInfo{Version: "v-test"}, nil },
		Location:   "local", Lineage: domain.UID{7}, PageTokenKey: bytes.Repeat([]byte{1}, 32),
		Log: slog.New(slog.NewJSONHandler(s.log, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if s.handler, err = rpc.New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// serve is newServer, listening.
func serve(t *testing.T, change ...func(*rpc.Config)) *served {
	t.Helper()
	s := newServer(t, change...)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewHTTPServer("", s.handler, nil, s.logger())
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("closing the server: %v", err)
		}
		running.Wait()
	})
	s.url = "http://" + listener.Addr().String()
	return s
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// answer is one HTTP answer, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

// send makes an HTTP/1.1 request with the admin's key; headers may replace it or add to it.
func (s *served) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	return s.sendReader(t, method, path, reader, headers...)
}

func (s *served) sendReader(t *testing.T, method, path string, body io.Reader, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+adminKey)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end below
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the answer to %s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// restError is the shape of every error over REST.
type restError struct {
	Error struct {
		Code    int
		Status  string
		Message string
		Details []map[string]any
	}
}

// rest checks the shape of a REST error and returns its status, reason and message.
func (a answer) rest(t *testing.T) (status, reason, message string) {
	t.Helper()
	var e restError
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		t.Fatalf("the error is not of the one shape: %v\n%s", err, a.body)
	}
	if e.Error.Code != a.status || a.header.Get("Content-Type") != "application/json" || e.Error.Message == "" {
		t.Errorf("error = %s with HTTP status %d, content type %q", a.body, a.status, a.header.Get("Content-Type"))
	}
	for _, d := range e.Error.Details {
		if d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo" {
			if d["domain"] != "kms.v1" {
				t.Errorf("domain = %v", d["domain"])
			}
			return e.Error.Status, d["reason"].(string), e.Error.Message
		}
	}
	t.Fatalf("the error has no ErrorInfo: %s", a.body)
	return "", "", ""
}

// reasonOf is the reason in the ErrorInfo of an RPC's error.
func reasonOf(t *testing.T, err error) string {
	t.Helper()
	info, ok := detailOf[*errdetails.ErrorInfo](err)
	if !ok {
		t.Fatalf("the error has no ErrorInfo: %v", err)
	}
	if info.GetDomain() != "kms.v1" {
		t.Errorf("domain = %q", info.GetDomain())
	}
	return info.GetReason()
}

func detailOf[T any](err error) (T, bool) {
	var none T
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return none, false
	}
	for _, d := range e.Details() {
		value, err := d.Value()
		if err != nil {
			continue
		}
		if v, ok := value.(T); ok {
			return v, true
		}
	}
	return none, false
}
