package projections

import (
	"cmp"
	"slices"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// jobEntry is one import job.
type jobEntry struct {
	state    eventstore.ImportJobState
	requests requests
}

func (k *Keys) applyImportJob(c eventstore.Commit) error {
	e, known := k.importJobs[c.Aggregate.Name]
	if !known {
		e = &jobEntry{}
	}
	state, err := e.state.Apply(c)
	if err != nil {
		return err
	}
	e.state = state
	e.requests.remember(c)
	k.importJobs[c.Aggregate.Name], k.jobsByUID[state.Job.UID] = e, e
	if state.Job.Erased {
		delete(k.openJobs, e)
	} else {
		k.openJobs[e] = struct{}{}
	}
	return nil
}

// ImportJob returns the import job with this name; the zero state if it was never made.
func (k *Keys) ImportJob(name domain.ImportJobName) eventstore.ImportJobState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e, ok := k.importJobs[name.String()]; ok {
		return e.state
	}
	return eventstore.ImportJobState{}
}

// ImportJobByUID is ImportJob for a job named by its uid.
func (k *Keys) ImportJobByUID(uid domain.UID) eventstore.ImportJobState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e, ok := k.jobsByUID[uid]; ok {
		return e.state
	}
	return eventstore.ImportJobState{}
}

// ImportJobs are those of a ring in the order of their ids, those that are over included.
func (k *Keys) ImportJobs(ring domain.RingName) []eventstore.ImportJobState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var jobs []eventstore.ImportJobState
	for _, e := range k.importJobs {
		if e.state.Job.Name.RingName() == ring {
			jobs = append(jobs, e.state)
		}
	}
	slices.SortFunc(jobs, func(a, b eventstore.ImportJobState) int { return cmp.Compare(a.Job.Name.ID, b.Job.Name.ID) })
	return jobs
}

// DueImportJobs are those whose end is to be recorded, or whose private key is to be erased.
func (k *Keys) DueImportJobs(at time.Time) []eventstore.ImportJobState {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var jobs []eventstore.ImportJobState
	for e := range k.openJobs {
		if e.state.Job.Due(at) {
			jobs = append(jobs, e.state)
		}
	}
	return jobs
}
