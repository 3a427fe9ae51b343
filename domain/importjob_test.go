package domain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	. "github.com/keyledger/kms/domain"
)

var (
	jobName   = ImportJobName{Project: "shop", Location: "local", Ring: "default", ID: "j"}
	createJob = CreateImportJob{
		Name: jobName, UID: UID{7}, Method: RSAOAEP3072SHA256AES256, Protection: HSM, Creator: "admin", MaterialID: UID{8},
	}
	jobMade = ImportJobCreated{
		Name: jobName, UID: UID{7}, Method: RSAOAEP3072SHA256AES256, Protection: HSM, MaterialID: UID{8}, Creator: "admin",
		ExpireTime: day0.Add(ImportJobLifetime).UTC(),
	}
	blobA, blobB = [32]byte{1}, [32]byte{2}
	useA         = UseImportJob{Name: jobName, Digest: blobA, KeyUID: UID{1}}
	usedA        = ImportJobUsed{Digest: blobA, KeyUID: UID{1}}
)

// Where an import job stands for the table below. One is over from its expire time on, recorded or not.
const (
	noJob       = "absent"
	fresh       = "fresh"
	used        = "used by A"
	done        = "A imported"
	overdue     = "expired by the clock"
	expired     = "expired"
	canceled    = "canceled"
	erasedAfter = "canceled and erased"
)

func jobIn(s string) (ImportJob, time.Time) {
	at := day0.Add(time.Hour)
	over := jobMade.ExpireTime
	switch s {
	case noJob:
		return ImportJob{}, day0
	case fresh:
		return FoldImportJob(ImportJob{}, day0, jobMade), at
	case used:
		return FoldImportJob(ImportJob{}, day0, jobMade, usedA), at
	case done:
		return FoldImportJob(ImportJob{}, day0, jobMade, usedA, ImportCompleted{Digest: blobA}), at
	case overdue:
		return FoldImportJob(ImportJob{}, day0, jobMade, usedA), over
	case expired:
		return FoldImportJob(ImportJob{}, day0, jobMade, usedA, ImportJobExpired{}), over
	case canceled:
		return FoldImportJob(ImportJob{}, day0, jobMade, usedA, ImportJobCanceled{}), at
	case erasedAfter:
		return FoldImportJob(ImportJob{}, day0, jobMade, ImportJobCanceled{}, ImportJobKeyErased{}), at
	}
	panic("no job is " + s)
}

type jobAnswer struct {
	events []ImportJobEvent
	reason Reason
}

func answers(events ...ImportJobEvent) jobAnswer { return jobAnswer{events: events} }

func refusal(r Reason) jobAnswer { return jobAnswer{reason: r} }

// TestDecideImportJob has an answer for every command in every standing of a job.
func TestDecideImportJob(t *testing.T) {
	all := []string{noJob, fresh, used, done, overdue, expired, canceled, erasedAfter}
	nothing := answers()
	over := func(use map[string]jobAnswer) map[string]jobAnswer {
		use[noJob] = refusal(ReasonImportJobNotFound)
		use[overdue], use[expired] = refusal(ReasonImportJobExpired), refusal(ReasonImportJobExpired)
		use[canceled], use[erasedAfter] = refusal(ReasonImportJobCanceled), refusal(ReasonImportJobCanceled)
		return use
	}
	otherKey, otherVersion := useA, useA
	otherKey.KeyUID, otherVersion.Version = UID{2}, 3
	again := usedA
	again.Digest = blobB
	another := useA
	another.Digest = blobB
	for _, row := range []struct {
		command ImportJobCommand
		answers map[string]jobAnswer
	}{
		{createJob, map[string]jobAnswer{
			noJob: answers(jobMade), fresh: refusal(ReasonImportJobExists), used: refusal(ReasonImportJobExists), done: refusal(ReasonImportJobExists),
			overdue: refusal(ReasonImportJobExists), expired: refusal(ReasonImportJobExists), canceled: refusal(ReasonImportJobExists), erasedAfter: refusal(ReasonImportJobExists),
		}},
		{useA, over(map[string]jobAnswer{fresh: answers(usedA), used: nothing, done: refusal(ReasonWrappedKeyUsed)})},
		{otherKey, over(map[string]jobAnswer{
			fresh: answers(ImportJobUsed{Digest: blobA, KeyUID: UID{2}}), used: refusal(ReasonWrappedKeyUsed), done: refusal(ReasonWrappedKeyUsed),
		})},
		{otherVersion, over(map[string]jobAnswer{
			fresh: answers(ImportJobUsed{Digest: blobA, KeyUID: UID{1}, Version: 3}), used: refusal(ReasonWrappedKeyUsed), done: refusal(ReasonWrappedKeyUsed),
		})},
		{another, over(map[string]jobAnswer{fresh: answers(again), used: answers(again), done: answers(again)})},
		{CompleteImport{Digest: blobA}, map[string]jobAnswer{ // also when the job is over: the import was before that
			noJob: nothing, fresh: nothing, used: answers(ImportCompleted{Digest: blobA}), done: nothing, overdue: answers(ImportCompleted{Digest: blobA}),
			expired: answers(ImportCompleted{Digest: blobA}), canceled: answers(ImportCompleted{Digest: blobA}), erasedAfter: nothing,
		}},
		{CancelImport{Name: jobName}, map[string]jobAnswer{
			noJob: refusal(ReasonImportJobNotFound), fresh: answers(ImportJobCanceled{}), used: answers(ImportJobCanceled{}), done: answers(ImportJobCanceled{}),
			overdue: refusal(ReasonImportJobExpired), expired: refusal(ReasonImportJobExpired), canceled: nothing, erasedAfter: nothing,
		}},
		{ExpireImportJob{}, map[string]jobAnswer{
			noJob: nothing, fresh: nothing, used: nothing, done: nothing, overdue: answers(ImportJobExpired{}), expired: nothing, canceled: nothing, erasedAfter: nothing,
		}},
		{RecordJobErasure{}, map[string]jobAnswer{
			noJob: nothing, fresh: nothing, used: nothing, done: nothing, overdue: nothing,
			expired: answers(ImportJobKeyErased{}), canceled: answers(ImportJobKeyErased{}), erasedAfter: nothing,
		}},
	} {
		for _, s := range all {
			want, ok := row.answers[s]
			if !ok {
				t.Errorf("%T has no answer for a job that is %s", row.command, s)
				continue
			}
			job, at := jobIn(s)
			events, err := DecideImportJob(job, at, row.command)
			var reason Reason
			if refused, ok := errors.AsType[*Error](err); ok {
				reason = refused.Reason
				if len(refused.Message) < 40 || !strings.Contains(refused.Message, jobName.String()) {
					t.Errorf("%T of a job that is %s: the refusal says only %q", row.command, s, refused.Message)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if reason != want.reason || !cmp.Equal(events, want.events) {
				t.Errorf("%T of a job that is %s: %v, %q, want %v, %q", row.command, s, events, reason, want.events, want.reason)
			}
		}
	}
}

// TestImportJobDue: there is something to do for a job that is over until its key is erased, and never before.
func TestImportJobDue(t *testing.T) {
	for s, want := range map[string]bool{noJob: false, fresh: false, used: false, done: false, overdue: true, expired: true, canceled: true, erasedAfter: false} {
		if job, at := jobIn(s); job.Due(at) != want {
			t.Errorf("due when %s: %v", s, !want)
		}
	}
}

// TestImportJobIsAValue: a job that somebody reads does not change when events follow.
func TestImportJobIsAValue(t *testing.T) {
	before, at := jobIn(used)
	kept := before
	kept.Uses = append([]ImportUse(nil), before.Uses...)
	one := FoldImportJob(before, at, ImportCompleted{Digest: blobA}, ImportJobUsed{Digest: blobB, KeyUID: UID{2}})
	two := FoldImportJob(before, at, ImportJobUsed{Digest: [32]byte{3}, KeyUID: UID{3}})
	if !cmp.Equal(before, kept) || one.Uses[1].KeyUID != (UID{2}) || two.Uses[1].KeyUID != (UID{3}) || !one.Imported(blobA) || two.Imported(blobA) {
		t.Errorf("%+v became %+v; then %+v and %+v", kept, before, one, two)
	}
}

func TestImportJobIsBounded(t *testing.T) {
	job, at := jobIn(fresh)
	for i := range MaxImports {
		job = EvolveImportJob(job, at, ImportJobUsed{Digest: [32]byte{byte(i), byte(i >> 8)}, KeyUID: UID{1}})
	}
	last := useA
	last.Digest = [32]byte{0, 0, 1}
	if _, err := DecideImportJob(job, at, last); !errors.Is(err, &Error{Reason: ReasonTooManyImports}) {
		t.Errorf("one more than %d: %v", MaxImports, err)
	}
}

func TestParseImportJobName(t *testing.T) {
	got, err := ParseImportJobName(jobName.String())
	if err != nil || got != jobName || got.RingName().ImportJob("j") != jobName {
		t.Errorf("%s reads as %+v, %v", jobName, got, err)
	}
	ring := jobName.RingName().String()
	for _, s := range []string{
		"", "j", ring, ring + "/importJobs/", ring + "/importJobs/a/b", ring + "/keys/j", ring + "/importJobs/ä", ring + "/importJobsj", "/" + ring + "/importJobs/j",
		"projects/shop/locations/local/keyRings/-/importJobs/j", strings.Repeat("x", 1000),
	} {
		if got, err := ParseImportJobName(s); !errors.Is(err, &Error{Reason: ReasonBadName}) {
			t.Errorf("%.80q reads as %+v, %v", s, got, err)
		}
	}
}

// TestOffers: every algorithm is of one purpose, is the default of at most one, and is taken with no other.
func TestOffers(t *testing.T) {
	purposes := map[Algorithm]Purpose{} //nolint:exhaustive // it is filled below
	for _, o := range Offers() {
		if DefaultAlgorithm(o.Purpose) != o.Algorithms[0] {
			t.Errorf("default of %s: %s", o.Purpose, DefaultAlgorithm(o.Purpose))
		}
		for _, a := range o.Algorithms {
			if other, twice := purposes[a]; twice {
				t.Errorf("%s is of %s and %s", a, o.Purpose, other)
			}
			purposes[a] = o.Purpose
		}
	}
	for name, value := range stringConstants(t, "Algorithm") {
		a := Algorithm(value)
		if _, ok := purposes[a]; !ok {
			t.Errorf("%s is offered for no purpose", name)
		}
		for _, o := range Offers() {
			if err := CheckAlgorithm(o.Purpose, a); (err == nil) != (purposes[a] == o.Purpose) {
				t.Errorf("%s with %s: %v", o.Purpose, a, err)
			}
		}
	}
	if err := CheckAlgorithm("WRAP", AES256GCM); !errors.Is(err, &Error{Reason: ReasonUnsupported}) || DefaultAlgorithm("WRAP") != "" {
		t.Errorf("WRAP: %v", err)
	}
}
