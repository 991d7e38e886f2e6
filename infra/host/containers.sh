#!/usr/bin/env bash
# Prints what Docker knows of the stack's containers, and the room on the data volume, one JSON
# object a line: for `ops status`, which has no Docker socket.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

readonly DF=(df --block-size=1 '--output=size,avail' /var/lib/postgresql/data)
readonly FORMAT='{"service": {{json (index .Config.Labels "com.docker.compose.service")}}, "name": {{json .Name}},
"state": {{json .State.Status}}, "started": {{json .State.StartedAt}}, "finished": {{json .State.FinishedAt}},
"memory_limit": {{.HostConfig.Memory}}, "exit_code": {{.State.ExitCode}}, "restarts": {{.RestartCount}}, "oom_killed": {{.State.OOMKilled}},
"health": {{if .State.Health}}{{json .State.Health.Status}}{{else}}""{{end}}}'

# What the processes of each PgBouncer hold, without the kernel's caches, by cgroups of version 2 or 1.
# Its console does not know it, and `docker stats` takes two seconds.
memory() {
    local name bytes
    while read -r name; do
        bytes=$(timeout "$INSIDE_SECONDS" docker exec "$name" sed -n 's/^\(anon\|total_rss\) //p' \
            /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat </dev/null 2>/dev/null) || true
        [[ ! $bytes =~ ^[0-9]+$ ]] || printf '{"memory": {"name": "/%s", "bytes": %s}}\n' "$name" "$bytes"
    done < <(docker ps --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.service=pgbouncer --format '{{.Names}}')
}

_main() {
    local ids disk server status=0
    mapfile -t ids < <(look ps --all --quiet)
    # An empty object: the host was asked, and there is none.
    ((${#ids[@]})) || { echo '{}'; return 0; }
    docker inspect --format "${FORMAT//$'\n'/ }" "${ids[@]}"
    memory
    server=$(server)
    # A full disk ends the server, so its container may not run.
    disk=$({ within exec --no-TTY "$server" "${DF[@]}" || within --progress quiet run --rm --no-deps --no-TTY --entrypoint "${DF[0]}" \
        "$server" "${DF[@]:1}"; } </dev/null 2>&1) || status=$?
    # What Compose says comes before the two numbers.
    if ((status)) || [[ ! ${disk##*$'\n'} =~ ^\ *[0-9]+\ +[0-9]+$ ]]; then
        say "disk of the data volume: df in postgres failed ($status): ${disk##*$'\n'}"
        return 0
    fi
    disk=${disk##*$'\n'}
    # shellcheck disable=SC2086  # two numbers
    printf '{"disk": {"size": %s, "free": %s}}\n' $disk
}

_main "$@"
