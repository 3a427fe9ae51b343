package hsm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
)

// RootInfo describes a root as it was when it was made. It is no secret, and belongs into the event log: VerifyRoot
// compares the token with it.
type RootInfo struct {
	// ID names the root; blobs carry it.
	ID string
	// Sentinel is a MAC, made in the token, that no other set of root keys gives.
	Sentinel []byte
	// TokenSerial is the device it was made in. Copies and clones of the token may have another.
	TokenSerial string
}

// root is the handles of a root's three keys in one epoch.
type root struct {
	kek  pkcs11.ObjectHandle // wraps and unwraps working pairs, and can do nothing else
	mac  pkcs11.ObjectHandle // makes the MACs that bind working pairs to it
	seal pkcs11.ObjectHandle // AES-GCM for keys of protection level SOFTWARE
	beat []byte              // what mac made of beatText when the handles were found
}

// part is one of the three keys, which are token objects labelled prefix + root id.
type part struct {
	prefix string
	cipher *crypto11.SymmetricCipher
	mech   uint // the only mechanism that it may be used with
	may    []uint
	handle func(*root) *pkcs11.ObjectHandle
}

var parts = []part{
	{"kms-root-", crypto11.CipherAES, mechWrap, []uint{pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP}, func(r *root) *pkcs11.ObjectHandle { return &r.kek }},
	{"kms-bind-", crypto11.CipherGeneric, pkcs11.CKM_SHA256_HMAC, []uint{pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY}, func(r *root) *pkcs11.ObjectHandle { return &r.mac }},
	{"kms-seal-", crypto11.CipherAES, pkcs11.CKM_AES_GCM, []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT}, func(r *root) *pkcs11.ObjectHandle { return &r.seal }},
}

// uses is every attribute that allows a use.
var uses = []uint{
	pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY,
	pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE,
}

// rules is what each attribute of the part must be. A key that may decrypt as well as unwrap would undo the wrapping,
// and one that may be modified could be given that.
func (p part) rules() map[uint]bool {
	out := map[uint]bool{
		pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true,
		pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_MODIFIABLE: false,
	}
	for _, use := range uses {
		out[use] = slices.Contains(p.may, use)
	}
	return out
}

// history is what the token says of how a key came to be: made in it, and never in the open since.
var history = []uint{pkcs11.CKA_LOCAL, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE}

const (
	beatText     = "kms-alive-v1\x00"
	sentinelText = "kms-root-sentinel-v1\x00"
)

// sentinelKey is no secret: it is wrapped only to show what the root makes of it.
var sentinelKey = []byte("keyledger root sentinel, 32 bytes")[:32]

func validRootID(id string) bool {
	if len(id) == 0 || len(id) > maxRootID {
		return false
	}
	for _, r := range []byte(id) {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return false
		}
	}
	return true
}

// CreateRoot makes the keys of root id in the token. An id has 1 to 32 of
// [a-zA-Z0-9_-]. A root that a process left half-made is completed; a complete one is ErrRootExists. Call it from one
// process at a time: a token does not keep two objects from having one name, and VerifyRoot refuses both.
func (t *Token) CreateRoot(ctx context.Context, id string) (RootInfo, error) {
	if !validRootID(id) {
		return RootInfo{}, fmt.Errorf("creating root: the id must be 1 to %d of a-z, A-Z, 0-9, - and _", maxRootID)
	}
	if t.cfg.TokenDir != "" {
		unlock, err := lockFile(ctx, filepath.Join(filepath.Dir(t.cfg.TokenDir), softHSMLock))
		if err != nil {
			return RootInfo{}, fmt.Errorf("creating root %s: %w", id, err)
		}
		defer unlock()
	}
	made := false
	err := t.do(ctx, opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			for _, p := range parts {
				found, err := find(c.raw, s, p.labelled(id))
				if err != nil || len(found) > 0 {
					if err != nil {
						return err
					}
					continue
				}
				made = true // also if its answer gets lost
				if err := c.makePart(p, id); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return RootInfo{}, fmt.Errorf("creating root %s: %w", id, err)
	}
	if t.cfg.TokenDir != "" { // also of one that was there: who made it may have died just before this
		if err := syncTree(t.cfg.TokenDir); err != nil {
			return RootInfo{}, fmt.Errorf("creating root %s: making it durable: %w", id, err)
		}
	}
	if !made {
		return RootInfo{}, fmt.Errorf("creating root %s: %w", id, ErrRootExists)
	}
	return t.InspectRoot(ctx, id)
}

func (p part) labelled(id string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_TOKEN, true), attr(pkcs11.CKA_LABEL, p.prefix+id),
	}
}

func (c *conn) makePart(p part, id string) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	label := []byte(p.prefix + id)
	set, err := crypto11.NewAttributeSetWithIDAndLabel(label, label)
	if err != nil {
		return err
	}
	for a, v := range p.rules() {
		if err := set.Set(a, v); err != nil {
			return err
		}
	}
	if err := set.Set(pkcs11.CKA_ALLOWED_MECHANISMS, mechanisms(p.mech)); err != nil {
		return err
	}
	if p.mech == mechWrap {
		set.AddIfNotPresent([]*pkcs11.Attribute{wrapTemplate(&pin)})
	}
	_, err = c.c11.GenerateSecretKeyWithAttributes(set, 256, p.cipher)
	return failed("C_GenerateKey", err)
}

// InspectRoot describes a root that is in the token, after checking that it is as CreateRoot makes them: ErrRootMissing,
// ErrRootUnsafe. It does not make it a root to use; VerifyRoot does.
func (t *Token) InspectRoot(ctx context.Context, id string) (RootInfo, error) {
	info := RootInfo{ID: id}
	err := t.do(ctx, opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		r, err := c.root(ctx, until, id)
		if err != nil {
			return err
		}
		info.TokenSerial = c.token.SerialNumber
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			if err := c.checkRules(s, r); err != nil {
				return err
			}
			if err := c.checkRefusals(s, r); err != nil {
				return err
			}
			info.Sentinel, err = c.sentinel(s, id, r)
			return err
		})
	})
	if err != nil {
		return RootInfo{}, fmt.Errorf("inspecting root %s: %w", id, err)
	}
	return info, nil
}

// VerifyRoot proves that the token has the very root that want recorded, with the attributes it must have. From then on
// the root may be used, and the token is healthy only as long as it is there. A missing or other root is ErrTokenChanged.
func (t *Token) VerifyRoot(ctx context.Context, want RootInfo) error {
	got, err := t.InspectRoot(ctx, want.ID)
	switch {
	case errors.Is(err, ErrRootMissing):
		return fmt.Errorf("%w: root %s is not in it", ErrTokenChanged, want.ID)
	case err != nil:
		return err
	case !hmac.Equal(got.Sentinel, want.Sentinel):
		return fmt.Errorf("%w: root %s is not the recorded one", ErrTokenChanged, want.ID)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[want.ID] = RootInfo{ID: want.ID, Sentinel: bytes.Clone(want.Sentinel), TokenSerial: want.TokenSerial}
	return nil
}

// UseRoot makes a root that VerifyRoot has proved the one that new keys are wrapped under.
func (t *Token) UseRoot(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.live[id]; !ok {
		return fmt.Errorf("using root %s: %w: it is not verified", id, ErrRootMissing)
	}
	t.root = id
	return nil
}

func (t *Token) isLive(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.live[id]
	return ok
}

func (t *Token) liveRoots() []RootInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.live))
}

// Health proves that the token answers, is logged in, and has every verified root. It costs about as much as ten
// encryptions. A token without them is taken out of use until they are back, and says ErrTokenChanged. While the token is
// away it does not wait, but says why at once.
func (t *Token) Health(ctx context.Context) error {
	if err := t.whyAway(); err != nil {
		return err
	}
	live := t.liveRoots()
	return t.do(ctx, opHealth, func(ctx context.Context, c *conn, until time.Time) error {
		if err := c.alive(ctx, until); err != nil {
			return err
		}
		return c.proveAll(ctx, until, live)
	})
}

// proveAll compares the live roots with what was recorded of them.
func (c *conn) proveAll(ctx context.Context, until time.Time, live []RootInfo) error {
	for _, info := range live {
		r, err := c.liveRoot(ctx, until, info.ID)
		if err != nil {
			return err
		}
		err = c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			got, err := c.sentinel(s, info.ID, r)
			if err == nil && !hmac.Equal(got, info.Sentinel) {
				err = fmt.Errorf("%w: root %s is not the recorded one", ErrTokenChanged, info.ID)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// root finds the keys of root id, once per epoch.
func (c *conn) root(ctx context.Context, until time.Time, id string) (*root, error) {
	c.rootMu.Lock()
	r := c.roots[id]
	c.rootMu.Unlock()
	if r != nil {
		return r, nil
	}
	r = &root{}
	err := c.with(ctx, until, func(s pkcs11.SessionHandle) error {
		for _, p := range parts {
			found, err := find(c.raw, s, p.labelled(id))
			if err != nil {
				return err
			}
			switch len(found) {
			case 0:
				return fmt.Errorf("%w: no object %s%s", ErrRootMissing, p.prefix, id)
			case 1:
				*p.handle(r) = found[0]
			default:
				return fmt.Errorf("%w: several objects %s%s", ErrRootUnsafe, p.prefix, id)
			}
		}
		var err error
		r.beat, err = sign(c.raw, s, r.mac, hmacSHA256, []byte(beatText))
		return err
	})
	if err != nil {
		return nil, err
	}
	c.rootMu.Lock()
	defer c.rootMu.Unlock()
	if _, ok := c.gone[id]; ok {
		return nil, fmt.Errorf("%w: root %s was released", ErrRootMissing, id)
	}
	c.roots[id] = r
	return r, nil
}

// liveRoot is root for one that VerifyRoot has seen: if it is missing, the token has changed.
func (c *conn) liveRoot(ctx context.Context, until time.Time, id string) (*root, error) {
	r, err := c.root(ctx, until, id)
	if errors.Is(err, ErrRootMissing) {
		if sick := c.alive(ctx, until); sick != nil {
			return nil, sick // not logged in, perhaps: then no root can be seen
		}
		return nil, fmt.Errorf("%w: root %s is not in it", ErrTokenChanged, id)
	}
	return r, err
}

func (c *conn) knownRoots() []*root {
	c.rootMu.Lock()
	defer c.rootMu.Unlock()
	return slices.Collect(maps.Values(c.roots))
}

// forgetRoots drops the handles of roots and of what was opened under them.
func (c *conn) forgetRoots() {
	c.rootMu.Lock()
	defer c.rootMu.Unlock()
	clear(c.roots)
	clear(c.pairs)
	clear(c.own)
}

// beats is an error unless the root's MAC key still is the one that was found.
func (r *root) beats(raw *pkcs11.Ctx, s pkcs11.SessionHandle) error {
	mac, err := sign(raw, s, r.mac, hmacSHA256, []byte(beatText))
	if err == nil && !hmac.Equal(mac, r.beat) {
		return fmt.Errorf("%w: a root key gives other MACs than before", ErrTokenChanged)
	}
	return err
}

// sentinel is a MAC over what each of the other two keys makes of something known, so that it is the proof of all three.
func (c *conn) sentinel(s pkcs11.SessionHandle, id string, r *root) ([]byte, error) {
	wrapped, err := c.wrapKnown(s, r)
	if err != nil {
		return nil, err
	}
	// The one fixed IV that is ever used with this key, and always for the same message.
	tag, _, err := gcmSeal(c.raw, s, r.seal, make([]byte, ivSize), nil, []byte(sentinelText))
	if err != nil {
		return nil, err
	}
	msg := slices.Concat([]byte(sentinelText), []byte{byte(len(id))}, []byte(id), wrapped, tag) //nolint:gosec // a root id has at most 32 bytes
	return sign(c.raw, s, r.mac, hmacSHA256, msg)
}

// wrapKnown wraps sentinelKey under the root.
func (c *conn) wrapKnown(s pkcs11.SessionHandle, r *root) ([]byte, error) {
	known, err := c.raw.CreateObject(s, known(pkcs11.CKK_AES, sentinelKey))
	if err != nil {
		return nil, failed("C_CreateObject", err)
	}
	wrapped, err := c.raw.WrapKey(s, wrapPad, r.kek, known)
	if end := c.raw.DestroyObject(s, known); err == nil {
		err = end
	}
	return wrapped, failed("C_WrapKey", err)
}

// known is the template of a session key with a value that is no secret, and with the uses.
func known(keyType uint, value []byte, may ...uint) []*pkcs11.Attribute {
	out := []*pkcs11.Attribute{
		attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, keyType),
		attr(pkcs11.CKA_TOKEN, false), attr(pkcs11.CKA_PRIVATE, true),
		attr(pkcs11.CKA_SENSITIVE, true), attr(pkcs11.CKA_EXTRACTABLE, true), attr(pkcs11.CKA_VALUE, value),
	}
	for _, use := range uses {
		out = append(out, attr(use, slices.Contains(may, use)))
	}
	return out
}

// checkRules reads the attributes back: a token may ignore what it was asked for.
func (c *conn) checkRules(s pkcs11.SessionHandle, r *root) error {
	for _, p := range parts {
		want := p.rules()
		for _, a := range history {
			want[a] = true
		}
		for a, v := range want {
			got, err := c.raw.GetAttributeValue(s, *p.handle(r), []*pkcs11.Attribute{attr(a, nil)})
			if err != nil {
				return failed("C_GetAttributeValue", err)
			}
			if !bytes.Equal(got[0].Value, attr(a, v).Value) {
				return fmt.Errorf("%w: attribute %#x of %s is not %t", ErrRootUnsafe, a, p.prefix, v)
			}
		}
		got, err := c.raw.GetAttributeValue(s, *p.handle(r), []*pkcs11.Attribute{attr(pkcs11.CKA_ALLOWED_MECHANISMS, nil)})
		if err != nil {
			return failed("C_GetAttributeValue", err)
		}
		if !bytes.Equal(got[0].Value, mechanisms(p.mech)) {
			return fmt.Errorf("%w: %s may be used with other mechanisms than its own", ErrRootUnsafe, p.prefix)
		}
	}
	return nil
}

// checkRefusals tries what must not work: to get at a root key, and to get at a key wrapped under it.
func (c *conn) checkRefusals(s pkcs11.SessionHandle, r *root) error {
	for _, p := range parts {
		if _, err := c.raw.WrapKey(s, wrapPad, r.kek, *p.handle(r)); err == nil {
			return fmt.Errorf("%w: %s can be wrapped", ErrRootUnsafe, p.prefix)
		}
	}
	wrapped, err := c.wrapKnown(s, r)
	if err != nil {
		return err
	}
	return c.refusesOpenUnwrap(s, r.kek, wrapped, ErrRootUnsafe)
}

// refusesOpenUnwrap is breach if kek unwraps a key into an object that can be read, or that outlives its session.
func (c *conn) refusesOpenUnwrap(s pkcs11.SessionHandle, kek pkcs11.ObjectHandle, wrapped []byte, breach error) error {
	for _, loose := range []struct{ token, sensitive bool }{{false, false}, {true, true}} {
		h, err := c.raw.UnwrapKey(s, wrapPad, kek, wrapped, []*pkcs11.Attribute{
			attr(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), attr(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			attr(pkcs11.CKA_TOKEN, loose.token), attr(pkcs11.CKA_PRIVATE, true), attr(pkcs11.CKA_SENSITIVE, loose.sensitive),
		})
		if err == nil {
			return errors.Join(
				fmt.Errorf("%w: keys can be unwrapped with token %t, sensitive %t", breach, loose.token, loose.sensitive),
				failed("C_DestroyObject", c.raw.DestroyObject(s, h)))
		}
	}
	return nil
}
