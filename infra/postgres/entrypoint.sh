#!/usr/bin/env bash
# Creates the cluster once, applies the compiled roles when they changed, keeps the ballast, then
# becomes the server. Configuration is read from /etc/sluice and never written here.
#
#   entrypoint postgres       the server
#   entrypoint patroni        the instance PATRONI_NAME of three: Patroni runs the server
#   entrypoint leave          the data of the primary of three may be a single server's
#   entrypoint roles          Patroni has made the cluster: apply the roles
#   entrypoint callback EVENT ROLE CLUSTER
#                             Patroni has started the server, or its role has changed
#   entrypoint pgbackrest-push FILE
#                             the server has finished a file of its log: to the repository with it
#   entrypoint free-ballast   remove the ballast where the volume is about full
set -euo pipefail

readonly CONFIG=/etc/sluice
readonly SOCKET_DIR=/run/postgresql
readonly ROLES_APPLIED=$PGDATA/sluice_roles.sha256
readonly VOLUME=${PGDATA%/*}
# Which set of three instances the data belong to; there is none for those of a single server.
readonly OWN_ID=$VOLUME/cluster.id
readonly CLUSTER_ID=$CONFIG/postgres-cluster.id
readonly FIRST=postgres-1
# Space that is given back on a full disk, where a server that cannot write its log does not start
# and so nothing could be deleted.
readonly BALLAST=$VOLUME/ballast
# pgBackRest's exit code where a file is not pushed in time, and how long that is.
readonly STILL_PUSHING=82
readonly PUSH_SECONDS=60
readonly TRY_NO_MORE=143
readonly LOOK_SECONDS=1
# The ballast is made only where this many times its size is free.
readonly BALLAST_ROOM=4

say() { printf 'entrypoint: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

require_config() {
    local file
    for file in postgresql.conf pg_hba.conf roles.sql server.key server.crt "$@"; do
        [[ -r $CONFIG/$file ]] || die "$CONFIG/$file is missing or unreadable; the config service writes it"
    done
}

# PgBouncer's container enters it by the group; nobody else may, since a role comes in there.
require_socket_directory() {
    local found wanted
    wanted="$(id --user):$(id --group) 750"
    found=$(stat --format '%u:%g %a' "$SOCKET_DIR")
    [[ $found == "$wanted" ]] || die "$SOCKET_DIR has owner and mode $found, not $wanted; with the stack" \
        "down, remove its volume, postgres-socket, and start again"
}

# Held for as long as this container lives: two servers on the same data would destroy them, and
# in two containers neither sees the other's process.
take_volume() {
    exec 9>"$VOLUME/.lock"
    flock --nonblock 9 || die "another container uses the data in $VOLUME; stop it first:" \
        "docker compose up --remove-orphans"
}

require_same_major() {
    local found
    found=$(<"$PGDATA/PG_VERSION")
    [[ $found == 17 ]] || die "$PGDATA holds PostgreSQL $found data, this server is 17; upgrade it with pg_upgrade"
}

# Neither a new cluster nor a copy in the place of data that are only not in it.
require_exchanged() {
    [[ -s $PGDATA/PG_VERSION || ! -e $PGDATA.restored ]] || die "an exchange of the data was cut short:" \
        "$PGDATA is missing, $PGDATA.restored are the restored ones, $PGDATA.before those from before;" \
        "rename one of them to $PGDATA"
}

# Made beside its place and moved there whole: a killed first start leaves no half cluster.
create_cluster() {
    say "creating the cluster in $PGDATA"
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --encoding=UTF8 --locale-provider=builtin \
        --builtin-locale=C.UTF-8 --locale=C.UTF-8 --data-checksums --auth-local=peer \
        --auth-host=reject --username=postgres >/dev/null
    mv "$PGDATA.new" "$PGDATA"
}

roles_digest() { sha256sum <"$CONFIG/roles.sql"; }

roles_are_current() {
    [[ -r $ROLES_APPLIED && $(roles_digest) == "$(<"$ROLES_APPLIED")" ]]
}

# A server that only this container can reach: no TCP, and not the socket of PgBouncer, until the
# roles are right. It archives nothing, which its end would wait for; the server after it does.
apply_roles() {
    say "applying roles and their limits"
    trap 'pg_ctl stop --mode=fast --silent || true; exit 143' INT TERM
    pg_ctl start --wait --silent --log=/tmp/roles.log \
        --options="-c config_file=$CONFIG/postgresql.conf -c listen_addresses='' -c unix_socket_directories=/tmp -c archive_command=''" \
        || { cat /tmp/roles.log >&2; die "the server did not start"; }
    if ! psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=/tmp \
        --dbname=postgres --file="$CONFIG/roles.sql" >/dev/null; then
        pg_ctl stop --wait --mode=fast --silent
        die "$CONFIG/roles.sql failed; nothing is served"
    fi
    pg_ctl stop --wait --mode=fast --silent
    roles_digest >"$ROLES_APPLIED"
    trap - INT TERM
}

# Of a cluster that is served already. Without waiting for a standby: there may be none yet.
apply_roles_live() {
    roles_are_current && return
    say "applying roles and their limits"
    PGOPTIONS='-c synchronous_commit=local' psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
        --dbname=postgres --file="$CONFIG/roles.sql" >/dev/null || die "$CONFIG/roles.sql failed"
    roles_digest >"$ROLES_APPLIED"
}

# archive_timeout is the checkpointer's to keep, and it goes to sleep at the start of a server, before
# recovery has ended, for as long as there is no checkpoint: an idle server that was stopped cleanly
# would archive nothing for checkpoint_timeout. A signal wakes it.
wake_checkpointer() {
    psql --no-psqlrc --quiet --tuples-only --dbname=postgres --command='SELECT pg_reload_conf()' >/dev/null
}

# Whether another timeline went on before the end of this segment. The server that began that one has
# archived what was written, in its own first segment. What is left of it elsewhere has other bytes
# behind that point, by which the repository refuses it, and then all that comes after it has to wait.
# (What pgBackRest pushes ahead of its turn it may refuse; nobody waits for that.)
is_past_its_timeline() {
    local segment=$1 histories=(pg_wal/*.history) end
    [[ $segment =~ ^[0-9A-F]{24}$ && -e ${histories[-1]} ]] || return
    end=$(awk -v timeline="$((16#${segment:0:8}))" '$1 == timeline { print $2 }' "${histories[-1]}")
    [[ -n $end ]] && ((16#${segment:8} >= (16#${end%/*} << 32) + (16#${end#*/} >> 24)))
}

archive() {
    cd "$PGDATA"
    if is_past_its_timeline "${1##*/}"; then
        say "${1##*/} is left from before a failover: not archived"
        return
    fi
    push "$1"
}

# The end of a server waits for this, six times over with pauses. Where the repository cannot be
# reached that must not be: the server after it goes on. So each look at what has become of the file,
# which a process of pgBackRest's own pushes, is a short one, and a server that ends is told by the code
# of a signal, after which its archiver tries no more.
push() {
    local status=0 said until=$((SECONDS + PUSH_SECONDS))
    while true; do
        said=$(pgbackrest --config="$CONFIG/pgbackrest.conf" --stanza=sluice --archive-timeout="$LOOK_SECONDS" \
            archive-push "$1" 2>&1) || status=$?
        if ((status != STILL_PUSHING || SECONDS >= until)) || is_stopping; then break; fi
        status=0
    done
    [[ -z $said ]] || printf '%s\n' "$said" >&2
    ((status == 0)) || ! is_stopping || status=$TRY_NO_MORE
    return "$status"
}

is_stopping() { grep --quiet '^stopping' postmaster.pid; }

# After a time with one server only that one has what was written then, so the others take a copy
# of it; and it must have been the primary when the time began. No data are removed for it but those
# that were put aside the last time.
belong_to_cluster() {
    local timeline
    if [[ -s $PGDATA/PG_VERSION ]] && ! cmp --quiet "$OWN_ID" "$CLUSTER_ID"; then
        if [[ $PATRONI_NAME == "$FIRST" ]]; then
            [[ ! -e $PGDATA/standby.signal ]] || die "$PGDATA is a standby's copy from another set of" \
                "instances; nothing is changed. See docs/high-availability.md, Data of another set"
            roles_are_current || apply_roles
        else
            say "these data are from another set of instances; waiting until $FIRST is the primary"
            until timeline=$(primary_timeline "$FIRST"); do sleep 1; done
            (($(own_timeline) <= timeline)) || die "$PGDATA is on a later timeline than" \
                "$FIRST; nothing is changed. See docs/high-availability.md, Data of another set"
            say "they are now in $PGDATA.before; a copy of $FIRST's is made"
            rm -rf "$PGDATA.before"
            mv -T "$PGDATA" "$PGDATA.before"
        fi
    fi
    cp "$CLUSTER_ID" "$OWN_ID.new"
    mv "$OWN_ID.new" "$OWN_ID"
}

leave_cluster() {
    is_primary localhost || die "this instance is not the primary"
    rm -f "$OWN_ID"
}

is_primary() { primary_timeline "$1" >/dev/null; }

# Of the instance, if it is the primary.
primary_timeline() {
    python3 - "$1" <<'PYTHON' 2>/dev/null
import json, ssl, sys, urllib.request
trusted = ssl.create_default_context(cafile="/etc/sluice/ca.crt")
url = f"https://{sys.argv[1]}:8008/primary"
with urllib.request.urlopen(url, timeout=3, context=trusted) as answer:
    print(json.load(answer)["timeline"])
PYTHON
}

# That of the data; of a server that crashed its last checkpoint may be older than its recovery.
own_timeline() {
    LC_ALL=C pg_controldata --pgdata="$PGDATA" \
        | sed -n "s/^Latest checkpoint's TimeLineID: *//p; s/^Min recovery ending loc's timeline: *//p" \
        | sort --numeric-sort | tail -n 1
}

# Patroni has what is the same for all instances in etcd, where it is as it was compiled. There is
# nothing yet at the first start: Patroni begins with it then.
tell_etcd() {
    timeout 20 patronictl -c "$CONFIG/patroni-$PATRONI_NAME.yml" edit-config --force --quiet \
        --replace "$CONFIG/patroni-dcs.yml" >/dev/null 2>&1 || say "the settings in etcd are as they were"
}

become_patroni() {
    require_config patroni-dcs.yml patroni.key "patroni-$PATRONI_NAME.yml" postgres-cluster.id
    take_volume
    require_exchanged
    [[ ! -s $PGDATA/PG_VERSION ]] || require_same_major
    # Of a server that was killed: by its process id another might now be taken for it.
    rm -f "$SOCKET_DIR"/.s.PGSQL.*
    belong_to_cluster
    keep_ballast
    tell_etcd
    exec patroni "$CONFIG/patroni-$PATRONI_NAME.yml"
}

free_mb() { echo $(($(df --block-size=1 --output=avail "$VOLUME" | tail -n 1) >> 20)); }

present_mb() {
    [[ -e $BALLAST ]] || { echo 0; return; }
    echo $(($(stat --format %s "$BALLAST") >> 20))
}

# Its absence never keeps the server from starting.
keep_ballast() {
    local size
    size=$(sed -n 's/^sluice\.ballast = \([0-9]*\)MB$/\1/p' "$CONFIG/postgresql.conf")
    [[ -n $size && $(present_mb) != "$size" ]] || return 0
    if (($(free_mb) < size * BALLAST_ROOM)); then
        say "less than $((size * BALLAST_ROOM)) MB are free: no ballast of $size MB is kept"
        return
    fi
    rm -f "$BALLAST"
    # --posix writes the blocks where the file system cannot reserve them.
    fallocate --posix --length "${size}MiB" "$BALLAST" || rm -f "$BALLAST"
}

free_ballast() {
    local size free
    size=$(present_mb)
    free=$(free_mb)
    if ((size == 0)); then
        echo "$free MB are free, and there is no ballast to give back"
    elif ((free >= size)); then
        echo "$free MB are free: the ballast of $size MB stays"
    else
        rm -f "$BALLAST"
        echo "$free MB were free: the ballast is removed, $(free_mb) MB are free now"
    fi
}

_main() {
    case $1 in
        free-ballast) free_ballast; return ;;
        leave) leave_cluster; return ;;
        # Patroni gives the role of the replication its password once more after this, by another
        # verifier than the compiled one: the callback of the start is to put that back.
        roles) apply_roles_live; rm -f "$ROLES_APPLIED"; return ;;
        pgbackrest-push) archive "$2"; return ;;
        callback) [[ $3 != primary ]] || { apply_roles_live; wake_checkpointer; }; return ;;
        patroni) become_patroni ;;
    esac
    require_config
    require_socket_directory
    take_volume
    [[ ! -e $OWN_ID ]] || die "$VOLUME holds the data of one instance of three, and maybe not the latest;" \
        "write POSTGRES_INSTANCES=3, make up, then POSTGRES_INSTANCES=1, make apply RESTART=yes"
    require_exchanged
    [[ -s $PGDATA/PG_VERSION ]] || create_cluster
    require_same_major
    roles_are_current || apply_roles
    keep_ballast
    # Once it answers: by no child of the server, which would wonder, and without the lock on its volume.
    ( (until pg_isready --quiet; do sleep 1; done; wake_checkpointer) 9>&- & )
    exec "$@" -D "$PGDATA" -c config_file="$CONFIG/postgresql.conf"
}

_main "$@"
