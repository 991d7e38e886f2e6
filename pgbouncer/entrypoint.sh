#!/bin/sh
# Becomes PgBouncer; beside it runs the DNS forwarder that resolv_conf names, again should it end.
set -eu

forward_dns() {
    while :; do
        dnsmasq --keep-in-foreground --log-facility=- --conf-file=/etc/pgbouncer/dnsmasq.conf || true
        echo "entrypoint: the DNS forwarder ended; starting it again" >&2
        sleep 1
    done
}

forward_dns &
exec pgbouncer "$@"
