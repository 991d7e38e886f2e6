#!/bin/bash
# One of three: its name is ETCD_NAME. Every connection has TLS, with a certificate at both ends.
set -euo pipefail

readonly CONFIG=/etc/sluice
readonly PAIR=("$CONFIG/etcd.crt" "$CONFIG/etcd.key" "$CONFIG/etcd-ca.crt")

for file in "${PAIR[@]}"; do
    [[ -r $file ]] || {
        echo "entrypoint: $file is missing or unreadable; the config service writes it" >&2
        exit 1
    }
done

# A member without data, of a cluster that there is already, has lost its volume: under its old id the
# others would tell it to go on with a log that it does not have. They forget it and take it anew.
readonly DATA=/var/lib/etcd/data
readonly PEER=https://$ETCD_NAME:2380
others=()
for one in etcd-1 etcd-2 etcd-3; do
    [[ $one == "$ETCD_NAME" ]] || others+=("https://$one:2379")
done
ask_others() {
    etcdctl --endpoints "$(IFS=,; echo "${others[*]}")" --cert "${PAIR[0]}" --key "${PAIR[1]}" \
        --cacert "${PAIR[2]}" --dial-timeout 1s --command-timeout 3s "$@"
}
state=new
if [[ ! -d $DATA/member ]] && members=$(ask_others member list 2>/dev/null); then
    state=existing
    # Id, status, name, address for the others, address for clients: none before its first start.
    mine=$(awk -F ', ' -v peer="$PEER" '$4 == peer { print $1, $5 }' <<<"$members")
    if [[ $mine == *https://* ]]; then
        echo "entrypoint: the data are lost; the others take this member anew" >&2
        ask_others member remove "${mine%% *}"
        mine=
    fi
    [[ -n $mine ]] || ask_others member add "$ETCD_NAME" --peer-urls="$PEER"
fi

# An election is no race between busy processors: the usual tenth of a second between heartbeats
# would make it one.
exec etcd --data-dir "$DATA" \
    --listen-client-urls https://0.0.0.0:2379 --advertise-client-urls "https://$ETCD_NAME:2379" \
    --listen-peer-urls https://0.0.0.0:2380 --initial-advertise-peer-urls "$PEER" \
    --initial-cluster etcd-1=https://etcd-1:2380,etcd-2=https://etcd-2:2380,etcd-3=https://etcd-3:2380 \
    --initial-cluster-token sluice --initial-cluster-state "$state" \
    --client-cert-auth --cert-file "${PAIR[0]}" --key-file "${PAIR[1]}" --trusted-ca-file "${PAIR[2]}" \
    --peer-client-cert-auth --peer-cert-file "${PAIR[0]}" --peer-key-file "${PAIR[1]}" \
    --peer-trusted-ca-file "${PAIR[2]}" \
    --heartbeat-interval 250 --election-timeout 2500 \
    --auto-compaction-mode periodic --auto-compaction-retention 1h --log-level warn
