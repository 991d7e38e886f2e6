#!/bin/sh
# A query through this process to PostgreSQL: proves the path, not the port.
#
#   healthcheck         each time
#   healthcheck once    until it has succeeded; from then on the process itself is asked, which
#                       Docker Swarm would end for the absence of PostgreSQL
set -eu
readonly served=/tmp/served
database=risk_monitor query='SELECT 1'
if [ "${1-}" = once ] && [ -e "$served" ]; then
    database=pgbouncer query='SHOW VERSION'
fi
env PGCONNECT_TIMEOUT=3 PGPASSFILE=/etc/sluice/monitor.pgpass \
    psql --no-psqlrc --no-align --tuples-only --quiet --no-password \
    "host=/run/pgbouncer port=6432 dbname=$database user=sluice_monitor" \
    --command "$query" >/dev/null
[ -z "${1-}" ] || : >"$served"
