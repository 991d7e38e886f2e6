#!/bin/bash
# A PgBouncer answers through this process: SSLRequest, and S for a server that takes TLS.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/6432
printf '\0\0\0\x08\x04\xd2\x16\x2f' >&3
IFS= read -r -N 1 -t 3 answer <&3
[[ $answer == S ]]
