#!/usr/bin/env bash
# Several machines: deploys the stack to the swarm whose manager Docker leads to (DOCKER_HOST and
# DOCKER_CONTEXT count), from the same compose.yaml and env file: swarm.sh NAME
#
#   images    bring this host's images to every node, under names that follow their content
#   apply     judge env file, certificates and swarm; compile; update what changed, tier by tier
#   status    nodes, services and the whole path
#   down      remove the stack; every volume (the data, the secrets) stays
#
# A node is reached by the Docker context that has its name, else by ssh at its address.
# Exit codes: 0 done, 1 an update failed or something does not run, 2 the env file, a certificate or
# the swarm is at fault, 3 refused.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

# One replica's update, with its grace period.
readonly SERVICE_SECONDS=300 ASK_SECONDS=20 TELL_SECONDS=60
readonly DEFINITION='{{index .Spec.Labels "sluice.definition"}}'
readonly STACK_LABEL=com.docker.stack.namespace
readonly ON_MANAGER=compose.yaml:infra/host/manager.yaml
export COMPOSE_PROJECT_NAME=$project

# on_networks COMMAND...: Compose's one-off containers, on the networks of the stack.
on_networks() {
    COMPOSE_FILE=$ON_MANAGER SWARM_POOL=${project}_pool SWARM_CONTROL=${project}_control SWARM_DB=${project}_db "$@"
}

# The names in compose.yaml of the images that run in the stack or beside it.
image_names() { look --profile swarm --profile ops config --images | sort --unique; }

# by_content IMAGE: the name under which every node has it. A new image has another, so that an
# update takes it, a rollback finds the old one, and no node runs another one of the same name.
by_content() {
    local id
    id=$(docker image inspect --format '{{.Id}}' "$1" 2>/dev/null) \
        || die "this host has no image $1: make build" 2
    echo "${1%:*}:${id:7:12}"
}

# on_node ID NAME ADDRESS COMMAND...: run Docker's client against that node.
on_node() {
    local id=$1 name=$2 address=$3
    shift 3
    if [[ $id == "$own_node" ]]; then
        docker "$@"
    elif docker context inspect "$name" >/dev/null 2>&1; then
        DOCKER_HOST='' docker --context "$name" "$@"
    else
        DOCKER_CONTEXT='' docker --host "ssh://$address" "$@"
    fi
}

swarm_state() { docker info --format "{{$1}}"; }

node_ids() { docker node ls --quiet; }

# Every node that can be used: id, name, address.
usable_nodes() {
    local ids
    mapfile -t ids < <(node_ids)
    docker node inspect --format '{{.Status.State}} {{.ID}} {{.Description.Hostname}} {{.Status.Addr}}' "${ids[@]}" \
        | sed -n 's/^ready //p'
}

# images ------------------------------------------------------------------------------------------

run_images() {
    local name wanted id node address missing
    require_manager
    while read -r name; do
        docker tag "$name" "$(by_content "$name")"
    done < <(image_names)
    while read -r id node address <&3; do
        [[ $id != "$own_node" ]] || continue
        mapfile -t missing < <(missing_images "$id" "$node" "$address")
        if ((${#missing[@]} == 0)); then
            say "$node has every image"
            continue
        fi
        [[ ${missing[0]} != 'error: '* ]] || die "$node cannot be asked (${missing[0]#error: }); make a Docker context of that name, or let this user in by ssh"
        say "$node: ${missing[*]}"
        # All at once: what they have in common goes over once.
        docker save "${missing[@]}" | quietly on_node "$id" "$node" "$address" load \
            || die "$node has not taken the images"
    done 3< <(usable_nodes)
}

# missing_images ID NAME ADDRESS: one a line; or `error: WHY` where the node cannot be asked.
missing_images() {
    local there wanted
    there=$(timeout "$ASK_SECONDS" bash -c "$(declare -f on_node); own_node=$own_node; on_node \"\$@\"" _ \
        "$@" images --format '{{.Repository}}:{{.Tag}}' </dev/null 2>&1) \
        || { echo "error: ${there##*$'\n'}"; return; }
    while read -r wanted; do
        grep --quiet --line-regexp --fixed-strings "$wanted" <<<"$there" || echo "$wanted"
    done < <(image_names | while read -r name; do by_content "$name"; done)
}

# apply ---------------------------------------------------------------------------------------------

# What the rules of infra/swarm/rules.py judge, as one JSON document.
facts() {
    local ids
    printf '{"swarm": %s, "stack": %s, "servers": %s, "compose": %s, "network": %s, "nodes": ' \
        "$(swarm_state 'json .Swarm')" "$(is_deployed && echo true || echo false)" \
        "$(if runs postgres-1; then echo 3; elif runs postgres; then echo 1; else echo 0; fi)" \
        "$(runs_under_compose && echo true || echo false)" "$(network_options)"
    if [[ $(swarm_state .Swarm.ControlAvailable) == true ]]; then
        mapfile -t ids < <(node_ids)
        docker node inspect "${ids[@]}"
        printf ', "asked": [%s]' "$(asked | paste --serial --delimiters ,)"
    else
        printf '[], "asked": []'
    fi
    printf '}\n'
}

# What the stack is made of, as one JSON document.
parts() {
    local name comma=''
    printf '{"resolved": '
    compose --profile swarm config --format json
    printf ', "images": {'
    while read -r name; do
        printf '%s%s: %s' "$comma" "$(json_string "$name")" "$(json_string "$(by_content "$name")")"
        comma=', '
    done < <(image_names)
    printf '}}\n'
}

# What each usable node says itself: images, clock.
asked() {
    local id node address before time missing
    while read -r id node address <&3; do
        before=$(date +%s.%N)
        if ! time=$(timeout "$ASK_SECONDS" bash -c "$(declare -f on_node); own_node=$own_node; on_node \"\$@\"" _ \
            "$id" "$node" "$address" info --format '{{.SystemTime}}' </dev/null 2>&1); then
            printf '{"id": "%s", "error": %s}\n' "$id" "$(json_string "${time##*$'\n'}")"
            continue
        fi
        mapfile -t missing < <(missing_images "$id" "$node" "$address")
        printf '{"id": "%s", "before": %s, "after": %s, "time": "%s", "missing": [%s]}\n' "$id" \
            "$before" "$(date +%s.%N)" "$time" \
            "$(for name in "${missing[@]}"; do json_string "$name"; echo; done | paste --serial --delimiters ,)"
    done 3< <(usable_nodes)
}

is_deployed() { [[ -n $(docker service ls --quiet --filter "label=$STACK_LABEL=$project" 2>/dev/null) ]]; }

# The options of a network of which SWARM_ENCRYPTED is one, or null where it is not there.
network_options() {
    local id
    id=$(docker network ls --quiet --filter "label=$STACK_LABEL=$project" --filter "name=${project}_edge" 2>/dev/null) || true
    if [[ -n $id ]]; then docker network inspect --format '{{json .Options}}' "$id"; else echo null; fi
}

runs_under_compose() {
    [[ -n $(docker ps --quiet --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.oneoff=False) ]]
}

require_manager() {
    [[ $(swarm_state .Swarm.ControlAvailable) == true ]] \
        || die "this Docker host is no manager (swarm: $(swarm_state .Swarm.LocalNodeState)); make it one (docker swarm init, or join as a manager), or have DOCKER_HOST or DOCKER_CONTEXT name one" 2
}

# in_compiler COMMAND: the module infra.swarm, without network, with what the project's volumes hold.
in_compiler() {
    local tier options
    options=(--rm --interactive --read-only --cap-drop ALL --cap-add DAC_READ_SEARCH --network none
        --security-opt no-new-privileges:true --user 0:0 --memory 256m --tmpfs /tmp
        --mount "type=bind,src=$(cd "$env_dir" && pwd),dst=/etc/sluice/env,readonly")
    ! has_volume secrets || options+=(--volume "${project}_secrets:/secrets:ro")
    for tier in postgres pgbouncer app ops observability; do
        ! has_volume "$tier-config" || options+=(--volume "${project}_$tier-config:/out/$tier:ro")
    done
    docker run "${options[@]}" --entrypoint python "$image" -m infra.swarm "$1"
}

# Whether the stack's secrets are here: Compose makes an empty volume, too.
has_secrets() {
    has_volume secrets || return
    ensure_image
    docker run --rm --read-only --cap-drop ALL --network none --security-opt no-new-privileges:true \
        --user 0:0 --volume "${project}_secrets:/secrets:ro" --entrypoint sh "$image" \
        -c '[ -e /secrets/ca.crt ] || [ -e /secrets/.staged/ca.crt ]'
}

# in_records SCRIPT: in the volume with the record of what was compiled last.
in_records() {
    docker run --rm --read-only --cap-drop ALL --network none --security-opt no-new-privileges:true \
        --user 0:0 --volume "${project}_ops-config:/records" --workdir /records --entrypoint sh "$image" -c "$1"
}

# changed PHASE: its services whose definition is not the running one.
changed() {
    local name wanted
    while read -r name wanted; do
        [[ $(docker service inspect --format "$DEFINITION" "${project}_$name" 2>/dev/null) == "$wanted" ]] \
            || echo "$name"
    done <"$bundle/$1.definitions"
}

run_apply() {
    local direction phases phase services name
    ensure_image
    [[ -d $env_dir ]] || die "$env_dir: no such directory; it holds stack.env" 2
    # Here: where their names are taken, below, a failure would be lost.
    while read -r name; do
        docker image inspect "$name" >/dev/null 2>&1 || die "this host has no image $name; make and bring them: make swarm-up" 2
    done < <(image_names)
    bundle=$(mktemp --directory)
    temporary+=("$bundle")
    facts >"$bundle/facts"
    direction=$(in_compiler check <"$bundle/facts") || exit
    await_updates
    # By it a repeated apply goes in the direction of the one that was interrupted.
    ! has_volume ops-config || in_records '[ -e unfinished.json ] || [ ! -e compiled.json ] || { cp compiled.json new && mv new unfinished.json; }'
    COMPOSE_FILE=$ON_MANAGER quietly compose --progress quiet run --rm --no-deps config || exit
    parts >"$bundle/parts"
    (umask 077 && in_compiler bundle <"$bundle/parts" | tar --extract --directory "$bundle" --no-same-owner)
    cd "$bundle"
    phases=([0-9]*.definitions)
    cd - >/dev/null
    phases=("${phases[@]%.definitions}")
    # Where nothing runs nothing has to shrink first.
    [[ $direction == upwards ]] || ! runs pgbouncer || mapfile -t phases < <(printf '%s\n' "${phases[@]}" | sort --reverse)
    unfinished="the stack is updated in part; to finish: make swarm-apply"
    for phase in "${phases[@]}"; do
        services=$(changed "$phase")
        [[ -n $services ]] || continue
        # Before there has been a PgBouncer, nobody has to wait while a server is restarted.
        if is_server "${services%%$'\n'*}" && runs "${services%%$'\n'*}" && runs pgbouncer; then
            restart_servers
        else
            # shellcheck disable=SC2086  # names, one word each
            update "$phase" $services
        fi
    done
    require_taken "${phases[@]}"
    deploy stack --prune || exit
    in_records 'rm -f unfinished.json'
    unfinished=''
    remove_unused
    say "deployed: $(docker service ls --quiet --filter "label=$STACK_LABEL=$project" | wc -l) services as the env file has them"
}

# Swarm takes back what does not become healthy. To deploy it once more would be to every instance at
# once.
require_taken() {
    local phase services name
    for phase in "$@"; do
        services=$(changed "$phase")
        [[ -n $services ]] || continue
        for name in $services; do say_tasks "$name"; done
        die "${services//$'\n'/, }: Swarm has taken the update back; what ran before runs"
    done
}

# The schema first: an older api works with a newer one.
update() {
    local phase=$1
    shift
    if [[ " $* " == *" api "* ]]; then migrate; fi
    say "updating: $*"
    deploy "$phase" || exit
    wait_converged "$@"
}

runs() { docker service inspect "${project}_$1" >/dev/null 2>&1; }

# Whether it is PostgreSQL itself; before three of them `postgres` is HAProxy.
is_server() { [[ $1 == postgres-* || ($1 == postgres && $(instances) == 1) ]]; }

# Clients wait and none fails: as on a single machine, with other steps of the host. As many
# PgBouncers are paused as there are now: those of the env file may come only afterwards.
restart_servers() {
    local serving servers
    [[ -z $restarted ]] || return 0
    restarted=yes
    serving=$(docker service inspect --format '{{.Spec.Mode.Replicated.Replicas}}' "${project}_pgbouncer")
    say "updating PostgreSQL while clients wait"
    (($(instances) > 1)) || host_dead_man
    on_networks operate restart postgres --serving "$serving" || exit
    # An instance that follows again may be one that Swarm takes back a moment later.
    mapfile -t servers < <(cat "$bundle"/[0-9]*.definitions | while read -r name _; do ! is_server "$name" || echo "$name"; done)
    wait_converged "${servers[@]}"
}
restarted=''

host_dead_man() { on_networks quietly look_run --detach --no-TTY ops dead-man; }

host_restart_postgres() { replace_server postgres; }

host_replace_instance() { replace_server "$1"; }

# replace_server SERVICE: by its new definition, or by the one it has.
replace_server() {
    local phase
    phase=$(cd "$bundle" && grep --files-with-matches "^$1 " [0-9]*.definitions)
    phase=${phase%.definitions}
    if [[ -n $(changed "$phase") ]]; then
        deploy "$phase"
    else
        quietly docker service update --detach --force "${project}_$1"
    fi
}

# deploy PHASE [OPTION]: one of the bundle's, or `stack`, which is all of them.
deploy() {
    quietly docker stack deploy --detach --resolve-image never "${@:2}" --compose-file "$bundle/$1.json" "$project"
}

# Again once: a failover in the middle of it ends its connection, and what it had begun is undone.
migrate() {
    local options=(--progress quiet run --rm --no-deps migrate)
    say "migrating the schema"
    COMPOSE_FILE=$ON_MANAGER SWARM_DB=${project}_db compose "${options[@]}" \
        || COMPOSE_FILE=$ON_MANAGER SWARM_DB=${project}_db compose "${options[@]}" \
        || die "the migration failed; api and worker are as they were"
}

# Every task of the services runs, and no update is under way.
wait_converged() {
    local service counts state waited last told
    for service in "$@"; do
        waited=0 last=$SECONDS told=$SECONDS
        while :; do
            # Two lines: the first that fails must end the script.
            counts=$(counts_of "$service")
            state=$(update_state "$service")
            case $state in
                paused | rollback_*) say_tasks "$service"; die "$service: the update failed ($state); what ran before runs" ;;
                '' | completed) [[ ${counts%/*} != "${counts#*/}" || $counts == 0/0 ]] || break ;;
            esac
            if is_starting_server "$service"; then
                ((SECONDS - told < TELL_SECONDS)) || { told=$SECONDS; tell_starting "$service"; }
            else
                waited=$((waited + SECONDS - last))
            fi
            last=$SECONDS
            ((waited < $(bound "$counts"))) || { say_tasks "$service"; die "$service: $counts tasks run after $waited s"; }
            sleep 0.5
        done
    done
}

counts_of() {
    docker service ls --filter "name=${project}_$1" --format '{{.Name}} {{.Replicas}}' \
        | awk -v name="${project}_$1" '$1 == name { print $2 }'
}

update_state() { docker service inspect --format '{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}' "${project}_$1"; }

# bound COUNTS: the replicas are updated one after the other.
bound() {
    local wanted=${1#*/}
    echo $((SERVICE_SECONDS * (wanted > 1 ? wanted : 1)))
}

# A copy of the primary's data, or a recovery, takes as long as there is much of them.
is_starting_server() {
    is_server "$1" \
        && [[ $(docker service ps --filter desired-state=running --format '{{.CurrentState}}' "${project}_$1") == *Starting* ]]
}

tell_starting() {
    say "$1 is starting; the copy of a standby and a recovery take their time, in its log: docker service logs ${project}_$1"
    say_tasks "$1"
}

# What an apply that was ended has begun ends first: with another definition on top of it Swarm would no
# longer know the one from before, and take nothing back. What does not end may need that definition.
await_updates() {
    local service deadline
    for service in $(docker service ls --filter "label=$STACK_LABEL=$project" --format '{{.Name}}'); do
        service=${service#"${project}_"}
        is_updating "$service" || continue
        say "an update of $service is under way; waiting until it is over"
        deadline=$((SECONDS + $(bound "$(counts_of "$service")")))
        while is_updating "$service"; do
            ((SECONDS < deadline)) || { say "it is not over; going on all the same"; break; }
            sleep 0.5
        done
    done
}

is_updating() { [[ $(update_state "$1") =~ ^(updating|rollback_started)$ ]]; }

# The last words of tasks that failed.
say_tasks() {
    docker service ps --no-trunc --format '{{.Name}} on {{.Node}}: {{.CurrentState}} {{.Error}}' "${project}_$1" \
        | grep --invert-match ': Running' | head -n "$FAILURE_LINES" >&2 || true
}

# Configs and secrets that no service has, nor would have after a rollback.
remove_unused() {
    local kind used name
    for kind in config secret; do
        used=$(docker service ls --quiet --filter "label=$STACK_LABEL=$project" \
            | xargs docker service inspect --format '{{json .Spec}}{{json .PreviousSpec}}')
        while read -r name; do
            [[ $used == *"\"$name\""* ]] || docker "$kind" rm "$name" >/dev/null
        done < <(docker "$kind" ls --filter "label=$STACK_LABEL=$project" --format '{{.Name}}')
    done
}

# status and down ---------------------------------------------------------------------------------

run_status() {
    local status=0 short
    require_manager
    is_deployed || die "no stack $project is deployed; deploy it: make swarm-up" "$EXIT_REFUSED"
    docker node ls --format 'table {{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}'
    echo
    docker service ls --filter "label=$STACK_LABEL=$project" --format 'table {{.Name}}\t{{.Replicas}}\t{{.Image}}'
    short=$(docker service ls --filter "label=$STACK_LABEL=$project" --format '{{.Name}} {{.Replicas}}' \
        | awk '{ split($2, count, "/"); if (count[1] < count[2]) print $1 }')
    for service in $short; do say_tasks "${service#"${project}_"}"; done
    echo
    # Without them its container would only make the volumes, empty.
    if has_secrets; then
        on_networks look_run --no-deps --no-TTY ops status </dev/null || status=$?
    else
        say "the whole path is not looked at: the stack's secrets are not on this manager; run this on the one that has them, or copy them here (docs/several-machines.md)"
        status=$EXIT_REFUSED
    fi
    [[ -z $short ]] || status=$EXIT_FAILED
    return "$status"
}

run_down() {
    require_manager
    is_deployed || die "no stack $project is deployed" "$EXIT_REFUSED"
    quietly docker stack rm "$project"
    wait_removed
    say "removed; on each node its volumes stay, and on this one the secrets"
}

wait_removed() {
    local deadline=$((SECONDS + SERVICE_SECONDS))
    until [[ -z $(docker network ls --quiet --filter "label=$STACK_LABEL=$project") ]] && ! is_deployed; do
        ((SECONDS < deadline)) || die "networks of $project are still there after $SERVICE_SECONDS s"
        sleep 0.5
    done
}

own_node=$(swarm_state .Swarm.NodeID 2>/dev/null) || die "Docker does not answer: $(docker info 2>&1 | tail -n 1)"
case ${1-} in
    images | apply | status | down) "run_$1" ;;
    *) die "usage: swarm.sh images|apply|status|down" 2 ;;
esac
