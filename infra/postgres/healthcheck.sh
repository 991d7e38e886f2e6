#!/bin/sh
# A query over TCP with TLS and SCRAM, as operators and migrations connect. The socket is proved by
# the health check of PgBouncer.
set -eu
exec env PGCONNECT_TIMEOUT=3 PGPASSFILE=/etc/sluice/monitor.pgpass \
    psql --no-psqlrc --no-align --tuples-only --quiet --no-password \
    "host=localhost port=5432 dbname=risk user=sluice_monitor sslmode=verify-full sslrootcert=/etc/sluice/ca.crt" \
    --command 'SELECT 1' >/dev/null
