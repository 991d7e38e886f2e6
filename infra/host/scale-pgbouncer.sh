#!/usr/bin/env bash
# Changes the number of PgBouncer replicas with no request failing: scale-pgbouncer.sh [--json] N
#
# PGBOUNCER_REPLICAS in the env file is the truth: it is changed first, after the budget was
# checked with the new number.
# Exit codes: 0 done, 1 failed, 2 the budget does not hold, 3 refused.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

readonly SETTING=PGBOUNCER_REPLICAS
candidate=$env_file.candidate

host_remove_pgbouncer() { quietly docker rm --force "$1"; }

running() { compose ps --quiet pgbouncer | wc -l; }

# The replica with the highest number.
last() { compose ps --format '{{.Name}}' pgbouncer | sort --version-sort | tail -n 1; }

check_budget() {
    sed "s/^$SETTING=.*/$SETTING=$1/" "$env_file" >"$candidate"
    check "$(basename "$candidate")"
}

# First what else the new number needs of the env file, such as smaller pools; then the replica;
# then what follows from its being there.
grow() {
    compile
    start_missing pgbouncer
    compile
    operate pgbouncer spread "$1"
}

shrink() {
    local wanted=$1
    while (($(running) > wanted)); do
        operate pgbouncer retire "$(last)"
    done
    compile
    operate pgbouncer spread "$wanted"
}

_main() {
    local wanted before
    if [[ ${1:-} == --json ]]; then
        begin_json
        shift
    fi
    wanted=${1:-}
    [[ $wanted =~ ^[1-9][0-9]*$ ]] \
        || die "usage: scale-pgbouncer.sh [--json] N (make scale-pgbouncer N=3)" 2
    before=$(sed -n "s/^$SETTING=//p" "$env_file")
    temporary+=("$candidate")
    check_budget "$wanted"
    write_env_file "$candidate"
    unfinished="$SETTING is $wanted; to finish: make scale-pgbouncer N=$wanted"
    ((before == wanted)) || unfinished+="; to go back: make scale-pgbouncer N=$before"
    if ((wanted > $(running))); then grow "$wanted"; else shrink "$wanted"; fi
}

_main "$@"
