#!/usr/bin/env bash
# Stops the stack and deletes its volumes: destroy.sh CONFIRM KEEP, as make destroy CONFIRM=yes
# [KEEP=backups] gives them.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

confirmed=${1:-} keep=${2:-}
[[ -z $keep || $keep == backups ]] || die "KEEP=$keep is not backups" 2
if [[ $confirmed != yes ]]; then
    if [[ -n $keep ]]; then
        die "This deletes every assessment and result. The backups stay, and the secrets with their key: make destroy CONFIRM=yes KEEP=backups" 2
    fi
    die "This deletes every assessment, result, secret and backup, and the key of those elsewhere: make destroy CONFIRM=yes; to keep backups and secrets: KEEP=backups" 2
fi
# Whatever the env file says now, all that was started, with one server and with three.
POSTGRES_INSTANCES=3 docker compose --env-file infra/env/presets/laptop.env --profile '*' down --remove-orphans

labels=("com.docker.compose.project=$project")
[[ -n $keep ]] || labels+=("sluice.restored=$project")
gone=()
for label in "${labels[@]}"; do
    while read -r volume; do
        [[ -n $keep && $volume == "$project"_@(backups|secrets) ]] || gone+=("$volume")
    done < <(docker volume ls --quiet --filter "label=$label")
done
if ((${#gone[@]})); then
    mapfile -t uses < <(printf -- '--filter\nvolume=%s\n' "${gone[@]}")
    # A command that was killed before its container started has left it, and it holds them.
    mapfile -t left < <(docker ps --all --quiet --filter status=created "${uses[@]}")
    ((${#left[@]} == 0)) || docker rm "${left[@]}" >/dev/null
    mapfile -t users < <(docker ps --all --format '{{.Names}}' "${uses[@]}")
    ((${#users[@]} == 0)) || die "the stack is stopped, but its volumes are in use: docker rm --force ${users[*]}, then make destroy again"
    docker volume rm "${gone[@]}" >/dev/null
fi
# Compose leaves those that the settings above have no service on, as that of a repository elsewhere.
while read -r network; do
    mapfile -t users < <(docker ps --format '{{.Names}}' --filter "network=$network")
    ((${#users[@]} == 0)) || die "the volumes are gone, but others are in the network $network: docker rm --force ${users[*]}, then make destroy again"
    docker network rm "$network" >/dev/null
done < <(docker network ls --format '{{.Name}}' --filter "label=com.docker.compose.project=$project")
[[ -z $keep ]] || say "kept: ${project}_backups and ${project}_secrets; to have the data back: make restore SWAP=yes"
