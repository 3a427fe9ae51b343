package eventstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// childFolder is set in a child process that stores until it is killed.
const childFolder = "KMS_TEST_EVENTSTORE_CHILD"

// TestChild is not a test of its own: it is what the child process of TestKilled runs. It prints each acknowledgement.
func TestChild(t *testing.T) {
	dir := os.Getenv(childFolder)
	if dir == "" {
		t.Skip("runs only as a child process of TestKilled")
	}
	s := eventstoretest.Open(t, dir)
	var mu sync.Mutex
	acknowledge := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if _, err := fmt.Fprintf(os.Stdout, "acknowledged "+format+"\n", args...); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for t.Context().Err() == nil {
				storeOnce(t, s, acknowledge)
			}
		})
	}
	wg.Wait()
}

func storeOnce(t *testing.T, s *eventstore.Store, acknowledge func(string, ...any)) {
	t.Helper()
	r := record(t, "k")
	r.Operation = newUID(t).String()
	receipt, err := s.Record(t.Context(), []domain.ActivityRecord{r})
	if err != nil {
		t.Error(err)
		return
	}
	acknowledge("record %s %d %d %s", receipt.Stream, receipt.Seq, receipt.First, r.Operation)
	c := createKey(t, newUID(t).String())
	b := domain.Binding{Project: "p", KeyUID: c.KeyUID, MaterialID: newUID(t)}
	if err := s.PutMaterial(t.Context(), b, []byte("wrapped "+b.MaterialID.String())); err != nil {
		t.Error(err)
		return
	}
	acknowledge("material %s %s", b.KeyUID, b.MaterialID)
	if c, err = s.Append(t.Context(), 0, c); err != nil {
		t.Error(err)
		return
	}
	acknowledge("commit %s %d", c.CommandID, c.Revision)
	if b.MaterialID[15]%4 == 0 {
		if err := s.EraseMaterial(t.Context(), b); err != nil {
			t.Error(err)
			return
		}
		acknowledge("erasure %s %s", b.KeyUID, b.MaterialID)
	}
}

// TestKilled kills a process that is storing, and finds everything that was acknowledged there exactly once, several times
// over on the same folder. Each round the store must also pass Verify.
func TestKilled(t *testing.T) {
	const rounds, acknowledgements = 4, 1500
	dir := t.TempDir()
	var lines []string
	for round := range rounds {
		lines = append(lines, killAfter(t, dir, acknowledgements+100*round)...)
		s := eventstoretest.Open(t, dir)
		check(t, s, lines)
		closeStore(t, s)
	}
	t.Logf("%d acknowledgements in %d lives", len(lines), rounds)
}

// killAfter runs the child until it has printed so many acknowledgements, kills it, and returns all it printed.
func killAfter(t *testing.T, dir string, n int) (lines []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.v")
	child.Env = append(os.Environ(), childFolder+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	var other []string
	for {
		line, err := reader.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "acknowledged "); ok {
			lines = append(lines, rest)
		} else {
			other = append(other, line)
		}
		if len(lines) == n {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	if len(lines) < n {
		t.Fatalf("the child ended after %d acknowledgements: %s", len(lines), strings.Join(other, ""))
	}
	return lines
}

func check(t *testing.T, s *eventstore.Store, lines []string) {
	t.Helper()
	records := stored(t, s)
	operations := map[string]int{}
	for _, operation := range records {
		operations[operation]++
	}
	commits := map[string][]uint64{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := s.Subscribe(ctx, 0, cancel, func(c eventstore.Commit) error {
		commits[c.CommandID.String()] = append(commits[c.CommandID.String()], uint64(c.Revision))
		return nil
	}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	erased := map[string]bool{}
	for _, line := range lines {
		if f := strings.Fields(line); f[0] == "erasure" {
			erased[f[2]] = true
		}
	}
	for _, line := range lines {
		switch f := strings.Fields(line); f[0] {
		case "record":
			at := eventstore.Receipt{Stream: f[1], Seq: number(t, f[2]), First: int(number(t, f[3]))}
			if records[at] != f[4] || operations[f[4]] != 1 {
				t.Errorf("%s: there is %q, and it is there %d times", line, records[at], operations[f[4]])
			}
		case "commit":
			if at := commits[f[1]]; len(at) != 1 || at[0] != number(t, f[2]) {
				t.Errorf("%s: it is at %v", line, at)
			}
		case "material":
			b := domain.Binding{Project: "p", KeyUID: parseUID(t, f[1]), MaterialID: parseUID(t, f[2])}
			blob, err := s.Blob(t.Context(), b)
			switch {
			case erased[f[2]] && !errors.Is(err, eventstore.ErrMaterialMissing):
				t.Errorf("%s: after its erasure: %q, %v", line, blob, err)
			case errors.Is(err, eventstore.ErrMaterialMissing) && b.MaterialID[15]%4 == 0: // its erasure may not have been printed
			case !erased[f[2]] && (err != nil || string(blob) != "wrapped "+f[2]):
				t.Errorf("%s: %q, %v", line, blob, err)
			}
		}
	}
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func parseUID(t *testing.T, s string) domain.UID {
	t.Helper()
	u, err := domain.ParseUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
