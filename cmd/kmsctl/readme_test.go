package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// readmeStart is how the commands of the README are judged: each must succeed, but those that it says are refused must
// fail with that reason.
const readmeStart = `set -Euo pipefail
trap 'echo "line $LINENO failed: $BASH_COMMAND" >&2; exit 1' ERR
refused() {
  local reason=$1 answer
  shift
  if answer=$("$@" 2>&1); then
    echo "not refused: $*" >&2
    exit 1
  fi
  if [[ $answer != *"$reason"* ]]; then
    echo "refused, but not with $reason: $answer" >&2
    exit 1
  fi
}
`

// testReadme runs the commands of the README as they stand there.
func testReadme(t *testing.T, s server) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.dir, "README.md"), readme, 0o600)
	var script strings.Builder
	script.WriteString(readmeStart)
	blocks := regexp.MustCompile("(?s)\n```bash\n(.*?)\n```\n").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 5 {
		t.Fatalf("the README has %d blocks of commands: are they marked otherwise now?", len(blocks))
	}
	refused := regexp.MustCompile(`(?m)^(.*\S) +# refused: ([A-Z_]+)$`)
	refusals := 0
	_, err = exec.LookPath("curl")
	withCurl := err == nil
	for _, b := range blocks {
		if !withCurl && strings.Contains(b[1], "call ") {
			t.Log("curl is missing: the commands that need it are left out")
			continue
		}
		refusals += len(refused.FindAllString(b[1], -1))
		script.WriteString(refused.ReplaceAllString(b[1], "refused $2 $1") + "\n")
	}
	if withCurl && refusals < 3 {
		t.Errorf("the README shows %d refusals: are they marked otherwise now?", refusals)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", strings.ReplaceAll(script.String(), "http://127.0.0.1:8600", s.addr))
	cmd.Dir = s.dir
	cmd.Env = append(cleanEnv(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the commands of the README failed: %v\n%s", err, out)
	}
	wants := []string{"the same\n", "KEY_DISABLED", "BAD_CIPHERTEXT", "RotateKey", "ReEncrypt", "success"}
	if withCurl {
		wants = append(wants, `"ciphertext":`, `"activityLogs":`, "SoftHSM")
	}
	for _, want := range wants {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
}
