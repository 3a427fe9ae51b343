package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/pkcs11"
)

// The names below a folder that InitSoftHSM keeps. Everything that must exist together is in softHSMToken, which
// appears by one rename when it is complete.
const (
	softHSMLabel = "keyledger"
	softHSMLock  = "lock"
	// softHSMLoginLock is another, since a root is made under the first, and may need a login.
	softHSMLoginLock = "login.lock"
	softHSMConf      = "softhsm2.conf"
	softHSMToken     = "token"
	softHSMStaging   = "token.new"
	softHSMObjects   = "objects"
	softHSMPIN       = "pin"
)

// InitSoftHSM makes a SoftHSM token in dir, unless there is one, and says how to open it. The PIN is random and in
// the file token/pin (0600); the security officer's PIN is thrown away, so a lost PIN can't be replaced, by nobody.
//
// It points SOFTHSM2_CONF of this process to dir, which SoftHSM reads when it is opened: a process has one such token.
// A process that dies half-way, here or later, leaves nothing that the next call does not put right; several may start
// at a time; the folder may be moved or copied while no process uses it.
func InitSoftHSM(ctx context.Context, dir, module string) (Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Config{}, fmt.Errorf("making the token folder: %w", err)
	}
	if strings.ContainsAny(dir, "#\r\n") || len(dir) > 900 {
		return Config{}, fmt.Errorf("making the token folder: SoftHSM can't be told a path that is long or has a '#' or line break: %q", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Config{}, fmt.Errorf("making the token folder: %w", err)
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, softHSMLock))
	if err != nil {
		return Config{}, err
	}
	defer unlock()

	token := filepath.Join(dir, softHSMToken)
	switch _, err := os.Stat(token); {
	case errors.Is(err, fs.ErrNotExist):
		if err := stageSoftHSM(ctx, dir, module); err != nil {
			return Config{}, fmt.Errorf("making a SoftHSM token: %w", err)
		}
	case err != nil:
		return Config{}, fmt.Errorf("looking for the token: %w", err)
	}
	if err := repairTokenFiles(ctx, token); err != nil {
		return Config{}, fmt.Errorf("checking the token's files: %w", err)
	}
	if err := saveTokenFiles(token); err != nil {
		return Config{}, fmt.Errorf("copying the token's files: %w", err)
	}
	if err := wipeLeftFiles(ctx, filepath.Join(token, softHSMObjects)); err != nil {
		return Config{}, fmt.Errorf("overwriting destroyed objects: %w", err)
	}
	pin, err := os.ReadFile(filepath.Join(token, softHSMPIN))
	if err != nil {
		return Config{}, fmt.Errorf("reading the token's PIN: %w", err)
	}
	objects := filepath.Join(token, softHSMObjects)
	if err := useSoftHSM(dir, objects); err != nil {
		return Config{}, err
	}
	return Config{
		Module:     module,
		TokenLabel: softHSMLabel,
		PIN:        NewSecret(strings.TrimSpace(string(pin))),
		TokenDir:   objects,
	}, nil
}

// stageSoftHSM makes token and PIN in a folder aside and moves it to its place when all of it is on disk.
func stageSoftHSM(ctx context.Context, dir, module string) error {
	staging := filepath.Join(dir, softHSMStaging)
	if err := os.RemoveAll(staging); err != nil { // left by a process that died: nothing was ever kept in it
		return err
	}
	objects := filepath.Join(staging, softHSMObjects)
	if err := os.MkdirAll(objects, 0o700); err != nil {
		return err
	}
	if err := useSoftHSM(dir, objects); err != nil {
		return err
	}
	pin := rand.Text()
	if err := os.WriteFile(filepath.Join(staging, softHSMPIN), []byte(pin+"\n"), 0o600); err != nil {
		return err
	}
	if err := initToken(ctx, module, pin); err != nil {
		return err
	}
	if err := saveTokenFiles(staging); err != nil {
		return err
	}
	if err := syncTree(staging); err != nil {
		return err
	}
	if err := os.Rename(staging, filepath.Join(dir, softHSMToken)); err != nil {
		return err
	}
	return syncPath(dir)
}

// initToken initialises the first token of the module that isn't, with the user's PIN.
func initToken(ctx context.Context, module, pin string) error {
	lib, err := claim(module)
	if err != nil {
		return err
	}
	defer lib.release()
	if err := bounded(ctx, "initialising the token"); err != nil {
		return err
	}
	if err := lib.raw.Initialize(); err != nil {
		return failed("C_Initialize", err)
	}
	err = initFreeSlot(lib, pin)
	if end := lib.raw.Finalize(); err == nil {
		err = failed("C_Finalize", end)
	}
	return err
}

func initFreeSlot(lib *library, pin string) error {
	slots, err := lib.raw.GetSlotList(true)
	if err != nil {
		return failed("C_GetSlotList", err)
	}
	if len(slots) != 1 {
		return fmt.Errorf("%w: the module shows %d slots where an empty SoftHSM has one", ErrTokenMissing, len(slots))
	}
	so := rand.Text()
	if err := lib.raw.InitToken(slots[0], so, softHSMLabel); err != nil {
		return failed("C_InitToken", err)
	}
	slot, _, err := lib.slotOf(softHSMLabel) // SoftHSM gives the token a new slot
	if err != nil {
		return err
	}
	s, err := lib.raw.OpenSession(slot, sessionFlags)
	if err != nil {
		return failed("C_OpenSession", err)
	}
	if err := lib.raw.Login(s, pkcs11.CKU_SO, so); err != nil {
		return failed("C_Login", err)
	}
	if err := lib.raw.InitPIN(s, pin); err != nil {
		return failed("C_InitPIN", err)
	}
	return failed("C_CloseSession", lib.raw.CloseSession(s))
}

// useSoftHSM writes the configuration for the folder of objects, if it isn't that already, and names it in the
// environment. os.Setenv reaches the library's getenv because a program with cgo sets both.
func useSoftHSM(dir, objects string) error {
	path := filepath.Join(dir, softHSMConf)
	conf := "# Written by keyledger at every start.\n" +
		"directories.tokendir = " + objects + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	if old, err := os.ReadFile(path); err != nil || string(old) != conf {
		if err := replaceFile(path, []byte(conf)); err != nil {
			return fmt.Errorf("writing the SoftHSM configuration: %w", err)
		}
	}
	if err := os.Setenv("SOFTHSM2_CONF", path); err != nil {
		return fmt.Errorf("pointing SoftHSM to its configuration: %w", err)
	}
	return nil
}

// lockFile takes the advisory lock of path, waiting for it as long as ctx allows but at most 10 s.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the token folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing gives the lock back; nothing was written
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("locking the token folder: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("%w: another process holds %s", ErrTokenInUse, path)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// syncTree makes every file and folder under root durable.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return syncPath(path)
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if end := f.Close(); err == nil {
		err = end
	}
	return err
}
