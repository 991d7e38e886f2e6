#!/usr/bin/env bash
# The way back from a full data volume: gives back the ballast where less than its size is free,
# starts PostgreSQL where it had ended, and shows what takes the space. Safe at any time.
#
# Exit codes: 0 PostgreSQL answers, 1 it does not, 3 another clone started the project.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

# Longest wait for an answer. Recovery reads the log since the last checkpoint.
readonly READY_SECONDS=120

# In a container of its own: that of a server that ends again and again can end in the middle of
# an exec. Where Docker has no room for another container, that of a running server will do.
give_back() {
    look_run --no-deps --no-TTY "$server" free-ballast </dev/null \
        || look exec --no-TTY "$server" entrypoint free-ballast </dev/null \
        || die "the ballast was not removed; where no container can start, free space in Docker's own directory first: docker builder prune"
}

# Docker waits longer and longer before each start of a server that ended. One that runs is left
# alone: it may be in recovery.
start_again() {
    local state restarted='' room='free space on its disk (docker system df), then run this again'
    local deadline=$((SECONDS + READY_SECONDS))
    until docker exec "$container" healthcheck >/dev/null 2>&1; do
        state=$(docker inspect --format '{{.State.Status}}' "$container")
        ((SECONDS < deadline)) || die "$container is $state and does not answer: $room"
        if [[ $state == restarting || $state == exited ]]; then
            [[ -z $restarted ]] || die "$container ended again: $room"
            say "$container is $state: starting it"
            quietly docker restart "$container" || exit
            restarted=yes
        fi
        sleep 0.5
    done
}

show_sizes() {
    local used
    used=$(look exec --no-TTY "$server" df --block-size=1 --output=used /var/lib/postgresql/data </dev/null | tail -n 1)
    look exec --no-TTY "$server" psql --no-psqlrc --quiet --dbname risk --pset footer=off --set "used=$used" <<'SQL'
WITH part(what, bytes) AS (
    SELECT 'database ' || datname, pg_database_size(oid) FROM pg_database WHERE datallowconn
    UNION ALL SELECT 'write-ahead log', sum(size) FROM pg_ls_waldir()
    UNION ALL SELECT 'temporary files', coalesce(sum(size), 0) FROM pg_ls_tmpdir()
    UNION ALL SELECT 'ballast', coalesce(size, 0)
        FROM pg_stat_file(current_setting('data_directory') || '/../ballast', true)
), every AS (
    TABLE part UNION ALL SELECT 'all else on this disk', :used - sum(bytes) FROM part
)
SELECT what AS "space taken by", pg_size_pretty(bytes) AS size FROM every ORDER BY bytes DESC;

SELECT oid::regclass AS "largest tables", pg_size_pretty(pg_total_relation_size(oid)) AS size
FROM pg_class WHERE relkind IN ('r', 'm')
    AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
ORDER BY pg_total_relation_size(oid) DESC LIMIT 5;
SQL
}

_main() {
    own_project
    server=$(server)
    container=$(look ps --all --quiet "$server")
    [[ -n $container ]] || die "$server has no container; start it: make up"
    container=$(docker inspect --format '{{.Name}}' "$container")
    container=${container#/}
    give_back
    start_again
    show_sizes
    cat <<'TEXT'
Next: delete what is not needed (make psql; TRUNCATE, DROP or VACUUM FULL give space back, DELETE
alone does not), what else is on this disk (docker system df), or move the volume to a larger one.
The ballast is made again at the next start with room for it: make restart-postgres
TEXT
}

_main "$@"
