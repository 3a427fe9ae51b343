package commands_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
	"github.com/keyledger/kms/eventstore/eventstoretest"
	"github.com/keyledger/kms/projections"
)

// newImportKey makes a key that waits for material.
func newImportKey(t *testing.T, s *commands.Service, p domain.Purpose) domain.KeyRef {
	t.Helper()
	id := "k" + newID().String()
	state, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: id, Purpose: p, ImportOnly: true})
	if err != nil || state.Key.State != domain.KeyStatePendingImport || state.Key.Versions.Len() != 0 {
		t.Fatalf("made %+v, %v", state.Key, err)
	}
	return domain.KeyRef{Name: ring.Key(id)}
}

func newImportJob(t *testing.T, s *commands.Service, m domain.ImportMethod) commands.ImportJobState {
	t.Helper()
	job, err := s.CreateImportJob(t.Context(), admin, commands.CreateImportJob{Name: ring.ImportJob("j" + newID().String()), Method: m})
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// wrap is what kmsctl does.
func wrap(t *testing.T, job commands.ImportJobState, material []byte) []byte {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(job.Job.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ephemeral := random(32)
	kwp, err := subtle.NewKWP(ephemeral)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := kwp.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	block, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, parsed.(*rsa.PublicKey), ephemeral, nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(block, wrapped...)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// lastOf is the newest revision of an aggregate, as the log has it.
func lastOf(t *testing.T, a eventstore.Aggregate) (last eventstore.Revision) {
	t.Helper()
	for c, err := range store.LoadConfirmed(t.Context(), a, 0) {
		if err != nil {
			t.Fatal(err)
		}
		last = c.Revision
	}
	return last
}

// TestImport: what one key encrypted another decrypts that was given the same material; and so does a key whose material
// was deleted and imported again.
func TestImport(t *testing.T) {
	s := newService(&faults{})
	job := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	ref, material := newImportKey(t, s, domain.EncryptDecrypt), random(32)
	blob := wrap(t, job, material)
	state, v, err := s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: blob})
	if err != nil {
		t.Fatal(err)
	}
	kv, _ := state.Key.Versions.Get(1)
	if v != 1 || state.Key.State != domain.KeyStateEnabled || state.Key.Primary != 1 || kv.Origin != domain.Imported || kv.ImportJob != job.Job.Name.String() || len(kv.Fingerprint) != 16 {
		t.Errorf("imported %+v as version %d: %+v", state.Key, v, kv)
	}
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("hello")})
	if err != nil {
		t.Fatal(err)
	}
	if after := keys.ImportJob(job.Job.Name); !after.Job.Imported(sha256.Sum256(blob)) {
		t.Errorf("the job knows of %+v", after.Job.Uses)
	}

	version := ref
	version.Version = 1
	state, err = s.DeleteKeyMaterial(t.Context(), admin, version, commands.Mutation{})
	if err != nil || state.Key.State != domain.KeyStatePendingImport {
		t.Fatalf("deleted: %+v, %v", state.Key, err)
	}
	gone := state.Key.Binding(1)
	if _, err := store.Blob(t.Context(), gone); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("the deleted material is there: %v", err)
	}
	_, err = s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
	refused(t, err, domain.ReasonKeyPendingImport)
	again := commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, Version: 1}
	again.WrappedKey = wrap(t, job, random(32))
	_, _, err = s.ImportKeyVersion(t.Context(), admin, again)
	refused(t, err, domain.ReasonMaterialDiffers)
	again.WrappedKey = blob
	_, _, err = s.ImportKeyVersion(t.Context(), admin, again)
	refused(t, err, domain.ReasonWrappedKeyUsed)
	again.WrappedKey = wrap(t, job, material)
	if _, v, err = s.ImportKeyVersion(t.Context(), admin, again); err != nil || v != 1 {
		t.Fatalf("again: version %d, %v", v, err)
	}
	opened, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
	if err != nil || string(opened.Plaintext) != "hello" {
		t.Errorf("opened %q, %v", opened.Plaintext, err)
	}
}

// TestImportInTheClear: its origin says so, and it needs a permission of its own.
func TestImportInTheClear(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	material := random(32)
	state, v, err := s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, KeyMaterial: material, MakePrimary: true})
	kv, _ := state.Key.Versions.Get(2)
	if err != nil || v != 2 || state.Key.Primary != 2 || kv.Origin != domain.ImportedClear || kv.ImportJob != "" {
		t.Fatalf("imported version %d, %+v, %v", v, kv, err)
	}
	all := commits(t, ref)
	if last := all[len(all)-1]; last.Operation != "ImportKeyVersion" || last.Version != 2 {
		t.Errorf("the commit is %s of version %d", last.Operation, last.Version)
	}
	_, _, err = s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, KeyMaterial: material})
	refused(t, err, domain.ReasonMaterialKnown)
	first := ref
	first.Version = 1
	_, err = s.DeleteKeyMaterial(t.Context(), admin, first, commands.Mutation{})
	refused(t, err, domain.ReasonNotImported)
	_, _, err = s.ImportKeyVersion(t.Context(), nobody, commands.ImportKeyVersion{Ref: ref, KeyMaterial: material})
	refused(t, err, domain.ReasonPermissionDenied)
	if !strings.Contains(err.Error(), string(domain.PermissionVersionsImportClear)) {
		t.Errorf("refused for lack of another permission: %v", err)
	}
}

// TestImportRefusals: each refusal has its reason and leaves the key, and the job, as they were.
func TestImportRefusals(t *testing.T) {
	var mu sync.Mutex
	var ahead time.Duration
	s := newService(&faults{clock: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(ahead)
	}})
	job, other := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256), newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	canceled := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	over, err := s.CancelImport(t.Context(), admin, canceled.Job.Name, commands.Mutation{})
	if err != nil || over.Job.State != domain.ImportJobStateCanceled {
		t.Fatalf("canceled %+v, %v", over.Job, err)
	}
	if _, err := store.Blob(t.Context(), canceled.Job.Binding()); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("the key of a canceled job is there: %v", err)
	}
	if !keys.ImportJob(canceled.Job.Name).Job.Erased {
		t.Error("its erasure is not recorded")
	}
	ref, material := newImportKey(t, s, domain.EncryptDecrypt), random(32)
	used := wrap(t, job, material)
	if _, _, err := s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: used}); err != nil {
		t.Fatal(err)
	}
	fresh, disabled := newImportKey(t, s, domain.EncryptDecrypt), newImportKey(t, s, domain.EncryptDecrypt)
	if _, err := s.DisableKey(t.Context(), admin, disabled, commands.Mutation{}); err != nil {
		refused(t, err, domain.ReasonKeyPendingImport) // a key that waits can't be disabled; then it is not among the cases
	}
	flipped := bytes.Clone(wrap(t, job, random(32)))
	flipped[17] ^= 1
	elsewhere := domain.RingName{Project: "p", Location: "local", Ring: "elsewhere"}.ImportJob("j")
	signer := newImportKey(t, s, domain.SignVerify)
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	missing := domain.KeyRef{Name: ring.Key("missing")}
	for _, c := range []struct {
		name string
		in   commands.ImportKeyVersion
		want domain.Reason
	}{
		{"16 bytes", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: wrap(t, job, random(16))}, domain.ReasonBadMaterial},
		{"64 bytes", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: wrap(t, job, random(64))}, domain.ReasonBadMaterial},
		{"flipped", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: flipped}, domain.ReasonBadMaterial},
		{"for another job", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: wrap(t, other, random(32))}, domain.ReasonBadMaterial},
		{"an AES key to sign", commands.ImportKeyVersion{Ref: signer, Job: job.Job.Name, WrappedKey: wrap(t, job, random(32))}, domain.ReasonBadMaterial},
		{"another curve", commands.ImportKeyVersion{Ref: signer, Job: job.Job.Name, WrappedKey: wrap(t, job, p384)}, domain.ReasonBadMaterial},
		{"the same twice", commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: used}, domain.ReasonWrappedKeyUsed},
		{"the same for another key", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: used}, domain.ReasonWrappedKeyUsed},
		{"known material", commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: wrap(t, job, material)}, domain.ReasonMaterialKnown},
		{"in place", commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: wrap(t, job, material), Version: 1}, domain.ReasonMaterialInPlace},
		{"no such version", commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: wrap(t, job, material), Version: 9}, domain.ReasonVersionNotFound},
		{"canceled job", commands.ImportKeyVersion{Ref: fresh, Job: canceled.Job.Name, WrappedKey: wrap(t, canceled, random(32))}, domain.ReasonImportJobCanceled},
		{"no such job", commands.ImportKeyVersion{Ref: fresh, Job: ring.ImportJob("none"), WrappedKey: used}, domain.ReasonImportJobNotFound},
		{"of another ring", commands.ImportKeyVersion{Ref: fresh, Job: elsewhere, WrappedKey: used}, domain.ReasonBadField},
		{"no such key", commands.ImportKeyVersion{Ref: missing, Job: job.Job.Name, WrappedKey: wrap(t, job, random(32))}, domain.ReasonKeyNotFound},
		{"clear, 33 bytes", commands.ImportKeyVersion{Ref: fresh, KeyMaterial: random(33)}, domain.ReasonBadMaterial},
		{"expired job", commands.ImportKeyVersion{Ref: fresh, Job: job.Job.Name, WrappedKey: wrap(t, job, random(32))}, domain.ReasonImportJobExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == domain.ReasonImportJobExpired {
				mu.Lock()
				ahead = domain.ImportJobLifetime
				mu.Unlock()
			}
			watched := []eventstore.Aggregate{eventstore.KeyAggregate(c.in.Ref.Name), eventstore.ImportJobAggregate(c.in.Job)}
			before := [2]eventstore.Revision{lastOf(t, watched[0]), lastOf(t, watched[1])}
			_, _, err := s.ImportKeyVersion(t.Context(), admin, c.in)
			refused(t, err, c.want)
			if after := [2]eventstore.Revision{lastOf(t, watched[0]), lastOf(t, watched[1])}; after != before {
				t.Errorf("something changed: %v became %v", before, after)
			}
		})
	}
	_, _, err = s.ImportKeyVersion(t.Context(), nobody, commands.ImportKeyVersion{Ref: fresh, KeyMaterial: random(32)})
	refused(t, err, domain.ReasonPermissionDenied)
}

// TestImportIsCutOff: what is cut off between the job's commit and the key's can be repeated for the same key, and for no
// other.
func TestImportIsCutOff(t *testing.T) {
	f := &faults{}
	s := newService(f)
	job := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	ref, other := newImportKey(t, s, domain.EncryptDecrypt), newImportKey(t, s, domain.EncryptDecrypt)
	in := commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: wrap(t, job, random(32))}
	n := 0
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		if n++; n == 2 { // the first is the job's
			return eventstore.Commit{}, eventstore.ErrUnavailable
		}
		return next()
	}
	_, _, err := s.ImportKeyVersion(t.Context(), admin, in)
	refused(t, err, domain.ReasonStoreAway)
	f.append = nil
	if uses := keys.ImportJob(job.Job.Name).Job.Uses; len(uses) != 1 || uses[0].Done {
		t.Fatalf("the job knows of %+v", uses)
	}
	in.Ref = other
	_, _, err = s.ImportKeyVersion(t.Context(), admin, in)
	refused(t, err, domain.ReasonWrappedKeyUsed)
	in.Ref = ref
	if _, v, err := s.ImportKeyVersion(t.Context(), admin, in); err != nil || v != 1 {
		t.Errorf("repeated: version %d, %v", v, err)
	}
	_, _, err = s.ImportKeyVersion(t.Context(), admin, in)
	refused(t, err, domain.ReasonWrappedKeyUsed)
}

// TestImportRace: of many that send one wrapped key for keys of their own, one gets it.
func TestImportRace(t *testing.T) {
	s := newService(&faults{})
	job := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	blob := wrap(t, job, random(32))
	const n = 4
	refs := make([]domain.KeyRef, n)
	for i := range refs {
		refs[i] = newImportKey(t, s, domain.EncryptDecrypt)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() {
			_, _, errs[i] = s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: blob})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			refused(t, err, domain.ReasonWrappedKeyUsed)
		}
	}
	if won != 1 {
		t.Errorf("%d keys have the material of one wrapped key: %v", won, errs)
	}
}

// TestImportAndChange: an import goes on when the key is changed under it, with the version number that is free then.
func TestImportAndChange(t *testing.T) {
	f := &faults{}
	s := newService(f)
	job := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	ref, _ := newKey(t, s)
	n := 0
	f.append = func(next func() (eventstore.Commit, error)) (eventstore.Commit, error) {
		if n++; n == 2 { // the job knows; now the key is rotated
			if _, err := newService(&faults{}).RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
				t.Error(err)
			}
		}
		return next()
	}
	state, v, err := s.ImportKeyVersion(t.Context(), admin, commands.ImportKeyVersion{Ref: ref, Job: job.Job.Name, WrappedKey: wrap(t, job, random(32)), MakePrimary: true})
	if err != nil || v != 3 || state.Key.Primary != 3 {
		t.Fatalf("version %d, %v", v, err)
	}
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil || sealed.Version != 3 {
		t.Errorf("encrypted by version %d, %v", sealed.Version, err)
	}
}

// TestImportRequestID: a repeated request gets the answer of then, and the id is good for no other.
func TestImportRequestID(t *testing.T) {
	s := newService(&faults{})
	job := newImportJob(t, s, domain.RSAOAEP3072SHA256AES256)
	in := commands.ImportKeyVersion{Ref: newImportKey(t, s, domain.EncryptDecrypt), Job: job.Job.Name, WrappedKey: wrap(t, job, random(32))}
	in.RequestID = newID()
	first, v, err := s.ImportKeyVersion(t.Context(), admin, in)
	if err != nil {
		t.Fatal(err)
	}
	again, w, err := s.ImportKeyVersion(t.Context(), admin, in)
	if err != nil || w != v || again.Revision != first.Revision {
		t.Errorf("again: version %d of revision %d, %v", w, again.Revision, err)
	}
	in.WrappedKey = wrap(t, job, random(32))
	_, _, err = s.ImportKeyVersion(t.Context(), admin, in)
	refused(t, err, domain.ReasonRequestIDReused)
}

// TestImportJobsEnd: a job whose time is over is ended by the service itself, once with three nodes at it, and its key is
// erased.
func TestImportJobsEnd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	own := eventstoretest.New(t) // its time is in the future
	known := projections.NewKeys(slog.New(slog.DiscardHandler), nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	caughtUp := make(chan struct{})
	wg.Go(func() {
		if err := known.Run(ctx, own, func() { close(caughtUp) }); err != nil {
			t.Error(err)
		}
	})
	<-caughtUp
	job := newImportJob(t, newService(&faults{store: own, keys: known}), domain.RSAOAEP3072SHA256AES256)
	late := func() time.Time { return job.Job.ExpireTime.Add(time.Second) }
	_, err := newService(&faults{store: own, keys: known, clock: late}).CancelImport(ctx, admin, job.Job.Name, commands.Mutation{})
	refused(t, err, domain.ReasonImportJobExpired)
	for range 3 {
		node := newService(&faults{store: own, keys: known, clock: late})
		wg.Go(func() { _ = node.RunImportJobs(ctx) })
	}
	for !known.ImportJob(job.Job.Name).Job.Erased {
		if ctx.Err() != nil {
			t.Fatal("the job was not ended and its key erased")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if state := known.ImportJob(job.Job.Name).Job.State; state != domain.ImportJobStateExpired {
		t.Errorf("the job is %s", state)
	}
	if _, err := own.Blob(ctx, job.Job.Binding()); !errors.Is(err, eventstore.ErrMaterialMissing) {
		t.Errorf("its key is there: %v", err)
	}
	ended := 0
	for c, err := range own.LoadConfirmed(ctx, eventstore.ImportJobAggregate(job.Job.Name), 0) {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range c.ImportJob {
			if _, ok := e.(domain.ImportJobExpired); ok {
				ended++
				if c.Caller.Kind != domain.KindSystem {
					t.Errorf("ended by %+v, want the system", c.Caller)
				}
			}
		}
	}
	if ended != 1 {
		t.Errorf("ended %d times", ended)
	}
}

// TestGetPublicKey: it is on the record, and keys that have none are refused.
func TestGetPublicKey(t *testing.T) {
	f := &faults{}
	s := newService(f)
	read := func(ref domain.KeyRef) (commands.PublicKey, error) {
		return s.GetPublicKey(t.Context(), admin, commands.Read{
			Operation: "GetPublicKey", Permission: domain.PermissionVersionsGetPublicKey, Category: domain.CategoryManagement, Ref: ref,
		})
	}
	secret, _ := newKey(t, s)
	_, err := read(secret)
	refused(t, err, domain.ReasonWrongPurpose)
	waiting := newImportKey(t, s, domain.SignVerify)
	_, err = read(waiting)
	refused(t, err, domain.ReasonNoPrimaryVersion)
	id := "k" + newID().String()
	state, err := s.CreateKey(t.Context(), admin, commands.CreateKey{Parent: ring, KeyID: id, Purpose: domain.SignVerify})
	if err != nil {
		t.Fatal(err)
	}
	ref := domain.KeyRef{Name: ring.Key(id)}
	kv, _ := state.Key.Versions.Get(1)
	got, err := read(ref)
	if err != nil || !bytes.Equal(got.DER, kv.PublicKey) || got.Version != 1 || got.Algorithm != domain.ECP256SHA256 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := x509.ParsePKIXPublicKey(got.DER); err != nil {
		t.Error(err)
	}
	if last := f.last(t); last.Operation != "GetPublicKey" || last.Outcome != domain.OutcomeOK || last.Version != 1 || last.KeyUID != state.Key.UID {
		t.Errorf("recorded %+v", last)
	}
	_, err = s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	refused(t, err, domain.ReasonWrongPurpose)
	f.record = func([]domain.ActivityRecord) error { return eventstore.ErrUnavailable }
	got, err = read(ref)
	refused(t, err, domain.ReasonNotRecorded)
	if got.DER != nil {
		t.Error("the public key is given out without a record")
	}
}
