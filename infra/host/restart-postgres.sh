#!/usr/bin/env bash
# Restarts PostgreSQL while every client waits and none fails:
#
#   restart-postgres.sh              put the env file in force first, then restart
#   restart-postgres.sh --compiled   only restart: the configuration is compiled already
#   restart-postgres.sh --json ...   print one JSON document instead of lines
#
# Exit codes: 0 done, 1 failed, 2 the env file is at fault, 3 refused (a long transaction, ...).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

# The server itself reads the compiled file and says whether it would start with it.
check_configuration() {
    # shellcheck disable=SC2016  # expanded in the container
    quietly compose exec --no-TTY postgres bash -c \
        'postgres -C max_connections -D "$PGDATA" -c config_file=/etc/sluice/postgresql.conf' \
        || die "postgres refuses the new configuration; nothing was paused" "$EXIT_REFUSED"
}

# Decided before the pause: asking Compose takes half a second.
choose_step() {
    container=$(compose ps --quiet postgres)
    [[ -n $container ]] || die "postgres does not run; start it: make up" "$EXIT_REFUSED"
    replace=no
    ! needs_new_container postgres "$container" || replace=yes
    [[ $replace == no ]] || say "its image or definition changed: a new container"
}

# Resumes every PgBouncer when the command below dies. It ends by itself when that is over.
start_dead_man() { quietly look run --rm --detach --no-TTY ops dead-man; }

host_restart_postgres() {
    if [[ $replace == yes ]]; then
        quietly compose create postgres || return
        quietly docker start "$(compose ps --all --quiet postgres)"
    else
        quietly docker restart "$container"
    fi
}

_main() {
    local compiled=''
    while (($#)); do
        case $1 in
            --compiled) compiled=yes ;;
            --json) begin_json ;;
            *) die "usage: restart-postgres.sh [--json] [--compiled]" 2 ;;
        esac
        shift
    done
    [[ -n $compiled ]] || compile
    check_configuration
    choose_step
    start_dead_man
    operate restart postgres
    # What the budget could not hold before the restart is live now.
    [[ -n $compiled ]] || compile
}

_main "$@"
