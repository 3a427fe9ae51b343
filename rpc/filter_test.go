package rpc

import (
	"errors"
	"testing"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// FuzzFilter: whatever a filter is, it is compiled and answers, or is refused with a reason.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"", "state = ENABLED", `labels.team = "x" AND NOT (memo:a OR create_time > "2026-01-01T00:00:00Z")`, "-a", "a.b.c = 1", "f(x)", `labels:"*"`,
		`aliases:a`, `aliases = "a"`, `key_id = "*"`, "timestamp(name) = create_time", "((((", "\x00", `name = "\"`, "state = purpose", "labels = labels", "5 = 5", "true",
	} {
		f.Add(seed)
	}
	key := &eventstore.KeyState{Aliases: []string{"a"}, Key: domain.Key{Labels: map[string]string{"team": "x"}}}
	f.Fuzz(func(t *testing.T, text string) {
		match, _, err := compileFilter(text, keyLists)
		switch {
		case err != nil && !errors.Is(err, &domain.Error{Reason: domain.ReasonBadField}):
			t.Errorf("%q: %v", text, err)
		case err == nil && match != nil:
			match(key)
		}
	})
}
