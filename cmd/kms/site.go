package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/hsm"
)

// rootID is the site's first root.
const rootID = "1"

// site is the data folder, the event store and the token, opened and checked against each other.
type site struct {
	flags siteFlags
	log   *slog.Logger
	lock  *os.File
	store *eventstore.Store
	token *hsm.Token
	// module is the token's PKCS#11 library.
	module string
}

// openSite opens a site. With provision it first makes what is missing of it; without, a site that does not exist is an
// error. Everything that would make answers wrong or lose anything is found here, before anything is served.
func openSite(ctx context.Context, f siteFlags, log *slog.Logger, provision bool) (_ *site, err error) {
	s := &site{flags: f, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}()
	if s.lock, err = f.lockData(); err != nil {
		return nil, err
	}
	config, err := f.tokenConfig(ctx, provision)
	if err != nil {
		return nil, err
	}
	config.Log, s.module = log, config.Module
	if s.store, err = eventstore.Open(ctx, eventstore.Config{URL: f.NATS, DataDir: f.Data, Logger: log}); err != nil {
		return nil, fmt.Errorf("opening the event store: %w", err)
	}
	if provision {
		if err := s.patiently(ctx, func() error { return s.store.Provision(ctx, f.replicas()) }); err != nil {
			return nil, fmt.Errorf("making the streams: %w", err)
		}
	}
	if err := s.patiently(ctx, func() error { return s.store.Verify(ctx) }); err != nil {
		return nil, fmt.Errorf("checking the event store: %w", err)
	}
	if s.token, err = hsm.Open(ctx, config, s.store); err != nil {
		return nil, fmt.Errorf("opening the token: %w", err)
	}
	if err := s.openRoots(ctx, provision); err != nil {
		return nil, err
	}
	return s, nil
}

// tokenConfig says which token to open. The SoftHSM token in the data folder is made with the site.
func (f siteFlags) tokenConfig(ctx context.Context, provision bool) (hsm.Config, error) {
	module := f.PKCS11Module
	if module == "" {
		var err error
		if module, err = hsm.FindModule(); err != nil {
			return hsm.Config{}, err
		}
	}
	if f.PKCS11Token == "" {
		if _, err := os.Stat(f.path("softhsm")); err != nil && !provision {
			return hsm.Config{}, fmt.Errorf("there is no token in data folder %s; make the site with kms init, or name a token with --pkcs11-token", f.Data)
		}
		return hsm.InitSoftHSM(ctx, f.path("softhsm"), module)
	}
	pin, err := f.pin()
	return hsm.Config{Module: module, TokenLabel: f.PKCS11Token, PIN: pin}, err
}

func (f siteFlags) replicas() int {
	switch {
	case f.NATSReplicas != 0:
		return f.NATSReplicas
	case f.NATS == "":
		return 1
	}
	return 3
}

// openRoots proves that the token has the roots that the log names. With provision a site without any gets its first.
func (s *site) openRoots(ctx context.Context, provision bool) error {
	for {
		var roots []eventstore.Root
		if err := s.patiently(ctx, func() (err error) { roots, err = s.store.Roots(ctx); return err }); err != nil {
			return fmt.Errorf("reading which roots the site has: %w", err)
		}
		if len(roots) == 0 {
			if !provision {
				return errors.New("the site has no root key yet; run kms init once")
			}
			root, err := s.makeRoot(ctx)
			if err != nil {
				return err
			}
			roots = append(roots, root)
		}
		missing, err := s.verifyRoots(ctx, roots)
		if err == nil {
			return s.token.UseRoot(roots[len(roots)-1].ID)
		}
		// A shred that runs on another node may have destroyed it just now; then it is on record.
		if again, readErr := s.store.Roots(ctx); readErr != nil || slices.ContainsFunc(again, func(r eventstore.Root) bool { return r.ID == missing }) {
			return err
		}
		for _, r := range roots[:len(roots)-1] {
			if err := s.token.ReleaseRoot(r.ID); err != nil {
				return err
			}
		}
	}
}

// verifyRoots proves that the token has the roots. If not it says which it does not have.
func (s *site) verifyRoots(ctx context.Context, roots []eventstore.Root) (missing string, err error) {
	for _, r := range roots {
		if err := s.token.VerifyRoot(ctx, hsm.RootInfo{ID: r.ID, Sentinel: r.Sentinel, TokenSerial: r.TokenSerial}); err != nil {
			return r.ID, fmt.Errorf("checking root %s: %w", r.ID, err)
		}
	}
	return "", nil
}

// makeRoot makes the first root and records it. A root that an init left unrecorded when it was interrupted is taken.
func (s *site) makeRoot(ctx context.Context) (eventstore.Root, error) {
	root, err := token{s.token}.CreateRoot(ctx, rootID)
	if err != nil {
		return eventstore.Root{}, fmt.Errorf("making the root key: %w", err)
	}
	if err := s.store.AddRoot(ctx, root); err != nil {
		return eventstore.Root{}, fmt.Errorf("recording the root key: %w", err)
	}
	return root, nil
}

const (
	// storePatience is how long a start waits for a cluster that elects its leaders, e.g. while its nodes are restarted.
	storePatience = 30 * time.Second
	storeInterval = 500 * time.Millisecond
)

// patiently tries again while the event store does not answer.
func (s *site) patiently(ctx context.Context, try func() error) error {
	for deadline := time.Now().Add(storePatience); ; {
		err := try()
		if !errors.Is(err, eventstore.ErrUnavailable) || time.Now().After(deadline) {
			return err
		}
		s.log.WarnContext(ctx, "waiting for the event store", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(storeInterval):
		}
	}
}

// close gives everything up in order.
func (s *site) close(ctx context.Context) error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close(ctx))
	}
	if s.token != nil {
		errs = append(errs, s.token.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
