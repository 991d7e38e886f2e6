#!/bin/sh
# A read that takes the agreement of a majority.
set -eu
exec etcdctl --endpoints https://localhost:2379 --cacert /etc/sluice/etcd-ca.crt \
    --cert /etc/sluice/etcd.crt --key /etc/sluice/etcd.key --command-timeout 3s \
    endpoint health >/dev/null
