#!/usr/bin/env bash
# Makes a preset the env file: preset.sh [--json] laptop|small|medium|large
#
# Shows what it would change first; the present API_PORT is kept, every other value is the
# preset's. Puts nothing in force: that is `make apply`.
# Exit codes: 0 written, 2 no such preset, or this host cannot carry it.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

candidate=$env_file.candidate

# refused NAME STATUS: what was to be the env file is the document of its faults.
refused() {
    [[ -z $json ]] || collect "preset $1" "$candidate" "$2"
    die "$env_file is as it was" "$2"
}

_main() {
    if [[ ${1:-} == --json ]]; then
        begin_json
        shift
    fi
    [[ -n ${1:-} ]] || die "usage: preset.sh [--json] NAME (make preset NAME=small)" 2
    temporary+=("$candidate")
    judge stack.env preset "$1" --print ${json:+--json} >"$candidate" || refused "$1" "$?"
    operate preset "$1"
    write_env_file "$candidate"
    say "$env_file is now the preset $1; put it in force with: make apply"
}

_main "$@"
