#!/bin/sh
# Becomes PgBouncer; beside it runs the DNS forwarder that resolv_conf names, again should it end.
set -eu

# As PgBouncer would say for every login, but never at its start.
socket=$(sed -n 's/.* host=\(\/[^ ]*\) .*/\1/p' "$1" | sort -u)
if [ -n "$socket" ] && ! [ -x "$socket" ]; then
    echo "entrypoint: $socket, where PostgreSQL's socket is, cannot be entered by $(id);" \
        "its volume, postgres-socket, must be mounted and belong to a group of PgBouncer's" >&2
    exit 1
fi

forward_dns() {
    while :; do
        dnsmasq --keep-in-foreground --log-facility=- --conf-file=/etc/pgbouncer/dnsmasq.conf || true
        echo "entrypoint: the DNS forwarder ended; starting it again" >&2
        sleep 1
    done
}

forward_dns &
exec pgbouncer "$@"
