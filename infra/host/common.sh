# shellcheck shell=bash
# Sourced by the scripts beside it: how an operator command and the host work together.

# shellcheck disable=SC2034  # for the scripts that source this
readonly EXIT_FAILED=1 EXIT_REFUSED=3 EXIT_NEEDS_RESTART=4

env_dir=${SLUICE_ENV_DIR:-infra/env}
env_file=$env_dir/stack.env
project=${COMPOSE_PROJECT_NAME:-$(sed -n 's/^name: //p' compose.yaml)}
image=sluice-infra:${SLUICE_IMAGE_TAG:-latest}
readonly FAILURE_LINES=10
# Whether `judge` prints also warnings.
warn=''

# Removed at the end of the script.
temporary=()
# What to do where the script ends before it is done.
unfinished=''
# As JSON a script prints one document, however many commands it runs; these are its parts.
json='' document='' faults=() commands=()

# Who speaks.
program=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$program" "$*" >&2; }
die() { faults+=("$(json_string "$1")"); say "$1"; exit "${2:-$EXIT_FAILED}"; }

# Options without a value that a script of operations was given, each between blanks.
chosen=' '
given() { [[ $chosen == *" $1 "* ]]; }

# The line of such a script's head that shows the arguments of its operation.
usage() {
    local script=${0##*/} line
    line=$(sed -n "s/^#   \($OPERATION\>.*\)/\1/p" "infra/host/$script" | head -n 1)
    die "usage: $script ${line%%   *}" 2
}

setting() { sed -n "s/^$1=//p" "$env_file"; }

# From here on standard output is the document's alone.
begin_json() {
    json=yes
    exec {document}>&1 1>&2
}

at_end() {
    local status=$?
    rm -rf "${temporary[@]}"
    if ((status)) && [[ -n $unfinished ]]; then
        faults+=("$(json_string "$unfinished")")
        say "$unfinished"
    fi
    [[ -z $json ]] || print_document "$status"
}
trap at_end EXIT

# interrupted STATUS: an operator command that runs first puts back what it has begun, and says so.
# A second signal ends the script at once.
interrupted() {
    trap - INT TERM
    signalled=$1
    [[ -n $process ]] || exit "$1"
    [[ -z ${command[1]-} ]] || eval "exec ${command[1]}>&-"
}
signalled='' process=''
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

# What came of the script, what it found itself, and the document of each command that it ran.
print_document() {
    local IFS=,
    printf '{"exit_code": %d, "faults": [%s], "commands": [%s]}\n' \
        "$1" "${faults[*]}" "${commands[*]}" >&"$document"
}

json_string() {
    local text=${1//\\/\\\\}
    text=${text//[[:cntrl:]]/ }
    printf '"%s"' "${text//\"/\\\"}"
}

# quietly COMMAND...: what it prints is of interest only where it fails; its last lines then are.
quietly() {
    local printed status=0
    # Not a subshell: it would hold the other end of an operator command's standard input.
    printed=$(mktemp)
    temporary+=("$printed")
    "$@" >"$printed" 2>&1 || status=$?
    ((status)) || return 0
    faults+=("$(json_string "$* failed ($status): $(tail -n 1 "$printed")")")
    say "$* failed ($status):"
    tail -n "$FAILURE_LINES" "$printed" >&2
    return "$status"
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

# How many servers the env file asks for; whatever else is in it.
instances() { if grep --quiet --no-messages --line-regexp POSTGRES_INSTANCES=3 "$env_file"; then echo 3; else echo 1; fi; }

readonly INSTANCES=(postgres-1 postgres-2 postgres-3)

# Whether three servers run, or ran last; the env file may ask for another number by now.
is_replicated() { [[ -n $(containers_of postgres-1) ]]; }

containers_of() {
    docker ps --all --quiet --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}

# The service whose server takes writes; of three with no primary, the first that runs.
server() {
    local one running=()
    is_replicated || { echo postgres; return; }
    for one in "${INSTANCES[@]}"; do
        case $(within exec --no-TTY "$one" psql --no-psqlrc --quiet --tuples-only --no-align \
            --dbname 'dbname=postgres connect_timeout=3' --command 'SELECT pg_is_in_recovery()' </dev/null 2>/dev/null) in
            f) echo "$one"; return ;;
            t) running+=("$one") ;;
        esac
    done
    echo "${running[0]:-postgres-1}"
}

# What builds, looks or stops needs no other setting, so it works whatever is in the env file.
look() {
    # Those of three servers, when the env file asks for one again, are no news.
    POSTGRES_INSTANCES=$(instances) COMPOSE_IGNORE_ORPHANS=1 docker compose --env-file infra/env/presets/laptop.env "$@"
}

# `look`, for what may never end: a container that is frozen, a server that hangs. Longer than any `df`
# of a local disk, or a query of nothing.
readonly INSIDE_SECONDS=5
within() {
    POSTGRES_INSTANCES=$(instances) COMPOSE_IGNORE_ORPHANS=1 timeout "$INSIDE_SECONDS" \
        docker compose --env-file infra/env/presets/laptop.env "$@"
}

# Without the lines about networks that it makes where the stack is down.
look_run() { look --progress quiet run --rm "$@"; }

# host_archive debian|debian-security: the mirror this host uses for that archive, so that
# no mirror is named here.
host_archive() {
    # shellcheck disable=SC2016  # apt's own placeholders, not the shell's
    apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' \
        | awk -v archive="$1" '$2 == "main" {
              uri = $1; sub(/\/$/, "", uri)
              if (uri ~ "/" archive "$") { print uri; exit }
          }'
}

# Two clones are two projects; containers that another clone started are left alone.
own_project() {
    local directory
    while IFS= read -r directory; do
        [[ $directory -ef . || ! -d $directory ]] || die \
            "the project $project was started from $directory; use that clone, or run two as README.md says (COMPOSE_PROJECT_NAME, API_PORT)" \
            "$EXIT_REFUSED"
    done < <(docker ps --all --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.oneoff=False \
        --format '{{.Label "com.docker.compose.project.working_dir"}}' | sort --unique)
}

ensure_image() {
    [[ -n $(docker images --quiet "$image") ]] || quietly look build config </dev/null || exit
}

# The set of three instances is over: what the others of it and etcd have counts no more. Its id is
# also among the compiled files, from which lost secrets are read back.
forget_set() {
    quietly docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true \
        --network none --user 0:0 --volume "${project}_secrets:/secrets" \
        --volume "${project}_postgres-config:/compiled" --entrypoint rm "$image" --force \
        /secrets/postgres-cluster.id /secrets/.staged/postgres-cluster.id /compiled/postgres-cluster.id
}

has_volume() { [[ -n $(docker volume ls --quiet --filter "name=^${project}_$1\$") ]]; }

# Compose makes an empty volume also where the first start fails; only the server's own user can
# look into it.
has_data() {
    has_volume postgres-data || return
    [[ -z $(docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=postgres) ]] || return 0
    docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true --network none \
        --user 10070:10070 --volume "${project}_postgres-data:/data:ro" --entrypoint sh "$image" \
        -c 'ls /data/*/PG_VERSION' >/dev/null 2>&1
}

# What the rules of infra/config/host.py judge, one JSON object a line.
host_facts() {
    local name root data=false addresses
    printf '{"project": %s}\n' "$(json_string "$project")"
    docker info --format '{"processors": {{.NCPU}}, "memory_bytes": {{.MemTotal}}, "docker": {{json .ServerVersion}}}'
    printf '{"compose": %s}\n' "$(json_string "$(docker compose version --short)")"
    docker ps --format '{"container": {{json .Names}}, "project": {{json (.Label "com.docker.compose.project")}}, "ports": {{json .Ports}}}'
    root=$(docker info --format '{{.DockerRootDir}}')
    ! has_data || data=true
    printf '{"has_data": %s}\n' "$data"
    if [[ -d $root ]]; then
        printf '{"disk_free_bytes": %d}\n' "$(df --block-size=1 --output=avail "$root" | tail -n 1)"
    fi
    if addresses=$(hostname -I 2>/dev/null); then
        printf '{"addresses": [%s]}\n' "$(xargs --no-run-if-empty -n 1 printf '"%s"\n' <<<"$addresses" | paste --serial --delimiters ,)"
    fi
    if [[ -r /proc/net/tcp ]]; then
        # 0A: listening.
        awk '$4 == "0A" { printf "{\"listening\": \"%s\"}\n", $2 }' /proc/net/tcp*
    fi
    while IFS= read -r name; do
        [[ ! -v $name ]] || printf '{"name": "%s", "value": %s}\n' "$name" "$(json_string "${!name}")"
    done < <(sed -n 's/.*${\([A-Z_]*\):[-?+].*/\1/p' compose.yaml infra/postgres/instances-1.yaml)
}

# judge FILE COMMAND...: run an operator command that judges this file of the env directory on
# this host. Without Compose, which would read the settings first, end at the first fault and say
# it in words of its own.
judge() {
    local file=$1 options errors files tier status=0
    shift
    own_project
    ensure_image
    [[ -d $env_dir ]] || die "$env_dir: no such directory; it holds stack.env" 2
    SLUICE_HOST=$(host_facts)
    export SLUICE_HOST
    errors=$(mktemp)
    temporary+=("$errors")
    options=(--rm --read-only --cap-drop ALL --security-opt no-new-privileges:true --network none
        --user 0:0 --memory 256m --env SLUICE_HOST --env SLUICE_ENV_FILE="/etc/sluice/env/$file"
        --mount "type=bind,src=$(cd "$env_dir" && pwd),dst=/etc/sluice/env,readonly"
        --tmpfs /tmp)
    # Named only where they are: Compose wants to have made them.
    ! has_volume secrets || options+=(--volume "${project}_secrets:/secrets:ro")
    for tier in postgres pgbouncer app ops; do
        ! has_volume "$tier-config" || options+=(--volume "${project}_$tier-config:/out/$tier:ro")
    done
    # Whether a container gets that many open files only a container can tell.
    files=$(sed -n 's/^PGBOUNCER_OPEN_FILES=\([0-9]\{4,7\}\)$/\1/p' "$env_dir/$file" 2>/dev/null) || true
    docker run "${options[@]}" ${files:+--ulimit "nofile=$files"} "$image" "$@" 2>"$errors" || status=$?
    if ((status)) && grep --quiet 'setting rlimit' "$errors"; then
        status=0
        SLUICE_HOST+=$'\n'"{\"open_files\": $(docker run --rm --network none --entrypoint sh "$image" -c 'ulimit -Hn')}"
        docker run "${options[@]}" "$image" "$@" 2>"$errors" || status=$?
    fi
    [[ $status == 0 && -z $warn ]] || cat "$errors" >&2
    return "$status"
}

# check [FILE]: end the script where a file of the env directory, a certificate or this host is at
# fault. As JSON the faults are a part of the script's document.
check() {
    local printed status=0
    printed=$(mktemp)
    temporary+=("$printed")
    judge "${1:-stack.env}" plan --quiet ${json:+--json} >"$printed" || status=$?
    ((status)) || return 0
    [[ -z $json ]] || collect "plan --quiet" "$printed" "$status"
    exit "$status"
}

# An operator command judges the env file itself. When this script dies, however it dies, the
# command's standard input ends, and it puts back what it has begun.
ops() { look_run --no-TTY --env SLUICE_LIFELINE=yes "${ops_options[@]}" ops "$@"; }
ops_options=()

# operate COMMAND...: run an operator command; each line `host: STEP ARGUMENT...` that it
# prints calls the function host_STEP here (dashes become underscores). Returns its exit code.
operate() {
    local line step arguments status=0 lines printed
    if [[ -n $json ]]; then
        printed=$(mktemp)
        temporary+=("$printed")
        # Its standard output is the document, so the lines come on the other.
        coproc command { ops "$@" --json 3>&1 >"$printed" 2>&3; }
    else
        coproc command { ops "$@"; }
    fi
    # No child inherits the other end of its standard input, as it would from a redirection.
    # shellcheck disable=SC2154  # set by coproc
    process=$command_PID
    exec {lines}<&"${command[0]}"
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
    wait "$process" || status=$?
    process=''
    exec {lines}<&-
    [[ -z $json ]] || collect "$*" "$printed" "$status"
    [[ -z $signalled ]] || exit "$signalled"
    return "$status"
}

# HAProxy reads its CA when a worker starts. There is a new one only for another CA: the old one keeps
# its connections, whose servers nobody checks any more, until `hard-stop-after`.
trust_in_gateway() {
    # shellcheck disable=SC2016  # expanded in the container
    quietly docker exec "$(containers_of postgres)" bash -euc '
        exec 3<>/dev/tcp/127.0.0.1/9999
        printf "show info\n" >&3
        started=$(sed -n "s/^Start_time_sec: //p" <&3)
        ((${started:-0} > $(stat --format %Y /etc/sluice/ca.crt))) || kill -USR2 1
    '
}

# They read their files again; one that is down does so at its start. From inside: Docker takes a
# signal of its own, whichever it is, for the wish that the container stop, and would not start it
# again when it ends.
host_reload() {
    local service container
    if is_replicated && [[ " $* " == *" postgres "* ]]; then
        set -- "${@/#postgres/postgres-1}" postgres-2 postgres-3
        trust_in_gateway
    fi
    for service in "$@"; do
        while read -r container; do
            quietly docker exec "$container" sh -c 'kill -HUP 1' </dev/null \
                || say "$service was not signalled"
        done < <(look --profile '*' ps --quiet "$service")
    done
}

# What an interrupted run left out: SERVICE=COUNT...
host_start() {
    local one
    for one in "$@"; do start_missing "${one%=*}" "${one#*=}"; done
}

# has_another_definition SERVICE CONTAINER: what compose.yaml and the env file make of it now.
has_another_definition() {
    local wanted present
    wanted=$(compose config --hash "$1" | awk '{print $2}')
    present=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$2")
    [[ $wanted != "$present" ]]
}

# needs_new_container SERVICE CONTAINER: its image or its definition is no longer the container's.
needs_new_container() {
    local service=$1 container=$2 wanted present
    ! has_another_definition "$service" "$container" || return 0
    wanted=$(docker image inspect --format '{{.Id}}' "$(docker inspect --format '{{.Config.Image}}' "$container")")
    present=$(docker inspect --format '{{.Image}}' "$container")
    [[ $wanted != "$present" ]]
}

# start_missing SERVICE [COUNT]: create the containers that its number of replicas asks for, and
# start all that do not run.
# `up --no-deps` would do it too, but gives containers another hash than `up` alone does, and
# the next `up` would replace them.
start_missing() {
    local down
    quietly compose create --no-recreate ${2:+--scale "$1=$2"} "$1" || return
    down=$(compose ps --all --quiet --status created --status exited "$1")
    # shellcheck disable=SC2086  # ids of containers, one word each
    [[ -z $down ]] || quietly docker start $down
}

# write_env_file CANDIDATE: make it the env file, whole or not at all, with the owner and mode of
# the one that was.
write_env_file() {
    local present
    present=$(readlink --canonicalize "$env_file")
    cp --attributes-only --preserve=mode,ownership "$present" "$1"
    mv --force "$1" "$present"
}

# What is read more than once is no pipe, and waits for nobody.
[[ ! -e $env_file || -f $env_file || -d $env_file ]] || die "$env_file is not a regular file" 2
