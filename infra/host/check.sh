#!/usr/bin/env bash
# Judges the env file, the certificates and this host before Compose reads a setting:
#
#   check.sh [--json] [--warn]   print nothing but faults; with --warn also warnings
#   check.sh project             look only whether another clone started this compose project
#   check.sh plan OPTION...      then show what the env file would change: ops plan OPTION...
#
# Exit codes: 0 sound, 2 faults, 3 another clone started the project.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

# Its document is that of `ops plan`, of faults too.
plan() {
    local judged status=0 options=()
    [[ " $* " != *" --json "* ]] || options=(--json)
    judged=$(mktemp)
    temporary+=("$judged")
    judge stack.env plan --quiet "${options[@]}" >"$judged" || status=$?
    if ((status)); then
        cat "$judged"
        exit "$status"
    fi
    # With the terminal, where there is one: its width is that of the tables.
    look run --rm --no-deps --env SLUICE_HOST ops plan "$@"
}

_main() {
    case ${1:-} in
        project) own_project; return ;;
        plan) plan "${@:2}"; return ;;
    esac
    while (($#)); do
        case $1 in
            --json) begin_json ;;
            --warn) warn=yes ;;
            *) die "usage: check.sh [--json] [--warn] | project | plan OPTION..." 2 ;;
        esac
        shift
    done
    check
}

_main "$@"
