package rpc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyledger/kms/domain"
)

// field is something that a list can be filtered by (AIP-160). Exactly one of text, texts, number, flag and labels is set.
type field[T any] struct {
	name   string
	enum   protoreflect.EnumType // of a text that is one of these names
	time   bool                  // of a number: it is a time, in Unix nanoseconds, or 0 if there is none
	text   func(T) string
	texts  func(T) []string
	number func(T) int64
	flag   func(T) bool
	labels func(T) map[string]string
}

func (f field[T]) declaration() filtering.DeclarationOption {
	switch {
	case f.enum != nil:
		return filtering.DeclareEnumIdent(f.name, f.enum)
	case f.time:
		return filtering.DeclareIdent(f.name, filtering.TypeTimestamp)
	case f.number != nil:
		return filtering.DeclareIdent(f.name, filtering.TypeInt)
	case f.flag != nil:
		return filtering.DeclareIdent(f.name, filtering.TypeBool)
	case f.texts != nil:
		return filtering.DeclareIdent(f.name, filtering.TypeList(filtering.TypeString))
	case f.labels != nil:
		return filtering.DeclareIdent(f.name, filtering.TypeMap(filtering.TypeString, filtering.TypeString))
	}
	return filtering.DeclareIdent(f.name, filtering.TypeString)
}

func declarations[T any](fields []field[T]) (*filtering.Declarations, error) {
	options := []filtering.DeclarationOption{
		filtering.DeclareStandardFunctions(), filtering.DeclareIdent("true", filtering.TypeBool), filtering.DeclareIdent("false", filtering.TypeBool),
	}
	for _, f := range fields {
		options = append(options, f.declaration())
	}
	return filtering.NewDeclarations(options...)
}

// maxParentheses keeps the parser's time short: it grows with the square of their number.
const maxParentheses = 64

// compiler turns a parsed and type-checked filter into a function, once per request.
type compiler[T any] struct {
	fields map[string]field[T]
	named  map[string]bool
}

// compileFilter returns what the filter asks of an item, nil if it is empty, and the fields that it names.
func compileFilter[T any](text string, spec *listSpec[T]) (func(T) bool, map[string]bool, error) {
	if text == "" {
		return nil, nil, nil
	}
	if strings.Count(text, "(") > maxParentheses {
		return nil, nil, badFilter(fmt.Sprintf("it has more than %d parentheses", maxParentheses))
	}
	parsed, err := filtering.ParseFilterString(text, spec.declarations)
	if err != nil {
		return nil, nil, badFilter(sentence(err.Error()))
	}
	c := compiler[T]{fields: make(map[string]field[T]), named: make(map[string]bool)}
	for _, f := range spec.fields {
		c.fields[f.name] = f
	}
	match, err := c.condition(parsed.CheckedExpr.GetExpr())
	return match, c.named, err
}

func badFilter(why string) error {
	return &unrecordedError{&domain.Error{
		Reason: domain.ReasonBadField, Message: fmt.Sprintf(`filter can't be understood: %s; write it like: state = ENABLED AND labels.team = "payments"`, why),
	}}
}

// sentence takes out of a parser's message what is of use: its last line, without the steps that led there. The lines
// before show the filter, which the caller knows.
func sentence(message string) string {
	message = message[strings.LastIndexByte(message, '\n')+1:]
	for _, step := range []string{"check call expr: ", "check select expr: "} {
		message = strings.ReplaceAll(message, step, "")
	}
	message = strings.TrimSpace(strings.TrimLeft(message, " ^"))
	return message[:min(len(message), 200)]
}

func (c *compiler[T]) condition(e *expr.Expr) (func(T) bool, error) {
	call := e.GetCallExpr()
	if call == nil {
		return nil, badFilter("it must be made of comparisons")
	}
	args := call.GetArgs()
	switch function := call.GetFunction(); function {
	case filtering.FunctionAnd, filtering.FunctionOr:
		left, err := c.condition(args[0])
		if err != nil {
			return nil, err
		}
		right, err := c.condition(args[1])
		if err != nil {
			return nil, err
		}
		if function == filtering.FunctionAnd {
			return func(item T) bool { return left(item) && right(item) }, nil
		}
		return func(item T) bool { return left(item) || right(item) }, nil
	case filtering.FunctionNot:
		match, err := c.condition(args[0])
		if err != nil {
			return nil, err
		}
		return func(item T) bool { return !match(item) }, nil
	case filtering.FunctionHas:
		return c.has(args[0], args[1])
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan, filtering.FunctionLessEquals,
		filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals:
		return c.comparison(function, args[0], args[1])
	}
	return nil, badFilter("it must be made of comparisons")
}

// comparison compares a field, on the left, to a value.
func (c *compiler[T]) comparison(operator string, left, right *expr.Expr) (func(T) bool, error) {
	if labels, key, ok := c.label(left); ok {
		value, err := textOf(right)
		if err != nil {
			return nil, err
		}
		// A label that is not there equals nothing, and so differs from everything.
		compare := compareText(operator, value)
		return func(item T) bool {
			have, ok := labels(item)[key]
			return ok && compare(have) || !ok && operator == filtering.FunctionNotEquals
		}, nil
	}
	f, ok := c.field(left)
	switch {
	case !ok:
		return nil, badFilter("on the left of a comparison there must be a field")
	case f.number != nil:
		value, err := numberOf(f.time, right)
		if err != nil {
			return nil, err
		}
		return func(item T) bool {
			have := f.number(item)
			if f.time && have == 0 { // a time that is not set equals nothing, and so differs from everything
				return operator == filtering.FunctionNotEquals
			}
			return holds(operator, cmp.Compare(have, value))
		}, nil
	case f.flag != nil:
		value := right.GetIdentExpr().GetName()
		if value != "true" && value != "false" {
			return nil, badFilter(f.name + " must be compared to true or false")
		}
		return func(item T) bool {
			return (f.flag(item) == (value == "true")) == (operator == filtering.FunctionEquals)
		}, nil
	case f.enum != nil:
		value := right.GetIdentExpr().GetName() // one of the enum's, says the type checker, or another field of this enum
		if f.enum.Descriptor().Values().ByName(protoreflect.Name(value)) == nil {
			return nil, badFilter(f.name + " must be compared to one of its values")
		}
		return func(item T) bool { return (f.text(item) == value) == (operator == filtering.FunctionEquals) }, nil
	case f.text != nil:
		value, err := textOf(right)
		if err != nil {
			return nil, err
		}
		compare := compareText(operator, value)
		return func(item T) bool { return compare(f.text(item)) }, nil
	}
	return nil, badFilter(f.name + " can't be compared")
}

// has is the operator ':': a label is there, a text is in a list, a text contains another, in any case, or a time is set.
func (c *compiler[T]) has(left, right *expr.Expr) (func(T) bool, error) {
	value, err := textOf(right)
	if err != nil {
		return nil, err
	}
	lower := strings.ToLower(value)
	if labels, key, ok := c.label(left); ok {
		return func(item T) bool {
			have, ok := labels(item)[key]
			return ok && (value == "*" || strings.Contains(strings.ToLower(have), lower))
		}, nil
	}
	f, ok := c.field(left)
	switch {
	case !ok:
		return nil, badFilter("on the left of ':' there must be a field")
	case f.labels != nil:
		return func(item T) bool {
			_, ok := f.labels(item)[value]
			return ok || value == "*" && len(f.labels(item)) > 0
		}, nil
	case f.texts != nil:
		return func(item T) bool {
			have := f.texts(item)
			return slices.Contains(have, value) || value == "*" && len(have) > 0
		}, nil
	case f.text != nil && f.enum == nil:
		return func(item T) bool {
			have := f.text(item)
			return value == "*" && have != "" || strings.Contains(strings.ToLower(have), lower)
		}, nil
	case f.time:
		return func(item T) bool { return f.number(item) != 0 }, nil
	}
	return nil, badFilter("':' can't be asked of " + f.name)
}

func (c *compiler[T]) field(e *expr.Expr) (field[T], bool) {
	f, ok := c.fields[e.GetIdentExpr().GetName()]
	if ok {
		c.named[f.name] = true
	}
	return f, ok
}

// label reads labels.key.
func (c *compiler[T]) label(e *expr.Expr) (labels func(T) map[string]string, key string, ok bool) {
	selected := e.GetSelectExpr()
	if selected == nil {
		return nil, "", false
	}
	f, ok := c.field(selected.GetOperand())
	if !ok || f.labels == nil {
		return nil, "", false
	}
	return f.labels, selected.GetField(), true
}

func textOf(e *expr.Expr) (string, error) {
	constant, ok := e.GetConstExpr().GetConstantKind().(*expr.Constant_StringValue)
	if !ok {
		return "", badFilter("a text must be compared to a text in quotes")
	}
	return constant.StringValue, nil
}

// numberOf reads a number or, if a time is meant, an RFC 3339 text, which may stand in timestamp(…).
func numberOf(isTime bool, e *expr.Expr) (int64, error) {
	if !isTime {
		constant, ok := e.GetConstExpr().GetConstantKind().(*expr.Constant_Int64Value)
		if !ok {
			return 0, badFilter("a number must be compared to a whole number")
		}
		return constant.Int64Value, nil
	}
	if call := e.GetCallExpr(); call.GetFunction() == filtering.FunctionTimestamp {
		e = call.GetArgs()[0]
	}
	text, err := textOf(e)
	if err != nil {
		return 0, err
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, badFilter("a time must be like \"2026-01-31T12:00:00Z\"")
	}
	return at.UnixNano(), nil
}

// timeOf is a time that a request gives; zero if it gives none.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// unixNano is a time as filters and orders take it; 0 if there is none.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// compareText compares to a value; '=' takes a '*' at the value's start or end for any text.
func compareText(operator, value string) func(string) bool {
	if operator != filtering.FunctionEquals && operator != filtering.FunctionNotEquals {
		return func(have string) bool { return holds(operator, strings.Compare(have, value)) }
	}
	equal := operator == filtering.FunctionEquals
	prefix, isPrefix := strings.CutSuffix(value, "*")
	suffix, isSuffix := strings.CutPrefix(value, "*")
	switch {
	case isPrefix && isSuffix && len(value) > 1:
		middle := value[1 : len(value)-1]
		return func(have string) bool { return strings.Contains(have, middle) == equal }
	case isPrefix:
		return func(have string) bool { return strings.HasPrefix(have, prefix) == equal }
	case isSuffix:
		return func(have string) bool { return strings.HasSuffix(have, suffix) == equal }
	}
	return func(have string) bool { return (have == value) == equal }
}

// holds reports whether a comparison with this result is what the operator asks for.
func holds(operator string, order int) bool {
	switch operator {
	case filtering.FunctionEquals:
		return order == 0
	case filtering.FunctionNotEquals:
		return order != 0
	case filtering.FunctionLessThan:
		return order < 0
	case filtering.FunctionLessEquals:
		return order <= 0
	case filtering.FunctionGreaterThan:
		return order > 0
	}
	return order >= 0 // FunctionGreaterEquals
}
