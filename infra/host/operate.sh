# shellcheck shell=bash
# Sourced by the scripts beside it: how an operator command and the host work together.

# shellcheck disable=SC2034  # for the scripts that source this
readonly EXIT_FAILED=1 EXIT_REFUSED=3 EXIT_NEEDS_RESTART=4

# Removed at the end of the script.
temporary=()
# As JSON a script prints one document, however many commands it runs; these are its parts.
json='' document='' faults=() commands=()

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { faults+=("$(json_string "$1")"); say "$1"; exit "${2:-$EXIT_FAILED}"; }

# From here on standard output is the document's alone.
begin_json() {
    json=yes
    exec {document}>&1 1>&2
}

at_end() {
    local status=$?
    rm -f "${temporary[@]}"
    [[ -z $json ]] || print_document "$status"
}
trap at_end EXIT

# What came of the script, what it found itself, and the document of each command that it ran.
print_document() {
    local IFS=,
    printf '{"exit_code": %d, "faults": [%s], "commands": [%s]}\n' \
        "$1" "${faults[*]}" "${commands[*]}" >&"$document"
}

json_string() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# collect COMMAND FILE STATUS: take the document that a command has printed into the file.
collect() {
    if [[ -s $2 ]]; then
        commands+=("{\"command\": $(json_string "$1"), \"document\": $(<"$2")}")
    else
        faults+=("$(json_string "$1 ended with $3 and printed no document")")
    fi
}

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
    local line step arguments status=0 lines printed
    if [[ -n $json ]]; then
        printed=$(mktemp)
        temporary+=("$printed")
        # Its standard output is the document, so the lines come on the other.
        exec {lines}< <(ops "$@" --json 2>&1 >"$printed")
    else
        exec {lines}< <(ops "$@")
    fi
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
    [[ -z $json ]] || collect "$*" "$printed" "$status"
    return "$status"
}

# What `apply` asks for; only a script that does the restarts has something to do then.
host_restart() { :; }
host_recreate() { :; }

# run_script NAME ARGUMENT...: run another script of this directory; its document becomes a part.
run_script() {
    local status=0 printed
    if [[ -z $json ]]; then
        "infra/host/$1" "${@:2}"
        return
    fi
    printed=$(mktemp)
    temporary+=("$printed")
    "infra/host/$1" --json "${@:2}" >"$printed" || status=$?
    collect "$*" "$printed" "$status"
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
    operate apply --restart || status=$?
    ((status == 0 || status == EXIT_NEEDS_RESTART)) || exit "$status"
}
