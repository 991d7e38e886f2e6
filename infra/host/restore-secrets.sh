#!/usr/bin/env bash
# Writes the secrets of a lost secrets volume back from the compiled files, whether the stack
# serves or is down: restore-secrets.sh [--json]
#
# Exit codes: 0 done, 1 failed, 2 the env file is at fault, 3 refused: no secret is lost.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

# It reads the files of every tier, which belong to the tier's user.
# shellcheck disable=SC2034  # read by `ops`
ops_options=(--no-deps --cap-add DAC_READ_SEARCH --env SLUICE_HOST)

# roles.sql as at the server's start: by its superuser, who needs no password in the container.
host_give_roles() {
    quietly look exec --no-TTY postgres psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
        --dbname=postgres --file=/etc/sluice/roles.sql </dev/null || return
    host_reload postgres pgbouncer
}

_main() {
    case ${1:-} in
        --json) begin_json ;;
        '') ;;
        *) die "usage: restore-secrets.sh [--json]" 2 ;;
    esac
    ensure_image
    SLUICE_HOST=$(host_facts)
    export SLUICE_HOST
    operate restore secrets
}

_main "$@"
