package eventstore_test

import (
	"testing"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// TestGrowth keeps the price of a record in bytes: it is paid for every use of every key, for ever.
func TestGrowth(t *testing.T) {
	const uses, limit = 200, 400
	s := eventstoretest.New(t)
	before := s.StreamBytes(t, "KMS_ACTIVITY_1")
	for range uses {
		if _, err := s.Record(t.Context(), []domain.ActivityRecord{record(t, "a-usual-key-name")}); err != nil {
			t.Fatal(err)
		}
	}
	if each := (s.StreamBytes(t, "KMS_ACTIVITY_1") - before) / uses; each > limit {
		t.Errorf("a record stored alone takes %d bytes, more than %d", each, limit)
	} else {
		t.Logf("a record stored alone takes %d bytes", each)
	}
}
