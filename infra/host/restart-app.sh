#!/usr/bin/env bash
# Restarts api and worker with no request failing and no task lost:
#
#   restart-app.sh              put the env file in force first, then restart both
#   restart-app.sh --compiled   only restart: the configuration is compiled already
#   restart-app.sh api          restart one of them only: api or worker
#   restart-app.sh --json ...   print one JSON document instead of lines
#
# A new image or definition needs new containers. For a worker nobody notices. The port of
# the api belongs to one container at a time: requests in hand are answered, and new
# connections are refused for the seconds that the new container takes to start.
#
# Exit codes: 0 done, 1 failed, 2 the env file is at fault, 3 refused.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

# A container is stopped before it is removed: it has work in hand.
replace() {
    local service=$1 container=$2
    quietly docker stop "$container" || return
    quietly docker rm "$container" || return
    start_missing "$service"
}

host_replace_worker() {
    if needs_new_container worker "$1"; then replace worker "$1"; else quietly docker restart "$1"; fi
}

host_replace_api() { replace api "$1"; }

# Tells whether the api cannot be restarted in its container.
needs_new_api() {
    local container
    container=$(compose ps --quiet api)
    [[ -n $container ]] || die "api does not run; start it: make up" "$EXIT_REFUSED"
    needs_new_container api "$container" || return 1
    say "the image or definition of api changed: new connections are refused for some seconds"
}

_main() {
    local compiled='' services=() options=()
    while (($#)); do
        case $1 in
            --compiled) compiled=yes ;;
            --json) begin_json ;;
            api | worker) services+=("$1") ;;
            *) die "usage: restart-app.sh [--json] [--compiled] [api] [worker]" 2 ;;
        esac
        shift
    done
    ((${#services[@]})) || services=(api worker)
    [[ -n $compiled ]] || compile
    if [[ " ${services[*]} " == *" api "* ]] && needs_new_api; then
        options=(--new-api-container)
    fi
    operate restart app "${options[@]}" "${services[@]}"
    # What the budget could not hold before the restart is live now.
    [[ -n $compiled ]] || compile
}

_main "$@"
