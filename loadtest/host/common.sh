# shellcheck shell=bash
# Sourced by loadtest/run and the scripts beside it: compose, run directories, the lab.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly REPOSITORY
cd "$REPOSITORY" || exit
# What it defines and this file does too is meant as here.
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh
readonly RESULTS=$REPOSITORY/loadtest/results
# Relative to the repository, as compose.yaml has it.
readonly ENV_DIR=${SLUICE_ENV_DIR:-./infra/env}
LOADTEST_GID=${LOADTEST_GID:-$(id -g)}
export LOADTEST_GID

# A path from anywhere, for what is not run by compose().
env_directory() { (cd "$ENV_DIR" && pwd); }

say() { printf 'loadtest: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Without the lab unless it is wanted: Compose makes every network and volume that it knows of.
compose() {
    local files=(--file compose.yaml --file loadtest/compose.loadtest.yaml)
    [[ -z ${LAB_STARTED:-} ]] || files+=(--file loadtest/topologies/lab.yaml)
    docker compose --env-file "$ENV_DIR/stack.env" "${files[@]}" --profile loadtest --profile ops "$@"
}

require_stack() {
    own_project
    [[ -n $(compose ps --quiet --status running api) ]] \
        || die "no running api in this compose project; start the stack with: make up"
}

build_image() { compose build --quiet loadtest; }

# new_run NAME: makes results/<time>-NAME, readable and removable by the caller.
new_run() {
    RUN_ID=$(date -u +%Y%m%dT%H%M%SZ)-$1
    RUN_DIR=$RESULTS/$RUN_ID
    mkdir -p "$RUN_DIR/samples" "$RUN_DIR/constraints"
    chmod 2775 "$RESULTS" "$RUN_DIR"
    export RUN_ID RUN_DIR
}

# in_client SERVICE COMMAND...: the Python side, with those of OPTIONS that the caller has set.
in_client() {
    local service=$1 name options=()
    shift
    for name in "${OPTIONS[@]}"; do
        [[ -n ${!name:-} ]] && options+=(--env "$name")
    done
    [[ -t 0 && -t 1 ]] || options+=(--no-TTY)
    compose --progress quiet run --rm --no-deps "${PORTS[@]}" --env "RUN_DIR=/results/$RUN_ID" "${options[@]}" \
        "$service" "$@"
}

# --- the lab --------------------------------------------------------------------------------

# lab_up MAX_CONNECTIONS: starts it with that limit and fills it from the deployed server.
lab_up() {
    export LAB_MAX_CONNECTIONS=$1
    say "starting the lab with max_connections=$1"
    lab_down
    quietly compose up --no-build --detach --wait --quiet-pull lab-postgres lab-pgbouncer \
        || die "the lab did not start: $(compose logs --tail 5 lab-postgres lab-pgbouncer 2>&1)"
    compose exec -T lab-postgres psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
        --dbname=postgres --file=/lab/prepare.sql
}

# The same reference data and the same tables, without any assessment.
lab_copy_data() {
    say "copying schema and reference data into the lab"
    compose exec -T postgres pg_dump --dbname=risk --exclude-table-data='risk.*' \
        | compose exec -T lab-postgres psql --no-psqlrc --quiet --dbname=risk \
            --output=/dev/null --single-transaction 2>"$RUN_DIR/constraints/lab-copy.txt" || true
    compose exec -T lab-postgres psql --no-psqlrc --quiet --dbname=risk --command='VACUUM ANALYZE'
}

# Removes its containers, its data and its network.
lab_down() {
    local network
    quietly compose rm --stop --force --volumes lab-postgres lab-pgbouncer || true
    quietly docker volume rm --force "${project}_lab-data" || true
    network=$(docker network ls --quiet --filter "name=^${project}_lab\$")
    [[ -z $network ]] || quietly docker network rm "$network" || true
}
