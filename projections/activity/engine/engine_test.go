package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/keyledger/kms/projections/activity/engine"
)

// childArg makes this test binary the engine's child process.
const childArg = "clickhouse-engine"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case childArg:
			if err := engine.Main(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case parentArg:
			os.Exit(beParent(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

// start starts an engine in dir that ends with the test.
func start(t *testing.T, dir string) *engine.Process {
	t.Helper()
	p, err := engine.Start(t.Context(), engine.Config{Dir: dir, Args: []string{childArg}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

func connect(t *testing.T, p *engine.Process) driver.Conn {
	t.Helper()
	c, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{"engine:0"}, DialContext: p.DialContext, MaxOpenConns: 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func exec1(t *testing.T, c driver.Conn, statement string, args ...any) {
	t.Helper()
	if err := c.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, c driver.Conn, query string, args ...any) uint64 {
	t.Helper()
	var n uint64
	if err := c.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// TestDriver runs what the activity log needs of clickhouse-go against one engine.
func TestDriver(t *testing.T) {
	p := start(t, t.TempDir())
	c := connect(t, p)
	exec1(t, c, "CREATE TABLE t (id UInt64, at DateTime64(6, 'UTC'), name LowCardinality(String), ip IPv6, uid UUID, m Map(String, String)) ENGINE = MergeTree ORDER BY id")

	t.Run("version", func(t *testing.T) {
		v, err := c.ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if v.Version.Major != 26 || v.Version.Minor != 7 {
			t.Errorf("version = %v, want 26.7", v.Version)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("batch and scan", func(t *testing.T) {
		const rows = 100_000
		at := time.Date(2026, 11, 21, 1, 2, 3, 456789000, time.UTC)
		batch, err := c.PrepareBatch(t.Context(), "INSERT INTO t")
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if err := batch.Append(uint64(i), at.Add(time.Duration(i)*time.Microsecond), fmt.Sprint("n", i%10), "2001:db8::1",
				"0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f", map[string]string{"a": "b"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
		if n := count(t, c, "SELECT count() FROM t"); n != rows {
			t.Errorf("%d rows, want %d", n, rows)
		}
		var gotAt time.Time
		var name, uid string
		if err := c.QueryRow(t.Context(), "SELECT at, name, toString(uid) FROM t WHERE id = {id:UInt64}", clickhouse.Named("id", 7)).Scan(&gotAt, &name, &uid); err != nil {
			t.Fatal(err)
		}
		if !gotAt.Equal(at.Add(7*time.Microsecond)) || name != "n7" || uid != "0190b3a5-7c1e-7d2a-9c35-0a1b2c3d4e5f" {
			t.Errorf("row 7 = %v %q %q", gotAt, name, uid)
		}
		// a result of many pieces
		all, err := c.Query(t.Context(), "SELECT id FROM t ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		var next uint64
		for all.Next() {
			var id uint64
			if err := all.Scan(&id); err != nil {
				t.Fatal(err)
			}
			if id != next {
				t.Fatalf("row %d has id %d", next, id)
			}
			next++
		}
		if err := all.Err(); err != nil || next != rows {
			t.Errorf("read %d rows: %v", next, err)
		}
		if err := all.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("parameters stay data", func(t *testing.T) {
		for _, s := range []string{"", "'", `\`, `\'`, `' OR 1=1 --`, "a\tb\nc\x00d", "{x:String}", "`;DROP TABLE t", "日本語", "%00", strings.Repeat("x", 10_000)} {
			var got string
			if err := c.QueryRow(t.Context(), "SELECT {x:String}", clickhouse.Named("x", s)).Scan(&got); err != nil {
				t.Errorf("%q: %v", s, err)
			} else if got != s {
				t.Errorf("%q came back as %q", s, got)
			}
		}
	})
	t.Run("settings of one query only", func(t *testing.T) {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_threads": 7, "log_comment": "mine"}))
		var during string
		if err := c.QueryRow(ctx, "SELECT toString(getSetting('max_threads'))").Scan(&during); err != nil || during != "7" {
			t.Errorf("during: %q, %v", during, err)
		}
		for range 20 { // every connection of the pool
			var after, tag string
			if err := c.QueryRow(t.Context(), "SELECT toString(getSetting('max_threads')), getSetting('log_comment')").Scan(&after, &tag); err != nil {
				t.Fatal(err)
			}
			if after == "7" || !strings.HasPrefix(tag, "kms-") {
				t.Errorf("after: max_threads %q, log_comment %q", after, tag)
			}
		}
		bad := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"no_such_setting": 1}))
		for range 20 {
			if err := c.Exec(bad, "SELECT 1"); code(err) != 115 {
				t.Fatalf("unknown setting: %v", err)
			}
			count(t, c, "SELECT toUInt64(1)")
		}
	})
	t.Run("exceptions", func(t *testing.T) {
		if err := c.Exec(t.Context(), "SELECT * FROM no_such_table"); code(err) != 60 {
			t.Errorf("unknown table: %v", err)
		}
		if err := c.Exec(t.Context(), "SELEC 1"); code(err) != 62 {
			t.Errorf("syntax: %v", err)
		}
		if err := c.Exec(t.Context(), "CREATE TABLE t (a UInt8) ENGINE = Memory"); code(err) != 57 {
			t.Errorf("table exists: %v", err)
		}
		rows, err := c.Query(t.Context(), "SELECT throwIf(number = 2000000, 'now') FROM numbers(3000000) SETTINGS max_block_size = 1000")
		for err == nil && rows.Next() {
		}
		if err == nil {
			err = errors.Join(rows.Err(), rows.Close())
		}
		if code(err) != 395 {
			t.Errorf("in mid-stream: %v", err)
		}
		count(t, c, "SELECT count() FROM t")
	})
	t.Run("files are not tables", func(t *testing.T) {
		if err := c.Exec(t.Context(), "SELECT * FROM `/etc/passwd`"); code(err) != 60 {
			t.Errorf("a path as table: %v", err)
		}
		if err := c.Exec(t.Context(), "SELECT * FROM default.`/etc/passwd`"); code(err) != 60 {
			t.Errorf("a path as table of default: %v", err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := c.Exec(ctx, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(cityHash64(number))"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want a deadline exceeded", err)
		}
		for deadline := time.Now().Add(5 * time.Second); ; {
			n := count(t, c, "SELECT count() FROM system.processes WHERE query LIKE '%cityHash64(number)%' AND query NOT LIKE '%system.processes%'")
			if n == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the abandoned statement still runs")
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				for i := range 20 {
					var got uint64
					if err := c.QueryRow(t.Context(), "SELECT {a:UInt64} * 2", clickhouse.Named("a", g*1000+i)).Scan(&got); err != nil {
						t.Error(err)
						return
					}
					if want := uint64(g*1000+i) * 2; got != want {
						t.Errorf("got %d, want %d", got, want)
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("what is left out is refused", func(t *testing.T) {
		z, err := clickhouse.Open(&clickhouse.Options{
			Protocol: clickhouse.HTTP, Addr: []string{"engine:0"}, DialContext: p.DialContext,
			Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := z.Ping(t.Context()); code(err) != 48 {
			t.Errorf("compression: %v", err)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	})
}

func code(err error) int32 {
	if e, ok := errors.AsType[*clickhouse.Exception](err); ok {
		return e.Code
	}
	return -1
}

// TestIsolation looks at the child through /proc.
func TestIsolation(t *testing.T) {
	leaked, err := syscall.Open("/etc/hostname", syscall.O_RDONLY, 0) // without close-on-exec, as a C library would
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(leaked) })
	t.Setenv("KMS_TOKEN", "secret")
	dir := t.TempDir()
	p := start(t, dir)
	proc := fmt.Sprintf("/proc/%d/", p.Pid())
	if env, err := os.ReadFile(proc + "environ"); err != nil || len(env) != 0 {
		t.Errorf("environment %q, %v", env, err)
	}
	if cwd, err := os.Readlink(proc + "cwd"); err != nil || cwd != dir {
		t.Errorf("working directory %q, %v", cwd, err)
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(proc + "fd/" + fd.Name())
		if err != nil {
			continue // closed meanwhile
		}
		if slices.Contains([]string{"0", "1", "2", "3"}, fd.Name()) || strings.HasPrefix(target, dir) ||
			strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "pipe:") {
			continue
		}
		if !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/") && target != "/dev/null" {
			t.Errorf("descriptor %s is %s", fd.Name(), target)
		}
	}
}

func TestKilledChildIsStartedAgain(t *testing.T) {
	p := start(t, t.TempDir())
	c := connect(t, p)
	exec1(t, c, "CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id")
	exec1(t, c, "INSERT INTO t SELECT number FROM numbers(1000)")
	first := p.Pid()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		var n uint64
		asked := time.Now()
		err := c.QueryRow(t.Context(), "SELECT count() FROM t").Scan(&n)
		if err == nil {
			if n != 1000 {
				t.Errorf("%d rows after the restart, want 1000", n)
			}
			break
		}
		if took := time.Since(asked); took > time.Second {
			t.Errorf("a request waited %v for an engine that is away", took)
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("not back: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("back after %v", time.Since(began))
	if p.Pid() == first || p.Pid() == 0 {
		t.Errorf("pid %d before and %d after", first, p.Pid())
	}
}

func TestLongPathAndReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 60), "engine")
	p := start(t, dir)
	c := connect(t, p)
	exec1(t, c, "CREATE TABLE t (id UInt64) ENGINE = MergeTree ORDER BY id")
	exec1(t, c, "INSERT INTO t SELECT number FROM numbers(10)")
	pid := p.Pid()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the child is still there: %v", err)
	}
	if _, err := p.DialContext(t.Context(), ""); !errors.Is(err, engine.ErrUnavailable) {
		t.Errorf("dialling a closed engine: %v", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if n := count(t, connect(t, start(t, dir)), "SELECT count() FROM t"); n != 10 {
		t.Errorf("%d rows after reopening, want 10", n)
	}
}

func TestStartRefusals(t *testing.T) {
	t.Run("folder in use", func(t *testing.T) {
		dir := t.TempDir()
		start(t, dir)
		_, err := engine.Start(t.Context(), engine.Config{Dir: dir, Args: []string{childArg}})
		if err == nil {
			t.Fatal("a second engine started in the same folder")
		}
		if !strings.Contains(err.Error(), "another process uses") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("no library", func(t *testing.T) {
		t.Setenv("KMS_LIBCHDB", filepath.Join(t.TempDir(), "none.so"))
		_, err := engine.Start(t.Context(), engine.Config{Dir: t.TempDir()})
		if !errors.Is(err, engine.ErrNoLibrary) || !strings.Contains(err.Error(), "make deps") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("not the library", func(t *testing.T) {
		wrong := filepath.Join(t.TempDir(), "libchdb.so")
		if err := os.WriteFile(wrong, []byte("not a library"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := engine.Start(t.Context(), engine.Config{Dir: t.TempDir(), Library: wrong, Args: []string{childArg}})
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := engine.Start(ctx, engine.Config{Dir: t.TempDir(), Args: []string{childArg}}); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
	})
}

const parentArg = "parent-of-an-engine"

// beParent starts an engine, prints its pid and waits to be killed.
func beParent(dir string) int {
	p, err := engine.Start(context.Background(), engine.Config{Dir: dir, Args: []string{childArg}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, p.Pid())
	select {}
}

func TestChildDiesWithKilledParent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], parentArg, t.TempDir())
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(stdout, &child); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child, 0); err != nil {
		t.Fatalf("the child is not there: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it was meant
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child)); err != nil || strings.Contains(string(stat), ") Z ") {
			return // gone, or a zombie that nobody collects here
		}
		if time.Now().After(deadline) {
			t.Fatalf("the child %d outlived its parent", child)
		}
	}
}
