package commands_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/hsm"
	"github.com/keyledger/kms/projections"
)

// A process has one SoftHSM token and the tests have one store: every test has keys of its own.
var (
	store *eventstore.Store
	token testToken
	keys  *projections.Keys
)

// testToken is the token with errors as cmd/kms gives them to commands.
type testToken struct{ *hsm.Token }

func (t testToken) Decrypt(ctx context.Context, b domain.Binding, iv, ciphertext, aad []byte) ([]byte, error) {
	p, err := t.Token.Decrypt(ctx, b, iv, ciphertext, aad)
	if errors.Is(err, hsm.ErrDecrypt) {
		return nil, domain.ErrCiphertext
	}
	return p, err
}

func (t testToken) Import(ctx context.Context, job domain.Binding, wrapped []byte, b domain.Binding) (domain.WrappedKey, error) {
	w, err := t.Token.Import(ctx, job, wrapped, b)
	return w, importError(err)
}

func (t testToken) ImportClear(ctx context.Context, material []byte, b domain.Binding) (domain.WrappedKey, error) {
	w, err := t.Token.ImportClear(ctx, material, b)
	return w, importError(err)
}

func importError(err error) error {
	if unfit, ok := errors.AsType[*hsm.MaterialError](err); ok {
		return &domain.Error{Reason: domain.ReasonBadMaterial, Message: unfit.Error()}
	}
	if errors.Is(err, hsm.ErrMaterial) {
		return &domain.Error{Reason: domain.ReasonBadMaterial, Message: err.Error()}
	}
	return err
}

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "commands")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := slog.New(slog.DiscardHandler)
	if store, err = eventstore.Open(ctx, eventstore.Config{DataDir: dir, Logger: log}); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close(context.Background())) }()
	if err := store.Provision(ctx, 1); err != nil {
		return 0, err
	}
	module, err := hsm.FindModule()
	if err != nil {
		return 0, err
	}
	cfg, err := hsm.InitSoftHSM(ctx, dir+"/softhsm", module)
	if err != nil {
		return 0, err
	}
	if token.Token, err = hsm.Open(ctx, cfg, store); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	root, err := token.CreateRoot(ctx, "1")
	if err != nil {
		return 0, err
	}
	if err := token.VerifyRoot(ctx, root); err != nil {
		return 0, err
	}
	if err := token.UseRoot("1"); err != nil {
		return 0, err
	}
	keys = projections.NewKeys(log, nil)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- keys.Run(ctx, store, func() { close(ready) }) }()
	defer func() { cancel(); err = errors.Join(err, <-done) }()
	select {
	case <-ready:
	case err := <-done:
		return 0, err
	}
	return m.Run(), nil
}

// faults change what the store does for one service; nil leaves a call as it is.
type faults struct {
	mu     sync.Mutex
	append func(next func() (eventstore.Commit, error)) (eventstore.Commit, error)
	record func(records []domain.ActivityRecord) error
	clock  func() time.Time
	// uses answers when keys were last used; nil: never.
	uses func(ctx context.Context, current bool) (commands.LastUse, error)
	log  slog.Handler // nil: nowhere
	// load may leave out commits that the nearest server does not have yet.
	load func(iter.Seq2[eventstore.Commit, error]) iter.Seq2[eventstore.Commit, error]
	// store and keys are the test's own, instead of those that all tests share; nil: shared.
	store *eventstore.Store
	keys  *projections.Keys
	// deaf names an aggregate that the projection does not know of until it is waited for.
	deaf string
	// recorded is what became durable.
	recorded []domain.ActivityRecord
}

func (f *faults) theStore() *eventstore.Store {
	if f.store != nil {
		return f.store
	}
	return store
}

func (f *faults) theKeys() *projections.Keys {
	if f.keys != nil {
		return f.keys
	}
	return keys
}

// laggingKeys is a projection that has not heard of one aggregate until it is waited for.
type laggingKeys struct {
	*projections.Keys

	mu   sync.Mutex
	deaf string
}

func (l *laggingKeys) hears(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deaf != name
}

func (l *laggingKeys) WaitFor(ctx context.Context, rev eventstore.Revision) error {
	l.mu.Lock()
	l.deaf = ""
	l.mu.Unlock()
	return l.Keys.WaitFor(ctx, rev)
}

func (l *laggingKeys) Ring(name domain.RingName) eventstore.RingState {
	if !l.hears(name.String()) {
		return eventstore.RingState{}
	}
	return l.Keys.Ring(name)
}

func (l *laggingKeys) Alias(name domain.AliasName) eventstore.AliasState {
	if !l.hears(name.String()) {
		return eventstore.AliasState{}
	}
	return l.Keys.Alias(name)
}

func (l *laggingKeys) GetByAlias(name domain.AliasName) (eventstore.KeyState, bool) {
	if !l.hears(name.String()) {
		return eventstore.KeyState{}, false
	}
	return l.Keys.GetByAlias(name)
}

func (l *laggingKeys) GetByUID(uid domain.UID) (eventstore.KeyState, bool) {
	state, ok := l.Keys.GetByUID(uid)
	if !l.hears(state.Key.Name.String()) {
		return eventstore.KeyState{}, false
	}
	return state, ok
}

type faultyEvents struct{ *faults }

func (f faultyEvents) Append(ctx context.Context, expected eventstore.Revision, c eventstore.Commit) (eventstore.Commit, error) {
	next := func() (eventstore.Commit, error) { return f.theStore().Append(ctx, expected, c) }
	if f.append != nil {
		return f.append(next)
	}
	return next()
}

func (f faultyEvents) LoadConfirmed(ctx context.Context, a eventstore.Aggregate, after eventstore.Revision) iter.Seq2[eventstore.Commit, error] {
	return f.theStore().LoadConfirmed(ctx, a, after)
}

type faultyActivity struct{ *faults }

func (f faultyActivity) Record(ctx context.Context, records []domain.ActivityRecord) (eventstore.Receipt, error) {
	if f.record != nil {
		if err := f.record(records); err != nil {
			return eventstore.Receipt{}, err
		}
	}
	receipt, err := f.theStore().Record(ctx, records)
	if err == nil {
		f.mu.Lock()
		f.recorded = append(f.recorded, records...)
		f.mu.Unlock()
	}
	return receipt, err
}

// last is the newest record.
func (f *faults) last(t *testing.T) domain.ActivityRecord {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.recorded) == 0 {
		t.Fatal("nothing is recorded")
	}
	return f.recorded[len(f.recorded)-1]
}

// LastUse implements commands.UsesLog.
func (f *faults) LastUse(ctx context.Context, _ domain.UID, current bool) (commands.LastUse, error) {
	if f.uses == nil {
		return commands.LastUse{}, nil
	}
	return f.uses(ctx, current)
}

func newService(f *faults) *commands.Service {
	handler := f.log
	if handler == nil {
		handler = slog.DiscardHandler
	}
	return commands.New(commands.Config{
		Location: "local", Keys: &laggingKeys{Keys: f.theKeys(), deaf: f.deaf}, Events: faultyEvents{f}, Material: f.theStore(), Activity: faultyActivity{f}, Uses: f, Token: token,
		Log: slog.New(handler), Clock: f.clock,
	})
}

var (
	admin  = domain.Caller{Principal: "admin", Kind: domain.KindAdmin, Request: domain.RequestAPI, Address: netip.MustParseAddr("127.0.0.1")}
	nobody = domain.Caller{Principal: "nobody", Request: domain.RequestAPI}
	ring   = domain.RingName{Project: "p", Location: "local", Ring: "default"}
)

func newID() domain.UID { return domain.UID(uuid.Must(uuid.NewV7())) }

// newKey makes a key of the test's own.
func newKey(t *testing.T, s *commands.Service) (domain.KeyRef, eventstore.KeyState) {
	t.Helper()
	id := "k" + newID().String()
	state, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: id, Purpose: domain.EncryptDecrypt})
	if err != nil {
		t.Fatal(err)
	}
	return domain.KeyRef{Name: ring.Key(id)}, state
}

// refused fails the test unless err is a refusal for this reason.
func refused(t *testing.T, err error, want domain.Reason) {
	t.Helper()
	got, ok := errors.AsType[*domain.Error](err)
	if !ok || got.Reason != want {
		t.Fatalf("error %v, want reason %s", err, want)
	}
	if got.Message == "" {
		t.Errorf("refusal %s has no sentence", want)
	}
}

// commits are all of a key's.
func commits(t *testing.T, ref domain.KeyRef) (all []eventstore.Commit) {
	t.Helper()
	for c, err := range store.LoadConfirmed(t.Context(), eventstore.KeyAggregate(ref.Name), 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}
