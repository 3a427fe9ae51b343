package domain_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tests read the package's own source to know what exists, so that a new command, event, state or reason that no
// test speaks of makes a test fail.

// sources parses the package less its tests.
func sources(t *testing.T) []*ast.File {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		t.Fatal("no source found")
	}
	return files
}

// sealedTypes are the names of the types that have the given sealing method.
func sealedTypes(t *testing.T, method string) []string {
	t.Helper()
	var names []string
	for _, f := range sources(t) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || fn.Name.Name != method {
				continue
			}
			names = append(names, fn.Recv.List[0].Type.(*ast.Ident).Name)
		}
	}
	if len(names) == 0 {
		t.Fatalf("no type has %s", method)
	}
	slices.Sort(names)
	return names
}

// stringConstants are the values of the constants declared with the given type, by name.
func stringConstants(t *testing.T, typ string) map[string]string {
	t.Helper()
	values := map[string]string{}
	for _, f := range sources(t) {
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typ {
				return true
			}
			for i, name := range spec.Names {
				value, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatalf("%s: %v", name.Name, err)
				}
				values[name.Name] = value
			}
			return true
		})
	}
	if len(values) == 0 {
		t.Fatalf("no constant has type %s", typ)
	}
	return values
}

// states are the values of the constants of a state type, sorted.
func states[S ~string](t *testing.T, typ string) []S {
	t.Helper()
	var all []S
	for _, v := range stringConstants(t, typ) {
		all = append(all, S(v))
	}
	slices.Sort(all)
	return all
}

// casesOf are the type names in the type switches of the function with the given name.
func casesOf(t *testing.T, function string) []string {
	t.Helper()
	names := map[string]bool{}
	for _, f := range sources(t) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != function {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				sw, ok := n.(*ast.TypeSwitchStmt)
				if !ok {
					return true
				}
				for _, clause := range sw.Body.List {
					for _, typ := range clause.(*ast.CaseClause).List {
						names[typ.(*ast.Ident).Name] = true
					}
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func TestEveryCommandIsDecided(t *testing.T) {
	if want, got := sealedTypes(t, "isCommand"), casesOf(t, "Decide"); !slices.Equal(want, got) {
		t.Errorf("Decide has cases for %v, want %v", got, want)
	}
}

func TestEveryEventIsEvolved(t *testing.T) {
	if want, got := sealedTypes(t, "isEvent"), casesOf(t, "Evolve"); !slices.Equal(want, got) {
		t.Errorf("Evolve has cases for %v, want %v", got, want)
	}
}
