package hsm

import (
	"context"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
)

// deriveText keeps what Derive makes apart from every other use of the binding key.
const deriveText = "kms-derive-v1\x00"

// Derive returns 32 bytes that every node with this token and root gets for the label, and that nobody gets without the
// token: HMAC-SHA-256 under the root's binding key. They leave the token, so they protect only what is no key, like page
// tokens.
func (t *Token) Derive(ctx context.Context, label string) (secret []byte, err error) {
	t.mu.Lock()
	rootID := t.root
	t.mu.Unlock()
	if rootID == "" {
		return nil, fmt.Errorf("deriving a secret: %w: none is in use", ErrRootMissing)
	}
	err = t.do(ctx, opRoot, func(ctx context.Context, c *conn, until time.Time) error {
		r, err := c.liveRoot(ctx, until, rootID)
		if err != nil {
			return err
		}
		return c.with(ctx, until, func(s pkcs11.SessionHandle) error {
			secret, err = sign(c.raw, s, r.mac, hmacSHA256, []byte(deriveText+label))
			return err
		})
	})
	return secret, err
}
