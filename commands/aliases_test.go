package commands_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/kms/commands"
	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

func newAlias() string { return "a" + newID().String() }

// byAlias names a key, in the project of the tests.
func byAlias(alias string) domain.KeyRef {
	return domain.KeyRef{Name: domain.RingName{Project: "p", Location: "local", Ring: domain.AnyRing}.Key("alias:" + alias), Alias: alias}
}

func TestAlias(t *testing.T) {
	f := &faults{}
	s := newService(f)
	ref, state := newKey(t, s)
	alias, second := newAlias(), "A"+newID().String()
	_, err := s.RotateKey(t.Context(), admin, byAlias(alias), commands.Mutation{})
	refused(t, err, domain.ReasonKeyNotFound)
	named, err := s.AddKeyAlias(t.Context(), admin, ref, alias, false, commands.Mutation{})
	if err != nil || named.Key.UID != state.Key.UID || !cmp.Equal(named.Aliases, []string{alias}) || named.AliasRevision <= state.Revision || named.Revision != state.Revision {
		t.Fatalf("answer %+v, %v", named, err)
	}
	// By its alias the key is changed, used and named anew like by its name.
	if rotated, err := s.RotateKey(t.Context(), admin, byAlias(alias), commands.Mutation{}); err != nil || rotated.Key.Primary != 2 || len(rotated.Aliases) != 1 {
		t.Errorf("rotated: %+v, %v", rotated, err)
	}
	both, err := s.AddKeyAlias(t.Context(), admin, byAlias(alias), second, false, commands.Mutation{})
	if err != nil || !cmp.Equal(both.Aliases, []string{second, alias}) {
		t.Errorf("two aliases: %v, %v", both.Aliases, err)
	}
	first := byAlias(alias)
	first.Version = 1
	sealed, err := s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: first, Plaintext: []byte("x")})
	if err != nil || sealed.Version != 1 || sealed.Name != ref.Name {
		t.Fatalf("encrypted: %+v, %v", sealed, err)
	}
	if r := f.last(t); r.KeyUID != state.Key.UID || r.KeyName != ref.Name.String() {
		t.Errorf("the use is recorded as %+v", r)
	}
	if opened, err := s.Decrypt(t.Context(), admin, commands.DecryptRequest{Ref: byAlias(second), Ciphertext: sealed.Ciphertext}); err != nil || string(opened.Plaintext) != "x" {
		t.Errorf("decrypted: %+v, %v", opened, err)
	}
	other, _ := newKey(t, s)
	_, err = s.RemoveKeyAlias(t.Context(), admin, other, alias, commands.Mutation{})
	refused(t, err, domain.ReasonAliasNotFound)
	left, err := s.RemoveKeyAlias(t.Context(), admin, byAlias(alias), alias, commands.Mutation{})
	if err != nil || !cmp.Equal(left.Aliases, []string{second}) {
		t.Errorf("after removing: %v, %v", left.Aliases, err)
	}
	_, err = s.Encrypt(t.Context(), admin, commands.EncryptRequest{Ref: byAlias(alias), Plaintext: []byte("x")})
	refused(t, err, domain.ReasonKeyNotFound)
	_, err = s.AddKeyAlias(t.Context(), nobody, ref, alias, false, commands.Mutation{})
	refused(t, err, domain.ReasonPermissionDenied)
	_, err = s.AddKeyAlias(t.Context(), admin, domain.KeyRef{Name: ring.Key("never")}, alias, false, commands.Mutation{})
	refused(t, err, domain.ReasonKeyNotFound)
	// The commits are on the key's record.
	for c, err := range store.LoadConfirmed(t.Context(), eventstore.AliasAggregate(byAlias(alias).AliasName()), 0) {
		if r := c.ActivityRecord(); err != nil || r.KeyUID != state.Key.UID || r.LedgerTag != state.Key.LedgerTag || r.Project != "p" || r.Location != "local" {
			t.Errorf("recorded as %+v, %v", r, err)
		}
	}
}

// TestAliasMoves: only when asked for, or when its key is gone for ever.
func TestAliasMoves(t *testing.T) {
	f := &faults{}
	s := newService(f)
	one, first := newKey(t, s)
	two, second := newKey(t, s)
	alias := newAlias()
	if _, err := s.AddKeyAlias(t.Context(), admin, one, alias, false, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	_, err := s.AddKeyAlias(t.Context(), admin, two, alias, false, commands.Mutation{})
	refused(t, err, domain.ReasonAliasExists)
	if r := f.last(t); r.Operation != "AddKeyAlias" || r.KeyUID != second.Key.UID || r.Outcome != domain.OutcomeFailed {
		t.Errorf("the refusal is recorded as %+v", r)
	}
	if moved, err := s.AddKeyAlias(t.Context(), admin, two, alias, true, commands.Mutation{}); err != nil || !cmp.Equal(moved.Aliases, []string{alias}) {
		t.Errorf("moved: %v, %v", moved.Aliases, err)
	}
	if state, _ := keys.GetByUID(first.Key.UID); len(state.Aliases) != 0 {
		t.Errorf("the key it was moved from still has %v", state.Aliases)
	}
	deleted, err := s.DeleteKey(t.Context(), admin, byAlias(alias), true, commands.Mutation{})
	if err != nil || deleted.Key.UID != second.Key.UID || len(deleted.Aliases) != 0 {
		t.Fatalf("deleted %+v, %v", deleted, err)
	}
	_, err = s.RotateKey(t.Context(), admin, byAlias(alias), commands.Mutation{})
	refused(t, err, domain.ReasonKeyNotFound)
	_, err = s.RemoveKeyAlias(t.Context(), admin, two, alias, commands.Mutation{})
	refused(t, err, domain.ReasonAliasNotFound)
	_, err = s.AddKeyAlias(t.Context(), admin, two, alias, true, commands.Mutation{})
	refused(t, err, domain.ReasonKeyDestroyed)
	// A node that does not know yet that the key is destroyed asks the log.
	lagging := newService(&faults{deaf: two.Name.String()})
	if again, err := lagging.AddKeyAlias(t.Context(), admin, one, alias, false, commands.Mutation{}); err != nil || !cmp.Equal(again.Aliases, []string{alias}) {
		t.Errorf("freed by destruction: %v, %v", again.Aliases, err)
	}
}

// TestAliasRequestID: a repeated request is answered as it was then, whatever became of the alias and of the key.
func TestAliasRequestID(t *testing.T) {
	s := newService(&faults{})
	one, _ := newKey(t, s)
	two, _ := newKey(t, s)
	alias := newAlias()
	add, remove := commands.Mutation{RequestID: newID()}, commands.Mutation{RequestID: newID()}
	added, err := s.AddKeyAlias(t.Context(), admin, one, alias, false, add)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := s.RemoveKeyAlias(t.Context(), admin, byAlias(alias), alias, remove)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddKeyAlias(t.Context(), admin, two, alias, false, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteKey(t.Context(), admin, one, true, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	again, err := s.AddKeyAlias(t.Context(), admin, one, alias, false, add)
	if diff := cmp.Diff(added, again); diff != "" || err != nil {
		t.Errorf("the repeated answer to adding differs: %v\n%s", err, diff)
	}
	again, err = s.RemoveKeyAlias(t.Context(), admin, byAlias(alias), alias, remove)
	if diff := cmp.Diff(removed, again); diff != "" || err != nil {
		t.Errorf("the repeated answer to removing differs: %v\n%s", err, diff)
	}
	_, err = s.AddKeyAlias(t.Context(), admin, one, alias, true, add)
	refused(t, err, domain.ReasonRequestIDReused)
	if state, ok := keys.GetByAlias(byAlias(alias).AliasName()); !ok || state.Key.Name != two.Name {
		t.Errorf("repeating old requests moved the alias to %s", state.Key.Name)
	}
}

// TestAliasRace: of keys that want one alias at once, one gets it.
func TestAliasRace(t *testing.T) {
	const nodes = 4
	alias := newAlias()
	refs := make([]domain.KeyRef, nodes)
	for n := range refs {
		refs[n], _ = newKey(t, newService(&faults{}))
	}
	errs := make([]error, nodes)
	var wg sync.WaitGroup
	for n := range nodes {
		wg.Go(func() {
			_, errs[n] = newService(&faults{}).AddKeyAlias(t.Context(), admin, refs[n], alias, false, commands.Mutation{})
		})
	}
	wg.Wait()
	holder, ok := keys.GetByAlias(byAlias(alias).AliasName())
	won := 0
	for n, err := range errs {
		if err == nil {
			won++
			if !ok || holder.Key.Name != refs[n].Name {
				t.Errorf("%s got the alias, which stands for %s", refs[n].Name, holder.Key.Name)
			}
			continue
		}
		refused(t, err, domain.ReasonAliasExists)
	}
	if won != 1 {
		t.Errorf("%d keys got the alias", won)
	}
}

// TestLaggingAlias: a node that has not heard of an alias asks the log before it refuses a change by it.
func TestLaggingAlias(t *testing.T) {
	s := newService(&faults{})
	ref, _ := newKey(t, s)
	alias := newAlias()
	if _, err := s.AddKeyAlias(t.Context(), admin, ref, alias, false, commands.Mutation{}); err != nil {
		t.Fatal(err)
	}
	lagging := newService(&faults{deaf: byAlias(alias).AliasName().String()})
	if _, err := lagging.RotateKey(t.Context(), admin, byAlias(alias), commands.Mutation{}); err != nil {
		t.Error(err)
	}
	other, _ := newKey(t, s)
	_, err := newService(&faults{deaf: byAlias(alias).AliasName().String()}).AddKeyAlias(t.Context(), admin, other, alias, false, commands.Mutation{})
	refused(t, err, domain.ReasonAliasExists)
}
