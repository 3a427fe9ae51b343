// Command kmsbench measures a kms server in a closed loop over loopback: it starts the real binary on an empty data
// folder, lets a number of callers each send the next request when the last one is answered, and reports throughput,
// latency, the CPU time that all processes of the server took, the drained activity database included, and how much the
// streams grew. `make bench` runs it; docs/performance.md tells the results.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

type cli struct {
	KMS      string        `help:"Server binary." default:"bin/kms" type:"existingfile"`
	Duration time.Duration `help:"How long each measurement runs." default:"5s"`
	Rounds   int           `help:"How often each measurement is repeated; the median by throughput is reported." default:"3"`
	Callers  string        `help:"Numbers of callers, separated by commas." default:"1,16,64"`
	Only     string        `help:"Operations to measure, separated by commas; empty: all." placeholder:"OPS"`
	Versions int           `help:"How far to rotate one key, to see whether rotating gets slower." default:"10000"`
	Keys     int           `help:"How many keys to make for the start-up and memory measurements." default:"100000"`
	Profile  string        `help:"Folder for CPU profiles of the server, one of each measurement's last round." type:"path"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var c cli
	kong.Parse(&c, kong.Name("kmsbench"), kong.Description("Measures a kms server in a closed loop over loopback."))
	err := c.run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kmsbench:", err)
		os.Exit(1)
	}
}

// operations in the order they are measured; those of one line take turns. Probe is the two bare synced appends that
// CreateKey and RotateKey stand on.
var operations = [][]string{{"Encrypt"}, {"Decrypt"}, {"Probe", "CreateKey", "RotateKey"}, {"Rotations"}, {"Start"}}

func (c cli) run(ctx context.Context, out io.Writer) (err error) {
	callers, err := numbers(c.Callers)
	if err != nil {
		return err
	}
	only := map[string]bool{}
	for op := range strings.SplitSeq(c.Only, ",") {
		only[op] = true
	}
	dir, err := os.MkdirTemp("", "kmsbench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := startServer(ctx, c.KMS, dir, c.Profile != "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := describe(out); err != nil {
		return err
	}
	b := bench{cli: c, server: s, out: out}
	for _, group := range operations {
		group = slices.DeleteFunc(slices.Clone(group), func(op string) bool { return c.Only != "" && !only[op] })
		switch {
		case len(group) == 0:
			continue
		case group[0] == "Rotations":
			err = b.rotations(ctx)
		case group[0] == "Start":
			err = b.start(ctx)
		default:
			err = b.tables(group, callers, func(op string, n int) (result, error) {
				if op == "Probe" {
					return probe(ctx, n, c.Duration)
				}
				return b.measure(ctx, op, n)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func numbers(list string) ([]int, error) {
	var out []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1024 {
			return nil, fmt.Errorf("--callers must be numbers from 1 to 1024, not %q", text)
		}
		out = append(out, n)
	}
	return out, nil
}
