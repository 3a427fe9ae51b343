// Package hsm keeps keys in a PKCS#11 token and uses them there. Keys are made in the token, leave it only wrapped under
// a root that never does, and come back as session objects that can't be read, for as long as they are being used; so
// the number of keys is not bounded by what a token can store, and erasing the wrapped form erases the key.
//
// It survives the loss of sessions, login and library: see conn. It is the only package that knows of PKCS#11.
//
// It does not know who may use a key, whether a key is enabled, or where wrapped keys are stored: callers decide first,
// and wrapped keys are read through Blobs. It keeps no plaintext and no record of uses.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyledger/kms/domain"
)

// Blobs is where wrapped keys are read when they are not in the cache.
type Blobs interface {
	// Blob is the wrapped form of the key material that b names, as Generate returned it. It may be called by many at a
	// time, once per key; it returns when ctx ends. Its errors reach the caller of the operation as they are.
	Blob(ctx context.Context, b domain.Binding) ([]byte, error)
}

// Token is a connection to one PKCS#11 token that mends itself. Its methods may be called by many at a time. A call that
// hangs inside the vendor's library can't be interrupted; others then end with ErrUnavailable after Config.Wait.
type Token struct {
	cfg   Config
	lib   *library
	blobs Blobs
	inst  *instruments
	caps  Capabilities

	oaep256 bool // the token was seen to do OAEP with SHA-256 itself

	life       context.Context // of the background work, which is the token's and no caller's
	stop       context.CancelFunc
	background sync.WaitGroup

	mu     sync.Mutex    // guards the rest; never held over a PKCS#11 call
	conn   *conn         // nil while the token is away
	back   chan struct{} // closed when conn is set again, or for good
	away   error         // why conn is nil
	closed bool
	root   string              // what new keys are wrapped under
	live   map[string]RootInfo // roots that must be what they were
	stats  cacheStats          // of the epochs before conn
	since  time.Time           // when conn was set
	flaps  int                 // how many epochs in a row ended soon
}

// How often Open tries. A token may seem to be missing while another process that does not keep to our lock logs in.
const (
	dialAttempts    = 6
	missingAttempts = 3
)

// Open logs in to the token, and proves by self-test that it does what the keys' safety needs. No root is trusted
// before VerifyRoot. A token that can't be opened yet is tried for some seconds, but a wrong PIN only once.
func Open(ctx context.Context, cfg Config, blobs Blobs) (*Token, error) {
	cfg = cfg.withDefaults()
	lib, err := claim(cfg.Module)
	if err != nil {
		return nil, err
	}
	t := &Token{cfg: cfg, lib: lib, blobs: blobs, live: map[string]RootInfo{}}
	if err := t.open(ctx); err != nil {
		lib.release()
		return nil, err
	}
	return t, nil
}

func (t *Token) open(ctx context.Context) error {
	c, err := t.dialPatiently(ctx)
	if err != nil {
		return err
	}
	t.caps, err = c.selfTest()
	if err == nil {
		err = c.probe(&t.caps)
	}
	if err != nil {
		return errors.Join(err, c.close())
	}
	t.oaep256 = c.oaep256
	t.conn, t.since = c, time.Now()
	if t.inst, err = newInstruments(t.cacheStats); err != nil {
		return errors.Join(err, c.close())
	}
	t.life, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	t.background.Go(func() { t.watch(t.life) })
	return nil
}

func (t *Token) dialPatiently(ctx context.Context) (*conn, error) {
	for try := 1; ; try++ {
		c, err := t.dial(ctx)
		if err == nil || permanent(err) || try == dialAttempts || errors.Is(err, ErrTokenMissing) && try == missingAttempts {
			return c, err
		}
		if pause(ctx, backoff(try)) != nil {
			return nil, err
		}
	}
}

// dial begins an epoch. One process at a time logs in to a token made of files: SoftHSM rewrites its file at each login,
// and who reads it meanwhile sees no token, or one without a PIN.
func (t *Token) dial(ctx context.Context) (*conn, error) {
	if t.cfg.TokenDir != "" {
		unlock, err := lockFile(ctx, filepath.Join(filepath.Dir(t.cfg.TokenDir), softHSMLoginLock))
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	return dial(t.lib, t.cfg)
}

// closeWait bounds how long Close waits for calls that run in the token.
const closeWait = 5 * time.Second

// Close ends all use of the token and logs out, once the calls that are running have ended. If one of them hangs in the
// library, Close gives up with an error after 5 s and leaves the token as it is.
func (t *Token) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	c := t.conn
	if c != nil {
		t.endEpoch(c, ErrClosed)
	}
	t.away = ErrClosed
	close(t.back)
	t.mu.Unlock()

	t.stop()
	done := make(chan struct{})
	go func() {
		t.background.Wait()
		if c != nil {
			<-c.idle
		}
		close(done)
	}()
	err := t.inst.observer.Unregister()
	select {
	case <-done:
	case <-time.After(closeWait):
		return errors.Join(err, errors.New("closing the token: a call hangs in the PKCS#11 library"))
	}
	if c != nil {
		err = errors.Join(err, c.close())
	}
	t.lib.release()
	return err
}

// lease is the current epoch, which lasts until release. While the token is away it waits until the moment until.
func (t *Token) lease(ctx context.Context, until time.Time) (*conn, error) {
	for {
		t.mu.Lock()
		if c := t.conn; c != nil {
			c.leases++
			t.mu.Unlock()
			return c, nil
		}
		closed, back, away := t.closed, t.back, t.away
		t.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ErrClosed)
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-back:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w: %w", ErrUnavailable, context.Cause(ctx), away)
		case <-timer.C:
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, away)
		}
	}
}

func (t *Token) release(c *conn) {
	t.mu.Lock()
	c.leases--
	if c.ended && c.leases == 0 {
		close(c.idle)
	}
	t.mu.Unlock()
}

// lose ends the epoch c, if it is still the current one, and starts making the next.
func (t *Token) lose(c *conn, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != c {
		return
	}
	t.endEpoch(c, why)
	if time.Since(t.since) < 5*time.Second {
		t.flaps++
	} else {
		t.flaps = 0
	}
	flaps := t.flaps
	t.background.Go(func() { t.recover(t.life, c, why, flaps) })
}

// endEpoch is called with mu held.
func (t *Token) endEpoch(c *conn, why error) {
	s, _ := c.cache.snapshot()
	t.stats.hits, t.stats.misses = t.stats.hits+s.hits, t.stats.misses+s.misses
	t.conn, t.away, t.back = nil, why, make(chan struct{})
	c.ended = true
	close(c.over)
	if c.leases == 0 {
		close(c.idle)
	}
}

// recover closes the old epoch when the last call in it has ended, and opens the next, for as long as it takes.
func (t *Token) recover(ctx context.Context, old *conn, why error, flaps int) {
	t.cfg.Log.WarnContext(ctx, "token lost", slog.String("token", t.cfg.TokenLabel), slog.Any("cause", why))
	began := time.Now()
	<-old.idle // finalising the library under a running call crashes it
	if err := old.close(); err != nil {
		t.cfg.Log.WarnContext(ctx, "ending the old token session", slog.Any("error", err))
	}
	for try := min(flaps, 3); ; try++ { // epochs that end soon are not begun at once, but well within Config.Wait
		if try > 0 && pause(ctx, backoff(try)) != nil {
			return
		}
		c, err := t.redial()
		if err == nil {
			if t.resume(c) {
				t.cfg.Log.InfoContext(ctx, "token back", slog.String("token", t.cfg.TokenLabel), slog.Duration("away", time.Since(began)))
				return
			}
			if err := c.close(); err != nil {
				t.cfg.Log.WarnContext(ctx, "closing the token", slog.Any("error", err))
			}
			return
		}
		if t.stillAway(err) {
			t.cfg.Log.WarnContext(ctx, "token still away", slog.String("token", t.cfg.TokenLabel), slog.Any("cause", err))
		}
		if errors.Is(err, ErrWrongPIN) {
			return // trying again would lock it: an operator has to start the process anew
		}
	}
}

// redial opens a new epoch and proves that every live root is in it.
func (t *Token) redial() (*conn, error) {
	c, err := t.dial(t.life)
	if err != nil {
		return nil, err
	}
	c.oaep256 = t.oaep256
	if _, err = c.selfTest(); err == nil {
		err = c.proveAll(t.life, time.Now().Add(t.cfg.Wait), t.liveRoots())
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// resume makes c the current epoch, unless the token was closed meanwhile.
func (t *Token) resume(c *conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.conn, t.since, t.away = c, time.Now(), nil
	t.inst.recoveries.Add(t.life, 1)
	close(t.back)
	return true
}

// stillAway notes why the token could not be opened, and reports whether that is news.
func (t *Token) stillAway(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.away == nil || t.away.Error() != err.Error()
	if !t.closed {
		t.away = err
	}
	return news
}

// watch looks after the token while nobody uses it.
func (t *Token) watch(ctx context.Context) {
	tick := time.NewTicker(t.cfg.Check)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c := t.tryLease()
			if c == nil {
				continue // away, and being fetched back
			}
			c.cache.evictExpired(now)
			t.release(c)
			if err := t.Health(ctx); err != nil && ctx.Err() == nil {
				t.cfg.Log.WarnContext(ctx, "token unhealthy", slog.String("token", t.cfg.TokenLabel), slog.Any("error", err))
			}
		}
	}
}

// tryLease is like lease, but nil instead of waiting.
func (t *Token) tryLease() *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		t.conn.leases++
	}
	return t.conn
}

// whyAway is nil while there is an epoch.
func (t *Token) whyAway() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, t.away)
}

func (t *Token) cacheStats() (cacheStats, int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, n := t.stats, 0
	if t.conn != nil {
		var now cacheStats
		now, n = t.conn.cache.snapshot()
		s.hits, s.misses = s.hits+now.hits, s.misses+now.misses
	}
	return s, n
}

// do runs f in the current epoch. When the token rather than f's input is at fault it runs f again, in a new epoch or
// with new handles; f must be safe to repeat. It ends at most Config.Wait after the last call that f makes.
func (t *Token) do(ctx context.Context, op operation, f func(ctx context.Context, c *conn, until time.Time) error) (err error) {
	start := time.Now()
	ctx, span := t.inst.begin(ctx, op)
	defer func() { t.inst.end(ctx, op, start, span, err) }()
	until := start.Add(t.cfg.Wait)
	for try := 1; ; try++ {
		if err := bounded(ctx, "asking the token"); err != nil {
			return err
		}
		what, err := t.attempt(ctx, until, f)
		switch what {
		case ours:
			return answer(err)
		case changed, exhausted:
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case staleHandle, epochLost, ambiguous:
		}
		if try == 3 {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// attempt runs f once, in an epoch that lasts for as long.
func (t *Token) attempt(ctx context.Context, until time.Time, f func(ctx context.Context, c *conn, until time.Time) error) (class, error) {
	c, err := t.lease(ctx, until)
	if err != nil {
		return ours, err
	}
	defer t.release(c) // also if f panics: else the epoch could never end
	err = f(ctx, c, until)
	return t.judge(ctx, c, err, until), err
}

// judge decides what follows from the outcome of an operation, and acts on the epoch.
func (t *Token) judge(ctx context.Context, c *conn, err error, until time.Time) class {
	if err == nil && !c.broken.Load() {
		return ours
	}
	what := classify(err)
	if what == ambiguous || what == staleHandle {
		switch sick := c.alive(context.WithoutCancel(ctx), until); {
		case errors.Is(sick, ErrUnavailable):
			what = exhausted // no session to find out with
		case sick != nil:
			what = epochLost
		case what == ambiguous:
			what = ours
		default:
			c.cache.clear()
			c.forgetRoots()
		}
	}
	if what == epochLost || what == changed || c.broken.Load() {
		why := err
		if why == nil {
			why = errors.New("a session could not be replaced")
		}
		t.lose(c, why)
	}
	return what
}

// backoff is the pause before the n-th attempt in a row: doubling from 50 ms to 5 s, and up to half of it by chance.
func backoff(n int) time.Duration {
	d := min(50*time.Millisecond<<min(max(n-1, 0), 10), 5*time.Second)
	return d/2 + rand.N(d/2+1) //nolint:gosec // it only spreads attempts
}

// pause waits, and is an error if ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
