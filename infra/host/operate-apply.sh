# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # variables of operate.sh and of common.sh
# Sourced by operate.sh: `apply`; restarts in their order, optional services, and the way from one
# server to three and back.

# The services that `apply --restart` names; of them those that restart in any case.
touched=() restarting=()

host_restart() {
    touched+=("$@")
    restarting+=("$@")
    # Until it has ended well again there is none that has, whatever becomes of this run.
    [[ " $* " != *" migrate "* ]] || quietly compose rm --force migrate
}
host_recreate() { touched+=("$@"); }

is_touched() { [[ " ${touched[*]} " == *" $1 "* ]]; }

# What a run that was killed had compiled and not yet replaced: no process says what memory and
# processors its container has, nor what the schema is to be.
touch_outdated() {
    local service container
    for service in $(is_replicated || echo postgres) backup pgbouncer worker api; do
        while read -r container; do
            ! has_another_definition "$service" "$container" || touched+=("$service")
        done < <(compose ps --quiet "$service")
    done
    if is_replicated; then
        for service in "${INSTANCES[@]}"; do
            { is_as_defined "$service" && [[ -n $(compose ps --quiet --status running "$service") ]]; } \
                || touched+=(postgres)
        done
        is_as_defined postgres || touched+=(entry)
    fi
    is_migrated || touched+=(migrate)
    is_gateway_as_wanted || touched+=(gateway)
    are_observers_as_wanted || touched+=(observability)
}

# Whether its one container is there, as compose.yaml and the env file define it.
is_as_defined() {
    local container
    container=$(compose ps --all --quiet "$1")
    [[ -n $container ]] && ! has_another_definition "$1" "$container"
}

is_migrated() {
    local container
    container=$(compose ps --all --quiet migrate)
    [[ -n $container && $(docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$container") == 'exited 0' ]]
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

# HAProxy before three servers. PgBouncer connects anew, and the app repeats what it had in hand.
replace_entry() {
    quietly compose rm --stop --force postgres || return
    start_missing postgres
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

# Whether a container of the service has to be another one, or its process.
is_to_be_new() {
    local container
    [[ " ${restarting[*]} " != *" $1 "* ]] || return 0
    while read -r container; do
        ! needs_new_container "$1" "$container" || return 0
    done < <(compose ps --quiet "$1")
    return 1
}

# PostgreSQL first: what is above it grows only when it can carry that.
restart_in_order() {
    local replicas workers
    replicas=$(setting PGBOUNCER_REPLICAS)
    workers=$(setting WORKER_REPLICAS)
    if is_touched postgres; then another restart-postgres --compiled; fi
    if is_touched entry; then replace_entry; fi
    if is_touched migrate; then migrate; fi
    if is_touched backup; then replace_backup; fi
    if is_touched pgbouncer; then
        (($(running pgbouncer) == replicas)) || another scale-pgbouncer "$replicas"
        # Another number alone restarts none.
        ! is_to_be_new pgbouncer || another restart-pgbouncer
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
