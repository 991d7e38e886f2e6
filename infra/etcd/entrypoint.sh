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
# An election is no race between busy processors: the usual tenth of a second between heartbeats
# would make it one.
exec etcd --data-dir /var/lib/etcd/data \
    --listen-client-urls https://0.0.0.0:2379 --advertise-client-urls "https://$ETCD_NAME:2379" \
    --listen-peer-urls https://0.0.0.0:2380 --initial-advertise-peer-urls "https://$ETCD_NAME:2380" \
    --initial-cluster etcd-1=https://etcd-1:2380,etcd-2=https://etcd-2:2380,etcd-3=https://etcd-3:2380 \
    --initial-cluster-token sluice --initial-cluster-state new \
    --client-cert-auth --cert-file "${PAIR[0]}" --key-file "${PAIR[1]}" --trusted-ca-file "${PAIR[2]}" \
    --peer-client-cert-auth --peer-cert-file "${PAIR[0]}" --peer-key-file "${PAIR[1]}" \
    --peer-trusted-ca-file "${PAIR[2]}" \
    --heartbeat-interval 250 --election-timeout 2500 \
    --auto-compaction-mode periodic --auto-compaction-retention 1h --log-level warn
