#!/usr/bin/env bash
# Gives every server a new certificate, while the stack serves or while it is down:
# rotate-certificates.sh [--json] [--ca] [--due] [--from DIRECTORY]
#
# Exit codes: 0 done, 1 failed, 2 a given certificate is at fault, 3 refused.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh


_main() {
    local options=()
    while (($#)); do
        case $1 in
            --json) begin_json ;;
            --ca | --due) options+=("$1") ;;
            --from)
                # shellcheck disable=SC2034  # read by `ops`
                ops_options=(--volume "${2:?--from needs a directory}:/given:ro")
                options+=(--from /given)
                shift
                ;;
            *) die "usage: rotate-certificates.sh [--json] [--ca] [--due] [--from DIRECTORY]" 2 ;;
        esac
        shift
    done
    operate rotate certificates "${options[@]}"
}

_main "$@"
