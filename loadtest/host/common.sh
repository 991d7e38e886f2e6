# shellcheck shell=bash
# Sourced by loadtest/run: compose, run directories, samples, constraints, the lab.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly REPOSITORY
cd "$REPOSITORY" || exit
# What it defines and this file does too is meant as here.
# shellcheck source=infra/host/common.sh
. infra/host/common.sh
readonly RESULTS=$REPOSITORY/loadtest/results
# Relative to the repository, as compose.yaml has it.
readonly ENV_DIR=${SLUICE_ENV_DIR:-./infra/env}
LOADTEST_GID=${LOADTEST_GID:-$(id -g)}
export LOADTEST_GID
# Of the command that runs: the options it hands on, the ports it publishes, and if it has a lab.
OPTIONS=()
PORTS=()
LAB_STARTED=

# A path from anywhere, for what is not run by compose().
env_directory() { (cd "$ENV_DIR" && pwd); }

say() { printf 'loadtest: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Without the lab unless it is wanted: Compose makes every network and volume that it knows of.
compose() {
    local files=(--file compose.yaml --file loadtest/compose.loadtest.yaml)
    [[ -z $LAB_STARTED ]] || files+=(--file loadtest/topologies/lab.yaml)
    docker compose --env-file "$ENV_DIR/stack.env" "${files[@]}" --profile loadtest --profile ops "$@"
}

require_stack() {
    own_project
    [[ -n $(compose ps --quiet --status running api) ]] \
        || die "no running api in this compose project; start the stack with: make up"
    ! is_replicated || die "the load tests measure one PostgreSQL server; set POSTGRES_INSTANCES=1 in a" \
        "stack of their own (COMPOSE_PROJECT_NAME, API_PORT)"
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

# --- samples --------------------------------------------------------------------------------

SAMPLERS=()
SAMPLER_INPUTS=()

# start_samplers INTERVAL_SECONDS SERVICE...: one file of samples per container.
start_samplers() {
    local interval=$1 service container
    shift
    for service in "$@"; do
        for container in $(compose ps --quiet --status running "$service"); do
            _start_sampler "$interval" "$service" "$container"
        done
    done
}

_start_sampler() {
    local interval=$1 service=$2 container=$3 name input
    name=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.container-number"}}' "$container")
    # The sampler in the container ends when its input does, also when this script is killed.
    exec {input}> >(exec docker exec --interactive "$container" \
        bash -c "$(<"$REPOSITORY/loadtest/host/sample.sh")" sample "${service#lab-}" "$interval" \
        >>"$RUN_DIR/samples/$service-$name.txt" 2>>"$RUN_DIR/samples/errors.log")
    SAMPLERS+=($!)
    SAMPLER_INPUTS+=("$input")
}

stop_samplers() {
    local input
    for input in "${SAMPLER_INPUTS[@]}"; do exec {input}>&-; done
    ((${#SAMPLERS[@]})) && wait "${SAMPLERS[@]}" 2>/dev/null
    SAMPLERS=()
    SAMPLER_INPUTS=()
}

# --- constraints ----------------------------------------------------------------------------

# What a result depends on, as the machine and the processes say it: one file of raw answers each,
# read by report/constraints.py.
record_constraints() {
    local into=$RUN_DIR/constraints extra
    {
        printf 'kernel=%s\n' "$(uname -sr)"
        printf 'processors=%s\n' "$(nproc)"
        printf 'processor=%s\n' "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
        printf 'memory_kb=%s\n' "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
        printf 'load_before=%s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
        printf 'open_files_hard=%s\n' "$(ulimit -Hn)"
        printf 'docker=%s\n' "$(docker version --format '{{.Server.Version}}')"
        printf 'compose=%s\n' "$(docker compose version --short)"
        printf 'revision=%s\n' "$(git -C "$REPOSITORY" rev-parse --short HEAD 2>/dev/null || echo unknown)"
        printf 'changed_files=%s\n' "$(git -C "$REPOSITORY" status --porcelain 2>/dev/null | wc -l)"
        printf 'api_containers=%s\n' "$(compose ps --quiet --status running api | wc -l)"
        printf 'worker_containers=%s\n' "$(compose ps --quiet --status running worker | wc -l)"
        printf 'pgbouncer_containers=%s\n' "$(compose ps --quiet --status running pgbouncer | wc -l)"
    } >"$into/machine.txt"
    # As it is now: a later page must not show a later edit.
    cp -L "$(env_directory)/stack.env" "$into/"
    for extra in postgresql.extra.conf pgbouncer.extra.ini; do
        [[ ! -f $(env_directory)/$extra ]] || cp -L "$(env_directory)/$extra" "$into/"
    done
    _ask_tiers "$into" '' postgres pgbouncer
}

# After lab_up: the lab's own figures beside the deployed stack's.
record_lab_constraints() { _ask_tiers "$RUN_DIR/constraints" lab- lab-postgres lab-pgbouncer; }

_ask_tiers() {
    local into=$1 prefix=$2 postgres=$3 pgbouncer=$4
    compose exec -T "$postgres" psql --no-psqlrc --csv --dbname=postgres --command "
        SELECT name, current_setting(name) AS setting FROM pg_settings WHERE name IN (
            'server_version', 'max_connections', 'superuser_reserved_connections',
            'reserved_connections', 'shared_buffers', 'work_mem', 'ssl', 'fsync',
            'synchronous_commit', 'max_wal_size') ORDER BY name" >"$into/${prefix}postgres.csv"
    compose exec -T "$pgbouncer" psql --no-psqlrc --csv --host=/run/pgbouncer --port=6432 \
        --username=pgbouncer --command 'SHOW CONFIG' pgbouncer >"$into/${prefix}pgbouncer.csv"
    compose exec -T "$pgbouncer" psql --no-psqlrc --csv --host=/run/pgbouncer --port=6432 \
        --username=pgbouncer --command 'SHOW DATABASES' pgbouncer >"$into/${prefix}databases.csv"
    compose exec -T "$pgbouncer" pgbouncer --version | head -n 1 >"$into/${prefix}pgbouncer-version.txt"
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
    # The schema sluice is the server's own: the lab's has it.
    compose exec -T postgres pg_dump --dbname=risk --exclude-table-data='risk.*' --exclude-schema=sluice \
        | compose exec -T lab-postgres psql --no-psqlrc --quiet --dbname=risk \
            --output=/dev/null --single-transaction 2>"$RUN_DIR/constraints/lab-copy.txt" || true
    compose exec -T lab-postgres psql --no-psqlrc --quiet --dbname=risk --command='VACUUM ANALYZE'
}

# Removes its containers, its data and its network.
lab_down() {
    local network
    quietly compose rm --stop --force --volumes lab-postgres lab-pgbouncer || true
    quietly docker volume rm --force "${project}_lab-data" "${project}_lab-socket" || true
    network=$(docker network ls --quiet --filter "name=^${project}_lab\$")
    [[ -z $network ]] || quietly docker network rm "$network" || true
}
