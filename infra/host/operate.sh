#!/usr/bin/env bash
# Runs an operation on the stack, with the steps that need Docker: operate.sh NAME OPTION...
#
#   check [--json] [--warn] | project
#       judge the env file, the certificates and this host; project: only whose project this is
#   plan [--json] [--full]
#       check, then show what the env file would change
#   apply [--json] [--restart]
#       apply the env file live; with --restart also the rest
#   preset [--json] NAME (make preset NAME=small)
#       make a preset the env file; apply nothing
#   client [--json] NAME (make client NAME=billing)
#       write the file of a new client, with the defaults
#   client-url [--json] [--to DIRECTORY] NAME (make client-url NAME=billing [TO=directory])
#       print how a client connects; --to: also write its secrets there
#   restart-postgres [--json] [--compiled]
#       apply and restart; --compiled: the files are compiled already
#   switchover [--json] [--to INSTANCE] (make switchover TO=postgres-2)
#       make a standby the primary
#   restart-pgbouncer [--json]
#       restart every replica
#   restart-app [--json] [--compiled] [api] [worker]
#       apply and restart both, or one of them
#   scale-pgbouncer [--json] N (make scale-pgbouncer N=3)
#       change PGBOUNCER_REPLICAS in the env file, then the replicas
#   rotate-passwords [--json] [--from DIRECTORY]
#       give every role and service a new secret
#   rotate-certificates [--json] [--ca] [--due] [--from DIRECTORY]
#       give every server a new certificate
#   restore-secrets [--json]
#       write a lost secrets volume back from the compiled files
#   load-reference [--json] [--replace] TABLE FILE (make load-reference TABLE=buildings FILE=b.csv)
#       load a CSV file into a table of reference data; --replace: also remove all other rows
#   doctor [--json] [PATH] (make doctor SQL=path)
#       find what breaks behind transaction pooling: in the running path, or in the files of PATH
#   compile
#       compile the env file, once no operation is under way
#   remove-disabled
#       remove the containers of optional services that the env file does not name
#   url
#       print where this host reaches the api of the running stack
#
# Exit codes: 0 done, 1 a process differs or failed, or doctor found more than notes, 2 the env file,
# a certificate or an argument is at fault, 3 refused, 4 the rest takes a restart.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh
# shellcheck source=infra/host/operate-apply.sh
. infra/host/operate-apply.sh
# shellcheck source=infra/host/operate-restarts.sh
. infra/host/operate-restarts.sh

readonly OPERATION=${1:-}
program=${OPERATION:-operate}
candidate=$env_file.candidate
# Of the arguments: values in their order, and options that are given.
values=() from='' to=''

# parse OPTIONS ARGUMENT...: take the options that this operation has, as "--due --from=", and --json.
parse() {
    local known=" $1 "
    shift
    while (($#)); do
        if [[ $1 == --json ]]; then
            begin_json
        elif [[ $1 == --from && $known == *" --from= "* ]]; then
            from=${2:?--from needs a directory}
            shift
        elif [[ $1 == --to && $known == *" --to= "* ]]; then
            to=${2:?--to needs a directory}
            shift
        elif [[ $1 == --* ]]; then
            [[ $known == *" $1 "* ]] || usage
            chosen+="$1 "
        else
            values+=("$1")
        fi
        shift
    done
}

running() { compose ps --quiet "$1" | wc -l; }

# Everything of the env file that can be live is applied, the rest is compiled for the restart. Ends
# the script where the env file is at fault or a process does not go along.
compile() {
    local status=0
    # What else needs a restart is the business of whoever runs `apply`.
    operate apply --restart || status=$?
    ((status == 0 || status == EXIT_NEEDS_RESTART)) || exit "$status"
}

# another OPERATION ARGUMENT...: run another operation of this script; its document becomes a part.
another() {
    local status=0 printed
    if [[ -z $json ]]; then
        infra/host/operate.sh "$@"
        return
    fi
    printed=$(mktemp)
    temporary+=("$printed")
    infra/host/operate.sh "$@" --json >"$printed" || status=$?
    collect "$*" "$printed" "$status"
    return "$status"
}

# check and plan ------------------------------------------------------------------------------

run_check() {
    parse --warn "$@"
    if [[ ${values[*]} == project ]]; then
        own_project
        return
    fi
    ((${#values[@]} == 0)) || usage
    ! given --warn || warn=yes
    check
}

# Its document is that of `ops plan`, of faults too.
run_plan() {
    local judged status=0 as_json=()
    [[ " $* " != *" --json "* ]] || as_json=(--json)
    judged=$(mktemp)
    temporary+=("$judged")
    judge stack.env plan --quiet "${as_json[@]}" >"$judged" || status=$?
    if ((status)); then
        cat "$judged"
        exit "$status"
    fi
    # With the terminal, where there is one: its width is that of the tables.
    look_run --no-deps --env SLUICE_HOST ops plan "$@"
}

# Before `make up` replaces anything: an operation under way may need what is there. Not `up --no-deps`,
# after which the next `up` would make another container, without this one's log.
run_compile() {
    quietly compose create config || exit
    quietly docker start --attach "$(compose ps --all --quiet config)" || exit
}

# preset --------------------------------------------------------------------------------------

# It shows what would change first; the present API_BIND_ADDRESS and API_PORT are kept, every other value is the preset's.
run_preset() {
    local status=0
    parse '' "$@"
    ((${#values[@]} == 1)) || usage
    temporary+=("$candidate")
    judge stack.env preset "${values[0]}" --print ${json:+--json} >"$candidate" || status=$?
    if ((status)); then
        # What was to be the env file is the document of its faults.
        [[ -z $json ]] || collect "preset ${values[0]}" "$candidate" "$status"
        die "$env_file is as it was" "$status"
    fi
    operate preset "${values[0]}"
    write_env_file "$candidate"
    say "$env_file is now the preset ${values[0]}; apply it with: make apply"
}

# client: another application behind the path ---------------------------------------------------

new_client() { docker run --rm --network none --cap-drop ALL "$image" client new "$@"; }

run_client() {
    local file made status=0
    parse '' "$@"
    ((${#values[@]} == 1)) || usage
    ensure_image
    file=$env_dir/clients/${values[0]}.env
    made=$(mktemp)
    temporary+=("$made")
    new_client "${values[0]}" >"$made" || status=$?
    if ((status)); then
        [[ -z $json ]] || { new_client --json "${values[0]}" >"$made" || collect "client new" "$made" "$status"; }
        exit "$status"
    fi
    [[ ! -e $file ]] || die "$file is there already; change it, then: make plan" "$EXIT_REFUSED"
    # Readable for the containers that judge and compile it.
    (umask 022 && mkdir -p "$env_dir/clients" && cat "$made" >"$file")
    say "$file is written; size it, then: make plan, make apply, make client-url NAME=${values[0]}"
}

run_client_url() {
    local archive asked=()
    parse '--to=' "$@"
    ((${#values[@]} == 1)) || usage
    [[ -z $json ]] || asked+=(--json)
    if [[ -n $to ]]; then
        archive=$(mktemp)
        temporary+=("$archive")
        # Whole first: a name that is no client's leaves no directory, and no words of tar.
        look_run --no-deps --no-TTY ops client files "${values[0]}" >"$archive" || exit
        mkdir -p "$to"
        # In place: a container that has one of the files mounted would keep the old one.
        (umask 077 && tar --extract --overwrite --file "$archive" --directory "$to" --no-same-owner)
        say "$to has its secrets: passwords, .pgpass for libpq, the certificate of the CA"
    fi
    # Its document is that of the command in the container.
    json=''
    look_run --no-deps --no-TTY ops client url --project "$project" "${asked[@]}" "${values[0]}" \
        >&"${document:-1}"
}

# rotations and restore-secrets, while the stack serves or is down -------------------------------

# What an operator has chosen is mounted; where it is not there Docker would make it, empty.
take_given() {
    [[ -n $from ]] || return 0
    [[ -d $from ]] || die "FROM=$from: no such directory" 2
    ops_options=(--volume "$from:/given:ro")
    asked=(--from /given)
}

run_rotate_passwords() {
    local asked=()
    parse '--from=' "$@"
    ((${#values[@]} == 0)) || usage
    take_given
    operate rotate passwords "${asked[@]}"
}

run_rotate_certificates() {
    local asked=()
    parse '--ca --due --from=' "$@"
    ((${#values[@]} == 0)) || usage
    take_given
    ! given --ca || asked+=(--ca)
    ! given --due || asked+=(--due)
    operate rotate certificates "${asked[@]}"
}

# Neither HAProxy nor etcd takes another CA by itself. One etcd after the other: two have a majority.
host_trust() {
    local one
    quietly docker exec "$(containers_of postgres)" sh -c 'kill -USR2 1' || return
    for one in etcd-1 etcd-2 etcd-3; do
        quietly docker restart "$(containers_of "$one")" || return
        await_healthy "$one" || return
    done
    quietly look_run --no-deps --no-TTY --entrypoint touch ops "/out/ops/$1"
}

await_healthy() {
    local until=$((SECONDS + 60))
    until docker exec "$(containers_of "$1")" healthcheck >/dev/null 2>&1; do
        ((SECONDS < until)) || { say "$1 is not healthy"; return 1; }
        sleep 0.5
    done
}

# roles.sql as at the server's start: by its superuser, who needs no password in the container, and
# without waiting for a standby, which may not come before the roles and files are right again.
host_give_roles() {
    quietly look exec --no-TTY --env PGOPTIONS='-c synchronous_commit=local' "$(server)" psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
        --dbname=postgres --file=/etc/sluice/roles.sql </dev/null || return
    host_reload postgres pgbouncer
}

run_restore_secrets() {
    parse '' "$@"
    ((${#values[@]} == 0)) || usage
    # It reads the files of every tier, which belong to the tier's user.
    ops_options=(--no-deps --cap-add DAC_READ_SEARCH --env SLUICE_HOST)
    ensure_image
    SLUICE_HOST=$(host_facts)
    export SLUICE_HOST
    operate restore secrets
}

run_load_reference() {
    local path name options=(--no-deps) asked=()
    parse --replace "$@"
    ((${#values[@]} == 2)) && [[ -n ${values[0]} && -n ${values[1]} ]] || usage
    [[ -f ${values[1]} ]] || die "${values[1]}: no such file" 2
    path=$(realpath -- "${values[1]}")
    name=/data/$(basename -- "$path")
    options+=(--volume "$path:$name:ro")
    # On a terminal it shows how far it is.
    [[ -z $json && -t 0 && -t 1 ]] || options+=(--no-TTY)
    [[ -z $json ]] || asked+=(--json)
    ! given --replace || asked+=(--replace)
    # Its document is that of the command in the container, which has the image of the app.
    json=''
    look_run "${options[@]}" migrate load-reference "${asked[@]}" -- "${values[0]}" "$name" \
        >&"${document:-1}"
}

# Its document is that of the command in the container. Files are judged by the user who asks, who
# may read them, in a container without network; the running path by the service `ops`.
run_doctor() {
    local path asked=()
    parse '' "$@"
    ((${#values[@]} <= 1)) || usage
    [[ -z $json ]] || asked+=(--json)
    if ((${#values[@]})); then
        path=$(realpath --canonicalize-existing -- "${values[0]}" 2>/dev/null) \
            || die "${values[0]}: no such file or directory" 2
        [[ -r $path ]] || die "$path: cannot be read" 2
        ensure_image
        json=''
        docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true \
            --network none --memory 512m --pids-limit 256 --user "$(id --user):$(id --group)" \
            --mount "type=bind,src=$path,dst=/given/$(basename -- "$path"),readonly" \
            "$image" doctor "${asked[@]}" --sql "/given/$(basename -- "$path")" >&"${document:-1}"
        return
    fi
    ensure_image
    SLUICE_CONTAINERS=$(infra/host/containers.sh)
    export SLUICE_CONTAINERS
    json=''
    look_run --no-deps --no-TTY --env SLUICE_CONTAINERS ops doctor "${asked[@]}" \
        </dev/null >&"${document:-1}"
}

run_url() {
    local published address
    published=$(look port api 8000)
    address=${published%:*}
    case ${address//[][]/} in
        0.0.0.0) address=127.0.0.1 ;;
        ::) address='[::1]' ;;
        *:*) address="[${address//[][]/}]" ;;
    esac
    echo "http://$address:${published##*:}"
}

_main() {
    case $OPERATION in
        check | plan | apply | preset | client | client-url | restart-postgres | switchover | restart-pgbouncer | restart-app) ;;
        scale-pgbouncer | rotate-passwords | rotate-certificates | restore-secrets | load-reference | doctor | compile | remove-disabled | url) ;;
        *) die "usage: operate.sh NAME OPTION...; the names are in its first lines" 2 ;;
    esac
    "run_${OPERATION//-/_}" "${@:2}"
}

_main "$@"
