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
if [[ -z $keep ]]; then
    look --profile '*' down --volumes
    docker volume ls --quiet --filter "label=sluice.restored=$project" | xargs --no-run-if-empty docker volume rm >/dev/null
    exit
fi
look --profile '*' down
docker volume ls --quiet --filter "label=com.docker.compose.project=$project" \
    | grep --invert-match --line-regexp --regexp "${project}_backups" --regexp "${project}_secrets" \
    | xargs --no-run-if-empty docker volume rm >/dev/null
say "kept: ${project}_backups and ${project}_secrets; to have the data back: make restore SWAP=yes"
