#!/usr/bin/env bash
# Prints what the tiers have logged, in columns, and follows it: logs.sh OPTION...
#
#   --lines N|all     of each container at first (100; with --since all)
#   --since TIME      from then on: 10m, 2h30m, 2026-01-02T10:00:00Z
#   --no-follow       end with what there is
#   --request ID      one request in every tier, in the order of time; exit code 1: there is no line of it
#   --json            one JSON object a line
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

lines='' since='' request='' follow=(--follow) format=()

refuse() { die "$1" 2; }

# The tool has no business with Docker, the network or a file.
formatted() {
    docker run --rm --interactive --read-only --cap-drop ALL --security-opt no-new-privileges:true \
        --network none --memory 256m --pids-limit 64 "$image" logs "${format[@]}"
}

# The optional services too, where they run.
printed() { look --profile '*' logs --no-color --timestamps ${since:+--since "$since"} "$@" </dev/null; }

# The api's lines first; grep is quicker than reading them all.
of_request() {
    printed api | grep --fixed-strings --regexp="$request" || true
    if is_replicated; then
        printed worker pgbouncer postgres-1 postgres-2 postgres-3
    else
        printed worker pgbouncer postgres
    fi
}

_main() {
    while (($#)); do
        case $1 in
            --lines) lines=${2-}; shift ;;
            --since) since=${2-}; shift ;;
            --request) request=${2-}; shift ;;
            --no-follow) follow=() ;;
            --json) format+=(--json) ;;
            *) refuse "usage: the options are in the first lines of infra/host/logs.sh" ;;
        esac
        shift || refuse "the last option needs a value"
    done
    [[ $lines =~ ^([0-9]{1,9}|all)?$ ]] || refuse "LINES=$lines is not a number of lines, or all"
    [[ $since =~ ^[0-9A-Za-z.:+-]*$ ]] || refuse "SINCE=$since is not a time, such as 10m or 2026-01-02T10:00:00Z"
    [[ $request =~ ^([0-9A-Za-z][0-9A-Za-z._:-]{0,127})?$ ]] \
        || refuse "REQUEST=$request is not a request id: letters, digits and . _ : -, at most 128 of them"
    [[ -z $request || -z $lines ]] || refuse "REQUEST shows every line of a request; leave LINES out"
    ensure_image
    [[ ! -t 1 ]] || format+=(--colour)
    if [[ -n $request ]]; then
        format+=(--request "$request")
        of_request | formatted
    else
        [[ -n $lines || -n $since ]] || lines=100
        printed --tail "${lines:-all}" "${follow[@]}" | formatted
    fi
}

_main "$@"
