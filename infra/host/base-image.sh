#!/usr/bin/env bash
# Makes sure the base image of every Sluice image is present: already local, else
# pulled, else (where no image registry answers) built from the distribution's own
# packages with the same name and the same apt sources as the public image.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/common.sh
. infra/host/common.sh

readonly IMAGE=${BASE_IMAGE:-debian:trixie-slim}
readonly SUITE=trixie
readonly PULL_TIMEOUT_SECONDS=120
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

have_image() {
    local said
    said=$(docker image inspect --format '{{.Id}}' "$IMAGE" 2>&1) && return
    # That it is not there is an answer; anything else is a failure.
    [[ ${said,,} == *"no such image"* ]] || say "$said"
    return 1
}

pull() {
    say "pulling $IMAGE"
    quietly timeout "$PULL_TIMEOUT_SECONDS" docker pull --quiet "$IMAGE"
}

require_builder() {
    [[ -r /etc/debian_version && $EUID -eq 0 ]] \
        || die "no registry gave $IMAGE, and building it needs root on a Debian host. Load the image with 'docker load', or set BASE_IMAGE to one this machine has."
    command -v mmdebstrap >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    quietly apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring
}

# The deb822 file that the public image carries, with this host's mirrors.
sources() {
    local main security
    main=$(host_archive debian)
    security=$(host_archive debian-security)
    [[ -n $main && -n $security ]] || die "no Debian mirror found in this host's apt sources"
    cat <<SOURCES
Types: deb
URIs: $main
Suites: $SUITE $SUITE-updates
Components: main
Signed-By: $KEYRING

Types: deb
URIs: $security
Suites: $SUITE-security
Components: main
Signed-By: $KEYRING
SOURCES
}

# Proxy and validity settings decide whether apt works on this network at all, so
# an image that is built here gets what the host uses.
apt_settings() {
    apt-config dump Acquire::http Acquire::https Acquire::Check-Valid-Until Acquire::Check-Date \
        | grep -E '::(Proxy|Check-Valid-Until|Check-Date)[^ ]* "[^"]+";$' || true
}

# As in the public image: no archive, index or translation stays in a layer.
image_settings() {
    cat <<SETTINGS
APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
SETTINGS
}

build() {
    local work
    work=$(mktemp -d)
    temporary+=("$work")
    sources >"$work/debian.sources"
    apt_settings >"$work/90host"
    image_settings >"$work/90image"
    say "no registry gave $IMAGE: building it from distribution packages"
    mmdebstrap --quiet --variant=minbase --format=tar \
        --include=ca-certificates \
        --aptopt="$work/90host" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="rm -rf \"\$1\"/etc/apt/sources.list.d/* \"\$1\"/var/lib/apt/lists/* \"\$1\"/var/cache/apt/*" \
        --customize-hook="upload $work/debian.sources /etc/apt/sources.list.d/debian.sources" \
        --customize-hook="upload $work/90host /etc/apt/apt.conf.d/90host" \
        --customize-hook="upload $work/90image /etc/apt/apt.conf.d/90image" \
        "$SUITE" "$work/root.tar" "$work/debian.sources"
    quietly docker import --change 'CMD ["bash"]' "$work/root.tar" "$IMAGE"
}

_main() {
    have_image && return
    pull && return
    require_builder
    build
    have_image || die "building $IMAGE failed"
    say "$IMAGE is ready"
}

_main
