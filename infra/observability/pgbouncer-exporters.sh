#!/bin/bash
# Runs an exporter for each PgBouncer replica that Docker's DNS knows, and tells Prometheus where: an
# exporter has one target, given at its start. Replicas come and go, and so do their exporters.
#
#   pgbouncer-exporters DIRECTORY          keep pgbouncer.json there
#   pgbouncer-exporters DIRECTORY alive    the health check: whoever keeps it still goes round
set -euo pipefail

readonly TARGETS=$1/pgbouncer.json ALIVE=$1/alive FIRST_PORT=9200 PORTS=1000
# By address, because the name leads to any replica; so it is the CA that is checked, which signs for
# this stack alone. The password: PGPASSFILE, read at each login.
readonly LOGIN='user=sluice_monitor dbname=pgbouncer port=6432 sslmode=verify-ca sslrootcert=/etc/sluice/ca.crt connect_timeout=3'

# Of each replica that has an exporter, by its number.
declare -A addresses=() pids=()

# replicas: number and address of each, one a line, from the name that Docker's DNS has for it,
# PROJECT-pgbouncer-NUMBER.NETWORK; without a container that is no replica.
replicas() {
    local address number
    getent ahostsv4 pgbouncer | sed -n 's/ .*STREAM.*//p' | sort -u | while read -r address; do
        number=$(getent -s dns hosts "$address" | sed -n 's/^[^ ]* *[^ .]*-\([0-9]\{1,9\}\)\..*/\1/p') || true
        [[ -z $number ]] || printf '%d %s\n' "$number" "$address"
    done
}

port() { echo $((FIRST_PORT + $1 % PORTS)); }

start() {
    prometheus-pgbouncer-exporter --log.level=warn --web.listen-address=":$(port "$1")" \
        --pgBouncer.connectionString="$LOGIN host=$2" &
    addresses[$1]=$2 pids[$1]=$!
}

stop() {
    kill "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" || true
    unset "addresses[$1]" "pids[$1]"
}

# Whole or not at all: Prometheus may read it at any moment.
write_targets() {
    local number separator=''
    {
        printf '['
        for number in "${!pids[@]}"; do
            printf '%s{"targets": ["pgbouncer-exporter:%d"], "labels": {"replica": "pgbouncer-%d"}}' \
                "$separator" "$(port "$number")" "$number"
            separator=', '
        done
        printf ']\n'
    } >"$TARGETS.new"
    mv "$TARGETS.new" "$TARGETS"
}

# An exporter that has ended, or whose replica has another address, is replaced.
follow() {
    local number address changed=''
    declare -A present=()
    while read -r number address; do present[$number]=$address; done < <(replicas)
    # Where the name is not known for a moment, the list stays.
    ((${#present[@]})) || return 0
    for number in "${!pids[@]}"; do
        if [[ ${present[$number]-} != "${addresses[$number]}" ]] || ! kill -0 "${pids[$number]}" 2>/dev/null; then
            stop "$number"
            changed=yes
        fi
    done
    for number in "${!present[@]}"; do
        if [[ -z ${pids[$number]-} ]]; then
            start "$number" "${present[$number]}"
            changed=yes
        fi
    done
    [[ -z $changed ]] || write_targets
}

if [[ ${2-} == alive ]]; then
    (($(date +%s) - $(stat --format %Y "$ALIVE") < 15))
    exit
fi

trap 'exit 0' TERM INT
write_targets
while :; do
    follow
    touch "$ALIVE"
    # In the background, so that a signal is not kept waiting.
    sleep 2 &
    wait $!
done
