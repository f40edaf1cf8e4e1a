#!/bin/sh
# The part of the official image's entrypoint that compose.yaml relies on.
set -e
[ "$(id -u)" != 0 ] || { chown postgres "$PGDATA"; exec setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"; }
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" > /tmp/password
  initdb --username "$POSTGRES_USER" --auth scram-sha-256 --pwfile /tmp/password
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
  [ "$POSTGRES_DB" = postgres ] || echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -j postgres
fi
exec "$@"
