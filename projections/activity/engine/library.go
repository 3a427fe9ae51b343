package engine

import (
	"errors"
	"os"
	"path/filepath"
)

// libraryVersion is the libchdb release that the binding, the schema and the tests were made for.
const libraryVersion = "26.7.3"

// libraryEnv names the environment variable that overrides where libchdb is looked for.
const libraryEnv = "KMS_LIBCHDB"

// ErrNoLibrary means that libchdb is nowhere to be found. Its text names the cure.
var ErrNoLibrary = errors.New("libchdb.so " + libraryVersion + " is not installed: run `make deps`, or set " + libraryEnv + " to its path")

// FindLibrary returns the absolute path of libchdb.so: what $KMS_LIBCHDB names and nothing else if it is set, or else the
// first found in the folder that `make deps` fills ($KMS_CACHE, or keyledger in the user's cache), /usr/local/lib and /usr/lib.
func FindLibrary() (string, error) {
	candidates := []string{os.Getenv(libraryEnv)}
	if candidates[0] == "" {
		candidates = []string{"/usr/local/lib/libchdb.so", "/usr/lib/libchdb.so"}
		if cache := cacheDir(); cache != "" {
			candidates = append([]string{filepath.Join(cache, "libchdb-"+libraryVersion, "libchdb.so")}, candidates...)
		}
	}
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return filepath.Abs(path)
		}
	}
	return "", ErrNoLibrary
}

func cacheDir() string {
	if dir := os.Getenv("KMS_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir() // $XDG_CACHE_HOME or $HOME/.cache
	if err != nil {
		return "" // no home: only the system's folders are left
	}
	return filepath.Join(dir, "keyledger")
}
