#!/usr/bin/env bash
# Fails if proto/gen is not what the proto files give.
set -euo pipefail
cd "$(dirname "$0")/.."

buf=$(scripts/tools.sh buf)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$buf" generate --output "$work"
if ! diff -r "$work/proto/gen" proto/gen; then
  echo "proto/gen is not what the proto files give: run 'make generate' and commit the result." >&2
  exit 1
fi
