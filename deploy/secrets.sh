#!/usr/bin/env bash
# Makes the passwords that docker-compose.yml needs, once, in deploy/secrets: a folder for your eyes only, one file per
# reader, so that no container gets a secret that is another's. Existing secrets are left as they are.
set -euo pipefail
umask 077

to=${1:-$(dirname "$0")/secrets}
if [ -e "$to" ]; then
  echo "$to exists already; nothing was changed"
  exit 0
fi

# Letters and digits with a letter in front: NATS would read a password of digits as a number.
password() {
  printf 'k%s' "$(head -c 25 /dev/urandom | base32 | tr -d '=' | tr '[:upper:]' '[:lower:]')"
}

kms=$(password) init=$(password) route=$(password) clickhouse=$(password) admin=$(password)
work=$(mktemp -d "$to.XXXXXX")
trap 'rm -rf "$work"' EXIT

nodes() { # user, password
  local all=() n
  for n in 1 2 3; do all+=("nats://$1:$2@nats-$n:4222"); done
  (IFS=,; echo "${all[*]}")
}

cat >"$work/nats.env" <<END
NATS_KMS_PASSWORD=$kms
NATS_INIT_PASSWORD=$init
NATS_ROUTE_PASSWORD=$route
NATS_ROUTE_1=nats-route://route:$route@nats-1:6222
NATS_ROUTE_2=nats-route://route:$route@nats-2:6222
NATS_ROUTE_3=nats-route://route:$route@nats-3:6222
END
echo "CLICKHOUSE_KMS_PASSWORD=$clickhouse" >"$work/clickhouse.env"
cat >"$work/kms.env" <<END
KMS_NATS=$(nodes kms "$kms")
KMS_CLICKHOUSE=http://kms:$clickhouse@clickhouse:8123/kms
END
echo "KMS_NATS=$(nodes init "$init")" >"$work/init.env"
echo "admin.$admin" >"$work/admin.key"
# The containers' own user reads it through a mount; on the host the folder keeps everybody else out.
chmod 0644 "$work/admin.key"
mv "$work" "$to"
echo "made the secrets in $to; the admin access key is $to/admin.key"
