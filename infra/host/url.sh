#!/usr/bin/env bash
# Prints where this host reaches the api of the running stack: url.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=infra/host/operate.sh
. infra/host/operate.sh

published=$(look port api 8000)
address=${published%:*}
case ${address//[][]/} in
    0.0.0.0) address=127.0.0.1 ;;
    ::) address='[::1]' ;;
    *:*) address="[${address//[][]/}]" ;;
esac
echo "http://$address:${published##*:}"
