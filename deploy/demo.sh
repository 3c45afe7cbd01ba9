#!/usr/bin/env bash
# The exemplary experiment: brain tumours in (synthetic) MRI, three clinics, against pooled data and each clinic alone.
# With STACK=1 the same federation also on RabbitMQ, MinIO and an Airflow at each clinic, whose last model must be the
# same to the byte.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
EXPERIMENT=examples/brain-tumour.toml

if [ -z "${STACK:-}" ]; then
  wardround compare "$EXPERIMENT" --fresh
  wardround report runs/brain-tumour
  exit
fi

echo "In one process:"
wardround simulate "$EXPERIMENT" --no-pooled --trainings local
export WARDROUND_HUBS="$PWD/.cache/demo/hubs.toml"
stack() { local verb=$1; shift; wardround stack "$verb" --name demo --folder .cache/demo/stack "$@"; }
mkdir -p .cache/demo
trap 'stack down --delete' EXIT
echo
echo "The same on RabbitMQ, MinIO and three Airflows:"
stack up --sites 3 --airflow --brain-tumour --fresh
wardround start "$EXPERIMENT" --hub demo --watch
wardround fetch brain-tumour --hub demo -o .cache/demo/model.safetensors
echo
sha256sum runs/brain-tumour/model.safetensors .cache/demo/model.safetensors
cmp runs/brain-tumour/model.safetensors .cache/demo/model.safetensors
echo "The last model of the simulation and that of the real servers are the same to the byte."
