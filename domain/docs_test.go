package domain_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/keyledger/kms/domain"
)

var update = flag.Bool("update", false, "write what the rules say into docs/lifecycle.md")

const lifecycleDoc = "../docs/lifecycle.md"

// TestLifecycleDocument: the tables and diagrams of docs/lifecycle.md are what Decide and VersionFor say. To write them
// anew: go test ./domain -run TestLifecycleDocument -update.
func TestLifecycleDocument(t *testing.T) {
	text, err := os.ReadFile(lifecycleDoc)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for name, content := range map[string]string{
		"key diagram":     keyDiagram(t),
		"version diagram": versionDiagram(t),
		"key table":       keyTable(t),
		"version table":   versionTable(t),
		"use table":       useTable(t),
	} {
		want = replaceBlock(t, want, name, content)
	}
	if *update {
		if err := os.WriteFile(lifecycleDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("docs/lifecycle.md differs from the rules (-rules +document); run the test with -update:\n%s", diff)
	}
}

// TestSecurityDocument: each test that docs/security.md names in support of a claim exists, as `folder.TestName`.
func TestSecurityDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) == 0 {
		t.Fatal("the document names no test")
	}
	for _, n := range named {
		folder, name := n[1], n[2]
		files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			source, err := os.ReadFile(file)
			return err == nil && bytes.Contains(source, []byte("\nfunc "+name+"("))
		}) {
			t.Errorf("docs/security.md rests a claim on %s in %s, which does not exist", name, folder)
		}
	}
}

// replaceBlock puts content between the marks of the named block.
func replaceBlock(t *testing.T, text, name, content string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("the document has no block %q", name)
	}
	return before + begin + "\n" + content + "\n" + end + after
}

// documentOrder is the order of a key's states in the document, from birth to end.
var documentOrder = []KeyState{
	KeyStateAbsent, KeyStateEnabled, KeyStateDisabled, KeyStatePendingDeletion, KeyStateDestroyed, KeyStatePendingImport, KeyStateExpired, KeyStateArchived,
}

var versionDocumentOrder = []VersionState{
	VersionStateEnabled, VersionStateDisabled, VersionStateDestroyed, VersionStatePendingImport, VersionStateDestroyScheduled,
}

func TestDocumentOrderIsComplete(t *testing.T) {
	if got, want := slices.Sorted(slices.Values(documentOrder)), states[KeyState](t, "KeyState"); !slices.Equal(got, want) {
		t.Errorf("the document has key states %q, want %q", got, want)
	}
	if got, want := slices.Sorted(slices.Values(versionDocumentOrder)), states[VersionState](t, "VersionState"); !slices.Equal(got, want) {
		t.Errorf("the document has version states %q, want %q", got, want)
	}
}

// outcome is a cell of the tables: the refusal's reason, or the events that are recorded.
func outcome(made []Event, err error) string {
	if err != nil {
		return reasonOf(err)
	}
	if len(made) == 0 {
		return "already so"
	}
	var names []string
	for _, e := range made {
		names = append(names, "**"+reflect.TypeOf(e).Name()+"**")
	}
	return strings.Join(names, ", ")
}

func reasonOf(err error) string {
	refusal, ok := errors.AsType[*Error](err)
	if !ok {
		return err.Error()
	}
	return "`" + string(refusal.Reason) + "`"
}

func stateTitle(s KeyState) string {
	if s == KeyStateAbsent {
		return "(no key)"
	}
	return string(s)
}

// table writes a Markdown table.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	line(slices.Repeat([]string{"---"}, len(head)))
	for _, r := range rows {
		line(r)
	}
	return b.String()
}

func keyTable(t *testing.T) string {
	t.Helper()
	head := []string{"command"}
	for _, s := range documentOrder {
		head = append(head, stateTitle(s))
	}
	var rows [][]string
	for _, v := range variants {
		row := []string{v.name}
		for _, s := range documentOrder {
			row = append(row, outcome(v.decide(v.key(s))))
		}
		rows = append(rows, row)
	}
	return table(head, rows)
}

func versionTable(t *testing.T) string {
	t.Helper()
	head := []string{"command, in an ENABLED key"}
	for _, s := range versionDocumentOrder {
		head = append(head, string(s))
	}
	var rows [][]string
	for _, v := range variants {
		if _, named := namedVersion(v.command); !named {
			continue
		}
		row := []string{v.name}
		for _, s := range versionDocumentOrder {
			row = append(row, outcome(v.decide(v.withVersionIn(s))))
		}
		rows = append(rows, row)
	}
	return table(head, rows)
}

func useTable(t *testing.T) string {
	t.Helper()
	cell := func(k Key, use Use) string {
		if _, err := k.VersionFor(use, EncryptDecrypt, 0, day1); err != nil {
			return reasonOf(err)
		}
		return "yes"
	}
	var rows [][]string
	for _, s := range documentOrder {
		rows = append(rows, []string{"key: " + stateTitle(s), cell(keyIn(s), Protecting), cell(keyIn(s), Opening)})
	}
	for _, s := range versionDocumentOrder {
		k := keyWithVersionIn(2, s)
		rows = append(rows, []string{"version, in an ENABLED key: " + string(s), cell(k, Protecting), cell(k, Opening)})
	}
	return table([]string{"state", "encrypt, new data key", "decrypt"}, rows)
}

// label is the variant's name as a diagram shows it, without the comma.
func (v variant) label() string {
	name, how, found := strings.Cut(v.name, ", ")
	switch first, _, _ := strings.Cut(how, " "); {
	case !found:
		return name
	case slices.Contains([]string{"after", "of", "when"}, first):
		return name + " " + how
	}
	return name + " with " + how
}

// diagram writes a Mermaid state diagram of edges from → to, each with the commands that cause it.
func diagram(edges map[[2]string][]string) string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, edge := range slices.SortedFunc(maps.Keys(edges), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		fmt.Fprintf(&b, "    %s --> %s", edge[0], edge[1])
		if labels := slices.Compact(slices.Sorted(slices.Values(edges[edge]))); len(labels) > 0 {
			fmt.Fprintf(&b, " : %s", strings.Join(labels, " / "))
		}
		b.WriteByte('\n')
	}
	b.WriteString("```\n")
	return b.String()
}

// reachable are the key states that some command leads to, from no key at all.
func reachable() []KeyState {
	found := []KeyState{KeyStateAbsent}
	for i := 0; i < len(found); i++ {
		for _, v := range variants {
			made, err := v.decide(v.key(found[i]))
			if to := Fold(v.key(found[i]), day1, made...).State; err == nil && !slices.Contains(found, to) {
				found = append(found, to)
			}
		}
	}
	return found
}

func keyDiagram(t *testing.T) string {
	t.Helper()
	edges := map[[2]string][]string{{string(KeyStateDestroyed), "[*]"}: nil}
	for _, from := range reachable() {
		for _, v := range variants {
			made, err := v.decide(v.key(from))
			to := Fold(v.key(from), day1, made...).State
			if err != nil || to == from {
				continue
			}
			edge := [2]string{string(from), string(to)}
			if from == KeyStateAbsent {
				edge[0] = "[*]"
			}
			edges[edge] = append(edges[edge], v.label())
		}
	}
	return diagram(edges)
}

// versionDiagram follows the version that a command names, or else the first, through every command: in a key of every
// reachable state, and from each of the version's own states in an enabled key.
func versionDiagram(t *testing.T) string {
	t.Helper()
	edges := map[[2]string][]string{{string(VersionStateDestroyed), "[*]"}: nil}
	follow := func(v variant, k Key) {
		made, err := v.decide(k)
		if err != nil {
			return
		}
		after := Fold(k, day1, made...)
		if n := k.Versions.Len(); k.State != KeyStateAbsent && after.Versions.Len() > n || k.State == KeyStateAbsent && after.Versions.Len() > 0 {
			newest, _ := after.Versions.Get(Version(after.Versions.Len()))
			edge := [2]string{"[*]", string(newest.State)}
			edges[edge] = append(edges[edge], v.label())
		}
		version, named := namedVersion(v.command)
		if !named {
			version = 1
		}
		from, _ := k.Versions.Get(version)
		to, _ := after.Versions.Get(version)
		if k.State == KeyStateAbsent || from.State == to.State {
			return
		}
		edge := [2]string{string(from.State), string(to.State)}
		edges[edge] = append(edges[edge], v.label())
	}
	for _, v := range variants {
		for _, s := range reachable() {
			follow(v, v.key(s))
		}
		for _, s := range versionDocumentOrder {
			follow(v, v.withVersionIn(s))
		}
	}
	return diagram(edges)
}
