package rpc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.einride.tech/aip/filtering"
	"go.einride.tech/aip/ordering"
)

const (
	defaultPageSize = 100
	maxOrderFields  = 4
)

// listSpec says what lists of T can be filtered and ordered by.
type listSpec[T any] struct {
	fields []field[T]
	// orders are the fields to order by. The first is the natural order: that in which the items come, without equals.
	orders []string
	place  func(T) place // in the natural order

	declarations *filtering.Declarations
}

// place is where an item is in an order: its text or its number, or, for keys of any ring, two texts.
type place struct {
	Text   string `json:"t,omitempty"`
	Text2  string `json:"u,omitempty"`
	Number int64  `json:"n,omitempty"`
}

func (p place) compare(q place) int {
	if order := cmp.Compare(p.Number, q.Number); order != 0 {
		return order
	}
	if order := strings.Compare(p.Text, q.Text); order != 0 {
		return order
	}
	return strings.Compare(p.Text2, q.Text2)
}

// mustLists completes a spec that is fixed in the source: a mistake in one is found when the package is loaded by a test.
func mustLists[T any](spec listSpec[T]) *listSpec[T] {
	var err error
	if spec.declarations, err = declarations(spec.fields); err != nil {
		panic("rpc: declaring the fields of a list: " + err.Error())
	}
	return &spec
}

// listQuery is what a request says about the list that it wants.
type listQuery struct {
	binding  []string // what a page token is good for
	filter   string
	orderBy  string
	pageSize int32
	skip     int32
	token    string
	total    bool
}

// list is one request's list, ready to be read.
type list[T any] struct {
	spec    *listSpec[T]
	matches []func(T) bool
	named   map[string]bool // fields that the filter names
	columns []column[T]
	after   []place // where the page before ended; nil: from the start
	size    int
	skip    int
	total   bool
	seal    func(position string) string
}

// column is one field of an order.
type column[T any] struct {
	of   func(T) place
	desc bool
}

// page is one page of a list.
type page[T any] struct {
	items     []T
	nextToken string
	total     int64 // only when asked for
}

// prepare reads a query. Everything wrong with it is found here, before anything is looked up.
func (spec *listSpec[T]) prepare(q listQuery, tokens pageTokens) (*list[T], error) {
	l := &list[T]{
		spec: spec, size: int(q.pageSize), skip: int(q.skip), total: q.total,
		seal: func(position string) string { return tokens.seal(position, q.binding...) },
	}
	if l.size == 0 {
		l.size = defaultPageSize
	}
	match, named, err := compileFilter(q.filter, spec)
	if err != nil {
		return nil, err
	}
	l.named = named
	if match != nil {
		l.matches = append(l.matches, match)
	}
	if l.columns, err = spec.columns(q.orderBy); err != nil {
		return nil, err
	}
	if q.token == "" {
		return l, nil
	}
	position, err := tokens.open(q.token, q.binding...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(position), &l.after); err != nil || len(l.after) != len(l.columns) {
		return nil, errPageToken
	}
	return l, nil
}

// columns reads order_by. The natural order is always last, so that no two items are at the same place.
func (spec *listSpec[T]) columns(orderBy string) ([]column[T], error) {
	natural := column[T]{of: spec.place}
	var order ordering.OrderBy
	err := order.UnmarshalString(orderBy)
	if err == nil {
		err = order.ValidateForPaths(spec.orders...)
	}
	if err != nil || len(order.Fields) > maxOrderFields {
		return nil, badField(fmt.Sprintf("order_by %.100q must list up to %d of %s, each by itself or with desc behind it", orderBy, maxOrderFields, strings.Join(spec.orders, ", ")))
	}
	var out []column[T]
	for _, f := range order.Fields {
		if f.Path == spec.orders[0] { // nothing is equal in the natural order, so nothing behind it matters
			natural.desc = f.Desc
			return append(out, natural), nil
		}
		out = append(out, column[T]{of: spec.placeBy(f.Path), desc: f.Desc})
	}
	return append(out, natural), nil
}

func (spec *listSpec[T]) placeBy(name string) func(T) place {
	i := slices.IndexFunc(spec.fields, func(f field[T]) bool { return f.name == name })
	f := spec.fields[i] // every order is a field: a test sees to it
	if f.number != nil {
		return func(item T) place { return place{Number: f.number(item)} }
	}
	return func(item T) place { return place{Text: f.text(item)} }
}

// also narrows the list.
func (l *list[T]) also(match func(T) bool) { l.matches = append(l.matches, match) }

// filtersOn reports whether the filter names a field.
func (l *list[T]) filtersOn(name string) bool { return l.named[name] }

// row is an item with its places in the order of the list.
type row[T any] struct {
	item   T
	places []place
}

// page reads items, which come in their natural order, and returns the page that follows the last one's token. Only what
// may be on the page is kept, so that a long list costs no memory.
func (l *list[T]) page(ctx context.Context, items iter.Seq[T]) (page[T], error) {
	var out page[T]
	var rows []row[T] // in the list's order: those to skip, those of the page, and one more if there is one
	natural := len(l.columns) == 1 && !l.columns[0].desc
	limit := l.skip + l.size + 1
	err := l.matching(ctx, items, func(item T) bool {
		out.total++
		full := len(rows) == limit
		switch {
		case l.after != nil && l.compare(item, l.after) <= 0:
			return true
		case full && natural:
			return l.total // the rest only counts
		case full && l.compare(item, rows[limit-1].places) >= 0:
			return true
		}
		at := len(rows)
		if !natural {
			at, _ = slices.BinarySearchFunc(rows, item, func(r row[T], item T) int { return -l.compare(item, r.places) })
		}
		rows = slices.Insert(rows[:min(len(rows), limit-1)], at, row[T]{item, l.placesOf(item)})
		return !natural || l.total || len(rows) < limit
	})
	if err != nil {
		return out, err
	}
	if !l.total {
		out.total = 0
	}
	rows = rows[min(l.skip, len(rows)):]
	if len(rows) > l.size {
		rows = rows[:l.size]
		position, err := json.Marshal(rows[l.size-1].places)
		if err != nil {
			return out, fmt.Errorf("making a page token: %w", err)
		}
		out.nextToken = l.seal(string(position))
	}
	for _, r := range rows {
		out.items = append(out.items, r.item)
	}
	return out, nil
}

// count is how many items the list has.
func (l *list[T]) count(ctx context.Context, items iter.Seq[T]) (n int64, err error) {
	err = l.matching(ctx, items, func(T) bool { n++; return true })
	return n, err
}

// matching calls f with the items that belong to the list until it returns false.
func (l *list[T]) matching(ctx context.Context, items iter.Seq[T], f func(T) bool) error {
	seen := 0
	for item := range items {
		if seen++; seen%1024 == 0 && ctx.Err() != nil {
			return fmt.Errorf("listing: %w", ctx.Err())
		}
		if l.match(item) && !f(item) {
			return nil
		}
	}
	return nil
}

func (l *list[T]) match(item T) bool {
	for _, m := range l.matches {
		if !m(item) {
			return false
		}
	}
	return true
}

func (l *list[T]) placesOf(item T) []place {
	places := make([]place, len(l.columns))
	for i, c := range l.columns {
		places[i] = c.of(item)
	}
	return places
}

// compare compares an item to places in the order of the list.
func (l *list[T]) compare(item T, places []place) int {
	for i, c := range l.columns {
		if order := c.of(item).compare(places[i]); order != 0 {
			if c.desc {
				return -order
			}
			return order
		}
	}
	return 0
}
