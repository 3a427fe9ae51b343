package rpc

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/kms/domain"
)

// TestPageTokens: a token opens with the very query, key and lineage that it was made with, and with nothing else.
func TestPageTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.StringN(0, 3, -1), 0, 3) // short, so that parts can be mistaken for each other
		tokens := pageTokens{key: []byte(rapid.StringN(1, 2, -1).Draw(t, "key")), lineage: domain.UID{rapid.Byte().Draw(t, "lineage")}}
		other := pageTokens{key: []byte(rapid.StringN(1, 2, -1).Draw(t, "other key")), lineage: domain.UID{rapid.Byte().Draw(t, "other lineage")}}
		query, otherQuery := texts.Draw(t, "query"), texts.Draw(t, "other query")
		position := rapid.String().Draw(t, "position")
		token := tokens.seal(position, query...)
		if got, err := tokens.open(token, query...); err != nil || got != position {
			t.Fatalf("opened %q, %v", got, err)
		}
		same := string(tokens.key) == string(other.key) && tokens.lineage == other.lineage && slices.Equal(query, otherQuery)
		if _, err := other.open(token, otherQuery...); (err == nil) != same {
			t.Fatalf("opened with another key, lineage or query: %v", err)
		}
		if _, err := (pageTokens{key: tokens.key, lineage: domain.UID{tokens.lineage[0] + 1}}).open(token, query...); !errors.Is(err, errPageToken) {
			t.Fatalf("opened after a restore: %v", err)
		}
	})
}

// TestPageTokenPartsAreApart: no two queries share an encoding.
func TestPageTokenPartsAreApart(t *testing.T) {
	tokens := pageTokens{key: make([]byte, 32)}
	token := tokens.seal("x", "ab", "c")
	for _, query := range [][]string{{"a", "bc"}, {"abc"}, {"ab", "c", ""}, {"", "ab", "c"}, {"ab\x00\x00\x00\x00\x00\x00\x00\x00c"}} {
		if _, err := tokens.open(token, query...); err == nil {
			t.Errorf("opened with %q", query)
		}
	}
}

// FuzzPageToken: whatever comes as a token is opened or refused, and what opens is what was sealed.
func FuzzPageToken(f *testing.F) {
	tokens := pageTokens{key: make([]byte, 32)}
	f.Add(tokens.seal("x", "q"))
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, token string) {
		if position, err := tokens.open(token, "q"); err == nil && tokens.seal(position, "q") != token {
			t.Errorf("%q opens but was never sealed", token)
		}
	})
}
