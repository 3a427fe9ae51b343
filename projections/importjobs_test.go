package projections_test

import (
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// TestImportJobs: they are listed by ring and id, found again by their requests, and due from their end until their key is
// erased.
func TestImportJobs(t *testing.T) {
	spare := domain.RingName{Project: "p", Location: "local", Ring: "spare"}
	other := domain.RingName{Project: "p", Location: "local", Ring: "other"}
	var h history
	create := func(n domain.ImportJobName) {
		h.add(eventstore.ImportJobAggregate(n), domain.ImportJobCreated{Name: n, UID: domain.UID{1}, ExpireTime: start.Add(time.Hour)})
	}
	create(spare.ImportJob("b"))
	create(spare.ImportJob("a"))
	create(other.ImportJob("c"))
	canceled := h.add(eventstore.ImportJobAggregate(spare.ImportJob("a")), domain.ImportJobCanceled{})
	k := projected(t, h.commits)
	jobs := k.ImportJobs(spare)
	if len(jobs) != 2 || jobs[0].Job.Name.ID != "a" || jobs[1].Job.Name.ID != "b" || jobs[0].Job.State != domain.ImportJobStateCanceled || jobs[0].Revision != canceled {
		t.Errorf("jobs of the ring: %+v", jobs)
	}
	if got := k.ImportJob(spare.ImportJob("none")); got.Revision != 0 {
		t.Errorf("a job that was never made: %+v", got)
	}
	if rev, _, ok := k.Request(eventstore.ImportJobAggregate(spare.ImportJob("a")).Name, "admin", domain.UID{15: byte(canceled)}); !ok || rev != canceled {
		t.Errorf("its request is of revision %d, %v", rev, ok)
	}
	due := func(at time.Time) (ids []string) {
		for _, j := range projected(t, h.commits).DueImportJobs(at) {
			ids = append(ids, j.Job.Name.ID)
		}
		return ids
	}
	if got := due(start); len(got) != 1 || got[0] != "a" {
		t.Errorf("due before any expires: %v", got)
	}
	h.add(eventstore.ImportJobAggregate(spare.ImportJob("a")), domain.ImportJobKeyErased{})
	if got := due(start); len(got) != 0 {
		t.Errorf("due after the erasure: %v", got)
	}
	if got := due(start.Add(time.Hour)); len(got) != 2 {
		t.Errorf("due when the others expire: %v", got)
	}
}

// TestUnerasedMaterial: a key of which the material of one version was deleted is to be erased until it is known to be.
func TestUnerasedMaterial(t *testing.T) {
	name := domain.KeyName{Project: "p", Location: "local", Ring: "default", ID: "k"}
	key := eventstore.KeyAggregate(name)
	var h history
	for _, e := range []domain.Event{
		domain.KeyCreated{UID: domain.UID{1}, Name: name},
		domain.KeyVersionAdded{Version: 1, MaterialID: domain.UID{2}, Origin: domain.Imported},
		domain.KeyVersionAdded{Version: 2, MaterialID: domain.UID{3}, Origin: domain.Imported},
		domain.KeyMaterialDeleted{Version: 2},
	} {
		h.add(key, e)
	}
	if got := projected(t, h.commits).Unerased(); len(got) != 1 || got[0].Key.Name != name {
		t.Errorf("to be erased: %+v", got)
	}
	h.add(key, domain.MaterialErased{Version: 2, MaterialID: domain.UID{3}})
	if got := projected(t, h.commits).Unerased(); len(got) != 0 {
		t.Errorf("to be erased when it is: %+v", got)
	}
}
