package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyledger/kms/domain"
	"github.com/keyledger/kms/eventstore"
)

const (
	// recentUse is how long ago a use may be for the answer of a scheduled deletion to warn of it.
	recentUse = 7 * 24 * time.Hour
	// adviceTimeout bounds the look at the activity log when nothing depends on it: the deletion is scheduled already.
	adviceTimeout = 2 * time.Second
	// proofTimeout bounds it when it decides, which includes the wait for the log to catch up.
	proofTimeout = 15 * time.Second
)

// UsesLog tells from the activity log when keys were last used.
type UsesLog interface {
	// LastUse returns the last successful use of the key, as far as the log knows. With current it first waits until the log
	// holds everything that was recorded before the call. Otherwise it is refused with ReasonActivityAway, also if the log
	// does not catch up before ctx ends.
	LastUse(ctx context.Context, key domain.UID, current bool) (LastUse, error)
}

// LastUse is the last time that something was successfully encrypted or decrypted with a key, or the like, by any version.
type LastUse struct {
	Time      time.Time // zero: there was none since TrackedSince
	Operation string
	Principal string
	// TrackedSince is the time before which uses are not known; zero if none is known at all.
	TrackedSince time.Time
}

// ScheduledDeletion is a key whose deletion was just scheduled, and advice for the person who did.
type ScheduledDeletion struct {
	eventstore.KeyState
	LastUse  LastUse  // the zero LastUse if it can't be told
	Warnings []string // sentences
}

// mustBeUnused refuses unless it is certain that the key was not used within the time before at. A use that is recorded
// after the log was asked may still come before the deletion.
func (s *Service) mustBeUnused(ctx context.Context, k domain.Key, at time.Time, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	last, err := s.cfg.Uses.LastUse(ctx, k.UID, true)
	if err != nil {
		return errors.Join(&domain.Error{
			Reason: domain.ReasonActivityAway, Message: fmt.Sprintf("the activity log does not answer or has not caught up, so it is not known whether key %s is unused; try again, or leave out require_unused_for", k.Name),
		}, err)
	}
	since := at.Add(-within)
	if last.Time.After(since) {
		return &domain.Error{
			Reason: domain.ReasonKeyRecentlyUsed,
			Message: fmt.Sprintf("key %s was last used at %s by %s (%s), which is less than %s ago; find out who needs it, or leave out require_unused_for",
				k.Name, instant(last.Time), last.Principal, last.Operation, within),
		}
	}
	if from := last.TrackedSince; from.IsZero() || from.After(since) && from.After(k.CreateTime) {
		return &domain.Error{
			Reason:  domain.ReasonActivityAway,
			Message: fmt.Sprintf("the activity log does not reach back %s, so it is not known whether key %s is unused; ask for less, or leave out require_unused_for", within, k.Name),
		}
	}
	return nil
}

// addLastUse tells when the key was last used, or that this can't be told now. It is advice: it fails nothing.
func (s *Service) addLastUse(ctx context.Context, d *ScheduledDeletion) {
	ctx, cancel := context.WithTimeout(ctx, adviceTimeout)
	defer cancel()
	last, err := s.cfg.Uses.LastUse(ctx, d.Key.UID, false)
	if err != nil {
		d.Warnings = append(d.Warnings, "The activity log does not answer, so it is not known when the key was last used. Ask GetLatestUseInfo later, before the deletion is due.")
		s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "looking up when a key was last used, whose deletion is scheduled", slog.String("key_uid", d.Key.UID.String()), slog.Any("error", err))
		return
	}
	d.LastUse = last
	if !last.Time.IsZero() && d.Key.StateTime.Sub(last.Time) < recentUse {
		d.Warnings = append(d.Warnings, fmt.Sprintf("The key was last used at %s by %s (%s), within the last 7 days. What it encrypted can't be decrypted once it is destroyed.",
			instant(last.Time), last.Principal, last.Operation))
	}
}

// instant is how sentences write a time.
func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }
