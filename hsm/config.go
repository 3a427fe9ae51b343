package hsm

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"time"
)

// Secret is a text, such as a PIN, that no log, error or dump shows. It is handed out by Reveal only, so that every
// place that reads one can be found.
type Secret struct {
	// A pointer, because fmt prints the unexported fields of a struct without asking its methods.
	text *string
}

// NewSecret keeps s.
func NewSecret(s string) Secret { return Secret{text: &s} }

// Reveal is the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

const redacted = "[redacted]"

// String does not tell the text.
func (s Secret) String() string { return redacted }

// Format does not tell the text under any verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue does not tell the text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText does not tell the text to encoding/json and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Config names a token and bounds what it is asked for. Zero numbers stand for their defaults.
type Config struct {
	// Module is the path of the PKCS#11 library.
	Module string
	// TokenLabel names the token; exactly one must have that label.
	TokenLabel string
	// PIN is the normal user's.
	PIN Secret
	// TokenDir is the folder of a token made of files, which is synced to disk after a root is made in it, because
	// SoftHSM does not do so itself. Empty for devices.
	TokenDir string

	// Sessions is how many calls may run in the token at a time. Default: twice GOMAXPROCS, at least 4.
	Sessions int
	// Owners is the number of sessions that unwrapped keys belong to, and how many are unwrapped at a time. Default: 2.
	Owners int
	// CacheSize is how many unwrapped keys stay in the token; SoftHSM needs about 8 KiB for each. Default: 4096.
	CacheSize int
	// CacheTTL is how long an unwrapped key is used before its blob is read and checked again. It bounds how long a
	// node that misses an eviction goes on using an erased key. Default: 5 minutes.
	CacheTTL time.Duration
	// Wait bounds how long one call waits for a session, or for a lost token to come back. Default: 2 s.
	Wait time.Duration
	// Check is how often the token is looked after in the background: expired keys, lost sessions, changed roots.
	// Default: 5 s.
	Check time.Duration
	// Log hears of the token's going and coming. Default: slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Sessions <= 0 {
		c.Sessions = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if c.Owners <= 0 {
		c.Owners = 2
	}
	if c.CacheSize <= 0 {
		c.CacheSize = 4096
	}
	if c.CacheTTL <= 0 {
		c.CacheTTL = 5 * time.Minute
	}
	if c.Wait <= 0 {
		c.Wait = 2 * time.Second
	}
	if c.Check <= 0 {
		c.Check = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// softHSMPaths is where distributions put SoftHSM's library.
var softHSMPaths = []string{
	"/usr/lib/softhsm/libsofthsm2.so", // Debian, Ubuntu
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so", // Fedora
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so", // Arch
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// FindModule is the path of the installed SoftHSM, or ErrModuleMissing with the command that installs it.
func FindModule() (string, error) { return findModule(softHSMPaths) }

func findModule(paths []string) (string, error) {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: SoftHSM is not installed: run `apt-get install softhsm2`", ErrModuleMissing)
}
