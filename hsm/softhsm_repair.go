package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// SoftHSM 2.6.1 rewrites the file that a token consists of (objects/<token>/token.object: label, serial, flags, and the
// key of all keys wrapped under the PINs) at every login: it truncates it, and then writes it, without syncing. A process
// that is killed in between leaves it empty, and with it every root is lost. So a copy is kept beside it, in
// saved/<token>, and put back when the file is not what it can be. The files of keys are written once only.
//
// The file's layout, seen in version 2.6.1: a counter of changes (8 bytes), then attributes of type, kind, length and
// value; label and serial number come first and never change. A changed PIN changes values but no lengths.
const (
	softHSMSaved      = "saved"
	softHSMTokenFile  = "token.object"
	softHSMCounter    = 8
	softHSMNeverMoves = 0x70 // end of the serial number
)

// saveTokenFiles copies the file of every token in folder, where no copy of it is, or one of an earlier PIN.
func saveTokenFiles(folder string) error {
	files, err := filepath.Glob(filepath.Join(folder, softHSMObjects, "*", softHSMTokenFile))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(folder, softHSMSaved), 0o700); err != nil {
		return err
	}
	for _, file := range files {
		now, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if len(now) < softHSMNeverMoves {
			continue // another process is just writing it: it was saved when it was made
		}
		saved := filepath.Join(folder, softHSMSaved, filepath.Base(filepath.Dir(file)))
		if old, err := os.ReadFile(saved); err == nil && bytes.Equal(old[min(len(old), softHSMCounter):], now[softHSMCounter:]) {
			continue
		}
		if err := replaceFile(saved, now); err != nil {
			return err
		}
	}
	return nil
}

// repairTokenFiles puts back the files of tokens that a process left damaged. One that is damaged only while another
// process writes it is well again a moment later.
func repairTokenFiles(ctx context.Context, folder string) error {
	saved, err := filepath.Glob(filepath.Join(folder, softHSMSaved, "*"))
	if err != nil {
		return err
	}
	for _, copied := range saved {
		if filepath.Ext(copied) == nextSuffix {
			continue // of a process that died in replaceFile
		}
		good, err := os.ReadFile(copied)
		if err != nil {
			return err
		}
		file := filepath.Join(folder, softHSMObjects, filepath.Base(copied), softHSMTokenFile)
		if _, err := os.Stat(filepath.Dir(file)); errors.Is(err, fs.ErrNotExist) {
			continue // all of the token is gone, which Open will say
		}
		for try := 0; ; try++ {
			now, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if soundTokenFile(now, good) {
				break
			}
			if try < 10 {
				if err := pause(ctx, 20*time.Millisecond); err != nil {
					return err
				}
				continue
			}
			if err := replaceFile(file, good); err != nil {
				return fmt.Errorf("putting back the token's damaged file: %w", err)
			}
			break
		}
	}
	return nil
}

// soundTokenFile reports whether now is a later state of the file that good is a copy of.
func soundTokenFile(now, good []byte) bool {
	return len(now) == len(good) && len(now) >= softHSMNeverMoves &&
		bytes.Equal(now[softHSMCounter:softHSMNeverMoves], good[softHSMCounter:softHSMNeverMoves]) &&
		!bytes.HasSuffix(now, make([]byte, 16)) // a wrapped key does not end in zeros; a file that was never synced may
}

const nextSuffix = ".new"

// replaceFile writes the file durably and at once: it has the old or the new content at any moment. It is for one
// process at a time.
func replaceFile(path string, content []byte) error {
	next := path + nextSuffix
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	if err := syncPath(next); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}
