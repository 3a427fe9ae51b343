#!/usr/bin/env bash
# Fails if the proto files break what was promised: by the last release, or, before there is one, by the main branch.
# Storage (events.v1) is for ever; the API (kms.v1) is as stable as the release says.
set -euo pipefail
cd "$(dirname "$0")/.."

base=
for ref in "$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)" origin/main main; do
  if [ -n "$ref" ] && git rev-parse --verify --quiet "$ref:buf.yaml" >/dev/null; then
    base=$ref
    break
  fi
done
if [ -z "$base" ]; then
  echo "not compared with earlier proto files: this copy has no git history with a release or a main branch" >&2
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive "$base" buf.yaml proto | tar -x -C "$work"
buf=$(scripts/tools.sh buf)
"$buf" breaking --against "$work"
