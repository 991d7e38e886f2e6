#!/usr/bin/env bash
# Makes the virtual environment that the tests and linters run in: python-env.sh DIR REQUIREMENTS
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

require_python() {
    command -v python3 >/dev/null && python3 -c 'import venv, ensurepip' 2>/dev/null && return
    [[ -r /etc/debian_version && $EUID -eq 0 ]] || die "python3 with venv is missing; install Python 3.11 or newer with its venv module"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    quietly apt-get install -y -qq --no-install-recommends python3 python3-venv
}

_main() {
    local dir=$1 requirements=$2
    require_python
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || die "$(python3 --version) is too old; the tests need Python 3.11 or newer"
    python3 -m venv "$dir"
    "$dir/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$requirements"
}

_main "$@"
