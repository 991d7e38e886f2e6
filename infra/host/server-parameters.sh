#!/usr/bin/env bash
# Writes what the running PostgreSQL and PgBouncer know of their parameters, the lists by which
# the lines of postgresql.extra.conf and pgbouncer.extra.ini are checked:
#
#   server-parameters.sh [DIRECTORY]   default: infra/config/parameters
#
# Of PgBouncer's SHOW CONFIG without the value.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

# Those of the category Preset Options belong to one build of the server, and nobody sets them.
readonly POSTGRES="
    SELECT lower(name) AS name, context, vartype AS type, unit, min_val AS min, max_val AS max,
           array_to_string(enumvals, '|') AS values, category
    FROM pg_settings WHERE category <> 'Preset Options' ORDER BY lower(name) COLLATE \"C\""

# table SERVICE COMMAND DATABASE: what psql in a container of the service prints, tab-separated.
table() {
    look exec --no-TTY "$1" psql --no-psqlrc --no-align --field-separator=$'\t' \
        --pset footer=off --command "$2" "$3" </dev/null
}

directory=${1:-infra/config/parameters}
table postgres "$POSTGRES" postgres >"$directory/postgresql.tsv"
table pgbouncer 'SHOW CONFIG' pgbouncer | cut --fields 1,3,4 >"$directory/pgbouncer.tsv"
