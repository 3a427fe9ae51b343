package eventstore_test

import (
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore/eventstoretest"
)

// cpuTime is what this process has used so far, the embedded server's part included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// parallel runs f b.N times from so many goroutines and reports CPU time per operation.
func parallel(b *testing.B, callers int, f func() error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var wg sync.WaitGroup
	next := make(chan struct{}, callers)
	for range callers {
		wg.Go(func() {
			for range next {
				if err := f(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

func BenchmarkRecord(b *testing.B) {
	for _, callers := range []int{1, 16, 64, 256} {
		b.Run("callers="+itoa(callers), func(b *testing.B) {
			s := eventstoretest.New(b)
			r := record(b, "k")
			parallel(b, callers, func() error {
				_, err := s.Record(b.Context(), []domain.ActivityRecord{r})
				return err
			})
		})
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run("callers="+itoa(callers), func(b *testing.B) {
			s := eventstoretest.New(b)
			blob := make([]byte, 120)
			parallel(b, callers, func() error {
				c := createKey(b, newUID(b).String())
				binding := domain.Binding{Project: "default", KeyUID: c.KeyUID, MaterialID: newUID(b)}
				if err := s.PutMaterial(b.Context(), binding, blob); err != nil {
					return err
				}
				_, err := s.Append(b.Context(), 0, c)
				return err
			})
		})
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// BenchmarkRead is what a projector pays for each record, in messages of 64.
func BenchmarkRead(b *testing.B) {
	s := eventstoretest.New(b)
	many := make([]domain.ActivityRecord, 64)
	for i := range many {
		many[i] = record(b, "k")
	}
	for range b.N/len(many) + 1 {
		if _, err := s.Record(b.Context(), many); err != nil {
			b.Fatal(err)
		}
	}
	_, last, err := s.StreamHead(b.Context(), "KMS_ACTIVITY_1")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	for r, err := range s.ReadRecords(b.Context(), "KMS_ACTIVITY_1", 0) {
		if err != nil {
			b.Fatal(err)
		}
		if r.Seq == last {
			break
		}
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}
