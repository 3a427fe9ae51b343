package hsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// SoftHSM removes the file of an object that is destroyed, and does not overwrite it. So every file of an object gets a
// second name in this folder before a root is destroyed. A file that has only that name left afterwards is overwritten
// before it goes, also when the process that destroyed it has died in between: the next start does it then.
const softHSMDoomed = "doomed"

// holdObjectFiles gives the files of all objects their second names. objects is the folder of tokens.
func holdObjectFiles(objects string) error {
	doomed := filepath.Join(filepath.Dir(objects), softHSMDoomed)
	if err := os.MkdirAll(doomed, 0o700); err != nil {
		return err
	}
	if err := wipeHeldFiles(objects); err != nil { // of a process that died
		return err
	}
	files, err := filepath.Glob(filepath.Join(objects, "*", "*.object"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if filepath.Base(file) == softHSMTokenFile {
			continue // it is no object, and is written in place
		}
		held := filepath.Join(doomed, filepath.Base(filepath.Dir(file))+"."+filepath.Base(file))
		if err := os.Link(file, held); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return syncPath(doomed)
}

// wipeLeftFiles does what a process that died did not come to.
func wipeLeftFiles(ctx context.Context, objects string) error {
	token := filepath.Dir(objects)
	if held, err := filepath.Glob(filepath.Join(token, softHSMDoomed, "*")); err != nil || len(held) == 0 {
		return err
	}
	unlock, err := lockFile(ctx, filepath.Join(token, softHSMLock)) // as DestroyRoot
	if err != nil {
		return err
	}
	defer unlock()
	return wipeHeldFiles(objects)
}

// wipeHeldFiles overwrites the held files that have no other name any more, and gives up the second names of the others.
func wipeHeldFiles(objects string) error {
	doomed := filepath.Join(filepath.Dir(objects), softHSMDoomed)
	held, err := filepath.Glob(filepath.Join(doomed, "*"))
	if err != nil || len(held) == 0 {
		return err
	}
	for _, file := range held {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 {
			if err := overwrite(file, info.Size()); err != nil {
				return fmt.Errorf("overwriting a destroyed object: %w", err)
			}
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return errors.Join(syncPath(doomed), syncTree(objects))
}

// overwrite writes zeros over a file, to the disk.
func overwrite(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, size), 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
