package hsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretStaysSecret(t *testing.T) {
	const pin = "hush-4711"
	s := NewSecret(pin)
	cfg := Config{Module: "m", PIN: s}
	values := []any{s, &s, cfg, &cfg, []Secret{s}, map[string]Secret{"k": s}, struct{ hidden Secret }{s}, struct{ hidden Config }{cfg}, any(s)}
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, pin) || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", pin)) {
				t.Errorf("%s of %T shows it: %s", verb, v, got)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).InfoContext(t.Context(), "m", slog.Any("v", v))
		slog.New(slog.NewJSONHandler(&log, nil)).InfoContext(t.Context(), "m", slog.Any("v", v))
		if strings.Contains(log.String(), pin) {
			t.Errorf("the log of %T shows it: %s", v, &log)
		}
	}
	if got, err := json.Marshal(map[string]any{"s": s, "p": &s}); err != nil || strings.Contains(string(got), pin) {
		t.Errorf("JSON shows it: %s, %v", got, err)
	}
	if s.Reveal() != pin || (Secret{}).Reveal() != "" {
		t.Error("Reveal does not tell it")
	}
}

func TestFindModule(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.so")
	if _, err := findModule([]string{none}); !errors.Is(err, ErrModuleMissing) || !strings.Contains(err.Error(), "apt-get install softhsm2") {
		t.Errorf("got %v", err)
	}
	one := filepath.Join(t.TempDir(), "one.so")
	if err := os.WriteFile(one, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := findModule([]string{none, one}); got != one || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestInitSoftHSM(t *testing.T) {
	again, err := InitSoftHSM(t.Context(), sharedDir, shared.cfg.Module)
	if err != nil || again.PIN.Reveal() != shared.cfg.PIN.Reveal() || again.TokenDir != shared.cfg.TokenDir {
		t.Errorf("a second start finds %+v, %v", again, err)
	}
	if n := len(again.PIN.Reveal()); n < 20 {
		t.Errorf("the PIN has %d characters", n)
	}
	for path, want := range map[string]os.FileMode{".": 0o700, "token": 0o700, "token/objects": 0o700, "token/pin": 0o600, softHSMConf: 0o600} {
		info, err := os.Stat(filepath.Join(sharedDir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if _, err := InitSoftHSM(t.Context(), filepath.Join(t.TempDir(), "a#b"), shared.cfg.Module); err == nil {
		t.Error("a path that SoftHSM can't read is accepted")
	}
}
