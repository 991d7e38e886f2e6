# shellcheck shell=bash
# Sourced by the scripts beside it: how an operator command and the host work together.

# shellcheck disable=SC2034  # for the scripts that source this
readonly EXIT_FAILED=1 EXIT_REFUSED=3 EXIT_NEEDS_RESTART=4

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$1"; exit "${2:-$EXIT_FAILED}"; }

# SLUICE_ENV_DIR moves the env file; .env in the repository is the link to the usual one.
compose() {
    local options=()
    [[ -z ${SLUICE_ENV_DIR:-} ]] || options=(--env-file "$SLUICE_ENV_DIR/stack.env")
    docker compose "${options[@]}" "$@" </dev/null
}

ops() { compose run --rm --no-TTY ops "$@"; }

# operate COMMAND...: run an operator command; each line `host: STEP ARGUMENT...` that it
# prints calls the function host_STEP here (dashes become underscores). Returns its exit code.
operate() {
    local line step arguments status=0 lines
    exec {lines}< <(ops "$@")
    local command=$!
    while IFS= read -r -u "$lines" line; do
        if [[ $line == "host: "* ]]; then
            read -r _ step arguments <<<"$line"
            # A step that fails is noticed by the command, which waits for its effect.
            # shellcheck disable=SC2086  # names of containers, one word each
            "host_${step//-/_}" $arguments || say "$step $arguments failed"
        else
            printf '%s\n' "$line"
        fi
    done
    wait "$command" || status=$?
    exec {lines}<&-
    return "$status"
}

# needs_new_container SERVICE CONTAINER: its image or its definition is no longer the container's.
needs_new_container() {
    local service=$1 container=$2 wanted present
    wanted=$(compose config --hash "$service" | awk '{print $2}')
    present=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$container")
    [[ $wanted == "$present" ]] || return 0
    wanted=$(docker image inspect --format '{{.Id}}' "$(docker inspect --format '{{.Config.Image}}' "$container")")
    present=$(docker inspect --format '{{.Image}}' "$container")
    [[ $wanted != "$present" ]]
}

# start_missing SERVICE: create the containers that its number of replicas asks for and start them.
# `up --no-deps` would do it too, but gives containers another hash than `up` alone does, and
# the next `up` would replace them.
start_missing() {
    compose create --no-recreate "$1" >/dev/null 2>&1
    compose ps --all --quiet --status created "$1" | xargs --no-run-if-empty docker start >/dev/null
}

# Everything of the env file that can be live is put in force, the rest is compiled for the
# restart. Ends the script where the env file is at fault or a process does not go along.
compile() {
    local status=0
    # What else needs a restart is the business of whoever runs `apply`.
    ops apply --restart | sed '/^host: /d' || status=$?
    ((status == 0 || status == EXIT_NEEDS_RESTART)) || exit "$status"
}
