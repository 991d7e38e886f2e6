#!/bin/bash
# Has HAProxy trust what is in the CA's file now, with every connection left as it is.
set -euo pipefail
readonly FILE=/etc/sluice/ca.crt

# command TEXT: prints the answer.
command() {
    exec 3<>/dev/tcp/127.0.0.1/9999
    printf '%s\n' "$1" >&3
    timeout 5 cat <&3
}

# An empty line ends the certificates.
command "set ssl ca-file $FILE <<"$'\n'"$(grep --invert-match '^$' "$FILE")"$'\n' | grep --quiet 'transaction created'
command "commit ssl ca-file $FILE" | grep --quiet 'Success'
