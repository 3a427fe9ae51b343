package rpc

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keyledger/kms/domain"
	kmsv1 "github.com/keyledger/kms/proto/gen/kms/v1"
)

// TestEveryReasonHasItsCode reads the domain's source, so that no reason can be added without an answer.
func TestEveryReasonHasItsCode(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../domain/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Reason" {
			return true
		}
		for i, value := range spec.Values {
			text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := answers[domain.Reason(text)]; !ok {
				t.Errorf("%s (%s) has no row in the table of answers", spec.Names[i].Name, text)
			}
			found++
		}
		return true
	})
	if found < 30 {
		t.Errorf("found only %d reasons: the test no longer reads the source rightly", found)
	}
}

func TestCodesOfTheTable(t *testing.T) {
	for reason, a := range answers {
		if a.code == connect.CodeUnknown || a.code == 0 {
			t.Errorf("%s is answered with %v, which the REST edge takes for the transcoder's", reason, a.code)
		}
		if retry := a.code == connect.CodeUnavailable || a.code == connect.CodeResourceExhausted; retry != (a.retry > 0) {
			t.Errorf("%s is %v with a retry delay of %v", reason, a.code, a.retry)
		}
	}
}

func TestErrorsThatAreNoRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		code connect.Code
	}{
		"unknown":         {errors.New("x"), connect.CodeInternal},
		"deadline":        {fmt.Errorf("x: %w", context.DeadlineExceeded), connect.CodeDeadlineExceeded},
		"canceled":        {fmt.Errorf("x: %w", context.Canceled), connect.CodeCanceled},
		"wrapped refusal": {fmt.Errorf("x: %w", &domain.Error{Reason: domain.ReasonKeyExists}), connect.CodeAlreadyExists},
		"unlisted reason": {&domain.Error{Reason: "NEW"}, connect.CodeInternal},
		"joined":          {errors.Join(errors.New("cause"), &domain.Error{Reason: domain.ReasonStoreFull}), connect.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			if got := connectError(tt.err, "").Code(); got != tt.code {
				t.Errorf("code = %v, want %v", got, tt.code)
			}
		})
	}
}

// complete checks that every value of an API's enum is listed.
func complete[P protoEnum, D ~string](t *testing.T, e enum[P, D]) {
	t.Helper()
	var zero P
	values := zero.Descriptor().Values()
	for i := range values.Len() {
		if _, ok := e[P(values.Get(i).Number())]; !ok {
			t.Errorf("%s is not in the table", values.Get(i).FullName())
		}
	}
	seen := make(map[D]P)
	for p, d := range e {
		if other, twice := seen[d]; twice && d != "" {
			t.Errorf("%s stands for both %v and %v", d, p, other)
		}
		seen[d] = p
		if d != "" && (e.toProto(d) != p || string(d) != string(zero.Descriptor().Values().ByNumber(p.Number()).Name())) {
			t.Errorf("%v and %s differ", p, d)
		}
	}
}

func TestEnumsAreComplete(t *testing.T) {
	complete(t, purposes)
	complete(t, protectionLevels)
	complete(t, keyStates)
	complete(t, versionStates)
	complete(t, origins)
	complete(t, logCategories)
	complete(t, outcomes)
	complete(t, requestTypes)
	complete(t, importMethods)
	complete(t, importJobStates)
}

// TestEveryAlgorithmIsTakenOrRefusedByName: most are not offered yet.
func TestEveryAlgorithmIsTakenOrRefusedByName(t *testing.T) {
	values := kmsv1.Key_Algorithm(0).Descriptor().Values()
	for i := range values.Len() {
		v := kmsv1.Key_Algorithm(values.Get(i).Number())
		got, err := algorithms.fromProto("key.algorithm", v)
		switch {
		case v == 0 && (got != "" || err != nil), err == nil && v != 0 && string(got) != v.String():
			t.Errorf("%v becomes %q, %v", v, got, err)
		case err != nil && !errors.Is(err, &domain.Error{Reason: domain.ReasonUnsupported}):
			t.Errorf("%v: %v", v, err)
		}
	}
}

// TestDomainValuesAreKnown reads the domain's constants of each type, so that none is shown as unspecified.
func TestDomainValuesAreKnown(t *testing.T) {
	check := map[string]func(string) bool{
		"Purpose":         func(s string) bool { return purposes.toProto(domain.Purpose(s)) != 0 },
		"Algorithm":       func(s string) bool { return algorithms.toProto(domain.Algorithm(s)) != 0 },
		"ProtectionLevel": func(s string) bool { return protectionLevels.toProto(domain.ProtectionLevel(s)) != 0 },
		"Origin":          func(s string) bool { return origins.toProto(domain.Origin(s)) != 0 },
		"KeyState":        func(s string) bool { return keyStates.toProto(domain.KeyState(s)) != 0 },
		"VersionState":    func(s string) bool { return versionStates.toProto(domain.VersionState(s)) != 0 },
		"Category":        func(s string) bool { return logCategories.toProto(domain.Category(s)) != 0 },
		"Outcome":         func(s string) bool { return outcomes.toProto(domain.Outcome(s)) != 0 },
		"RequestType":     func(s string) bool { return requestTypes.toProto(domain.RequestType(s)) != 0 },
	}
	seen := make(map[string]bool)
	for _, name := range []string{"algorithm.go", "key.go", "activity.go", "caller.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), "../domain/"+name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			typ, ok := spec.Type.(*ast.Ident)
			if !ok || check[typ.Name] == nil {
				return true
			}
			seen[typ.Name] = true
			for _, value := range spec.Values {
				if text, err := strconv.Unquote(value.(*ast.BasicLit).Value); err != nil || text != "" && !check[typ.Name](text) {
					t.Errorf("%s %s has no value in the API", typ.Name, text)
				}
			}
			return true
		})
	}
	if len(seen) != len(check) {
		t.Errorf("found only %v", seen)
	}
}

// TestPermissionsAreKnown: the proto files and the domain name the same ones.
func TestPermissionsAreKnown(t *testing.T) {
	known := make(map[string]bool)
	file, err := parser.ParseFile(token.NewFileSet(), "../domain/access.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			text, _ := strconv.Unquote(lit.Value)
			known[text] = true
		}
		return true
	})
	methods, err := methodsByProcedure()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range methods {
		if !known[string(m.permission)] {
			t.Errorf("%s needs %q, which the domain does not know", m.procedure, m.permission)
		}
	}
}

// TestRESTPaths: each method has paths that are recognised as its own, and no stream has any: the transcoder would hold
// the whole of it back.
func TestRESTPaths(t *testing.T) {
	methods, err := methodsByProcedure()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := restRoutes(methods)
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]int)
	for _, r := range routes {
		have[r.method.procedure]++
	}
	for _, m := range methods {
		rule := proto.GetExtension(m.descriptor.Options(), annotations.E_Http).(*annotations.HttpRule)
		if streams(m.descriptor) {
			if rule != nil {
				t.Errorf("%s is a stream with a REST path", m.procedure)
			}
			continue
		}
		if have[m.procedure] != 1+len(rule.GetAdditionalBindings()) {
			t.Errorf("%s has %d routes for %d bindings", m.procedure, have[m.procedure], 1+len(rule.GetAdditionalBindings()))
		}
	}
	for path, want := range map[string]string{
		"POST /api/v1/projects/p/locations/l/keyRings/r/keys/k:encrypt":                 "Encrypt",
		"POST /api/v1/projects/p/locations/l/keyRings/r/keys/k/versions/3:encrypt":      "Encrypt",
		"POST /api/v1/projects/p/locations/l:decrypt":                                   "Decrypt",
		"PATCH /api/v1/projects/p/locations/l/keyRings/r/keys/k":                        "UpdateKey",
		"DELETE /api/v1/projects/p/locations/l/keyRings/r/keys/k":                       "DeleteKey",
		"GET /api/v1/projects/p/locations/l/keyRings/r/keys/k/latestUseInfo":            "GetLatestUseInfo",
		"GET /api/v1/projects/p/locations/l/keyRings/-/keys/alias:a":                    "GetKey",
		"POST /api/v1/projects/p/locations/l/keyRings/-/keys/alias:a:encrypt":           "Encrypt",
		"POST /api/v1/projects/p/locations/l/keyRings/-/keys/alias:a/versions/1:enable": "EnableKeyVersion",
		"GET /api/v1/projects/p/locations/l/keyRings/r/keys:count":                      "CountKeys",
		"GET /api/v1/serverInfo": "GetServerInfo",
		"GET /api/v1/projects/p/locations/l/keyRings/r/keys/k:encrypt": "",
	} {
		var got strings.Builder
		for _, r := range routes {
			if verb, p, _ := strings.Cut(path, " "); verb == r.verb && r.pattern.MatchString(p) {
				got.WriteString(r.method.name)
			}
		}
		if got.String() != want {
			t.Errorf("%s is %q, want %q", path, got.String(), want)
		}
	}
}

func streams(m protoreflect.MethodDescriptor) bool {
	return m.IsStreamingClient() || m.IsStreamingServer()
}
