#!/usr/bin/env bash
# Backups of PostgreSQL, with the steps that need Docker: backup.sh NAME OPTION...
#
#   make [--json] [--new-cluster] [--new-repository] [full|diff]
#       make a backup now; --new-cluster: of another cluster than the repository's; --new-repository:
#       first put aside what cannot be read any more
#   list [--json]
#       what is in the repository, and the moments that a restore can go to
#   verify [--json]
#       read every file of the repository, and have the server archive a segment
#   restore [--json] [--swap] [--to TIME] [--into VOLUME] [--cluster ID] [--timeline N]
#       restore into a volume beside the running data, and check; --swap: then make it the server's
#   swap [--json] VOLUME
#       exchange the server's data for those restored into the volume
#   drill [--json]
#       lose a server that is none: what would be lost, and how long it would take
#   key [--from DIRECTORY] [--replace]
#       print the key of the repository, or put it and other secrets of the repository in place;
#       --replace: also of another repository's key
#
# Exit codes: those of operate.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

readonly OPERATION=${1:-}
program=backup
backup_image=sluice-backup:${SLUICE_IMAGE_TAG:-latest}
# Of the arguments.
values=()
declare -A option=([to]='' [into]='' [cluster]='' [timeline]='' [from]='')

parse() {
    while (($#)); do
        case $1 in
            --json) begin_json ;;
            --swap | --new-cluster | --new-repository | --replace) chosen+="$1 " ;;
            --to | --into | --cluster | --timeline | --from)
                (($# > 1)) || usage
                option[${1#--}]=$2
                shift
                ;;
            --*) usage ;;
            *) values+=("$1") ;;
        esac
        shift
    done
}

# in_service COMMAND...: in the container of the service, which holds the lock of backups; in one of
# its own where that is down. Its document is this script's.
in_service() {
    local container
    container=$(look ps --quiet --status running backup)
    if [[ -n $container ]]; then
        docker exec "$container" python -m infra.backup "$@" </dev/null
    else
        compose --progress quiet run --rm --no-deps --no-TTY backup "$@"
    fi
}

as_json=()
delegate() {
    [[ -z $json ]] || as_json=(--json)
    json=''
    in_service "$@" "${as_json[@]}" >&"${document:-1}"
}

run_make() {
    local asked=() one
    ((${#values[@]} <= 1)) || usage
    for one in --new-cluster --new-repository; do ! given "$one" || asked+=("$one"); done
    delegate make "${asked[@]}" "${values[@]:-diff}"
}

run_list() { delegate list; }
run_verify() { delegate verify; }

# restore ---------------------------------------------------------------------------------------

# find_repository: `place` becomes the volume of compose.yaml, or a directory of this host.
place=''
find_repository() {
    place=$(setting BACKUP_DIRECTORY)
    # Elsewhere: the volume is there all the same, empty.
    if [[ $(setting BACKUP_REPOSITORY) == @(s3|sftp) ]]; then
        place=${project}_backups
    elif [[ ${place:-backups} != backups ]]; then
        [[ -d $place ]] || die "BACKUP_DIRECTORY=$place: no such directory" "$EXIT_REFUSED"
    else
        has_volume backups || die "the volume ${project}_backups is not there: no repository" "$EXIT_REFUSED"
        place=${project}_backups
    fi
}

# None, where it is on this machine.
repository_network() {
    case $(setting BACKUP_REPOSITORY) in
        s3 | sftp) echo "${project}_uplink" ;;
        *) echo none ;;
    esac
}

new_volume() { docker volume create --label "sluice.restored=$project" "$1" >/dev/null; }
remove_volume() { docker volume rm "$1" >/dev/null; }

# restore_into VOLUME OPTION...: in a container that reaches nothing but what is mounted. With
# `server=yes` it may ask the running one for the rest of its log.
restore_into() {
    local volume=$1 suffix options
    shift
    options=(--rm --interactive --read-only --cap-drop ALL --security-opt no-new-privileges:true
        --network "$(repository_network)" --user 10070:10070 --memory 1g --pids-limit 256 --tmpfs /tmp
        --label "com.docker.compose.project=$project" --label com.docker.compose.oneoff=True
        --volume "${project}_postgres-config:/etc/sluice:ro" --volume "$place:/var/lib/pgbackrest"
        --volume "$volume:/var/lib/postgresql/data")
    if [[ $server == yes ]]; then
        # The second and third are those of three instances.
        for suffix in '' -2 -3; do
            ! has_volume "postgres-data$suffix" \
                || options+=(--volume "${project}_postgres-data$suffix:/running$suffix:ro")
            ! has_volume "postgres-socket$suffix" || options+=(--mount
                "type=volume,src=${project}_postgres-socket$suffix,dst=/run/postgresql$suffix,volume-nocopy")
        done
    fi
    docker run "${options[@]}" "$backup_image" restore "$@" </dev/null
}
server=yes

# Nobody has it, or it is made: `made` then is its name.
made=''
require_volume() {
    local users
    [[ $1 =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]+$ && ${#1} -le 128 ]] \
        || die "INTO=${1:0:40} is no name of a volume: letters, digits and _.-" 2
    users=$(docker ps --all --filter "volume=$1" --format '{{.Names}}' | paste --serial --delimiters ' ')
    [[ -z $users ]] || die "refused: the volume $1 is in use by $users; choose another INTO" "$EXIT_REFUSED"
    [[ -z $(docker volume ls --quiet --filter "name=^$1\$") ]] || return 0
    new_volume "$1"
    made=$1
}

require_files() {
    [[ -n $(docker images --quiet "$backup_image") ]] || quietly look build backup </dev/null || exit
    has_volume postgres-config || compile_configuration
}

compile_configuration() {
    local status=0
    quietly compose run --rm --no-deps config || status=$?
    ((status != EXIT_REFUSED)) || exit "$EXIT_REFUSED"
    ((status == 0)) || die "the configuration cannot be compiled; see: make plan" 2
}

run_restore() {
    local volume name status=0 asked=() printed
    ((${#values[@]} == 0)) || usage
    volume=${option[into]:-${project}_postgres-data-$(date --utc +%Y%m%dT%H%M%SZ)}
    require_files
    find_repository
    require_volume "$volume"
    for name in to cluster timeline; do
        [[ -z ${option[$name]} ]] || asked+=("--$name" "${option[$name]}")
    done
    printed=$(mktemp)
    temporary+=("$printed")
    unfinished="the running data are untouched; the volume $volume holds nothing whole"
    [[ -z $made ]] || unfinished+=": docker volume rm $made"
    if [[ -n $json ]]; then
        restore_into "$volume" "${asked[@]}" --json >"$printed" || status=$?
        collect restore "$printed" "$status"
    else
        restore_into "$volume" "${asked[@]}" || status=$?
    fi
    # Refused, or not begun by Docker: nothing was put into it.
    if ((status == 2 || status == EXIT_REFUSED || (status >= 125 && status <= 127))); then
        unfinished=''
        [[ -z $made ]] || remove_volume "$made"
    fi
    ((status == 0)) || exit "$status"
    unfinished=''
    if given --swap; then
        swap "$volume"
    else
        say "restored into the volume $volume; the running data are untouched"
        say "to make it the server's: make restore-swap FROM=$volume; else: docker volume rm $volume"
    fi
}

# swap ------------------------------------------------------------------------------------------

# The restored cluster becomes the server's, and the server's is what the volume then holds. Where both
# are directories of one file system it is one exchange, that is whole or has not been. Elsewhere the
# restored one is beside its place first, by which the entrypoint knows that it is not to make a new
# one. What the other two of three instances have becomes 17-2 and 17-3 of the volume: one of them may
# have been the primary. Where a step fails all is as it was.
exchange() {
    local restored data suffix others=() where='{{.Mountpoint}} {{len .Options}}'
    restored=$(docker volume inspect --format "$where" "$from_volume") || return
    data=$(docker volume inspect --format "$where" "${project}_postgres-data") || return
    local mounts=(--volume "$from_volume:/volumes/restored" --volume "${project}_postgres-data:/volumes/data")
    local there=/volumes/restored here=/volumes/data
    # With options, another disk for one, it is mounted there only while a container has it.
    if [[ ${restored%/*/*} == "${data%/*/*}" && $restored$data == *" 0"*" 0" ]]; then
        restored=${restored% *} data=${data% *}
        mounts=(--volume "${data%/*/*}:/volumes")
        there=/volumes/${restored#"${data%/*/*}/"} here=/volumes/${data#"${data%/*/*}/"}
    fi
    is_single || for suffix in -2 -3; do
        if [[ $here == /volumes/data ]]; then
            mounts+=(--volume "${project}_postgres-data$suffix:/volumes/data$suffix")
            others+=("/volumes/data$suffix")
        else
            others+=("${here/%"_postgres-data/_data"/"_postgres-data$suffix/_data"}")
        fi
    done
    # shellcheck disable=SC2016  # expanded in the container
    docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true --network none \
        --user 10070:10070 "${mounts[@]}" --entrypoint bash "$backup_image" -euc '
            there=$1 here=$2 taken=() is_over=
            shift 2
            others=("$@")
            put_back() {
                [[ -z $is_over ]] || return 0
                [[ -e $here/17 || ! -e $here/17.before ]] || mv -T "$here/17.before" "$here/17"
                if [[ -e $there/17 ]]; then rm -rf "$here/17.copy" "$here/17.restored"
                elif [[ -e $here/17.restored ]]; then mv -T "$here/17.restored" "$there/17"; fi
                for one in "${taken[@]}"; do mv -T "$there/17-$((one + 2))" "${others[one]}/17"; done
            }
            trap put_back EXIT
            for one in "${!others[@]}"; do
                [[ -e ${others[one]}/17 && ! -e $there/17-$((one + 2)) ]] || continue
                mv -T "${others[one]}/17" "$there/17-$((one + 2))"
                taken+=("$one")
            done
            if [[ ! -e $here/17 ]] || ! mv --exchange --no-copy -T "$there/17" "$here/17" 2>/dev/null; then
                if [[ $there == /volumes/restored ]]; then
                    rm -rf "$here/17.copy"
                    cp --archive "$there/17" "$here/17.copy"
                    mv -T "$here/17.copy" "$here/17.restored"
                else
                    mv -T "$there/17" "$here/17.restored"
                fi
                [[ ! -e $here/17 ]] || mv -T "$here/17" "$here/17.before"
                mv -T "$here/17.restored" "$here/17"
            fi
            is_over=yes
            mv "$there/restored.json" "$there/swapped.json"
            [[ ! -e $here/17.before ]] || { rm -rf "$there/17"; mv -T "$here/17.before" "$there/17"; } \
                || echo "the data from before stay beside the new ones, as 17.before" >&2
        ' - "$there" "$here" "${others[@]}" </dev/null
}

is_single() { [[ $(instances) == 1 ]]; }

# Whether the containers, if there are any, are those of as many servers as the env file asks for.
is_form_applied() {
    local first
    first=$(containers_of postgres-1)
    if is_single; then [[ -z $first ]]; else [[ -n $first || -z $(containers_of postgres) ]]; fi
}

host_restart_postgres() {
    quietly docker stop "$container" || return
    ! exchange || exchanged=yes
    quietly docker start "$container"
}
exchanged=''

swap() {
    local status=0
    from_volume=$1
    [[ -n $(docker volume ls --quiet --filter "name=^$1\$") ]] || die "FROM=$1: no such volume" 2
    own_project
    is_form_applied \
        || die "refused: POSTGRES_INSTANCES=$(instances) is not applied yet: make apply RESTART=yes" "$EXIT_REFUSED"
    container=$(look ps --quiet --status running postgres)
    docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true \
        --network "$(repository_network)" --user 10070:10070 --tmpfs /tmp --volume "$1:/var/lib/postgresql/data:ro" \
        --volume "${project}_postgres-config:/etc/sluice:ro" --volume "$place:/var/lib/pgbackrest" \
        "$backup_image" swappable </dev/null || exit
    if ! is_single; then
        swap_instances
    elif [[ -n $container ]] && docker exec "$container" healthcheck 2>/dev/null </dev/null; then
        # The dead-man resumes every PgBouncer when the command below dies. It ends by itself.
        quietly look_run --detach --no-TTY ops dead-man
        operate restart postgres || status=$?
        [[ -n $exchanged ]] \
            || die "the data could not be exchanged: the server has those that it had" "$((status ? status : 1))"
    else
        swap_while_down
    fi
    # Its schema is that of the moment; and its log must not be without a backup.
    compose --progress quiet up --no-deps --exit-code-from migrate migrate >/dev/null 2>&1 \
        || { status=1; say "the migration failed; see: docker compose logs migrate"; }
    say "the server has the restored data; those from before are in the volume $from_volume"
    say "backups go on by themselves; when nothing of the old data is needed: docker volume rm $from_volume"
    exit "$status"
}
from_volume='' container=''

readonly OTHERS=(etcd-1 etcd-2 etcd-3 postgres)

# As after a time with a single server: postgres-1 takes over what is in its volume, and the other two
# make a copy of it. By a new id of the set of three, what they and etcd have from before counts no more.
# Not paused: it takes longer than a client waits.
swap_instances() {
    local one containers first
    say "the three instances are stopped; until two of them have the restored data, requests get 503"
    quietly compose create --no-recreate "${INSTANCES[@]}" || exit
    mapfile -t containers < <(for one in "${INSTANCES[@]}"; do containers_of "$one"; done)
    first=${containers[0]}
    unfinished="to finish: make restore-swap FROM=$from_volume; to go on with the data that are there: make up"
    quietly docker stop "${containers[@]}" || exit
    exchange || die "the data could not be exchanged"
    unfinished="the data are exchanged; to start: run what failed above, then: make up"
    forget_set || exit
    quietly compose run --rm --no-deps config || exit
    unfinished="the data are exchanged; to start: make up"
    for one in "${OTHERS[@]}" "${INSTANCES[@]}"; do start_missing "$one" || exit; done
    await 240 "$first" 'SELECT NOT pg_is_in_recovery()' \
        || die "postgres-1 is not the primary after two minutes; see: docker compose logs postgres-1"
    say "postgres-1 has the restored data; a standby copies them, for as long as that takes"
    while ! await 20 "$first" "SELECT count(*) > 0 FROM pg_stat_replication WHERE sync_state = 'quorum'"; do
        await 1 "$first" 'SELECT NOT pg_is_in_recovery()' \
            || die "postgres-1 is not the primary any more; see: docker compose logs postgres-1"
    done
    unfinished=''
}

# await TIMES CONTAINER QUERY: until the server there says t, twice a second.
await() {
    local times
    for ((times = 0; times < $1; times++)); do
        [[ $(docker exec "$2" psql --no-psqlrc --quiet --tuples-only --no-align --dbname postgres \
            --command "$3" 2>/dev/null </dev/null) != t ]] || return 0
        sleep 0.5
    done
    return 1
}

swap_while_down() {
    local postgres
    say "PostgreSQL does not answer: nobody is paused"
    quietly compose create --no-recreate postgres || exit
    postgres=$(compose ps --all --quiet postgres)
    quietly docker stop "$postgres" || exit
    exchange || die "the data could not be exchanged: those that the server had are in place"
    quietly docker start "$postgres" || exit
    for _ in {1..120}; do
        ! docker exec "$postgres" healthcheck 2>/dev/null </dev/null || return 0
        sleep 0.5
    done
    die "PostgreSQL has not answered after a minute; see: docker compose logs postgres"
}

run_swap() {
    ((${#values[@]} == 1)) && [[ -n ${values[0]} ]] || usage
    require_files
    find_repository
    swap "${values[0]}"
}

# drill and key -----------------------------------------------------------------------------------

field() { sed -n "s/.*\"$1\": \"\?\([^\",}]*\).*/\1/p" "$2" | head -n 1; }

run_drill() {
    local begun printed status=0 point marker seconds volume
    ((${#values[@]} == 0)) || usage
    require_files
    find_repository
    begun=$(mktemp) printed=$(mktemp)
    temporary+=("$begun" "$printed")
    say "committing a row, and waiting until the repository has it, as long as that takes"
    in_service drill-begin >"$begun" || exit
    point=$(field point_seconds "$begun") marker=$(field marker "$begun")
    say "now the server counts as lost: restoring into containers of its own"
    volume=${project}_drill-$(date --utc +%Y%m%dT%H%M%SZ)
    new_volume "$volume"
    server=no
    restore_into "$volume" --marker "$marker" --json >"$printed" || status=$?
    remove_volume "$volume"
    [[ -z $json ]] || collect drill "$printed" "$status"
    if ((status)); then
        # Of Docker and of signals, not of the restore.
        ((status < 125)) || die "the drill did not begin or was ended, which says nothing of the backups" "$status"
        grep --after-context 3 '"faults"' "$printed" >&2 || true
        die "the drill failed: a restore would not have worked" "$status"
    fi
    seconds=$(awk '{print $1 + $2}' <<<"$(field restore_seconds "$printed") $(field recovery_seconds "$printed")")
    say "recovery point: $point s, from the commit of a row until the repository had it"
    say "recovery time: $seconds s until the restored server answered, then $(field check_seconds "$printed") s of checks"
    in_service drill-end "$point" "$seconds" || die "that is not written down for make status"
}

run_key() {
    local file asked=()
    ((${#values[@]} == 0)) || usage
    ensure_image
    if [[ -z ${option[from]} ]]; then
        has_volume secrets || die "the volume ${project}_secrets is not there" "$EXIT_REFUSED"
        docker run --rm --read-only --cap-drop ALL --network none --user 0:0 \
            --volume "${project}_secrets:/secrets:ro" --entrypoint cat "$image" /secrets/backup.key </dev/null
        echo
        say "without it no backup can be read: keep it where this machine's loss does not reach"
        return
    fi
    file=$(realpath --canonicalize-existing -- "${option[from]}" 2>/dev/null) && [[ -d $file ]] \
        || die "${option[from]}: no such directory" 2
    ! given --replace || asked=(--replace)
    # On a new machine, as Compose would make it: only its labels tell it that it is its own.
    has_volume secrets || quietly docker volume create --label "com.docker.compose.project=$project" \
        --label com.docker.compose.volume=secrets "${project}_secrets" || exit
    docker run --rm --read-only --cap-drop ALL --cap-add DAC_READ_SEARCH --network none --user 0:0 \
        --volume "${project}_secrets:/secrets" --volume "$file:/given:ro" --entrypoint python \
        "$image" -m infra.backup.key "${asked[@]}" </dev/null || exit
    compile_configuration
}

_main() {
    case $OPERATION in
        make | list | verify | restore | swap | drill | key) ;;
        *) die "usage: backup.sh NAME OPTION...; the names are in its first lines" 2 ;;
    esac
    parse "${@:2}"
    own_project
    "run_$OPERATION"
}

_main "$@"
