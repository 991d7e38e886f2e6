# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # variables of operate.sh and of common.sh
# Sourced by operate.sh: the restart of each tier, a switchover, another number of PgBouncer replicas.

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

# What an interrupted run has stopped and not replaced.
start_instances() {
    local one
    is_replicated || return 0
    for one in "${INSTANCES[@]}"; do
        [[ -z $(compose ps --quiet --status running "$one") ]] || continue
        say "$one does not run; starting it"
        start_missing "$one" || exit
        await_healthy "$one" || exit
    done
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
    start_instances
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
