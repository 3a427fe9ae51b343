package hsm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
)

// children is what this binary does as a child process. What a child prints is for its parent.
var children = map[string]func(dir string) error{
	"partner":     childPartner,
	"make":        childMake,
	"copy":        childCopy,
	"refusals":    childRefusals,
	"reinit":      childReinit,
	"unreachable": childUnreachable,
	"moved-pin":   childNewPIN,
}

func child(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childVar+"="+name, dirVar+"="+dir, "GORACE=atexit_sleep_ms=0")
	return cmd
}

func runChild(t *testing.T, name string) {
	t.Helper()
	if out, err := child(t, name, t.TempDir()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// exchange is what two processes tell each other.
type exchange struct {
	Root       RootInfo
	Binding    domain.Binding
	Blob       []byte
	IV         []byte
	Ciphertext []byte
}

func (x exchange) decrypt(t *Token, s *store) error {
	s.put(x.Binding, x.Blob)
	got, err := t.Decrypt(context.Background(), x.Binding, x.IV, x.Ciphertext, []byte("aad"))
	if err == nil && string(got) != x.Binding.KeyUID.String() {
		err = fmt.Errorf("decrypted to %q", got)
	}
	return err
}

func newExchange(t *Token, s *store, info RootInfo) (exchange, error) {
	x := exchange{Root: info, Binding: newBinding()}
	w, err := t.Generate(context.Background(), x.Binding)
	if err != nil {
		return x, err
	}
	x.Blob = w.Blob
	s.put(x.Binding, w.Blob)
	x.IV, x.Ciphertext, err = t.Encrypt(context.Background(), x.Binding, []byte(x.Binding.KeyUID.String()), []byte("aad"))
	return x, err
}

// A site has one token, used by all its processes: one that is logged in already must see and use a root that another
// makes afterwards, and each the keys of the other. The order here is the hard one.
func TestSecondProcess(t *testing.T) {
	cmd := child(t, "partner", sharedDir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the child says %q, %v, %v: %s", line, err, cmd.Wait(), &stderr)
	}
	info, err := shared.CreateRoot(t.Context(), fmt.Sprintf("late-%d", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(shared.VerifyRoot(t.Context(), info), shared.UseRoot(info.ID)); err != nil {
		t.Fatal(err)
	}
	ours, err := newExchange(shared, blobs, info)
	if err := errors.Join(err, shared.UseRoot(testRoot)); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(in).Encode(ours); err != nil {
		t.Fatal(err)
	}
	var theirs exchange
	if err := json.NewDecoder(lines).Decode(&theirs); err != nil {
		t.Fatalf("the child's answer: %v, %v: %s", err, cmd.Wait(), &stderr)
	}
	if err := theirs.decrypt(shared, blobs); err != nil {
		t.Errorf("using the child's key: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &stderr)
	}
}

func childPartner(dir string) error {
	s := &store{}
	t, err := openIn(dir, s, nil)
	if err != nil {
		return err
	}
	fmt.Println("open") //nolint:forbidigo // to the parent
	var theirs exchange
	if err := json.NewDecoder(os.Stdin).Decode(&theirs); err != nil {
		return err
	}
	if err := t.VerifyRoot(context.Background(), theirs.Root); err != nil {
		return err
	}
	if err := theirs.decrypt(t, s); err != nil {
		return fmt.Errorf("using the parent's key: %w", err)
	}
	if err := t.UseRoot(theirs.Root.ID); err != nil {
		return err
	}
	ours, err := newExchange(t, s, theirs.Root)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(ours), t.Close())
}

// A process that is killed at any moment of a first or a later start leaves a folder that the next one can go on with,
// and the keys made before.
func TestKilledStart(t *testing.T) {
	kill := func(dir string, after time.Duration) {
		t.Helper()
		cmd := child(t, "make", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "start\n" {
			t.Fatalf("%q, %v", line, err)
		}
		time.Sleep(after)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, or done before
	}
	start := func(dir string, after time.Duration) {
		t.Helper()
		if out, err := child(t, "make", dir).CombinedOutput(); err != nil {
			t.Errorf("killed after %v: %v: %s", after, err, out)
		}
	}
	old := t.TempDir()
	start(old, 0)
	for after := time.Duration(0); after < 20*time.Millisecond; after += time.Millisecond {
		fresh := t.TempDir()
		kill(fresh, after)
		start(fresh, after)
		kill(old, after/4)
		start(old, after/4)
	}
}

// The same, at the very moment that SoftHSM has no file of the token, or half of one.
func TestDamagedTokenFile(t *testing.T) {
	dir := t.TempDir()
	if out, err := child(t, "make", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "token", "objects", "*", softHSMTokenFile))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "half": good[:len(good)/2], "zeros": make([]byte, len(good)), "zeros at the end": append(good[:200:200], make([]byte, len(good)-200)...),
	} {
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := child(t, "make", dir).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "token", "saved", filepath.Base(filepath.Dir(files[0]))+nextSuffix)
	if err := os.WriteFile(half, good[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := child(t, "make", dir).CombinedOutput(); err != nil {
		t.Errorf("gone: %v: %s", err, out)
	}
}

// Several processes may make the first start at the same time.
func TestInitAtOnce(t *testing.T) {
	dir := t.TempDir()
	var started []*exec.Cmd
	var outs []*strings.Builder
	for range 4 {
		cmd, out := child(t, "make", dir), &strings.Builder{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started, outs = append(started, cmd), append(outs, out)
	}
	for i, cmd := range started {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, outs[i])
		}
	}
}

// childMake starts as a server does. What the first one encrypted, all later ones must decrypt.
func childMake(dir string) error {
	fmt.Println("start") //nolint:forbidigo // to the parent
	s := &store{}
	t, info, err := openWithRoot(dir, s, nil)
	if err != nil {
		return err
	}
	first := filepath.Join(dir, "first.json")
	var x exchange
	stored, err := os.ReadFile(first)
	if err == nil {
		err = json.Unmarshal(stored, &x)
	} else if x, err = newExchange(t, s, info); err == nil {
		if stored, err = json.Marshal(x); err == nil {
			own := fmt.Sprintf("%s.%d", first, os.Getpid())
			err = errors.Join(os.WriteFile(own, stored, 0o600), os.Rename(own, first))
		}
	}
	if err == nil {
		err = x.decrypt(t, s)
	}
	return errors.Join(err, t.Close())
}

// A copy of the token folder, made while it is closed, is the same token: that is how a lost site is restored.
func TestCopiedToken(t *testing.T) { runChild(t, "copy") }

func childCopy(dir string) error {
	s := &store{}
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	t, info, err := openWithRoot(first, s, nil)
	if err != nil {
		return err
	}
	x, err := newExchange(t, s, info)
	if err := errors.Join(err, t.Close()); err != nil {
		return err
	}
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		return err
	}
	if err := os.RemoveAll(first); err != nil {
		return err
	}
	if t, err = openIn(second, s, nil); err != nil {
		return err
	}
	if err = t.VerifyRoot(context.Background(), info); err == nil {
		err = x.decrypt(t, s)
	}
	return errors.Join(err, t.Close())
}

// What can't be opened says why, at once.
func TestOpenRefuses(t *testing.T) { runChild(t, "refusals") }

func childRefusals(dir string) error {
	module, err := FindModule()
	if err != nil {
		return err
	}
	cfg, err := InitSoftHSM(context.Background(), dir, module)
	if err != nil {
		return err
	}
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		return err
	}
	const pin = "not the PIN 4711"
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   error
	}{
		{"wrong PIN", func(c *Config) { c.PIN = NewSecret(pin) }, ErrWrongPIN},
		{"no PIN", func(c *Config) { c.PIN = Secret{} }, ErrWrongPIN},
		{"other label", func(c *Config) { c.TokenLabel = "other" }, ErrTokenMissing},
		{"no module", func(c *Config) { c.Module = filepath.Join(dir, "none.so") }, ErrModuleMissing},
		{"no library", func(c *Config) { c.Module = text }, ErrModuleMissing},
	} {
		bad, began := cfg, time.Now()
		tt.change(&bad)
		t, err := Open(context.Background(), bad, &store{})
		if t != nil || !errors.Is(err, tt.want) {
			return fmt.Errorf("%s: got %w", tt.name, err)
		}
		if strings.Contains(err.Error(), pin) {
			return fmt.Errorf("%s: the PIN is in the error", tt.name)
		}
		if d := time.Since(began); d > 2*time.Second {
			return fmt.Errorf("%s: it took %v", tt.name, d)
		}
	}
	// None of these keeps the right one from opening the token.
	t, err := Open(context.Background(), cfg, &store{})
	if err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("closing twice: %w", err)
	}
	if _, err := t.Random(context.Background(), 8); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("after closing: got %w", err)
	}
	return nil
}

// A token that somebody initialises anew under the same label and PIN answers every call as before, for keys that are
// unwrapped already; only the sentinel tells.
func TestReinitialisedToken(t *testing.T) { runChild(t, "reinit") }

func childReinit(dir string) error {
	ctx := context.Background()
	initialise := func(which ...string) error {
		args := append([]string{"--init-token", "--label", "kms", "--so-pin", "12345678", "--pin", "4711"}, which...)
		out, err := exec.Command("softhsm2-util", args...).CombinedOutput() //nolint:noctx // ends by itself
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	objects := filepath.Join(dir, "objects")
	if err := os.Mkdir(objects, 0o700); err != nil {
		return err
	}
	if err := useSoftHSM(dir, objects); err != nil {
		return err
	}
	if err := initialise("--free"); err != nil {
		return err
	}
	module, err := FindModule()
	if err != nil {
		return err
	}
	s := &store{}
	cfg := Config{Module: module, TokenLabel: "kms", PIN: NewSecret("4711"), Wait: 300 * time.Millisecond, Check: time.Hour}
	t, err := Open(ctx, cfg, s)
	if err != nil {
		return err
	}
	info, err := t.CreateRoot(ctx, testRoot)
	if err != nil {
		return err
	}
	if err := errors.Join(t.VerifyRoot(ctx, info), t.UseRoot(testRoot), t.Health(ctx)); err != nil {
		return err
	}
	if _, err := newExchange(t, s, info); err != nil {
		return err
	}
	if err := initialise("--token", "kms"); err != nil {
		return err
	}
	if err := t.Health(ctx); !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("health of a re-initialised token: %w", err)
	}
	if _, err := t.Random(ctx, 8); !errors.Is(err, ErrTokenChanged) || !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("use of a re-initialised token: %w", err)
	}
	if err := t.Close(); err != nil {
		return err
	}
	if t, err = Open(ctx, cfg, s); err != nil {
		return err
	}
	if err := t.VerifyRoot(ctx, info); !errors.Is(err, ErrTokenChanged) {
		return fmt.Errorf("a root that is gone: %w", err)
	}
	if _, err := t.CreateRoot(ctx, testRoot); err != nil {
		return err
	}
	if err := t.VerifyRoot(ctx, info); !errors.Is(err, ErrTokenChanged) {
		return fmt.Errorf("a root of the same name: %w", err)
	}
	return t.Close()
}

// While the token is away, calls end soon and say so; when it is back, they work again with no help.
func TestUnreachableToken(t *testing.T) { runChild(t, "unreachable") }

func childUnreachable(dir string) error {
	ctx := context.Background()
	s := &store{}
	t, info, err := openWithRoot(dir, s, func(c *Config) { c.Wait = 300 * time.Millisecond })
	if err != nil {
		return err
	}
	x, err := newExchange(t, s, info)
	if err != nil {
		return err
	}
	objects, hidden := filepath.Join(dir, "token", "objects"), filepath.Join(dir, "hidden")
	if err := os.Rename(objects, hidden); err != nil {
		return err
	}
	if err := t.conn.raw.CloseAllSessions(t.conn.slot); err != nil {
		return err
	}
	for range 3 {
		began := time.Now()
		if err := x.decrypt(t, s); !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("away: %w", err)
		}
		if d := time.Since(began); d > time.Second {
			return fmt.Errorf("away: an answer took %v", d)
		}
	}
	if err := t.Health(ctx); !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("away: health: %w", err)
	}
	if err := os.Rename(hidden, objects); err != nil {
		return err
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = x.decrypt(t, s); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("back: %w", err)
	}
	return errors.Join(t.Health(ctx), t.Close())
}

// A PIN that was changed meanwhile is tried once: tokens lock themselves.
func TestChangedPIN(t *testing.T) { runChild(t, "moved-pin") }

func childNewPIN(dir string) error {
	s := &store{}
	log := &safeBuilder{}
	t, _, err := openWithRoot(dir, s, func(c *Config) {
		c.Wait = 300 * time.Millisecond
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	if err != nil {
		return err
	}
	right := t.cfg.PIN
	t.cfg.PIN = NewSecret("0000 no longer it")
	if err := t.conn.raw.CloseAllSessions(t.conn.slot); err != nil {
		return err
	}
	for range 3 {
		if _, err := t.Generate(context.Background(), newBinding()); !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("with a PIN that is refused: %w", err)
		}
	}
	if err := t.Health(context.Background()); !errors.Is(err, ErrWrongPIN) {
		return fmt.Errorf("with a PIN that is refused: %w", err)
	}
	// With the right one, any further attempt would succeed.
	t.cfg.PIN = right
	time.Sleep(time.Second)
	if err := t.Health(context.Background()); !errors.Is(err, ErrWrongPIN) {
		return fmt.Errorf("the token was tried again: %w", err)
	}
	if strings.Contains(log.String(), "0000") {
		return fmt.Errorf("the PIN is in the log: %s", log)
	}
	return t.Close()
}

// safeBuilder collects a log that several goroutines write.
type safeBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuilder) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
