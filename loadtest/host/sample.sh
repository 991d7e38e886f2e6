#!/usr/bin/env bash
# Runs inside a container of any tier: prints one line of name=value pairs per sample until its
# standard input ends. Memory is PSS, so that a shared page counts once; RSS would count it in
# every process.
#
#   sample.sh KIND INTERVAL_SECONDS   KIND: postgres, pgbouncer, api, worker
set -uo pipefail
shopt -s nullglob

readonly KIND=$1 INTERVAL=$2
readonly FILES_PROCESSES_MAX=120
readonly MEMORY_PROCESSES_MAX=100

# of_processes PREFIX PID...: proportional, private and shared memory in kB. Of many processes
# only every n-th is read, and the sums scaled: the kernel walks all pages of each.
of_processes() {
    local prefix=$1 stride number files=()
    shift
    (($#)) || { printf ' %s_count=0 %s_pss_kb=0 %s_own_kb=0' "$prefix" "$prefix" "$prefix"; return; }
    stride=$((($# + MEMORY_PROCESSES_MAX - 1) / MEMORY_PROCESSES_MAX))
    for ((number = 1; number <= $#; number += stride)); do
        files+=("/proc/${!number}/smaps_rollup")
    done
    # A process may end between the listing and the reading: cat goes on with the next.
    cat "${files[@]}" 2>/dev/null | awk -v prefix="$prefix" -v scale="$# ${#files[@]}" '
        BEGIN { split(scale, part, " "); scale = part[1] / part[2] }
        /^Pss:/ { count++; pss += $2 }
        /^Pss_Shmem:/ { shared += $2 }
        /^Rss:/ { rss += $2 }
        END { if (count) printf " %s_count=%d %s_pss_kb=%d %s_own_kb=%d %s_rss_kb=%d",
              prefix, count * scale + 0.5, prefix, pss * scale, prefix, (pss - shared) * scale,
              prefix, rss * scale }'
}

processes() {
    local path
    for path in /proc/[0-9]*; do
        path=${path#/proc/}
        # Not this script, nor what it started.
        [[ $path == "$$" || $path == "$BASHPID" ]] || printf '%s\n' "$path"
    done
}

open_files() {
    local pid descriptors count=0
    (($# <= FILES_PROCESSES_MAX)) || return
    for pid in "$@"; do
        descriptors=("/proc/$pid/fd/"*)
        count=$((count + ${#descriptors[@]}))
    done
    printf ' files=%d' "$count"
}

control_group() {
    local memory=/sys/fs/cgroup/memory/memory.usage_in_bytes cpu=/sys/fs/cgroup/cpuacct/cpuacct.usage
    if [[ -r $memory ]]; then
        printf ' cgroup_bytes=%s cpu_ns=%s' "$(<"$memory")" "$(<"$cpu")"
    elif [[ -r /sys/fs/cgroup/memory.current ]]; then
        printf ' cgroup_bytes=%s' "$(</sys/fs/cgroup/memory.current)"
        awk '$1 == "usage_usec" { printf " cpu_ns=%s000", $2 }' /sys/fs/cgroup/cpu.stat
    fi
}

sample_postgres() {
    local counts backends
    counts=$(psql --no-psqlrc --no-align --tuples-only --quiet --dbname=postgres --field-separator=' ' --command "
        SELECT 'connections=' || count(*), 'active=' || count(*) FILTER (WHERE state = 'active'),
            'idle=' || count(*) FILTER (WHERE state = 'idle'),
            'idle_in_transaction=' || count(*) FILTER (WHERE state LIKE 'idle in%'),
            'lock_waits=' || count(*) FILTER (WHERE wait_event_type = 'Lock'),
            'pids=' || coalesce(string_agg(pid::text, ','), '')
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'" 2>/dev/null)
    IFS=, read -ra backends <<<"${counts##*pids=}"
    printf ' %s' "${counts%% pids=*}"
    of_processes backends "${backends[@]}"
}

sample_pgbouncer() {
    psql --no-psqlrc --no-align --tuples-only --quiet --host=/run/pgbouncer --port=6432 \
        --username=pgbouncer --field-separator=' ' --command 'SHOW POOLS' pgbouncer 2>/dev/null \
        | awk '$1 != "pgbouncer" {
            active += $3; waiting += $4; servers += $7 + $10 + $11 + $12 + $13; busy += $7
            wait = $14 + $15 / 1e6; if (wait > longest) longest = wait
            printf " %s_waiting=%d %s_servers=%d %s_busy=%d", $1, $4, $1, $7 + $10 + $11 + $12 + $13, $1, $7
        } END { printf " clients=%d waiting=%d servers=%d busy=%d longest_wait_seconds=%.3f",
                active + waiting, waiting, servers, busy, longest }'
    # Totals since the process began; by column name, because versions differ in their order.
    psql --no-psqlrc --no-align --quiet --host=/run/pgbouncer --port=6432 --pset=footer=off \
        --username=pgbouncer --field-separator=' ' --command 'SHOW STATS' pgbouncer 2>/dev/null \
        | awk 'NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
            $1 ~ /^risk(_batch)?$/ { printf " %s_xacts=%s %s_xact_us=%s %s_wait_us=%s",
                $1, $column["total_xact_count"], $1, $column["total_xact_time"],
                $1, $column["total_wait_time"] }'
}

# The pool's own figures, over bash's /dev/tcp: the image has no HTTP client but Python's.
sample_pool() {
    exec 9<>/dev/tcp/127.0.0.1/8001 || return
    printf 'GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n' >&9
    timeout 2 cat <&9 | awk '
        /^dbpool_(size|in_use|idle|waiting)\{/ { name = $1; sub(/^dbpool_/, "", name)
            sub(/\{.*/, "", name); printf " pool_%s=%d", name, $2 }
        /^sluice_tasks_done_total/ { printf " tasks_done=%d", $2 }'
    exec 9>&-
}

sample() {
    local all
    mapfile -t all < <(processes)
    printf 't=%s' "$EPOCHREALTIME"
    control_group
    open_files "${all[@]}"
    of_processes process "${all[@]}"
    case $KIND in
        postgres) sample_postgres ;;
        pgbouncer) sample_pgbouncer ;;
        api | worker) sample_pool ;;
    esac
    printf '\n'
}

_main() {
    local started pause status
    while :; do
        started=${EPOCHREALTIME/./}
        sample
        # Never spend more than a tenth of a core here.
        pause=$(awk -v interval="$INTERVAL" -v took="$((${EPOCHREALTIME/./} - started))" \
            'BEGIN { slow = took * 9 / 1e6; print (slow > interval ? slow : interval) }')
        # Nothing is ever written to it: a timeout is the pause, the end of input is the end.
        read -r -t "$pause" _ && status=0 || status=$?
        ((status > 128)) || exit 0
    done
}

_main
