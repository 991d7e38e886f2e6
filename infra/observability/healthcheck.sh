#!/bin/bash
# healthcheck PORT PATH: the server of this container answers with 200.
set -euo pipefail
exec 3<>"/dev/tcp/127.0.0.1/$1"
printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
IFS= read -r -t 3 status <&3
[[ $status == *' 200 '* ]]
