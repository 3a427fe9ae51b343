package main

import (
	"slices"
	"testing"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

// evicted notes which versions of the key were forgotten.
type evicted []domain.Version

func (e *evicted) Evict(_ domain.UID, v domain.Version) { *e = append(*e, v) }

// TestEvictor: what may not be used any more is forgotten at once, zero being all versions, and what still decrypts is not.
func TestEvictor(t *testing.T) {
	for name, tt := range map[string]struct {
		events []domain.Event
		want   []domain.Version
	}{
		"disabled":          {[]domain.Event{domain.KeyDisabled{}}, []domain.Version{0}},
		"pending deletion":  {[]domain.Event{domain.KeyDeletionScheduled{}}, []domain.Version{0}},
		"destroyed":         {[]domain.Event{domain.KeyDestroyed{}}, []domain.Version{0}},
		"version disabled":  {[]domain.Event{domain.KeyVersionDisabled{Version: 2}}, []domain.Version{2}},
		"version scheduled": {[]domain.Event{domain.KeyVersionDestructionScheduled{Version: 3}}, []domain.Version{3}},
		"version destroyed": {[]domain.Event{domain.KeyVersionDestroyed{Version: 1}, domain.KeyVersionDestroyed{Version: 4}}, []domain.Version{1, 4}},
		"material deleted":  {[]domain.Event{domain.KeyMaterialDeleted{Version: 1}, domain.KeyImportAwaited{}}, []domain.Version{1, 0}},
		"archived":          {[]domain.Event{domain.KeyArchived{}}, nil},
		"expired":           {[]domain.Event{domain.KeyExpired{}}, nil},
		"rotated":           {[]domain.Event{domain.KeyVersionAdded{Version: 2}, domain.PrimaryVersionSet{Version: 2}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got evicted
			evictor(&got)(eventstore.KeyState{}, eventstore.Commit{Events: tt.events})
			if !slices.Equal(got, tt.want) {
				t.Errorf("forgot %v, want %v", got, tt.want)
			}
		})
	}
}
