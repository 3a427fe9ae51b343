// Package deploy_test loads what docker-compose.yml brings together with the loaders of those who will read it (Compose's
// own, the NATS server's, an XML and a YAML parser) and checks the parts against each other and against the server's
// flags. It starts NATS as configured; containers it does not start.
package deploy_test

import (
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// site is a copy of the repository's deployment with its secrets made, loaded as `docker compose` would.
func site(t *testing.T) (dir string, project *types.Project) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), withoutSecrets{os.DirFS(".")}); err != nil {
		t.Fatal(err)
	}
	compose, err := os.ReadFile("../docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker-compose.yml"), compose, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "deploy", "secrets.sh")).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh: %v\n%s", err, out)
	}
	project, err = loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml")}},
		Environment: map[string]string{}, // nothing may depend on the caller's
	})
	if err != nil {
		t.Fatalf("loading docker-compose.yml: %v", err)
	}
	if project, err = project.WithServicesEnvironmentResolved(true); err != nil {
		t.Fatalf("reading the env files: %v", err)
	}
	return dir, project
}

// withoutSecrets leaves out secrets that a developer made in the working copy.
type withoutSecrets struct{ fs.FS }

func (w withoutSecrets) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(w.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return name == "." && e.Name() == "secrets" }), err
}

// environment is what the service's process sees.
func environment(s types.ServiceConfig) map[string]string {
	env := map[string]string{}
	for k, v := range s.Environment {
		if v != nil {
			env[k] = *v
		}
	}
	return env
}

func TestServices(t *testing.T) {
	_, project := site(t)
	want := []string{"clickhouse", "init", "kms-1", "kms-2", "nats-1", "nats-2", "nats-3", "otel-collector"}
	if got := slices.Sorted(maps.Keys(project.Services)); !slices.Equal(got, want) {
		t.Fatalf("services are %v, want %v", got, want)
	}
	pinned := regexp.MustCompile(`:v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9.-]+)?(@sha256:[0-9a-f]{64})?$`)
	for name, s := range project.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %q is not pinned to a version", name, s.Image)
		}
		if !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s: keeps capabilities or may gain privileges", name)
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is published beyond this host without TLS", name, p.Published)
			}
		}
		if _, reached := s.Networks["edge"]; reached != strings.HasPrefix(name, "kms-") {
			t.Errorf("%s: on the network edge: %t", name, reached)
		}
		for dependency := range s.DependsOn {
			if _, ok := project.Services[dependency]; !ok {
				t.Errorf("%s: depends on %s, which is no service", name, dependency)
			}
		}
	}
	if !project.Networks["backend"].Internal {
		t.Error("the network backend is not internal, but what is on it speaks in the clear")
	}
}

func TestMounts(t *testing.T) {
	dir, project := site(t)
	used := map[string]bool{}
	for name, s := range project.Services {
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				info, err := os.Stat(v.Source)
				if err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				} else if !info.Mode().IsRegular() {
					t.Errorf("%s mounts %s, which is no file", name, v.Source)
				}
				if !strings.HasPrefix(v.Source, dir) || !v.ReadOnly {
					t.Errorf("%s mounts %s from outside, or can write to it", name, v.Source)
				}
			case types.VolumeTypeVolume:
				used[v.Source] = true
				if _, ok := project.Volumes[v.Source]; !ok {
					t.Errorf("%s mounts volume %s, which is not declared", name, v.Source)
				}
			default:
				t.Errorf("%s: unexpected mount of type %s", name, v.Type)
			}
		}
	}
	for v := range project.Volumes {
		if !used[v] {
			t.Errorf("volume %s is used by nobody", v)
		}
	}
	// Both nodes and init have the same token and the same admin access key, and no two a data folder.
	data := map[string]string{}
	for _, name := range []string{"init", "kms-1", "kms-2"} {
		at := map[string]string{}
		for _, v := range project.Services[name].Volumes {
			at[v.Target] = v.Source
		}
		if at["/data/softhsm"] != "token" || at["/data/admin.key"] == "" {
			t.Errorf("%s: token is %q, admin key %q", name, at["/data/softhsm"], at["/data/admin.key"])
		}
		if other := data[at["/data"]]; other != "" || at["/data"] == "" {
			t.Errorf("%s: data folder %q is that of %q", name, at["/data"], other)
		}
		data[at["/data"]] = name
	}
}

func TestSecrets(t *testing.T) {
	dir, project := site(t)
	secrets := filepath.Join(dir, "deploy", "secrets")
	info, err := os.Stat(secrets)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the folder of secrets: %v, %v; want mode 0700", info.Mode(), err)
	}
	before := readAll(t, secrets)
	if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "deploy", "secrets.sh")).CombinedOutput(); err != nil {
		t.Fatalf("secrets.sh again: %v\n%s", err, out)
	}
	if !maps.Equal(before, readAll(t, secrets)) {
		t.Error("a second run changed the secrets")
	}
	password := regexp.MustCompile(`^k[a-z2-7]{40}$`)
	nats := environment(project.Services["nats-1"])
	for _, name := range []string{"NATS_KMS_PASSWORD", "NATS_INIT_PASSWORD", "NATS_ROUTE_PASSWORD"} {
		if !password.MatchString(nats[name]) {
			t.Errorf("%s is not a strong password that NATS reads as text", name)
		}
	}
	// Nobody is told what is another's.
	kms, initial := environment(project.Services["kms-1"]), environment(project.Services["init"])
	clickhouse := environment(project.Services["clickhouse"])
	for what, leaked := range map[string]bool{
		"kms nodes can make streams":     strings.Contains(kms["KMS_NATS"], nats["NATS_INIT_PASSWORD"]),
		"kms nodes can be NATS nodes":    strings.Contains(kms["KMS_NATS"], nats["NATS_ROUTE_PASSWORD"]),
		"init knows the password of kms": strings.Contains(initial["KMS_NATS"], nats["NATS_KMS_PASSWORD"]),
		"NATS knows ClickHouse":          nats["CLICKHOUSE_KMS_PASSWORD"] != "" || nats["KMS_CLICKHOUSE"] != "",
		"ClickHouse knows NATS":          clickhouse["KMS_NATS"] != "" || clickhouse["NATS_KMS_PASSWORD"] != "",
	} {
		if leaked {
			t.Error(what)
		}
	}
	if !strings.Contains(kms["KMS_NATS"], nats["NATS_KMS_PASSWORD"]) || !strings.Contains(initial["KMS_NATS"], nats["NATS_INIT_PASSWORD"]) ||
		!strings.Contains(kms["KMS_CLICKHOUSE"], clickhouse["CLICKHOUSE_KMS_PASSWORD"]) {
		t.Error("a client's password is not the server's")
	}
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// TestFlagsExist compares with the server's source, where every flag names its twin in the environment.
func TestFlagsExist(t *testing.T) {
	_, project := site(t)
	sources, err := filepath.Glob("../cmd/kms/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatalf("reading the server's source: %v, %d files", err, len(sources))
	}
	known := map[string]bool{}
	commands := map[string]bool{}
	variable, command := regexp.MustCompile(`env:"([A-Z0-9_]+)"`), regexp.MustCompile(`(?m)^\t([A-Z][a-z]+)\s+\w+Command\s+.cmd:""`)
	for _, file := range sources {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range variable.FindAllStringSubmatch(string(b), -1) {
			known[m[1]] = true
		}
		for _, m := range command.FindAllStringSubmatch(string(b), -1) {
			commands[strings.ToLower(m[1])] = true
		}
	}
	for _, name := range []string{"init", "kms-1", "kms-2"} {
		s := project.Services[name]
		if len(s.Command) != 1 || !commands[s.Command[0]] {
			t.Errorf("%s: command %v is none of %v", name, s.Command, slices.Sorted(maps.Keys(commands)))
		}
		for k := range environment(s) {
			if !known[k] && !strings.HasPrefix(k, "OTEL_") {
				t.Errorf("%s: cmd/kms has no flag with the variable %s", name, k)
			}
		}
	}
}

func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	file := string(b)
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	language := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	if language == nil || !strings.Contains(file, "FROM golang:"+string(language[1])+".") {
		t.Error("the image is not built with the Go version of go.mod")
	}
	if strings.Contains(file, ":latest") || !regexp.MustCompile(`(?m)^USER kms$`).MatchString(file) {
		t.Error("the image is based on a moving tag, or runs as root")
	}
	for _, ignored := range []string{"deploy/secrets*", "data", ".git"} {
		if b, err := os.ReadFile("../.dockerignore"); err != nil || !slices.Contains(strings.Split(string(b), "\n"), ignored) {
			t.Errorf(".dockerignore must keep %s out of the build: %v", ignored, err)
		}
	}
}

// TestClickHouse reads the files as far as the service depends on them.
func TestClickHouse(t *testing.T) {
	var users struct {
		Users struct {
			Default *struct {
				Remove string `xml:"remove,attr"`
			} `xml:"default"`
			KMS struct {
				Password struct {
					FromEnv string `xml:"from_env,attr"`
				} `xml:"password"`
				Profile string   `xml:"profile"`
				Grants  []string `xml:"grants>query"`
			} `xml:"kms"`
			All []struct {
				XMLName xml.Name
			} `xml:",any"`
		} `xml:"users"`
		Profiles struct {
			KMS *struct{} `xml:"kms"`
		} `xml:"profiles"`
	}
	parseXML(t, "clickhouse/users.xml", &users)
	u := users.Users
	if u.Default == nil || u.Default.Remove == "" || len(u.All) != 0 {
		t.Error("there is another user than kms")
	}
	if !slices.Equal(u.KMS.Grants, []string{"GRANT ALL ON kms.*"}) {
		t.Errorf("kms may do %q, want everything in its own database and nothing else", u.KMS.Grants)
	}
	if u.KMS.Profile != "kms" || users.Profiles.KMS == nil {
		t.Error("the user's profile does not exist")
	}
	_, project := site(t)
	if environment(project.Services["clickhouse"])[u.KMS.Password.FromEnv] == "" {
		t.Errorf("the container has no %s", u.KMS.Password.FromEnv)
	}
	var config struct {
		MergeTree struct {
			Sync string `xml:"fsync_after_insert"`
		} `xml:"merge_tree"`
	}
	parseXML(t, "clickhouse/config.xml", &config)
	if config.MergeTree.Sync != "1" {
		t.Error("ClickHouse acknowledges what is not on disk")
	}
}

// parseXML decodes the file's one element into v and refuses anything after it.
func parseXML(t *testing.T, file string, v any) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	d := xml.NewDecoder(f)
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if text, ok := token.(xml.CharData); err != nil || !ok || strings.TrimSpace(string(text)) != "" {
			t.Fatalf("%s: %v after the end", file, token)
		}
	}
}

func TestCollector(t *testing.T) {
	b, err := os.ReadFile("otel-collector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Receivers  map[string]any
		Processors map[string]any
		Exporters  map[string]any
		Service    struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
	}
	if err := yaml.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	for _, signal := range []string{"traces", "metrics"} {
		p, ok := config.Service.Pipelines[signal]
		if !ok || len(p.Receivers) == 0 || len(p.Exporters) == 0 {
			t.Errorf("%s go nowhere", signal)
		}
		for _, name := range p.Receivers {
			if _, ok := config.Receivers[name]; !ok {
				t.Errorf("%s: receiver %s is not configured", signal, name)
			}
		}
		for _, name := range p.Processors {
			if _, ok := config.Processors[name]; !ok {
				t.Errorf("%s: processor %s is not configured", signal, name)
			}
		}
		for _, name := range p.Exporters {
			if _, ok := config.Exporters[name]; !ok {
				t.Errorf("%s: exporter %s is not configured", signal, name)
			}
		}
	}
}
