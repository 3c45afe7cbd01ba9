#!/bin/sh
# Puts the secrets into a settings file that only MinIO reads, on a tmpfs, and becomes the command it is given. So no
# secret stands in the container's environment, where `docker inspect` would show it.
#   BROKER      amqps://host:port, where new objects are announced, as the login `store`
#   SECRETS     the folder of root.store and store.broker, the secrets of the hub's folder
#   RUN_FOLDER  where the settings file is written
set -eu
umask 077
secrets=${SECRETS:-/run/secrets}
settings=${RUN_FOLDER:-/run/minio}/config.env

fail() { echo "start: $*" >&2; exit 78; }

secret() {
  [ -r "$secrets/$1" ] || fail "$secrets/$1 cannot be read by uid $(id -u): is WARDROUND_USER the owner of the hub's folder?"
  value=$(cat "$secrets/$1")
  case $value in
    "" | *[!A-Za-z0-9._~-]*) fail "$secrets/$1 must be letters, digits and . _ ~ - only: it becomes a part of an address" ;;
  esac
}

case ${BROKER:-} in
  amqps://*) host=${BROKER#amqps://} ;;
  *) fail "BROKER must begin with amqps://" ;;
esac
secret root.store
root=$value
secret store.broker

# No QUEUE_DIR: its replay would delay each announcement by up to 3 s. What is stored while the broker is away is not
# announced, and found by whoever looks.
cat >"$settings" <<END
MINIO_ROOT_USER=root
MINIO_ROOT_PASSWORD=$root
MINIO_NOTIFY_AMQP_ENABLE_HUB=on
MINIO_NOTIFY_AMQP_URL_HUB=amqps://store:$value@$host
MINIO_NOTIFY_AMQP_EXCHANGE_HUB=wr.objectstore
MINIO_NOTIFY_AMQP_EXCHANGE_TYPE_HUB=topic
MINIO_NOTIFY_AMQP_ROUTING_KEY_HUB=announced
MINIO_NOTIFY_AMQP_MANDATORY_HUB=off
MINIO_NOTIFY_AMQP_DURABLE_HUB=on
MINIO_NOTIFY_AMQP_NO_WAIT_HUB=off
MINIO_NOTIFY_AMQP_INTERNAL_HUB=off
MINIO_NOTIFY_AMQP_AUTO_DELETED_HUB=off
MINIO_NOTIFY_AMQP_DELIVERY_MODE_HUB=2
MINIO_NOTIFY_AMQP_PUBLISHING_CONFIRMS_HUB=on
END
unset root value
export MINIO_CONFIG_ENV_FILE="$settings"
exec "$@"
