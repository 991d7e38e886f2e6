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
#   rotate-certificates [--json] [--ca] [--due] [--from DIRECTORY]
#       give every server a new certificate
#   restore-secrets [--json]
#       write a lost secrets volume back from the compiled files
#   load-reference [--json] [--replace] TABLE FILE (make load-reference TABLE=buildings FILE=b.csv)
#       load a CSV file into a table of reference data; --replace: also remove all other rows
#   doctor [--json] [PATH] (make doctor SQL=path)
#       find what breaks behind transaction pooling: in the running path, or in the files of PATH
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

readonly OPERATION=${1:-}
program=${OPERATION:-operate}
candidate=$env_file.candidate
# Of the arguments: values in their order, and options that are given.
values=() from='' to=''
# The services that `apply --restart` names.
touched=()

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

# apply ---------------------------------------------------------------------------------------

host_restart() { touched+=("$@"); }
host_recreate() { touched+=("$@"); }

is_touched() { [[ " ${touched[*]} " == *" $1 "* ]]; }

# What a run that was killed had compiled and not yet replaced: no process says what memory and
# processors its container has.
touch_outdated() {
    local service container
    for service in postgres backup pgbouncer worker api; do
        while read -r container; do
            ! has_another_definition "$service" "$container" || touched+=("$service")
        done < <(compose ps --quiet "$service")
    done
    is_gateway_as_wanted || touched+=(gateway)
    are_observers_as_wanted || touched+=(observability)
}

# Whether its one container is there, as compose.yaml and the env file define it.
is_as_defined() {
    local container
    container=$(compose ps --all --quiet "$1")
    [[ -n $container ]] && ! has_another_definition "$1" "$container"
}

# There is one with PGBOUNCER_PORT, and none without.
is_gateway_as_wanted() {
    if [[ -n $(setting PGBOUNCER_PORT) ]]; then
        is_as_defined gateway
    else
        [[ -z $(compose ps --all --quiet gateway) ]]
    fi
}

# A backup under way is made again.
replace_backup() {
    quietly compose rm --stop --force backup || return
    start_missing backup
}

replace_gateway() {
    quietly compose rm --stop --force gateway || return
    start_missing gateway || return
    if [[ -n $(setting PGBOUNCER_PORT) ]]; then
        say "PgBouncer is published: 127.0.0.1:$(setting PGBOUNCER_PORT)"
    else
        say "PgBouncer is published no more"
    fi
}

# The services of the profile, one a line.
observers() {
    comm -13 <(COMPOSE_PROFILES='' look config --services | sort) \
        <(look --profile observability config --services | sort)
}

# The services of it that have containers although the env file does not name it.
disabled_observers() {
    [[ $(setting COMPOSE_PROFILES) == observability ]] || comm -12 <(observers) <(
        docker ps --all --filter "label=com.docker.compose.project=$project" \
            --filter label=com.docker.compose.oneoff=False \
            --format '{{.Label "com.docker.compose.service"}}' | sort --unique
    )
}

are_observers_as_wanted() {
    local service
    [[ -z $(disabled_observers) ]] || return
    [[ $(setting COMPOSE_PROFILES) == observability ]] || return 0
    while read -r service; do is_as_defined "$service" || return; done < <(observers)
}

# Compose leaves the containers of a profile alone that is no longer named.
run_remove_disabled() {
    local disabled
    mapfile -t disabled < <(disabled_observers)
    ((${#disabled[@]})) || return 0
    quietly look --profile observability rm --stop --force "${disabled[@]}" || return
    say "removed: ${disabled[*]}; their volumes stay"
}

replace_observers() {
    local service
    run_remove_disabled
    [[ $(setting COMPOSE_PROFILES) == observability ]] || return 0
    while read -r service; do
        is_as_defined "$service" || quietly compose rm --stop --force "$service" || return
        start_missing "$service" || return
    done < <(observers)
    say "the console: http://$(compose port console 8090)"
}

migrate() {
    compose up --no-deps --exit-code-from migrate migrate \
        || die "the migration failed; see: docker compose logs migrate"
}

# PostgreSQL first: what is above it grows only when it can carry that.
restart_in_order() {
    local replicas workers
    replicas=$(setting PGBOUNCER_REPLICAS)
    workers=$(setting WORKER_REPLICAS)
    if is_touched postgres; then another restart-postgres --compiled; fi
    if is_touched migrate; then migrate; fi
    if is_touched backup; then replace_backup; fi
    if is_touched pgbouncer; then
        (($(running pgbouncer) == replicas)) || another scale-pgbouncer "$replicas"
        another restart-pgbouncer
    fi
    if is_touched gateway; then replace_gateway; fi
    if is_touched worker; then
        (($(running worker) == workers)) || start_missing worker
        another restart-app --compiled worker
    fi
    if is_touched api; then another restart-app --compiled api; fi
    if is_touched observability; then replace_observers; fi
}

# Where the files are compiled for one server already, the standbys of a new primary cannot follow it.
# The id of the set is the same when they are compiled for three again.
readonly FOR_THREE="write POSTGRES_INSTANCES=3, make down, make up, and then POSTGRES_INSTANCES=1 again"

# From one server to three or back: the first takes the data over as they are. Compose replaces what
# differs, in the order that infra/postgres/instances-3.yaml has; requests are answered 503 meanwhile.
change_instances() {
    if is_replicated; then
        (($(instances) == 1)) || return 0
        [[ $(server) == postgres-1 ]] || die "postgres-1 is not the primary any more: $FOR_THREE"
        say 'three servers become one; writes fail until it is up'
        # shellcheck disable=SC2046  # ids of containers, one word each
        quietly docker stop $(containers_of postgres-2) $(containers_of postgres-3) || return
        if ! quietly docker exec "$(containers_of postgres-1)" entrypoint leave; then
            # shellcheck disable=SC2046
            quietly docker start $(containers_of postgres-2) $(containers_of postgres-3) || true
            die "postgres-1 is not the primary any more: $FOR_THREE"
        fi
        # Not before: with another id the others would copy a postgres-1 that may be behind them.
        unfinished="three servers are not one yet; again: make apply RESTART=yes"
        forget_set || return
        unfinished=''
    else
        (($(instances) == 3)) || return 0
        say 'one server becomes three; requests fail until the first is the primary'
    fi
    quietly compose up --detach --wait --remove-orphans || die "see: docker compose ps --all"
    compile
    # All that was to be restarted is new.
    touched=()
}

run_apply() {
    local status=0
    parse --restart "$@"
    ((${#values[@]} == 0)) || usage
    if ! given --restart; then
        operate apply
        return
    fi
    # With one server again, it is the first of three, which then must have everything. Before anything
    # is compiled for one.
    if is_replicated && (($(instances) == 1)) && [[ $(server) != postgres-1 ]]; then
        unfinished="nothing is changed; if make up or another operation has compiled for one already: $FOR_THREE"
        another switchover --to postgres-1
        unfinished=''
    fi
    operate apply --restart || status=$?
    ((status == 0 || status == EXIT_NEEDS_RESTART)) || return "$status"
    change_instances
    touch_outdated
    ((status + ${#touched[@]})) || return 0
    restart_in_order
    operate apply
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
    mkdir -p "$env_dir/clients"
    (umask 022 && cat "$made" >"$file")
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

# restart-postgres: every client waits and none fails -----------------------------------------

# The server itself reads the compiled file and says whether it would start with it.
check_configuration() {
    # shellcheck disable=SC2016  # expanded in the container
    quietly compose exec --no-TTY "$(server)" bash -c \
        'postgres -C max_connections -D "$PGDATA" -c config_file=/etc/sluice/postgresql.conf' \
        || die "postgres refuses the new configuration; nothing was paused" "$EXIT_REFUSED"
}

# Decided before the pause: asking Compose takes half a second.
choose_step() {
    ! is_replicated || return 0
    container=$(compose ps --quiet postgres)
    [[ -n $container ]] || die "postgres does not run; start it: make up" "$EXIT_REFUSED"
    replace=no
    ! needs_new_container postgres "$container" || replace=yes
    [[ $replace == no ]] || say "its image or definition changed: a new container"
}

host_restart_postgres() {
    if [[ $replace == yes ]]; then
        quietly compose create postgres || return
        quietly docker start "$(compose ps --all --quiet postgres)"
    else
        quietly docker restart "$container"
    fi
}

# An instance of three, whose place the others take meanwhile.
host_replace_instance() {
    local container
    container=$(compose ps --all --quiet "$1")
    if [[ -n $container ]] && ! needs_new_container "$1" "$container"; then
        quietly docker restart "$container"
        return
    fi
    if [[ -n $container ]]; then
        quietly docker stop "$container" || return
        quietly docker rm "$container" || return
    fi
    start_missing "$1"
}

# It resumes every PgBouncer when the command below dies. It ends by itself.
host_dead_man() { quietly look_run --detach --no-TTY ops dead-man; }

run_switchover() {
    local asked=()
    parse '--to=' "$@"
    ((${#values[@]} == 0)) || usage
    [[ -z $to ]] || asked+=(--to "$to")
    operate switchover "${asked[@]}"
}

run_restart_postgres() {
    parse --compiled "$@"
    ((${#values[@]} == 0)) || usage
    given --compiled || compile
    check_configuration
    choose_step
    # Of three instances each is restarted first that does not hold the clients up.
    is_replicated || host_dead_man
    operate restart postgres
    # What the budget could not hold before the restart is live now.
    given --compiled || compile
}

# restart-pgbouncer and scale-pgbouncer: one replica at a time, while the others serve ---------

host_replace_pgbouncer() {
    if needs_new_container pgbouncer "$1"; then
        quietly docker rm --force "$1" || return
        start_missing pgbouncer
    else
        quietly docker restart "$1"
    fi
}

host_remove_pgbouncer() { quietly docker rm --force "$1"; }

run_restart_pgbouncer() {
    parse '' "$@"
    ((${#values[@]} == 0)) || usage
    operate restart pgbouncer
}

# The replica with the highest number.
last_replica() { compose ps --format '{{.Name}}' pgbouncer | sort --version-sort | tail -n 1; }

# First what else the new number needs of the env file, such as smaller pools; then the replica;
# then what follows from its being there.
grow() {
    compile
    start_missing pgbouncer
    compile
    operate pgbouncer spread "$1"
}

shrink() {
    while (($(running pgbouncer) > $1)); do
        operate pgbouncer retire "$(last_replica)"
    done
    compile
    operate pgbouncer spread "$1"
}

# The env file is the truth: it is changed first, after the budget was checked with the new number.
run_scale_pgbouncer() {
    local wanted before
    parse '' "$@"
    wanted=${values[*]}
    [[ $wanted =~ ^[1-9][0-9]*$ ]] || usage
    before=$(setting PGBOUNCER_REPLICAS)
    temporary+=("$candidate")
    sed "s/^PGBOUNCER_REPLICAS=.*/PGBOUNCER_REPLICAS=$wanted/" "$env_file" >"$candidate"
    check "$(basename "$candidate")"
    write_env_file "$candidate"
    unfinished="PGBOUNCER_REPLICAS is $wanted; to finish: make scale-pgbouncer N=$wanted"
    ((before == wanted)) || unfinished+="; to go back: make scale-pgbouncer N=$before"
    if ((wanted > $(running pgbouncer))); then grow "$wanted"; else shrink "$wanted"; fi
}

# restart-app: no request fails and no task is lost --------------------------------------------

# A container is stopped before it is removed: it has work in hand.
replace() {
    quietly docker stop "$2" || return
    quietly docker rm "$2" || return
    start_missing "$1"
}

host_replace_api() { replace api "$1"; }

host_replace_worker() {
    if needs_new_container worker "$1"; then replace worker "$1"; else quietly docker restart "$1"; fi
}

# The port of the api belongs to one container at a time: requests in hand are answered, and new
# connections are refused for the seconds that a new container takes to start.
needs_new_api() {
    local api
    api=$(compose ps --quiet api)
    [[ -n $api ]] || die "api does not run; start it: make up" "$EXIT_REFUSED"
    needs_new_container api "$api" || return 1
    say "the image or definition of api changed: new connections are refused for some seconds"
}

run_restart_app() {
    local service new_api=()
    parse --compiled "$@"
    for service in "${values[@]}"; do
        [[ $service == api || $service == worker ]] || usage
    done
    ((${#values[@]})) || values=(api worker)
    given --compiled || compile
    if [[ " ${values[*]} " == *" api "* ]] && needs_new_api; then
        new_api=(--new-api-container)
    fi
    operate restart app "${new_api[@]}" "${values[@]}"
    # What the budget could not hold before the restart is live now.
    given --compiled || compile
}

# rotate-certificates and restore-secrets, while the stack serves or is down -------------------

run_rotate_certificates() {
    local asked=()
    parse '--ca --due --from=' "$@"
    ((${#values[@]} == 0)) || usage
    if [[ -n $from ]]; then
        ops_options=(--volume "$from:/given:ro")
        asked=(--from /given)
    fi
    ! given --ca || asked+=(--ca)
    ! given --due || asked+=(--due)
    operate rotate certificates "${asked[@]}"
}

# Neither HAProxy nor etcd takes another CA by itself. One etcd after the other: two have a majority.
host_trust() {
    local one
    quietly docker exec "$(containers_of postgres)" sh -c 'kill -USR2 1'
    for one in etcd-1 etcd-2 etcd-3; do
        quietly docker restart "$(containers_of "$one")" && await_healthy "$one"
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
        scale-pgbouncer | rotate-certificates | restore-secrets | load-reference | doctor | remove-disabled | url) ;;
        *) die "usage: operate.sh NAME OPTION...; the names are in its first lines" 2 ;;
    esac
    "run_${OPERATION//-/_}" "${@:2}"
}

_main "$@"
