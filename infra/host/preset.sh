#!/usr/bin/env bash
# Makes a preset the env file: preset.sh [--json] laptop|small|medium|large
#
# Shows what it would change first; the present API_PORT is kept, every other value is the
# preset's. Puts nothing in force: that is `make apply`.
# Exit codes: 0 written, 2 no such preset or its budget does not hold.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

env_file=${SLUICE_ENV_DIR:-infra/env}/stack.env
candidate=$env_file.candidate

_main() {
    if [[ ${1:-} == --json ]]; then
        begin_json
        shift
    fi
    [[ -n ${1:-} ]] || die "usage: preset.sh [--json] NAME (make preset NAME=small)" 2
    operate preset "$1"
    temporary+=("$candidate")
    ops preset "$1" --print >"$candidate"
    # In place, so that the file keeps its owner and mode.
    cat "$candidate" >"$env_file"
    say "$env_file is now the preset $1; put it in force with: make apply"
}

_main "$@"
