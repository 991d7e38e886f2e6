#!/usr/bin/env bash
# Makes `docker compose` work on this machine: installs Docker Engine, Buildx and
# Compose from the distribution's packages where they are missing (Debian family,
# root), and starts the daemon where nothing else does.
#
#   docker-engine.sh ensure   install and start what is missing
#   docker-engine.sh stop     stop the daemon that `ensure` started, if any
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

readonly STATE_DIR=/var/lib/sluice
readonly PID_FILE=$STATE_DIR/dockerd.pid
readonly LOG_FILE=/var/log/sluice-dockerd.log
# Debian 12 ships Docker 20.10 and Compose 1.29, which know neither `docker compose`
# nor the compose specification; Debian 13's packages run beside its older runc.
readonly DEBIAN_SUITE=trixie
readonly START_TIMEOUT_SECONDS=60

# What the daemon, or a tool, said last.
answer=''

daemon_answers() { answer=$(docker info 2>&1); }

tools_present() {
    answer=$({ command -v docker && docker compose version && docker buildx version; } 2>&1)
}

last_answer() { printf '%s' "${answer##*$'\n'}"; }

require_debian_root() {
    [[ -r /etc/os-release ]] || die "cannot tell the distribution: /etc/os-release is missing. Install Docker Engine and the Compose plugin, then run this again."
    # shellcheck source=/dev/null
    . /etc/os-release
    [[ " ${ID:-} ${ID_LIKE:-} " == *" debian "* ]] \
        || die "${PRETTY_NAME:-this system} is not of the Debian family. Install Docker Engine and the Compose plugin, then run this again."
    [[ $EUID -eq 0 ]] || die "Docker Engine is missing and installing it needs root. Run this as root, or install Docker Engine and the Compose plugin first."
}

# Adds the newer suite for Docker's packages alone; nothing else comes from it.
add_suite() {
    local mirror
    mirror=$(host_archive debian)
    [[ -n $mirror ]] || die "no Debian mirror found in this host's apt sources; add one that carries '$DEBIAN_SUITE'."
    cat >/etc/apt/sources.list.d/sluice-docker.sources <<SOURCES
# Written by Sluice's docker-engine.sh: Docker Engine and Compose from $DEBIAN_SUITE.
Types: deb
URIs: $mirror
Suites: $DEBIAN_SUITE
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    cat >/etc/apt/preferences.d/sluice-docker <<PREFERENCES
Explanation: Written by Sluice's docker-engine.sh: only these packages come from $DEBIAN_SUITE.
Package: *
Pin: release n=$DEBIAN_SUITE
Pin-Priority: -10

Package: docker.io docker-cli docker-buildx docker-compose containerd
Pin: release n=$DEBIAN_SUITE
Pin-Priority: 990
PREFERENCES
}

install_packages() {
    require_debian_root
    # shellcheck source=/dev/null
    . /etc/os-release
    local packages=(docker.io docker-cli docker-buildx docker-compose)
    case "${ID}:${VERSION_ID%%.*}" in
        debian:1[012]) add_suite ;;
        ubuntu:*) packages=(docker.io docker-buildx docker-compose-v2) ;;
    esac
    say "installing ${packages[*]} from the distribution's packages"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # A package's start script must not fail the install where no init runs.
    quietly apt-get install -y -qq --no-install-recommends "${packages[@]}" iptables ca-certificates
    hash -r
    tools_present || die "the packages are installed but 'docker compose' does not answer: $(last_answer)"
}

init_starts_daemon() {
    [[ -d /run/systemd/system ]] || return 1
    systemctl start docker
}

start_daemon() {
    [[ $EUID -eq 0 ]] || die "the Docker daemon does not answer ($(last_answer)) and starting it needs root. Start it, or add yourself to the group 'docker'."
    init_starts_daemon && return
    command -v dockerd >/dev/null || install_packages
    say "starting dockerd (log: $LOG_FILE)"
    mkdir -p "$STATE_DIR"
    # A pid file of a daemon that was killed would keep a new one from starting.
    if [[ -r /var/run/docker.pid ]] && ! kill -0 "$(cat /var/run/docker.pid)" 2>/dev/null; then
        rm -f /var/run/docker.pid
    fi
    setsid dockerd >>"$LOG_FILE" 2>&1 </dev/null &
    echo $! >"$PID_FILE"
}

wait_for_daemon() {
    local deadline=$((SECONDS + START_TIMEOUT_SECONDS))
    until daemon_answers; do
        if ((SECONDS >= deadline)); then
            [[ ! -r $LOG_FILE ]] || tail -n 20 "$LOG_FILE" >&2
            die "the Docker daemon did not answer within ${START_TIMEOUT_SECONDS} s: $(last_answer)"
        fi
        sleep 0.3
    done
}

ensure() {
    tools_present || install_packages
    daemon_answers && return
    start_daemon
    wait_for_daemon
}

stop() {
    [[ -r $PID_FILE ]] || return 0
    local pid
    pid=$(cat "$PID_FILE")
    if [[ $(ps -o comm= -p "$pid" 2>/dev/null) == dockerd ]]; then
        say "stopping dockerd ($pid)"
        kill -TERM "$pid"
        timeout 60 tail --pid="$pid" -f /dev/null
    fi
    rm -f "$PID_FILE"
}

case "${1:-}" in
    ensure) ensure ;;
    stop) stop ;;
    *) die "usage: docker-engine.sh ensure|stop" ;;
esac
