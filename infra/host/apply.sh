#!/usr/bin/env bash
# Puts the env file in force on the running stack: apply.sh [--restart]
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

env_file=${SLUICE_ENV_DIR:-infra/env}/stack.env
# The services that `apply --restart` names.
touched=()

host_restart() { touched+=("$@"); }
host_recreate() { touched+=("$@"); }

is_touched() { [[ " ${touched[*]} " == *" $1 "* ]]; }
knob() { sed -n "s/^$1=//p" "$env_file"; }
running() { compose ps --quiet "$1" | wc -l; }

# PostgreSQL first: what is above it grows only when it can carry that.
restart_in_order() {
    if is_touched postgres; then infra/host/restart-postgres.sh --compiled; fi
    if is_touched migrate; then compose up --no-deps --exit-code-from migrate migrate; fi
    if is_touched pgbouncer; then renew_pgbouncer; fi
    if is_touched worker; then renew_worker; fi
    if is_touched api; then infra/host/restart-app.sh --compiled api; fi
}

renew_pgbouncer() {
    local wanted
    wanted=$(knob PGBOUNCER_REPLICAS)
    (($(running pgbouncer) == wanted)) || infra/host/scale-pgbouncer.sh "$wanted"
    infra/host/restart-pgbouncer.sh
}

renew_worker() {
    (($(running worker) == $(knob WORKER_REPLICAS))) || start_missing worker
    infra/host/restart-app.sh --compiled worker
}

_main() {
    local status=0
    if [[ ${1:-} != --restart ]]; then
        ops apply
        return
    fi
    operate apply --restart || status=$?
    ((status == EXIT_NEEDS_RESTART)) || return "$status"
    restart_in_order
    ops apply
}

_main "$@"
