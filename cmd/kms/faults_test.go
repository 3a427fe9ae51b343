package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// engineOf finds the process of the embedded ClickHouse engine.
func engineOf(t *testing.T, p *process) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		children, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that ended
		}
		for field := range strings.FieldsSeq(string(children)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// TestEngineKilled: while the activity database is killed under load, keys are used as if nothing was, and afterwards it
// has every record once.
func TestEngineKilled(t *testing.T) {
	p := launch(t, t.TempDir())
	c := p.clients()
	name := testRing + "/keys/used"
	if _, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "used", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}); err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int64
	var load errgroup.Group
	end := time.Now().Add(6 * time.Second)
	for range 4 {
		load.Go(func() error {
			for time.Now().Before(end) {
				if _, err := c.crypto.Encrypt(t.Context(), &kmsv1.EncryptRequest{Name: name, Plaintext: []byte("x")}); err != nil {
					return err
				}
				answered.Add(1)
			}
			return nil
		})
	}
	kills := 0
	for time.Now().Before(end) {
		time.Sleep(1200 * time.Millisecond)
		if pid := engineOf(t, p); pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			kills++
		}
	}
	if err := load.Wait(); err != nil {
		t.Fatalf("a use of the key failed: %v", err)
	}
	if kills < 2 {
		t.Fatalf("the engine was killed %d times only", kills)
	}
	eventually(t, func() error {
		res, err := c.activity.GetKeyActivityLogs(t.Context(), &kmsv1.GetKeyActivityLogsRequest{Name: name, Operations: []string{"Encrypt"}, PageSize: 1, IncludeTotalSize: true})
		if err != nil {
			return err
		}
		if res.GetTotalSize() != answered.Load() {
			return fmt.Errorf("%d rows for %d answers", res.GetTotalSize(), answered.Load())
		}
		return nil
	})
	requests := map[string]bool{}
	for _, r := range activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: name, Operations: []string{"Encrypt"}}) {
		if requests[r.GetRequestId()] {
			t.Fatalf("request %s has two rows", r.GetRequestId())
		}
		requests[r.GetRequestId()] = true
	}
	t.Logf("%d uses answered over %d kills of the engine", answered.Load(), kills)
	p.terminate()
}

// TestRebuildActivity: an activity database that lost everything is filled again with the same rows.
func TestRebuildActivity(t *testing.T) {
	data := t.TempDir()
	p := launch(t, data)
	c := p.clients()
	name := testRing + "/keys/rebuilt"
	if _, err := c.keys.CreateKey(t.Context(), &kmsv1.CreateKeyRequest{Parent: testRing, KeyId: "rebuilt", Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}); err != nil {
		t.Fatal(err)
	}
	items := make([]*kmsv1.BatchEncryptRequest_Item, 500)
	for i := range items {
		items[i] = &kmsv1.BatchEncryptRequest_Item{Plaintext: fmt.Append(nil, i)}
	}
	if _, err := c.crypto.BatchEncrypt(t.Context(), &kmsv1.BatchEncryptRequest{Name: name, Items: items}); err != nil {
		t.Fatal(err)
	}
	query := func() *kmsv1.GetKeyActivityLogsRequest {
		return &kmsv1.GetKeyActivityLogsRequest{Name: name, Operations: []string{"CreateKey", "BatchEncrypt"}}
	}
	var before []*kmsv1.ActivityLog
	eventually(t, func() error {
		if before = activityOf(t, c, query()); len(before) != 501 {
			return fmt.Errorf("%d rows, want 501", len(before))
		}
		return nil
	})
	if out, err := command(t, nil, "rebuild", "activity", "--data", data).CombinedOutput(); err == nil || !strings.Contains(string(out), "in use by another kms process") {
		t.Errorf("rebuilding under a running server: %v\n%s", err, out)
	}
	p.terminate()
	if err := os.RemoveAll(filepath.Join(data, "clickhouse")); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, nil, "rebuild", "activity", "--data", data).CombinedOutput(); err != nil {
		t.Fatalf("kms rebuild activity: %v\n%s", err, out)
	}
	p = launch(t, data)
	after := activityOf(t, p.clients(), query())
	if len(after) != len(before) {
		t.Fatalf("%d rows after the rebuild, %d before", len(after), len(before))
	}
	for i := range before {
		if !proto.Equal(before[i], after[i]) {
			t.Fatalf("row %d is\n%v\nwas\n%v", i, after[i], before[i])
		}
	}
	p.terminate()
}
