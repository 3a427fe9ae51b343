package commands_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

func TestEncryptDecrypt(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	for _, plaintext := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("y"), domain.MaxPlaintext)} {
		sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: plaintext, AAD: []byte("a"), Context: []byte("c")})
		if err != nil {
			t.Fatal(err)
		}
		if r := f.last(t); r.Operation != "Encrypt" || r.Outcome != domain.OutcomeOK || r.KeyUID != state.Key.UID || r.Version != 1 ||
			r.BytesIn != uint32(len(plaintext)) || r.GrantedBy != "admin" || r.Protection != domain.HSM {
			t.Errorf("recorded as %+v", r)
		}
		for _, by := range []domain.KeyRef{ref, {}, {Name: domain.RingName{Project: "p", Location: "local", Ring: domain.AnyRing}.Key(state.Key.UID.String()), UID: state.Key.UID}} {
			opened, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ref: by, Ciphertext: sealed.Ciphertext, AAD: []byte("a"), Context: []byte("c")})
			if err != nil || !bytes.Equal(opened.Plaintext, plaintext) || !opened.IsPrimary || opened.Version != 1 {
				t.Fatalf("decrypted by %s: %+v, %v", by, opened.Version, err)
			}
		}
	}
	_, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: make([]byte, domain.MaxPlaintext+1)})
	refused(t, err, domain.ReasonTooLarge)
}

// TestBadCiphertexts: whatever is wrong with a ciphertext, the answer is the same and it is on the record.
func TestBadCiphertexts(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	other, _ := newKey(t, s)
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("secret"), AAD: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(i int) []byte {
		b := bytes.Clone(sealed.Ciphertext)
		b[i] ^= 1
		return b
	}
	last := len(sealed.Ciphertext) - 1
	for name, r := range map[string]commands.DecryptRequest{
		"wrong aad":        {Ref: ref, Ciphertext: sealed.Ciphertext, AAD: []byte("b")},
		"aad as context":   {Ref: ref, Ciphertext: sealed.Ciphertext, Context: []byte("a")},
		"flipped tag":      {Ref: ref, Ciphertext: flipped(last), AAD: []byte("a")},
		"flipped magic":    {Ref: ref, Ciphertext: flipped(0), AAD: []byte("a")},
		"another uid":      {Ref: ref, Ciphertext: flipped(20), AAD: []byte("a")},
		"truncated":        {Ref: ref, Ciphertext: sealed.Ciphertext[:last], AAD: []byte("a")},
		"empty":            {Ref: ref, AAD: []byte("a")},
		"another key":      {Ref: other, Ciphertext: sealed.Ciphertext, AAD: []byte("a")},
		"another version":  {Ref: domain.KeyRef{Name: ref.Name, Version: 2}, Ciphertext: sealed.Ciphertext, AAD: []byte("a")},
		"another project":  {Ref: domain.KeyRef{Name: domain.KeyName{Project: "q"}}, Ciphertext: sealed.Ciphertext, AAD: []byte("a")},
		"no key is named":  {Ciphertext: flipped(last), AAD: []byte("a")},
		"an unknown key's": {Ciphertext: flipped(20), AAD: []byte("a")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Decrypt(t.Context(), admin, r)
			refused(t, err, domain.ReasonBadCiphertext)
			refusal, _ := errors.AsType[*domain.Error](err)
			if refusal.Message != domain.ErrCiphertext.Message {
				t.Errorf("the text tells more: %q", refusal.Message)
			}
			if r := f.last(t); r.Operation != "Decrypt" || r.Outcome != domain.OutcomeFailed || r.Reason != domain.ReasonBadCiphertext {
				t.Errorf("recorded as %+v", r)
			}
		})
	}
	if state.Key.Primary != 1 {
		t.Error("the key changed")
	}
}

// TestNoRecordNoAnswer: nothing is answered that is not durably recorded.
func TestNoRecordNoAnswer(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := newKey(t, s)
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for cause, want := range map[error]domain.Reason{
		eventstore.ErrUnavailable:    domain.ReasonNotRecorded,
		eventstore.ErrUnknownOutcome: domain.ReasonNotRecorded,
		eventstore.ErrFull:           domain.ReasonStoreFull,
		eventstore.ErrOverloaded:     domain.ReasonOverloaded,
	} {
		f.record = func([]domain.ActivityRecord) error { return cause }
		out, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
		refused(t, err, want)
		if out.Ciphertext != nil {
			t.Error("a ciphertext came out without a record")
		}
		opened, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: sealed.Ciphertext})
		refused(t, err, want)
		if opened.Plaintext != nil {
			t.Error("a plaintext came out without a record")
		}
		_, err = s.BatchEncrypt(t.Context(), admin, ref, []commands.EncryptItem{{}})
		refused(t, err, want)
		_, err = s.GenerateDataKey(t.Context(), admin, commands.DataKeyRequest{Ref: ref, Bytes: 32, WithPlaintext: true})
		refused(t, err, want)
		_, err = s.GenerateRandomBytes(t.Context(), admin, "p", 8)
		refused(t, err, want)
		_, err = s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ciphertext: sealed.Ciphertext, Ref: ref})
		refused(t, err, want)
		_, err = s.RecordRead(t.Context(), admin, commands.Read{Operation: "GetKeyActivityLogs", Permission: domain.PermissionActivityList, Category: domain.CategoryAudit, Ref: ref})
		refused(t, err, want)
		_, err = s.Encrypt(t.Context(), nobody, commands.EncryptRequest{Ref: ref}) // a refusal needs its record as well
		refused(t, err, want)
	}
}

func TestReEncrypt(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := newKey(t, s)
	other, _ := newKey(t, s)
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x"), AAD: []byte("old")})
	if err != nil {
		t.Fatal(err)
	}
	same, err := s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ciphertext: sealed.Ciphertext, SourceAAD: []byte("old"), Ref: ref, AAD: []byte("old"), OnlyIfStale: true})
	if err != nil || same.Changed || !bytes.Equal(same.Ciphertext, sealed.Ciphertext) {
		t.Fatalf("a fresh ciphertext was changed: %v, %v", same.Changed, err)
	}
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	moved, err := s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ciphertext: sealed.Ciphertext, SourceAAD: []byte("old"), Ref: ref, AAD: []byte("new"), OnlyIfStale: true})
	if err != nil || !moved.Changed || moved.Version != 2 || moved.SourceVersion != 1 {
		t.Fatalf("re-encrypted: %+v, %v", moved, err)
	}
	before := len(f.recorded)
	across, err := s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ciphertext: moved.Ciphertext, SourceAAD: []byte("new"), Ref: other})
	if err != nil || across.Name != other.Name || across.Source != ref.Name {
		t.Fatalf("re-encrypted across keys: %+v, %v", across, err)
	}
	if got := len(f.recorded) - before; got != 2 {
		t.Errorf("%d records of a use of two keys", got)
	}
	opened, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: across.Ciphertext})
	if err != nil || string(opened.Plaintext) != "x" {
		t.Errorf("decrypted %q, %v", opened.Plaintext, err)
	}
	_, err = s.ReEncrypt(t.Context(), admin, commands.ReEncryptRequest{Ciphertext: moved.Ciphertext, SourceAAD: []byte("old"), Ref: ref})
	refused(t, err, domain.ReasonBadCiphertext)
}

// TestBatch: one bad item never fails the others, and each has its record.
func TestBatch(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, _ := newKey(t, s)
	bad := &domain.Error{Reason: domain.ReasonBadField, Message: "this item is bad"}
	sealed, err := s.BatchEncrypt(t.Context(), admin, ref, []commands.EncryptItem{{Plaintext: []byte("0")}, {Err: bad}, {Plaintext: []byte("2")}})
	if err != nil || sealed[0].Err != nil || sealed[2].Err != nil {
		t.Fatal(err, sealed)
	}
	refused(t, sealed[1].Err, domain.ReasonBadField)
	opened, err := s.BatchDecrypt(t.Context(), admin, "p", []commands.DecryptItem{
		{Ciphertext: sealed[0].OK.Ciphertext}, {Ciphertext: []byte("junk")}, {Ciphertext: sealed[2].OK.Ciphertext, Ref: ref},
	})
	if err != nil || string(opened[0].OK.Plaintext) != "0" || string(opened[2].OK.Plaintext) != "2" {
		t.Fatalf("%v %+v", err, opened)
	}
	refused(t, opened[1].Err, domain.ReasonBadCiphertext)
	if n := len(f.recorded); n != 6 {
		t.Errorf("%d records for 6 items", n)
	}
	foreign, err := s.BatchDecrypt(t.Context(), admin, "q", []commands.DecryptItem{{Ciphertext: sealed[0].OK.Ciphertext}})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, foreign[0].Err, domain.ReasonBadCiphertext)
}

func TestDataKey(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	closed, err := s.GenerateDataKey(t.Context(), admin, commands.DataKeyRequest{Ref: ref, Bytes: 32})
	if err != nil || closed.Plaintext != nil {
		t.Fatalf("a data key in the clear without asking: %v", err)
	}
	open, err := s.GenerateDataKey(t.Context(), admin, commands.DataKeyRequest{Ref: ref, Bytes: 32, WithPlaintext: true})
	if err != nil || len(open.Plaintext) != 32 {
		t.Fatal(err)
	}
	again, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: open.Ciphertext})
	if err != nil || !bytes.Equal(again.Plaintext, open.Plaintext) {
		t.Errorf("the data key does not decrypt to itself: %v", err)
	}
	for _, n := range []int{0, 1025} {
		_, err := s.GenerateRandomBytes(t.Context(), admin, "p", n)
		refused(t, err, domain.ReasonBadField)
	}
}

// TestVersionStates: each version has its own state, under that of its key.
func TestVersionStates(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	v1 := domain.KeyRef{Name: ref.Name, Version: 1}
	old, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: ref, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.DisableKeyVersion(t.Context(), admin, v1, false, commands.Mutation{})
	refused(t, err, domain.ReasonVersionIsPrimary)
	if _, err := s.RotateKey(t.Context(), admin, ref, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DisableKeyVersion(t.Context(), admin, v1, false, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: old.Ciphertext})
	refused(t, err, domain.ReasonVersionDisabled)
	_, err = s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: v1})
	refused(t, err, domain.ReasonVersionDisabled)
	if _, err := s.EnableKeyVersion(t.Context(), admin, v1, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ciphertext: old.Ciphertext}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: domain.KeyRef{Name: ref.Name, Version: 9}})
	refused(t, err, domain.ReasonVersionNotFound)
}

// TestReads: plain reads leave no record unless refused, protected ones always do.
func TestReads(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	read := commands.Read{Operation: "GetKey", Permission: domain.PermissionKeysGet, Category: domain.CategoryManagement, Ref: ref, MinRevision: state.Revision}
	if got, err := s.GetKey(t.Context(), admin, read); err != nil || got.Key.UID != state.Key.UID {
		t.Fatal(err)
	}
	if len(f.recorded) != 0 {
		t.Errorf("a plain read is recorded: %+v", f.recorded)
	}
	_, err := s.GetKey(t.Context(), nobody, read)
	refused(t, err, domain.ReasonPermissionDenied)
	read.MinRevision = 1 << 40
	_, err = s.GetKey(t.Context(), admin, read)
	refused(t, err, domain.ReasonFutureRevision)
	read.MinRevision, read.Operation = 0, "GetKeyActivityLogs"
	if _, err := s.RecordRead(t.Context(), admin, read); err != nil {
		t.Fatal(err)
	}
	if r := f.last(t); r.Operation != "GetKeyActivityLogs" || r.Outcome != domain.OutcomeOK {
		t.Errorf("recorded as %+v", r)
	}
}
