package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

const testRing = "projects/test/locations/local/keyRings/default"

// TestCrash kills the server under a load of creates, rotations and encryptions, again and again, and checks after each
// start that every acknowledged key, version and activity record is there exactly once and every returned ciphertext
// decrypts. `make test-crash` runs it 20 times over; here it runs twice.
func TestCrash(t *testing.T) {
	rounds := 2
	if n, err := strconv.Atoi(os.Getenv("KMS_TEST_CRASH")); err == nil {
		rounds = n
	}
	data := t.TempDir()
	var book ledger
	for round := range rounds {
		p := launch(t, data)
		c := p.clients()
		book.resolve(t, c)
		book.check(t, c, 100)
		book.load(t, p, c, time.Duration(300+rand.IntN(1500))*time.Millisecond)
		t.Logf("round %d: killed; so far %d keys, %d rotations, %d ciphertexts acknowledged", round+1, len(book.keys), book.rotations(), book.ciphertexts())
	}
	p := launch(t, data)
	c := p.clients()
	book.resolve(t, c)
	book.check(t, c, 0)
	book.checkActivity(t, c)
	p.terminate()
}

// ledger is what the server has acknowledged, kept outside of it. Each key belongs to one worker, so that what it must be
// is known exactly.
type ledger struct {
	keys []*ledgerKey
}

type ledgerKey struct {
	name     string
	versions int32
	// pending is a change whose answer never came: repeated with its request id it counts once, whatever became of it.
	pending func(context.Context, clients) error
	// opened are the ciphertexts that were returned, and used the request ids of the Encrypt calls that were answered.
	opened []sealed
	used   []string
}

type sealed struct{ plaintext, ciphertext []byte }

func (l *ledger) rotations() (n int) {
	for _, k := range l.keys {
		n += int(max(k.versions-1, 0))
	}
	return n
}

func (l *ledger) ciphertexts() (n int) {
	for _, k := range l.keys {
		n += len(k.opened)
	}
	return n
}

// load runs workers and kills the server under them after a while.
func (l *ledger) load(t *testing.T, p *process, c clients, d time.Duration) {
	t.Helper()
	const workers = 8
	ctx, cancel := context.WithCancel(t.Context())
	made := make([][]*ledgerKey, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { made[w], errs[w] = work(ctx, c, fmt.Sprintf("w%d-%d", len(l.keys), w)) })
	}
	time.Sleep(d)
	p.kill()
	cancel()
	wg.Wait()
	for w := range workers {
		l.keys = append(l.keys, made[w]...)
		if errs[w] != nil { // an answer that was wrong, not one that did not come
			t.Error(errs[w])
		}
	}
}

// work makes, rotates and uses keys until the server does not answer any more.
func work(ctx context.Context, c clients, prefix string) (keys []*ledgerKey, wrong error) {
	for n := 0; ; n++ {
		var k *ledgerKey
		if len(keys) > 0 {
			k = keys[rand.IntN(len(keys))]
		}
		var err error
		switch dice := rand.IntN(10); {
		case k == nil || dice == 0:
			k = &ledgerKey{name: fmt.Sprintf("%s/keys/%s-%d", testRing, prefix, n)}
			keys = append(keys, k)
			err = k.create(ctx, c, fmt.Sprintf("%s-%d", prefix, n))
		case dice < 4:
			err = k.rotate(ctx, c)
		default:
			err = k.encrypt(ctx, c, fmt.Appendf(nil, "plaintext %d of %s", n, prefix))
		}
		if err != nil {
			return keys, acceptable(err)
		}
	}
}

// acceptable reports what an error is not, when the server was just killed: anything but the lack of an answer.
func acceptable(err error) error {
	if code := connect.CodeOf(err); code == connect.CodeUnavailable || code == connect.CodeCanceled || code == connect.CodeUnknown || code == connect.CodeDeadlineExceeded {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (k *ledgerKey) change(ctx context.Context, c clients, f func(context.Context, clients) error) error {
	k.pending = f
	err := f(ctx, c)
	if err == nil {
		k.pending = nil
	}
	return err
}

func (k *ledgerKey) create(ctx context.Context, c clients, id string) error {
	request := &kmsv1.CreateKeyRequest{
		Parent: testRing, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}, RequestId: uuid.NewString(),
	}
	return k.change(ctx, c, func(ctx context.Context, c clients) error {
		key, err := c.keys.CreateKey(ctx, request)
		if err == nil {
			k.versions = key.GetPrimary()
		}
		return err
	})
}

func (k *ledgerKey) rotate(ctx context.Context, c clients) error {
	request := &kmsv1.RotateKeyRequest{Name: k.name, RequestId: uuid.NewString()}
	want := k.versions + 1
	return k.change(ctx, c, func(ctx context.Context, c clients) error {
		key, err := c.keys.RotateKey(ctx, request)
		if err != nil {
			return err
		}
		if key.GetPrimary() != want {
			return fmt.Errorf("key %s has version %d after a rotation, want %d", k.name, key.GetPrimary(), want)
		}
		k.versions = want
		return nil
	})
}

func (k *ledgerKey) encrypt(ctx context.Context, c clients, plaintext []byte) error {
	ctx, info := connect.NewClientContext(ctx)
	res, err := c.crypto.Encrypt(ctx, &kmsv1.EncryptRequest{Name: k.name, Plaintext: plaintext})
	if err != nil {
		return err
	}
	if res.GetVersion() != k.versions {
		return fmt.Errorf("key %s encrypted with version %d, want %d", k.name, res.GetVersion(), k.versions)
	}
	k.opened = append(k.opened, sealed{plaintext, res.GetCiphertext()})
	k.used = append(k.used, info.ResponseHeader().Get("Kms-Request-Id"))
	return nil
}

// resolve repeats the changes whose answers never came.
func (l *ledger) resolve(t *testing.T, c clients) {
	t.Helper()
	for _, k := range l.keys {
		if k.pending == nil {
			continue
		}
		if err := k.pending(t.Context(), c); err != nil {
			t.Fatalf("repeating a request of before the kill: %v", err)
		}
		k.pending = nil
	}
}

// check compares the server's keys with the ledger and decrypts at most this many ciphertexts; zero: all.
func (l *ledger) check(t *testing.T, c clients, decryptions int) {
	t.Helper()
	got := map[string]int32{}
	for token := ""; ; {
		page, err := c.keys.ListKeys(t.Context(), &kmsv1.ListKeysRequest{Parent: testRing, PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range page.GetKeys() {
			if _, twice := got[k.GetName()]; twice {
				t.Errorf("key %s is listed twice", k.GetName())
			}
			got[k.GetName()] = k.GetPrimary()
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	want := map[string]int32{}
	for _, k := range l.keys {
		want[k.name] = k.versions
	}
	if !maps.Equal(got, want) {
		for name, v := range want {
			if got[name] != v {
				t.Errorf("key %s has primary version %d, want %d", name, got[name], v)
			}
		}
		t.Fatalf("the server has %d keys, want %d", len(got), len(want))
	}
	for _, k := range l.keys {
		for _, s := range slices.Backward(k.opened) {
			if decryptions--; decryptions == 0 {
				return
			}
			res, err := c.crypto.Decrypt(t.Context(), &kmsv1.DecryptRequest{Name: k.name, Ciphertext: s.ciphertext})
			if err != nil || !bytes.Equal(res.GetPlaintext(), s.plaintext) {
				t.Fatalf("a ciphertext of %s does not decrypt to its plaintext: %v", k.name, err)
			}
		}
	}
}

// checkActivity compares the activity log with the ledger, once the log has caught up.
func (l *ledger) checkActivity(t *testing.T, c clients) {
	t.Helper()
	for _, k := range l.keys {
		var problem error
		for deadline := time.Now().Add(startPatience); ; time.Sleep(100 * time.Millisecond) {
			if problem = k.compareActivity(t, c); problem == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(problem)
			}
		}
	}
}

func (k *ledgerKey) compareActivity(t *testing.T, c clients) error {
	t.Helper()
	operations := map[string]int32{}
	requests := map[string]int{}
	for _, r := range activityOf(t, c, &kmsv1.GetKeyActivityLogsRequest{Name: k.name, Operations: []string{"CreateKey", "RotateKey", "Encrypt"}}) {
		if r.GetOutcome() != kmsv1.ActivityLog_OK {
			return fmt.Errorf("%s of %s is recorded as %s: %s", r.GetOperation(), k.name, r.GetOutcome(), r.GetMessage())
		}
		operations[r.GetOperation()]++
		if requests[r.GetRequestId()]++; requests[r.GetRequestId()] > 1 {
			return fmt.Errorf("request %s of %s is recorded twice", r.GetRequestId(), k.name)
		}
	}
	if operations["CreateKey"] != 1 || operations["RotateKey"] != k.versions-1 {
		return fmt.Errorf("key %s with %d versions has records %v", k.name, k.versions, operations)
	}
	for _, id := range k.used {
		if requests[id] != 1 {
			return fmt.Errorf("request %s of %s was answered and is recorded %d times", id, k.name, requests[id])
		}
	}
	return nil
}

// activityOf reads all pages of a query.
func activityOf(t *testing.T, c clients, query *kmsv1.GetKeyActivityLogsRequest) (records []*kmsv1.ActivityLog) {
	t.Helper()
	query.PageSize = 1000
	for {
		page, err := c.activity.GetKeyActivityLogs(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, page.GetActivityLogs()...)
		if query.PageToken = page.GetNextPageToken(); query.PageToken == "" {
			return records
		}
	}
}
