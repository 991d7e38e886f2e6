#!/bin/bash
# A PgBouncer answers through this process: GSSENCRequest, and N for a server that has none of it.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/6432
printf '\0\0\0\x08\x04\xd2\x16\x30' >&3
IFS= read -r -N 1 -t 3 answer <&3
[[ $answer == N ]]
