package domain_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	. "github.com/keyledger/kms/domain"
)

// TestVersionList compares the list with a plain slice, and every list that ever was with what it held when it was new.
func TestVersionList(t *testing.T) {
	type snapshot struct {
		list VersionList
		want []KeyVersion
	}
	rapid.Check(t, func(t *rapid.T) {
		var list VersionList
		var model []KeyVersion
		all := []snapshot{{}}
		draw := func(t *rapid.T, v int) KeyVersion {
			return KeyVersion{Version: Version(v), MaterialID: uid(rapid.Byte().Draw(t, "material"))}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "how many") {
					kv := draw(t, len(model)+1)
					list, model = list.With(kv), append(model, kv)
				}
				all = append(all, snapshot{list, slices.Clone(model)})
			},
			"change": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("nothing to change")
				}
				kv := draw(t, rapid.IntRange(1, len(model)).Draw(t, "version"))
				list, model[kv.Version-1] = list.With(kv), kv
				all = append(all, snapshot{list, slices.Clone(model)})
			},
			"derive from an older one": func(t *rapid.T) {
				older := rapid.SampledFrom(all).Draw(t, "older")
				kv := draw(t, rapid.IntRange(1, len(older.want)+1).Draw(t, "version"))
				want := slices.Clone(older.want)
				if int(kv.Version) > len(want) {
					want = append(want, kv)
				} else {
					want[kv.Version-1] = kv
				}
				all = append(all, snapshot{older.list.With(kv), want})
			},
			"": func(t *rapid.T) {
				if list.Len() != len(model) {
					t.Fatalf("Len = %d, want %d", list.Len(), len(model))
				}
				for v := Version(-1); int(v) <= len(model)+1; v++ {
					got, ok := list.Get(v)
					if inside := v >= 1 && int(v) <= len(model); ok != inside {
						t.Fatalf("Get(%d) of %d versions = %t", v, len(model), ok)
					} else if inside && !got.Equal(model[v-1]) {
						t.Fatalf("Get(%d) = %v, want %v", v, got, model[v-1])
					}
				}
			},
		})
		for _, s := range all {
			if got := slices.Collect(s.list.All()); !slices.EqualFunc(got, s.want, KeyVersion.Equal) {
				t.Fatalf("a list of %d versions changed after another was made of it:\n%s", len(s.want), cmp.Diff(s.want, got))
			}
		}
	})
}

func TestVersionListEqual(t *testing.T) {
	list := func(materials ...byte) (l VersionList) {
		for i, m := range materials {
			l = l.With(KeyVersion{Version: Version(i + 1), MaterialID: uid(m)})
		}
		return l
	}
	for name, tt := range map[string]struct {
		a, b VersionList
		want bool
	}{
		"empty":           {list(), list(), true},
		"same":            {list(1, 2), list(1, 2), true},
		"one more":        {list(1, 2), list(1, 2, 3), false},
		"other at first":  {list(1, 2), list(3, 2), false},
		"other at last":   {list(1, 2), list(1, 3), false},
		"same, made anew": {list(1, 9).With(KeyVersion{Version: 2, MaterialID: uid(2)}), list(1, 2), true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.a.Equal(tt.b); got != tt.want {
				t.Errorf("Equal = %t, want %t", got, tt.want)
			}
			if got := tt.b.Equal(tt.a); got != tt.want {
				t.Errorf("Equal the other way = %t, want %t", got, tt.want)
			}
		})
	}
}

func TestVersionListAllStopsWhenTold(t *testing.T) {
	list := VersionList{}.With(KeyVersion{Version: 1}).With(KeyVersion{Version: 2})
	n := 0
	for range list.All() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("saw %d versions, want 1", n)
	}
}

// TestVersionListRefusesGaps: a gap could only come of a damaged log or of a fault of ours, and would shift every version
// after it.
func TestVersionListRefusesGaps(t *testing.T) {
	for _, v := range []Version{-1, 0, 3} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("version %d was taken behind version 1", v)
				}
			}()
			VersionList{}.With(KeyVersion{Version: 1}).With(KeyVersion{Version: v})
		}()
	}
}
