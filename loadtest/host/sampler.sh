# shellcheck shell=bash
# Sourced by loadtest/run: samples every container of some services while a run is on.

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
