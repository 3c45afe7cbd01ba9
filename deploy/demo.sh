#!/usr/bin/env bash
# The exemplary experiment: brain tumours in (synthetic) MRI, three clinics, against pooled data and each clinic alone.
# With STACK=1 the same federation also on RabbitMQ, MinIO and an Airflow at each clinic, whose last model must be the
# same to the byte.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
EXPERIMENT=examples/brain-tumour.toml

if [ "${STACK:-0}" = 0 ]; then
  wardround compare "$EXPERIMENT" --fresh
  wardround report runs/brain-tumour
  exit
fi

DEMO="$PWD/.cache/demo"
mkdir -p "$DEMO"
export WARDROUND_HUBS="$DEMO/hubs.toml"
stack() { local verb=$1; shift; wardround stack "$verb" --name demo --folder "$DEMO/stack" "$@"; }

echo "In one process:"
wardround simulate "$EXPERIMENT" --out "$DEMO" --fresh --no-pooled --trainings local
echo
echo "The same on RabbitMQ, MinIO and three Airflows:"
trap 'stack down; echo "It did not go through; what there was to say lies in $DEMO/stack/logs" >&2' EXIT
stack up --sites 3 --airflow --brain-tumour --fresh
wardround start "$EXPERIMENT" --hub demo --watch
wardround fetch brain-tumour --hub demo -o "$DEMO/model.safetensors"
echo
sha256sum "$DEMO/brain-tumour/model.safetensors" "$DEMO/model.safetensors"
cmp "$DEMO/brain-tumour/model.safetensors" "$DEMO/model.safetensors"
echo "The last model of the simulation and that of the real servers are the same to the byte."
trap - EXIT
stack down --delete
