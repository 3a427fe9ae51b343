package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// conn is one epoch: the login, the sessions and every handle that came from them. Handle numbers start again when the
// library does, so that one from before names another key without any error; therefore nothing of a conn outlives it,
// and no PKCS#11 call is made but by a holder of a lease on it.
type conn struct {
	c11   *crypto11.Context // holds the initialised library and the login; makes roots and random bytes
	raw   *pkcs11.Ctx
	slot  uint
	token pkcs11.TokenInfo

	sessions chan pkcs11.SessionHandle // for one call at a time
	owners   chan pkcs11.SessionHandle // unwrapped keys live as long as the one that unwrapped them, so these stay open
	cache    *cache

	oaep256 bool // the token does OAEP with SHA-256 itself; set before the first use

	broken atomic.Bool   // a session could not be replaced, or a key not be destroyed: the epoch must end
	over   chan struct{} // closed when the epoch ends: nobody waits for its sessions any longer

	rootMu sync.Mutex // guards the next four; never held over a PKCS#11 call
	roots  map[string]*root
	pairs  map[pairID]*pair    // opened in this epoch
	own    map[string]*pair    // by root: what this epoch wraps new keys under
	gone   map[string]struct{} // roots that were released in this epoch

	// Guarded by Token.mu.
	leases int
	ended  bool
	idle   chan struct{} // closed when it has ended and the last lease is given back
}

// dial logs in and opens the sessions. Trying again can't cure ErrModuleMissing and ErrWrongPIN, and seldom ErrTokenMissing.
func dial(lib *library, cfg Config) (_ *conn, err error) {
	c := &conn{
		raw:      lib.raw,
		sessions: make(chan pkcs11.SessionHandle, cfg.Sessions),
		owners:   make(chan pkcs11.SessionHandle, cfg.Owners),
		roots:    map[string]*root{},
		pairs:    map[pairID]*pair{},
		own:      map[string]*pair{},
		gone:     map[string]struct{}{},
		over:     make(chan struct{}),
		idle:     make(chan struct{}),
	}
	if cfg.PIN.Reveal() == "" {
		return nil, fmt.Errorf("%w for token %q: none is given", ErrWrongPIN, cfg.TokenLabel)
	}
	c.c11, err = crypto11.Configure(&crypto11.Config{
		Path:       lib.path,
		TokenLabel: cfg.TokenLabel,
		Pin:        cfg.PIN.Reveal(),
		// One for each of ours, which random bytes are asked for under; one for the login; one for making roots.
		MaxSessions:     cfg.Sessions + 2,
		PoolWaitTimeout: cfg.Wait,
		GCMIVLength:     ivSize,
	})
	if err != nil {
		return nil, dialError(cfg, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	// crypto11 initialised the library, which is one per process, and logged in, which holds for every session of it.
	if c.slot, c.token, err = lib.slotOf(cfg.TokenLabel); err != nil {
		return nil, err
	}
	for _, pool := range []chan pkcs11.SessionHandle{c.sessions, c.owners} {
		for range cap(pool) {
			s, err := c.raw.OpenSession(c.slot, sessionFlags)
			if err != nil {
				return nil, failed("C_OpenSession", err)
			}
			pool <- s
		}
	}
	c.cache = newCache(cfg.CacheSize, cfg.CacheTTL, c.destroy)
	return c, nil
}

// dialError tells apart why crypto11 could not open the token. It has no typed errors of its own.
func dialError(cfg Config, err error) error {
	rv, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return fmt.Errorf("%w: no token is labelled %q", ErrTokenMissing, cfg.TokenLabel)
	}
	switch rv {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
		return fmt.Errorf("%w for token %q: %w", ErrWrongPIN, cfg.TokenLabel, rv)
	case pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED:
		return fmt.Errorf("%w for token %q: it has locked itself: %w", ErrWrongPIN, cfg.TokenLabel, rv)
	case pkcs11.CKR_USER_PIN_NOT_INITIALIZED:
		return fmt.Errorf("%w: token %q has no user PIN yet", ErrTokenMissing, cfg.TokenLabel)
	}
	return fmt.Errorf("opening token %q: %w", cfg.TokenLabel, rv)
}

// permanent reports whether opening the token again is of no use, or does harm: tokens count wrong PINs.
func permanent(err error) bool {
	return errors.Is(err, ErrModuleMissing) || errors.Is(err, ErrWrongPIN)
}

// close ends the epoch's PKCS#11 state. It finalises the library, and all sessions and session objects with it.
func (c *conn) close() error {
	if err := c.c11.Close(); err != nil {
		return fmt.Errorf("closing the token: %w", err)
	}
	return nil
}

// take waits for a session of the pool until the moment until, ctx or the end of the epoch, whichever is first.
func (c *conn) take(ctx context.Context, pool chan pkcs11.SessionHandle, until time.Time) (pkcs11.SessionHandle, error) {
	select {
	case s := <-pool:
		return s, nil
	default:
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case s := <-pool:
		return s, nil
	case <-c.over:
		return 0, errEpochOver
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: waiting for a session: %w", ErrUnavailable, context.Cause(ctx))
	case <-timer.C:
		return 0, fmt.Errorf("%w: all sessions are busy", ErrUnavailable)
	}
}

// with lends a session to f. One that anything failed on is replaced, since it may have an operation half-finished. A
// caller that has a session must not ask for another: all of them doing so would wait for each other.
func (c *conn) with(ctx context.Context, until time.Time, f func(s pkcs11.SessionHandle) error) error {
	s, err := c.take(ctx, c.sessions, until)
	if err != nil {
		return err
	}
	well := false
	defer func() { // also if f panics
		if well {
			c.sessions <- s
		} else {
			c.replace(s)
		}
	}()
	err = f(s)
	well = err == nil
	return err
}

// replace puts a new session in the place of s.
func (c *conn) replace(s pkcs11.SessionHandle) {
	if err := c.raw.CloseSession(s); err != nil {
		c.broken.Store(true) // it stays open in the token: only a new epoch gets rid of it
	}
	next, err := c.raw.OpenSession(c.slot, sessionFlags)
	if err != nil {
		c.broken.Store(true)
		return
	}
	c.sessions <- next
}

// unwrapping lends an owner session to f, which makes at most one call.
func (c *conn) unwrapping(ctx context.Context, until time.Time, f func(s pkcs11.SessionHandle) error) error {
	s, err := c.take(ctx, c.owners, until)
	if err != nil {
		return err
	}
	defer func() { c.owners <- s }()
	return f(s)
}

// destroy removes a key that nobody uses any more. Its callers hold a lease; owners are lent for single calls, so that
// the wait for one is as short as those.
func (c *conn) destroy(h pkcs11.ObjectHandle) {
	s := <-c.owners
	err := c.raw.DestroyObject(s, h)
	c.owners <- s
	if err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_OBJECT_HANDLE_INVALID)) {
		c.broken.Store(true) // the end of the epoch destroys it
	}
}

// alive finds out whether the token answers, is logged in, and has the roots used in this epoch where they were. It is
// ErrUnavailable if there was no session to find out with.
func (c *conn) alive(ctx context.Context, until time.Time) error {
	return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
		info, err := c.raw.GetSessionInfo(s)
		if err != nil {
			return failed("C_GetSessionInfo", err)
		}
		if info.State != stateLoggedIn {
			return failed("C_GetSessionInfo", pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN))
		}
		if _, err := c.raw.GenerateRandom(s, 8); err != nil {
			return failed("C_GenerateRandom", err)
		}
		for _, r := range c.knownRoots() {
			if err := r.beats(c.raw, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// sign makes the MAC of msg.
func sign(raw *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, m []*pkcs11.Mechanism, msg []byte) ([]byte, error) {
	if err := raw.SignInit(s, m, key); err != nil {
		return nil, failed("C_SignInit", err)
	}
	mac, err := raw.Sign(s, msg)
	return mac, failed("C_Sign", err)
}
