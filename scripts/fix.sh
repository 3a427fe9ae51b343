#!/usr/bin/env bash
# Fails if "go fix" would modernise something.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! changes=$(go fix -diff ./... 2>&1) || [ -n "$changes" ]; then
  echo "$changes"
  echo "'go fix ./...' would change the above: run 'make format' and commit the result." >&2
  exit 1
fi
