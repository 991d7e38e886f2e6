#!/usr/bin/env bash
# Puts the env file in force on the running stack: apply.sh [--json] [--restart]
#
# Without --restart only what is live, and it says what waits for a restart. With it, also the
# planned restarts, each in a way that no request fails, and a last look at every process.
#
# Exit codes: 0 in force, 1 a process differs or failed, 2 the env file is at fault,
# 3 refused, 4 the rest takes a restart.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

# The services that `apply --restart` names.
touched=()

host_restart() { touched+=("$@"); }
host_recreate() { touched+=("$@"); }

is_touched() { [[ " ${touched[*]} " == *" $1 "* ]]; }
setting() { sed -n "s/^$1=//p" "$env_file"; }
running() { compose ps --quiet "$1" | wc -l; }

# What a run that was killed had compiled and not yet replaced: no process says what memory and
# processors its container has.
touch_outdated() {
    local service container
    for service in postgres pgbouncer worker api; do
        while read -r container; do
            ! has_another_definition "$service" "$container" || touched+=("$service")
        done < <(compose ps --quiet "$service")
    done
}

# PostgreSQL first: what is above it grows only when it can carry that.
restart_in_order() {
    if is_touched postgres; then run_script restart-postgres.sh --compiled; fi
    if is_touched migrate; then migrate; fi
    if is_touched pgbouncer; then renew_pgbouncer; fi
    if is_touched worker; then renew_worker; fi
    if is_touched api; then run_script restart-app.sh --compiled api; fi
}

migrate() {
    compose up --no-deps --exit-code-from migrate migrate \
        || die "the migration failed; see: docker compose logs migrate"
}

renew_pgbouncer() {
    local wanted
    wanted=$(setting PGBOUNCER_REPLICAS)
    (($(running pgbouncer) == wanted)) || run_script scale-pgbouncer.sh "$wanted"
    run_script restart-pgbouncer.sh
}

renew_worker() {
    (($(running worker) == $(setting WORKER_REPLICAS))) || start_missing worker
    run_script restart-app.sh --compiled worker
}

_main() {
    local restart='' status=0
    while (($#)); do
        case $1 in
            --json) begin_json ;;
            --restart) restart=yes ;;
            *) die "usage: apply.sh [--json] [--restart]" 2 ;;
        esac
        shift
    done
    if [[ -z $restart ]]; then
        operate apply
        return
    fi
    operate apply --restart || status=$?
    ((status == 0 || status == EXIT_NEEDS_RESTART)) || return "$status"
    touch_outdated
    ((status + ${#touched[@]})) || return 0
    restart_in_order
    operate apply
}

_main "$@"
