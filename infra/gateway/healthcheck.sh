#!/bin/bash
#   healthcheck            a PgBouncer answers through this process: GSSENCRequest, and N for a server
#                          that has none of it
#   healthcheck postgres   an instance has said that it is the primary; before the first check HAProxy
#                          takes every server for one that is up
#   healthcheck api        this process answers HTTP, whether an api does or not
set -euo pipefail
if [[ ${1-} == api ]]; then
    exec 3<>/dev/tcp/127.0.0.1/8000
    printf 'GET /-/alive HTTP/1.0\r\n\r\n' >&3
    IFS= read -r -t 3 answer <&3
    [[ $answer == *" 200 "* ]]
    exit
fi
if [[ ${1-} == postgres ]]; then
    exec 3<>/dev/tcp/127.0.0.1/9999
    printf 'show stat\n' >&3
    while IFS=, read -r -t 3 -a row <&3; do
        # With an asterisk while the next check is under way.
        [[ ${row[0]-} != primary || ${row[17]-} != UP || ${row[36]-} != ?('* ')L7OK ]] || exit 0
    done
    exit 1
fi
exec 3<>/dev/tcp/127.0.0.1/6432
printf '\0\0\0\x08\x04\xd2\x16\x30' >&3
IFS= read -r -N 1 -t 3 answer <&3
[[ $answer == N ]]
