#!/usr/bin/env bash
# Prints the path of a development tool, after installing its pinned version into the cache if it is not there:
#   scripts/tools.sh buf | golangci-lint
# They are built from source and kept out of go.mod, whose dependencies are those of the server alone.
set -euo pipefail

stop() {
  echo "$1" >&2
  exit 1
}

case "${1:-}" in
  buf) module=github.com/bufbuild/buf/cmd/buf version=v1.75.0 ;;
  golangci-lint) module=github.com/golangci/golangci-lint/v2/cmd/golangci-lint version=v2.15.0 ;;
  *) stop "usage: scripts/tools.sh buf|golangci-lint" ;;
esac

command -v go >/dev/null || stop "Go is missing: install Go 1.26 or newer from https://go.dev/dl and add it to PATH."
[ -n "${KMS_CACHE:-}${XDG_CACHE_HOME:-}${HOME:-}" ] || stop "There is no home folder to keep tools in: set KMS_CACHE to a folder."
cache=${KMS_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/keyledger}
tool=$cache/tools/$1-$version/$1

if [ ! -x "$tool" ]; then
  mkdir -p "$(dirname "$tool")" 2>/dev/null || stop "The cache folder $cache can't be made: point KMS_CACHE at a folder that can be written to."
  # One build at a time; whoever waited finds it done.
  exec 9>"$cache/tools/.lock-$1"
  flock --timeout 1800 9 || stop "Another build of $1 has held $cache/tools/.lock-$1 for 30 minutes: end it and try again."
  if [ ! -x "$tool" ]; then
    echo "building $1 $version, once; this takes some minutes" >&2
    work=$(mktemp -d "$cache/tools/.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # Without GOFLAGS and workspace the tool is built as its owners do, whatever is set for this module.
    (cd "$work" && env GOFLAGS= GOWORK=off CGO_ENABLED=0 GOBIN="$work" go install "$module@$version") >&2 ||
      stop "$1 could not be built: run 'go install $module@$version' where the Go module proxy can be reached."
    mv -f "$work/$1" "$tool"
  fi
fi
echo "$tool"
