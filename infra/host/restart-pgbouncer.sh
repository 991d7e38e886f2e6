#!/usr/bin/env bash
# Restarts every PgBouncer replica, one at a time, while the others serve. A replica whose
# image or definition changed is replaced by a new container: restart-pgbouncer.sh [--json]
#
# Exit codes: 0 done, 1 failed, 3 refused (one replica only, a pause is on, ...).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

host_replace_pgbouncer() {
    local container=$1
    if needs_new_container pgbouncer "$container"; then
        quietly docker rm --force "$container" || return
        start_missing pgbouncer
    else
        quietly docker restart "$container"
    fi
}

[[ ${1:-} != --json ]] || begin_json
operate restart pgbouncer
