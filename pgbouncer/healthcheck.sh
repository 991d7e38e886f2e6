#!/bin/sh
# A query through this process to PostgreSQL: proves the path, not the port.
set -eu
exec env PGCONNECT_TIMEOUT=3 PGPASSFILE=/etc/sluice/monitor.pgpass \
    psql --no-psqlrc --no-align --tuples-only --quiet --no-password \
    "host=/run/pgbouncer port=6432 dbname=risk_monitor user=sluice_monitor" \
    --command 'SELECT 1' >/dev/null
