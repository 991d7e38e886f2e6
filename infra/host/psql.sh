#!/usr/bin/env bash
# A superuser's psql inside the PostgreSQL container; where every connection slot is taken, the
# superuser's reserve too, the list of sessions and the command that ends one of them. After DDL
# PgBouncer replaces its server connections.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

_main() {
    local said status=0
    own_project
    server=$(server)
    if ! said=$(look exec --no-TTY "$server" psql --dbname risk --command 'SELECT 1' </dev/null 2>&1); then
        printf '%s\n' "$said" >&2
        [[ $said == *'too many clients already'* ]] || exit 1
        _list
        exit 1
    fi
    # What it shows of an error stays on the terminal: messages quote values.
    look exec --env PGOPTIONS='-c log_min_messages=log' "$server" psql --dbname risk || status=$?
    look_run --no-deps --no-TTY ops pgbouncer reconnect --if-changed --wait 30 </dev/null \
        || say 'after DDL: make reconnect'
    exit "$status"
}

# The title of a session's process is `postgres: USER DATABASE ADDRESS STATE`: it needs no slot.
# shellcheck disable=SC2016  # for the shell in the container
_list() {
    echo 'Sessions, by process id (user, database, address, state):'
    look exec --no-TTY "$server" sh -c '
        for file in /proc/[0-9]*/cmdline; do
            title=$(tr "\\0" " " <"$file" 2>/dev/null) || continue
            case $title in
                "postgres: "*\(*\)* | "postgres: "*"[local]"*) pid=${file%/cmdline}; echo "${pid#/proc/} ${title#postgres: }" ;;
            esac
        done' </dev/null
    echo 'End one, as pg_terminate_backend does, then `make psql` again:'
    echo "  docker compose exec $server kill -TERM PID"
}

_main
