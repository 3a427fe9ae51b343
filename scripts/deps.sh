#!/usr/bin/env bash
# Installs what the server needs beside Go modules, if it is missing: SoftHSM from the system's packages, and libchdb,
# the embedded ClickHouse engine, from npm, into a cache folder that survives a clean clone. May run twice at once.
set -euo pipefail

chdb_version=26.7.3
chdb_package=@chdb/lib-linux-x64-gnu@26.7.3-stable.1
chdb_sha256=36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5

# stop ends the script with the one sentence that the person in front of it needs.
stop() {
  echo "$1" >&2
  exit 1
}

check_tools() {
  command -v go >/dev/null || stop "Go is missing: install Go 1.26 or newer from https://go.dev/dl and add it to PATH."
  command -v "${CC:-gcc}" >/dev/null || stop "A C compiler is missing, which the PKCS#11 binding needs: run 'apt-get install gcc libc6-dev'."
}

have_softhsm() {
  local library
  for library in /usr/lib/softhsm /usr/lib/*-linux-gnu/softhsm /usr/lib64/pkcs11 /usr/lib64/softhsm /usr/lib/pkcs11 \
    /usr/local/lib/softhsm /opt/homebrew/lib/softhsm; do
    if [ -e "$library/libsofthsm2.so" ]; then return 0; fi
  done
  return 1
}

# as_root runs a command as root, without asking for a password where nobody could type one.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

install_softhsm() {
  local fix="run 'apt-get install softhsm2' as root, or point --pkcs11-module at another PKCS#11 token's library"
  command -v apt-get >/dev/null || stop "SoftHSM is missing and this system has no apt-get: install softhsm2 with its own package manager."
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || stop "SoftHSM is missing and installing it needs root: $fix."
  echo "installing softhsm2 from the system's packages"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 update ||
    echo "apt-get update did not succeed; trying with the package lists at hand" >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends softhsm2 ||
    stop "SoftHSM could not be installed: $fix."
  have_softhsm || stop "softhsm2 is installed but its library libsofthsm2.so is in none of the usual folders: name it with --pkcs11-module."
}

# install_chdb downloads to a folder beside the final one and moves the checked library there in one step, so that nobody
# ever sees half of it.
install_chdb() {
  local to=$1 fix="run 'npm pack $chdb_package' where the npm registry can be reached, and put its libchdb.so at $1"
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    stop "The embedded ClickHouse engine exists for Linux on x86-64 only: start the server with --clickhouse and the address of a ClickHouse server."
  command -v npm >/dev/null || stop "npm is missing, which libchdb is downloaded with: run 'apt-get install npm'."
  mkdir -p "$(dirname "$to")" 2>/dev/null || stop "The cache folder $(dirname "$to") can't be made: point KMS_CACHE at a folder that can be written to."
  rm -rf "$(dirname "$to")"/.download.* # of a run that was killed: the lock is ours
  local work
  work=$(mktemp -d "$(dirname "$to")/.download.XXXXXX")
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$work'" EXIT
  echo "downloading libchdb $chdb_version (180 MB, 570 MB unpacked) to $(dirname "$to")"
  npm pack --silent --pack-destination "$work" "$chdb_package" </dev/null >/dev/null || stop "libchdb could not be downloaded: $fix."
  tar -xzf "$work"/*.tgz -C "$work" package/libchdb.so ||
    stop "libchdb could not be unpacked to $work: free 800 MB there, or point KMS_CACHE at another folder."
  echo "$chdb_sha256  $work/package/libchdb.so" | sha256sum --check --status ||
    stop "The downloaded libchdb.so is not the pinned one (SHA-256 $chdb_sha256) and was thrown away: $fix."
  mv -f "$work/package/libchdb.so" "$to"
  rm -rf "$work"
}

main() {
  check_tools
  have_softhsm || install_softhsm
  if [ -n "${KMS_LIBCHDB:-}" ]; then
    [ -f "$KMS_LIBCHDB" ] || stop "KMS_LIBCHDB names $KMS_LIBCHDB, which is not there: unset it and run 'make deps'."
    return
  fi
  [ -n "${KMS_CACHE:-}${XDG_CACHE_HOME:-}${HOME:-}" ] || stop "There is no home folder to keep libchdb in: set KMS_CACHE to a folder."
  local cache=${KMS_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/keyledger}
  local library=$cache/libchdb-$chdb_version/libchdb.so
  [ -f "$library" ] && return
  mkdir -p "$cache" 2>/dev/null || stop "The cache folder $cache can't be made: point KMS_CACHE at a folder that can be written to."
  # One download at a time; whoever waited finds it done.
  exec 9>"$cache/.lock-libchdb"
  flock --timeout 1800 9 || stop "Another 'make deps' has held $cache/.lock-libchdb for 30 minutes: end it and run 'make deps' again."
  [ -f "$library" ] || install_chdb "$library"
}

main
