package activity_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/projections/activity"
)

// TestOneBatchOneKeyOneTime is the case in which nothing but their place tells rows apart.
func TestOneBatchOneKeyOneTime(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	r := record(t)
	records := make([]domain.ActivityRecord, 500)
	for i := range records {
		records[i] = r
	}
	s.record(t, 500, records...)
	caughtUp(t, l)
	if err := l.Conn().Exec(t.Context(), "OPTIMIZE TABLE kms.activity_g1 FINAL"); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, l, 500)
	if page := logs(t, l, activity.Query{KeyUID: keyUID, PageSize: 1000, Total: true}); len(page.Rows) != 500 || page.Total != 500 {
		t.Errorf("%d rows of %d", len(page.Rows), page.Total)
	}
}

// load records one record after another, on several goroutines, until stop; stop returns how many.
func (s *site) load(t *testing.T) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var n atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r := record(t)
				if _, err := s.store.Record(context.WithoutCancel(ctx), []domain.ActivityRecord{r, r, r}); err != nil {
					t.Errorf("recording: %v", err)
					return
				}
				n.Add(3)
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		return int(n.Load())
	}
}

func TestEngineKilledDuringLoad(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	stop := s.load(t)
	kills := 0
	for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); time.Sleep(time.Duration(300+kills*211%900) * time.Millisecond) {
		if pid := s.engine.Pid(); pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			kills++
		}
	}
	n := stop()
	caughtUp(t, l)
	t.Logf("%d records, %d kills", n, kills)
	if kills < 2 {
		t.Errorf("the engine was killed only %d times", kills)
	}
	exactlyOnce(t, l, n)
}

func TestProjectorRestartedDuringLoad(t *testing.T) {
	s := newSite(t)
	stop := s.load(t)
	for i := range 8 {
		l := s.open(t)
		end := run(t, l)
		time.Sleep(time.Duration(300+i*170) * time.Millisecond)
		end()
	}
	n := stop()
	l := s.open(t)
	run(t, l)
	caughtUp(t, l)
	exactlyOnce(t, l, n)
}

func TestEngineFolderLost(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	end := run(t, l)
	for range 100 {
		s.record(t, 1, record(t))
	}
	caughtUp(t, l)
	end()
	closeEngine(t, s.engine)
	s.engine = startEngine(t, filepath.Join(t.TempDir(), "another"))
	l = s.open(t)
	run(t, l)
	s.record(t, 1, record(t))
	caughtUp(t, l)
	exactlyOnce(t, l, 101)
}

func TestTableLostWhileRunning(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	for range 100 {
		s.record(t, 1, record(t))
	}
	caughtUp(t, l)
	if err := l.Conn().Exec(t.Context(), "DROP TABLE kms.activity_g1 SYNC"); err != nil {
		t.Fatal(err)
	}
	s.record(t, 1, record(t))
	caughtUp(t, l)
	exactlyOnce(t, l, 101)
}

// TestTokenWithoutRows is a kill between the moment that ClickHouse notes a block's token and the moment that it has it.
func TestTokenWithoutRows(t *testing.T) {
	s := newSite(t)
	source := &forgetful{Source: s.store}
	cfg := activity.Config{Dial: s.engine.DialContext, Source: source, Owner: "node", Logger: testLog(t)}
	l := open(t, cfg)
	end := run(t, l)
	for range 100 {
		s.record(t, 1, record(t))
	}
	caughtUp(t, l)
	end()
	if source.ranges.Load() == 0 {
		t.Fatal("no range was fixed")
	}
	if err := l.Conn().Exec(t.Context(), "ALTER TABLE kms.activity_g1 DELETE WHERE stream = 'KMS_ACTIVITY_1' SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	exactlyOnce(t, l, 0)
	run(t, open(t, cfg))
	for deadline := time.Now().Add(patience); scan[uint64](t, l, "SELECT count() FROM kms.activity WHERE stream = 'KMS_ACTIVITY_1'") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the rows are not back")
		}
	}
	exactlyOnce(t, l, 100)
}

func TestLostAnswersOfTheEventStore(t *testing.T) {
	s := newSite(t)
	l := open(t, activity.Config{Dial: s.engine.DialContext, Source: &lostAnswers{Source: s.store}, Owner: "node", Logger: testLog(t)})
	run(t, l)
	stop := s.load(t)
	time.Sleep(3 * time.Second)
	n := stop()
	caughtUp(t, l)
	exactlyOnce(t, l, n)
}

func TestTwoNodesOneServer(t *testing.T) {
	s := newSite(t)
	a, b := s.openShared(t, "a"), s.openShared(t, "b")
	endA := run(t, a)
	run(t, b)
	stop := s.load(t)
	time.Sleep(4 * time.Second)
	caughtUp(t, a) // as both see it, whoever of them writes
	caughtUp(t, b)
	endA()
	time.Sleep(time.Second)
	n := stop()
	began := time.Now()
	caughtUp(t, b)
	t.Logf("%d records; caught up %v after the end of one node", n, time.Since(began))
	exactlyOnce(t, b, n)
}

// TestTakeoverOfALiveOwner makes two nodes take a stream from each other again and again: clocks that are wrong by more
// than the time after which an owner counts as dead.
func TestTakeoverOfALiveOwner(t *testing.T) {
	s := newSite(t)
	url := "http://" + s.listen(t)
	for _, owner := range []string{"a", "b"} {
		run(t, open(t, activity.Config{URL: url, Source: &elderly{Source: s.store}, Owner: owner, Logger: testLog(t)}))
	}
	stop := s.load(t)
	time.Sleep(5 * time.Second)
	n := stop()
	l := s.open(t)
	caughtUp(t, l)
	exactlyOnce(t, l, n)
}

func TestRebuild(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	stop := s.load(t)
	created := s.createKey(t, "rebuilt")
	time.Sleep(2 * time.Second)
	n := stop()
	caughtUp(t, l)
	before := dump(t, l)
	if len(before) < n {
		t.Fatalf("%d rows of %d records", len(before), n)
	}
	if err := l.Conn().Exec(t.Context(), "TRUNCATE TABLE kms.activity_g1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := dump(t, l); after != before {
		t.Errorf("rebuilt, the log has\n%.2000s\nwant\n%.2000s", after, before)
	}
	exactlyOnce(t, l, n)
	if page := logs(t, l, activity.Query{KeyUID: created.KeyUID}); len(page.Rows) != 1 {
		t.Errorf("%d rows of the created key", len(page.Rows))
	}
	if tables := scan[string](t, l, "SELECT arrayStringConcat(arraySort(groupArray(name)), ' ') FROM system.tables WHERE database = 'kms'"); tables != "activity activity_g2 latest_use latest_use_g2" {
		t.Errorf("tables are %s", tables)
	}
	// goes on in the new generation, also while it is rebuilt once more
	stop = s.load(t)
	for range 2 {
		if err := l.Rebuild(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n += stop()
	caughtUp(t, l)
	exactlyOnce(t, l, n)
}

// dump is everything in the log.
func dump(t *testing.T, l *activity.Log) string {
	t.Helper()
	return scan[string](t, l, `SELECT concat(
		(SELECT arrayStringConcat(arraySort(groupArray(toString(tuple(*)))), '\n') FROM kms.activity), '\n--\n',
		(SELECT arrayStringConcat(arraySort(groupArray(toString(tuple(*)))), '\n') FROM kms.latest_use_g`+generation(t, l)+` FINAL))`)
}

func generation(t *testing.T, l *activity.Log) string {
	t.Helper()
	return scan[string](t, l, "SELECT comment FROM system.tables WHERE database = 'kms' AND name = 'activity'")
}

func TestRebuildGivenUpLeavesNothing(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	s.record(t, 1, record(t))
	caughtUp(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	broken := open(t, activity.Config{Dial: s.engine.DialContext, Source: &cancelling{Source: s.store, cancel: cancel}, Owner: "rebuild", Logger: testLog(t)})
	if err := broken.Rebuild(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
	if g := generation(t, l); g != "1" {
		t.Errorf("generation %s is shown", g)
	}
	exactlyOnce(t, l, 1)
	if n := scan[uint64](t, l, "SELECT count() FROM system.tables WHERE database = 'kms' AND name LIKE '%_g2'"); n != 0 {
		t.Errorf("%d tables were left behind", n)
	}
}

func TestAsOfTimeWhileBehind(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	end := run(t, l)
	s.record(t, 1, record(t))
	caughtUp(t, l)
	end()
	time.Sleep(20 * time.Millisecond)
	behind := time.Now()
	s.record(t, 1, record(t))
	page := logs(t, l, activity.Query{KeyUID: keyUID})
	if len(page.Rows) != 1 || !page.AsOfTime.Before(behind) {
		t.Errorf("%d rows as of %v, which is not before %v", len(page.Rows), page.AsOfTime, behind)
	}
	run(t, l)
	caughtUp(t, l)
	if page := logs(t, l, activity.Query{KeyUID: keyUID}); len(page.Rows) != 2 {
		t.Errorf("%d rows after catching up", len(page.Rows))
	}
}

func TestVisibleSoon(t *testing.T) {
	s := newSite(t)
	l := s.open(t)
	run(t, l)
	s.record(t, 1, record(t))
	caughtUp(t, l)
	var worst time.Duration
	for i := range 8 {
		r := record(t)
		r.Message = fmt.Sprint("visible ", i)
		began := time.Now()
		s.record(t, 1, r)
		for len(logs(t, l, activity.Query{KeyUID: keyUID, Keyword: r.Message, PageSize: 1}).Rows) == 0 {
			if time.Since(began) > patience {
				t.Fatal("never visible")
			}
			time.Sleep(10 * time.Millisecond)
		}
		worst = max(worst, time.Since(began))
	}
	t.Logf("visible after at most %v", worst)
	if worst > 5*time.Second { // it is below one on a machine of one's own
		t.Errorf("visible after %v", worst)
	}
}
