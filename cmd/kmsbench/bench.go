package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// bench is one run of measurements on one server.
type bench struct {
	cli
	server *server
	out    io.Writer
	made   int // keys made so far, so that no id is used twice
}

// result is one measurement.
type result struct {
	callers    int
	operations int
	elapsed    time.Duration
	latencies  []time.Duration // sorted
	cpu        time.Duration   // of all processes of the server, after its activity log is drained
	drain      time.Duration   // from the last answer until then
	grown      int64           // bytes that the streams grew by
}

func (r result) perSecond() float64 { return float64(r.operations) / r.elapsed.Seconds() }

func (r result) quantile(q float64) time.Duration {
	if len(r.latencies) == 0 {
		return 0
	}
	return r.latencies[min(len(r.latencies)-1, int(q*float64(len(r.latencies))))]
}

// tables measures operations with each number of callers, and prints a table for each with a row for the median of its
// rounds. The rounds of the operations take turns, so that their figures can be compared however the machine is doing.
func (b *bench) tables(operations []string, callers []int, measure func(operation string, callers int) (result, error)) error {
	rounds := map[string]map[int][]result{}
	for _, op := range operations {
		rounds[op] = map[int][]result{}
	}
	for _, n := range callers {
		for range b.Rounds {
			for _, op := range operations {
				r, err := measure(op, n)
				if err != nil {
					return fmt.Errorf("measuring %s: %w", op, err)
				}
				rounds[op][n] = append(rounds[op][n], r)
			}
		}
	}
	for _, op := range operations {
		fmt.Fprintf(b.out, "\n### %s\n\n| callers | operations/s | all rounds | p50 ms | p99 ms | server CPU ms per 1,000 | drained after s | bytes/operation |\n|---|---|---|---|---|---|---|---|\n", op)
		for _, n := range callers {
			b.row(n, rounds[op][n])
		}
	}
	return nil
}

func (b *bench) row(callers int, rounds []result) {
	slices.SortFunc(rounds, func(x, y result) int { return int(x.perSecond() - y.perSecond()) })
	all := make([]string, len(rounds))
	for i, r := range rounds {
		all[i] = fmt.Sprintf("%.0f", r.perSecond())
	}
	r := rounds[len(rounds)/2]
	fmt.Fprintf(b.out, "| %d | %.0f | %s | %.2f | %.2f | %.0f | %.1f | %d |\n", callers, r.perSecond(), strings.Join(all, " "),
		ms(r.quantile(0.50)), ms(r.quantile(0.99)), ms(r.cpu)/float64(r.operations)*1000, r.drain.Seconds(), r.grown/int64(max(r.operations, 1)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measure runs one operation in a closed loop and then waits until the activity log shows all of it.
func (b *bench) measure(ctx context.Context, operation string, callers int) (result, error) {
	requests, err := b.requests(ctx, operation, callers)
	if err != nil {
		return result{}, err
	}
	if _, err := b.server.drained(ctx); err != nil {
		return result{}, err
	}
	cpu, size, err := b.server.usage()
	if err != nil {
		return result{}, err
	}
	profiled := b.profile(ctx, fmt.Sprintf("%s-%d.pprof", operation, callers))
	r, err := closedLoop(ctx, b.server, callers, b.Duration, requests)
	if err := errors.Join(err, <-profiled); err != nil {
		return result{}, err
	}
	end := time.Now()
	drained, err := b.server.drained(ctx)
	if err != nil {
		return result{}, err
	}
	r.drain = max(0, drained.Sub(end))
	cpuAfter, sizeAfter, err := b.server.usage()
	r.cpu, r.grown = cpuAfter-cpu, sizeAfter-size
	return r, err
}

// profile takes a CPU profile of the server during a measurement, if that is asked for.
func (b *bench) profile(ctx context.Context, name string) <-chan error {
	done := make(chan error, 1)
	if b.Profile == "" {
		close(done)
		return done
	}
	go func() {
		seconds := max(1, int(b.Duration.Seconds())-1)
		page, err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", b.server.debug, seconds))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.Profile, name), page, 0o600)
		}
		done <- err
	}()
	return done
}

const (
	ring      = "projects/bench/locations/local/keyRings/default"
	plaintext = "a plaintext of thirty-two bytes!"
)

// requests returns, for each caller, what makes its next request.
func (b *bench) requests(ctx context.Context, operation string, callers int) ([]func() request, error) {
	out := make([]func() request, callers)
	for i := range callers {
		b.made++
		id := fmt.Sprintf("k%d", b.made)
		name := ring + "/keys/" + id
		if operation != "CreateKey" {
			if err := b.server.call(ctx, "KeyService/CreateKey", createKey(id), nil); err != nil {
				return nil, err
			}
		}
		switch operation {
		case "Encrypt":
			fixed, err := b.server.request("CryptoService/Encrypt", &kmsv1.EncryptRequest{Name: name, Plaintext: []byte(plaintext)})
			if err != nil {
				return nil, err
			}
			out[i] = func() request { return fixed }
		case "Decrypt":
			var answer kmsv1.EncryptResponse
			if err := b.server.call(ctx, "CryptoService/Encrypt", &kmsv1.EncryptRequest{Name: name, Plaintext: []byte(plaintext)}, &answer); err != nil {
				return nil, err
			}
			fixed, err := b.server.request("CryptoService/Decrypt", &kmsv1.DecryptRequest{Name: name, Ciphertext: answer.GetCiphertext()})
			if err != nil {
				return nil, err
			}
			out[i] = func() request { return fixed }
		case "RotateKey":
			fixed, err := b.server.request("KeyService/RotateKey", &kmsv1.RotateKeyRequest{Name: name})
			if err != nil {
				return nil, err
			}
			out[i] = func() request { return fixed }
		case "CreateKey":
			n, run := 0, b.made
			out[i] = func() request {
				n++
				r, err := b.server.request("KeyService/CreateKey", createKey(fmt.Sprintf("c%d-%d", run, n)))
				if err != nil {
					panic(err) // a message of our own that can't be marshaled
				}
				return r
			}
		}
	}
	return out, nil
}

func createKey(id string) *kmsv1.CreateKeyRequest {
	return &kmsv1.CreateKeyRequest{Parent: ring, KeyId: id, Key: &kmsv1.Key{Purpose: kmsv1.Key_ENCRYPT_DECRYPT}}
}

// rotations rotates one key many times with one caller and compares the first hundredth with the last.
func (b *bench) rotations(ctx context.Context) error {
	b.made++
	id := fmt.Sprintf("r%d", b.made)
	if err := b.server.call(ctx, "KeyService/CreateKey", createKey(id), nil); err != nil {
		return err
	}
	rotate := &kmsv1.RotateKeyRequest{Name: ring + "/keys/" + id}
	took := make([]time.Duration, b.Versions)
	for i := range took {
		start := time.Now()
		if err := b.server.call(ctx, "KeyService/RotateKey", rotate, nil); err != nil {
			return err
		}
		took[i] = time.Since(start)
	}
	part := max(1, b.Versions/20)
	first, last := slices.Sorted(slices.Values(took[:part])), slices.Sorted(slices.Values(took[b.Versions-part:]))
	_, err := fmt.Fprintf(b.out, "\n### Rotating one key %d times, one caller\n\n| rotations | p50 ms | p99 ms |\n|---|---|---|\n| first %d | %.2f | %.2f |\n| last %d | %.2f | %.2f |\n",
		b.Versions, part, ms(first[part/2]), ms(first[part*99/100]), part, ms(last[part/2]), ms(last[part*99/100]))
	return err
}

// start makes many keys and starts the server again.
func (b *bench) start(ctx context.Context) error {
	fmt.Fprintf(b.out, "\n### Start and memory\n\n| keys | start to /readyz s | resident MB of the server process, idle |\n|---|---|---|\n")
	empty, err := os.MkdirTemp("", "kmsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(empty) //nolint:errcheck // a temporary folder; the measurement stands
	s, err := startServer(ctx, b.KMS, empty, false)
	if err != nil {
		return err
	}
	defer func() { // whichever server is running when something fails
		if s != nil {
			_ = s.stop() // when all went well it is stopped below, where the error counts
		}
	}()
	fmt.Fprintf(b.out, "| 0 | %.2f | %d |\n", s.ready.Seconds(), s.resident()>>20)
	made := 0
	for _, keys := range []int{b.Keys / 10, b.Keys} {
		for made < keys {
			n := min(16, keys-made)
			requests := make([]func() request, n)
			each := (keys - made) / n
			for i := range requests {
				next, stop := made+i*each, made+(i+1)*each
				requests[i] = func() request {
					if next == stop {
						return nil
					}
					next++
					r, err := s.request("KeyService/CreateKey", createKey(fmt.Sprintf("s%d", next)))
					if err != nil {
						panic(err) // a message of our own that can't be marshaled
					}
					return r
				}
			}
			if _, err := closedLoop(ctx, s, n, time.Hour, requests); err != nil {
				return err
			}
			made += n * each
		}
		if err := s.stop(); err != nil {
			return err
		}
		if s, err = startServer(ctx, b.KMS, empty, false); err != nil {
			return err
		}
		if _, err := s.drained(ctx); err != nil {
			return err
		}
		time.Sleep(5 * time.Second) // idle
		fmt.Fprintf(b.out, "| %d | %.2f | %d |\n", keys, s.ready.Seconds(), s.resident()>>20)
	}
	return s.stop()
}

// call sends one request through net/http and reads its answer.
func (s *server) call(ctx context.Context, method string, in, out proto.Message) error {
	body, err := proto.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/kms.v1."+method, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/proto")
	req.Header.Set("Authorization", "Bearer "+s.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", method, res.Status, answer)
	}
	if out == nil {
		return nil
	}
	return proto.Unmarshal(answer, out)
}

// describe says what the figures were measured on.
func describe(out io.Writer) error {
	model := "unknown CPU"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d × %s, %s/%s, %s, load average before: %s\n", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH, runtime.Version(), strings.Fields(string(load))[0])
	return err
}
