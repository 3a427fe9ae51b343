package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// The device itself must refuse what the attributes forbid.
func TestRootEnforced(t *testing.T) {
	inside(t, func(c *conn, s pkcs11.SessionHandle, r *root) error {
		for _, p := range parts {
			h := *p.handle(r)
			if _, err := c.raw.WrapKey(s, wrapPad, r.kek, h); err == nil {
				t.Errorf("%s can be wrapped", p.prefix)
			}
			if got, err := c.raw.GetAttributeValue(s, h, []*pkcs11.Attribute{attr(pkcs11.CKA_VALUE, nil)}); err == nil && len(got[0].Value) > 0 {
				t.Errorf("%s can be read", p.prefix)
			}
			for _, a := range append([]uint{pkcs11.CKA_EXTRACTABLE}, uses...) {
				if err := c.raw.SetAttributeValue(s, h, []*pkcs11.Attribute{attr(a, true)}); err == nil {
					t.Errorf("attribute %#x of %s can be set", a, p.prefix)
				}
			}
			if err := c.raw.SetAttributeValue(s, h, []*pkcs11.Attribute{attr(pkcs11.CKA_SENSITIVE, false)}); err == nil {
				t.Errorf("%s can be made readable", p.prefix)
			}
		}
		for _, m := range []uint{pkcs11.CKM_AES_ECB, pkcs11.CKM_AES_GCM, pkcs11.CKM_AES_CBC} {
			params := pkcs11.NewGCMParams(make([]byte, ivSize), nil, 128)
			ms := []*pkcs11.Mechanism{pkcs11.NewMechanism(m, params)}
			if m != pkcs11.CKM_AES_GCM {
				ms = []*pkcs11.Mechanism{pkcs11.NewMechanism(m, make([]byte, 16))}
			}
			if err := c.raw.DecryptInit(s, ms, r.kek); err == nil {
				t.Errorf("the root decrypts with mechanism %#x", m)
			}
			if err := c.raw.EncryptInit(s, ms, r.kek); err == nil {
				t.Errorf("the root encrypts with mechanism %#x", m)
			}
			params.Free()
		}
		return errReplace // for a new session, should one of them have begun
	})
}

// errReplace makes inside replace the session without being a failure.
var errReplace = errors.New("replace the session")

func TestDataKeyEnforced(t *testing.T) {
	b, w := newKey(t)
	bl, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	insidePair(t, bl, func(c *conn, s pkcs11.SessionHandle, p *pair) error {
		if err := c.refusesOpenUnwrap(s, p.kek, bl.wrapped, errors.New("unwraps into the open")); err != nil {
			t.Error(err)
		}
		alg, err := algorithmOf(b)
		if err != nil {
			return err
		}
		key, err := c.raw.UnwrapKey(s, wrapPad, p.kek, bl.wrapped, alg.inUse)
		if err != nil {
			return err
		}
		if _, err := c.raw.WrapKey(s, wrapPad, p.kek, key); err == nil {
			t.Error("a key in use can be wrapped again")
		}
		if err := c.raw.EncryptInit(s, mechanism(pkcs11.CKM_AES_ECB), key); err == nil {
			t.Error("a key for GCM can be used for ECB")
		}
		if err := c.raw.SetAttributeValue(s, key, []*pkcs11.Attribute{attr(pkcs11.CKA_EXTRACTABLE, true)}); err == nil {
			t.Error("a key in use can be made extractable")
		}
		if err := c.raw.DestroyObject(s, key); err != nil {
			return err
		}
		return errReplace
	})
}

func TestCreateRoot(t *testing.T) {
	ctx := t.Context()
	if _, err := shared.CreateRoot(ctx, testRoot); !errors.Is(err, ErrRootExists) {
		t.Errorf("again: %v", err)
	}
	for _, id := range []string{"", "a b", "a/b", "ä", "x\x00", string(bytes.Repeat([]byte("x"), 33))} {
		if _, err := shared.CreateRoot(ctx, id); err == nil {
			t.Errorf("id %q is accepted", id)
		}
	}
	if _, err := shared.InspectRoot(ctx, "none"); !errors.Is(err, ErrRootMissing) {
		t.Errorf("inspecting none: %v", err)
	}
	if err := shared.UseRoot("none"); !errors.Is(err, ErrRootMissing) {
		t.Errorf("using none: %v", err)
	}
	again, err := shared.InspectRoot(ctx, testRoot)
	if err != nil || !bytes.Equal(again.Sentinel, sharedInfo.Sentinel) || again.TokenSerial == "" {
		t.Errorf("inspecting: %+v, %v; want %+v", again, err, sharedInfo)
	}
	if err := shared.Health(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
}

// What a process that died in CreateRoot left is completed, and is a root like any other.
func TestCompleteRoot(t *testing.T) {
	id := "half-" + rand.Text()
	inside(t, func(c *conn, _ pkcs11.SessionHandle, _ *root) error { return c.makePart(parts[0], id) })
	if _, err := shared.InspectRoot(t.Context(), id); !errors.Is(err, ErrRootMissing) {
		t.Errorf("half a root: %v", err)
	}
	info, err := shared.CreateRoot(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := shared.VerifyRoot(t.Context(), info); err != nil {
		t.Error(err)
	}
	info.Sentinel[0] ^= 1
	if err := shared.VerifyRoot(t.Context(), info); !errors.Is(err, ErrTokenChanged) {
		t.Errorf("with another sentinel: %v", err)
	}
	info.ID = "gone"
	if err := shared.VerifyRoot(t.Context(), info); !errors.Is(err, ErrTokenChanged) {
		t.Errorf("that is not there: %v", err)
	}
	if err := shared.Health(t.Context()); err != nil {
		t.Errorf("roots that were not verified make the token sick: %v", err)
	}
}

// A root that somebody made by other means must not be taken for one.
func TestUnsafeRoot(t *testing.T) {
	for name, change := range map[string]func(crypto11.AttributeSet) error{
		"decrypts":    func(a crypto11.AttributeSet) error { return a.Set(pkcs11.CKA_DECRYPT, true) },
		"extractable": func(a crypto11.AttributeSet) error { return a.Set(pkcs11.CKA_EXTRACTABLE, true) },
		"readable":    func(a crypto11.AttributeSet) error { return a.Set(pkcs11.CKA_SENSITIVE, false) },
		"modifiable":  func(a crypto11.AttributeSet) error { return a.Set(pkcs11.CKA_MODIFIABLE, true) },
		"mechanisms": func(a crypto11.AttributeSet) error {
			return a.Set(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(mechWrap, pkcs11.CKM_AES_KEY_WRAP))
		},
		"open-unwrap": func(a crypto11.AttributeSet) error { a.Unset(pkcs11.CKA_UNWRAP_TEMPLATE); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			id := "unsafe-" + rand.Text()[:20]
			inside(t, func(c *conn, _ pkcs11.SessionHandle, _ *root) error {
				var pin runtime.Pinner
				defer pin.Unpin()
				label := []byte(parts[0].prefix + id)
				set, err := crypto11.NewAttributeSetWithIDAndLabel(label, label)
				if err != nil {
					return err
				}
				for a, v := range parts[0].rules() {
					if err := set.Set(a, v); err != nil {
						return err
					}
				}
				if err := set.Set(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(mechWrap)); err != nil {
					return err
				}
				set.AddIfNotPresent([]*pkcs11.Attribute{wrapTemplate(&pin)})
				if err := change(set); err != nil {
					return err
				}
				_, err = c.c11.GenerateSecretKeyWithAttributes(set, 256, crypto11.CipherAES)
				return err
			})
			if _, err := shared.CreateRoot(t.Context(), id); !errors.Is(err, ErrRootUnsafe) {
				t.Errorf("completing it: %v", err)
			}
			if _, err := shared.InspectRoot(t.Context(), id); !errors.Is(err, ErrRootUnsafe) {
				t.Errorf("inspecting it: %v", err)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		id := "twice-" + rand.Text()
		inside(t, func(c *conn, _ pkcs11.SessionHandle, _ *root) error {
			for _, p := range append(parts[:1:1], parts...) {
				if err := c.makePart(p, id); err != nil {
					return err
				}
			}
			return nil
		})
		if _, err := shared.InspectRoot(t.Context(), id); !errors.Is(err, ErrRootUnsafe) {
			t.Errorf("got %v", err)
		}
	})
}

// The sentinel is the proof of all three keys, and of the id.
func TestSentinel(t *testing.T) {
	id := "other-" + rand.Text()
	if _, err := shared.CreateRoot(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	err := shared.do(t.Context(), opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		r, err := c.root(ctx, until, testRoot)
		if err != nil {
			return err
		}
		other, err := c.root(ctx, until, id)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			for name, x := range map[string]struct {
				id   string
				r    root
				same bool
			}{
				"the root":     {testRoot, *r, true},
				"another kek":  {testRoot, root{kek: other.kek, mac: r.mac, seal: r.seal}, false},
				"another mac":  {testRoot, root{kek: r.kek, mac: other.mac, seal: r.seal}, false},
				"another seal": {testRoot, root{kek: r.kek, mac: r.mac, seal: other.seal}, false},
				"another id":   {id, *r, false},
			} {
				got, err := c.sentinel(s, x.id, &x.r)
				if err != nil {
					return err
				}
				if bytes.Equal(got, sharedInfo.Sentinel) != x.same {
					t.Errorf("%s: sentinel %x", name, got)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A login that was ended leaves sessions that answer, but see no private object, without any error.
func TestLostLogin(t *testing.T) {
	b, _ := newKey(t)
	for name, call := range map[string]func() error{
		"cached key": func() error { _, _, err := shared.Encrypt(t.Context(), b, nil, nil); return err },
		"new key":    func() error { _, err := shared.Generate(t.Context(), newBinding()); return err },
		"unwrapping": func() error {
			shared.Evict(b.KeyUID, 0)
			_, _, err := shared.Encrypt(t.Context(), b, nil, nil)
			return err
		},
		"finding the root": func() error {
			c, err := shared.lease(t.Context(), time.Now().Add(time.Second))
			if err != nil {
				return err
			}
			c.forgetRoots()
			shared.release(c)
			_, err = shared.InspectRoot(t.Context(), testRoot)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := shared.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
			c, err := shared.lease(t.Context(), time.Now().Add(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			s := <-c.sessions
			err = c.raw.Logout(s)
			c.sessions <- s
			shared.release(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := call(); err != nil {
				t.Error(err)
			}
		})
	}
}

// cut takes every session away from under the token while no call runs, as a dropped link does.
func cut(tb testing.TB, t *Token) {
	tb.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		t.mu.Lock()
		if c := t.conn; c != nil && c.leases == 0 {
			err := c.raw.CloseAllSessions(c.slot)
			t.mu.Unlock()
			if err != nil {
				tb.Fatal(err)
			}
			return
		}
		t.mu.Unlock()
		if time.Now().After(end) {
			tb.Fatal("the token is never idle")
		}
	}
}

// Every kind of operation finds out by itself that its sessions are gone, and succeeds all the same.
func TestCutBetweenCalls(t *testing.T) {
	b, _ := newKey(t)
	iv, ct, err := shared.Encrypt(t.Context(), b, []byte("before"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"encrypt": func(ctx context.Context) error { _, _, err := shared.Encrypt(ctx, b, nil, nil); return err },
		"decrypt": func(ctx context.Context) error {
			got, err := shared.Decrypt(ctx, b, iv, ct, nil)
			if string(got) != "before" {
				t.Errorf("got %q", got)
			}
			return err
		},
		"generate": func(ctx context.Context) error { _, err := shared.Generate(ctx, newBinding()); return err },
		"random":   func(ctx context.Context) error { _, err := shared.Random(ctx, 8); return err },
		"health":   shared.Health,
		"inspect":  func(ctx context.Context) error { _, err := shared.InspectRoot(ctx, testRoot); return err },
		"wrong aad": func(ctx context.Context) error {
			if _, err := shared.Decrypt(ctx, b, iv, ct, []byte("x")); !errors.Is(err, ErrDecrypt) {
				return errors.Join(errors.New("accepted"), err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			cut(t, shared)
			if err := call(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCutUnderLoad(t *testing.T) {
	type sealed struct{ iv, ct []byte }
	var (
		pauseAll sync.RWMutex // held for reading by whoever calls, so that cut finds the token idle
		wg       sync.WaitGroup
		stop     = make(chan struct{})
	)
	for range 8 {
		b, _ := newKey(t)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				pauseAll.RLock()
				var x sealed
				var err error
				x.iv, x.ct, err = shared.Encrypt(t.Context(), b, b.KeyUID[:], nil)
				pauseAll.RUnlock()
				if err != nil {
					t.Error(err)
					return
				}
				pauseAll.RLock()
				got, err := shared.Decrypt(t.Context(), b, x.iv, x.ct, nil)
				pauseAll.RUnlock()
				if err != nil || !bytes.Equal(got, b.KeyUID[:]) {
					t.Errorf("got %x, %v", got, err)
					return
				}
			}
		})
	}
	for range 8 {
		time.Sleep(40 * time.Millisecond)
		pauseAll.Lock()
		cut(t, shared)
		pauseAll.Unlock()
	}
	close(stop)
	wg.Wait()
}

// An object that the token lost is unwrapped again, and a session with a call half-finished is not used again; neither
// needs a new epoch.
func TestSmallFaults(t *testing.T) {
	b, _ := newKey(t)
	encrypt := func() {
		t.Helper()
		if _, _, err := shared.Encrypt(t.Context(), b, nil, nil); err != nil {
			t.Error(err)
		}
	}
	encrypt()
	epoch := shared.conn
	inside(t, func(c *conn, s pkcs11.SessionHandle, _ *root) error {
		e, err := c.cache.get(t.Context(), b, time.Now(), nil)
		if err != nil {
			return err
		}
		defer c.cache.put(e)
		return c.raw.DestroyObject(s, e.handle)
	})
	encrypt()
	for range cap(epoch.sessions) {
		inside(t, func(c *conn, s pkcs11.SessionHandle, r *root) error {
			if err := c.raw.SignInit(s, hmacSHA256, r.mac); err != nil {
				return err
			}
			return errReplace
		})
	}
	for range cap(epoch.sessions) {
		if _, err := shared.Generate(t.Context(), newBinding()); err != nil {
			t.Error(err)
		}
	}
	if shared.conn != epoch {
		t.Error("a new epoch was begun")
	}
}

func TestLibraryHasOneUser(t *testing.T) {
	if _, err := Open(t.Context(), shared.cfg, blobs); !errors.Is(err, ErrTokenInUse) {
		t.Errorf("got %v", err)
	}
}
