# shellcheck shell=bash
# Sourced by loadtest/run: what a result depends on, as the machine and the processes say it.

# Raw answers, one file each; `loadtest/constraints.py` reads them.
record_constraints() {
    local into=$RUN_DIR/constraints
    {
        printf 'kernel=%s\n' "$(uname -sr)"
        printf 'processors=%s\n' "$(nproc)"
        printf 'processor=%s\n' "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)"
        printf 'memory_kb=%s\n' "$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)"
        printf 'load_before=%s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
        printf 'open_files_hard=%s\n' "$(ulimit -Hn)"
        printf 'docker=%s\n' "$(docker version --format '{{.Server.Version}}')"
        printf 'compose=%s\n' "$(docker compose version --short)"
        printf 'revision=%s\n' "$(git -C "$REPOSITORY" rev-parse --short HEAD 2>/dev/null || echo unknown)"
        printf 'changed_files=%s\n' "$(git -C "$REPOSITORY" status --porcelain 2>/dev/null | wc -l)"
        printf 'api_containers=%s\n' "$(compose ps --quiet --status running api | wc -l)"
        printf 'worker_containers=%s\n' "$(compose ps --quiet --status running worker | wc -l)"
        printf 'pgbouncer_containers=%s\n' "$(compose ps --quiet --status running pgbouncer | wc -l)"
    } >"$into/machine.txt"
    # As it is now: a later page must not show a later edit.
    cp -L "$(env_directory)/stack.env" "$into/"
    _ask_tiers "$into" '' postgres pgbouncer
}

# After lab_up: the lab's own figures beside the deployed stack's.
record_lab_constraints() { _ask_tiers "$RUN_DIR/constraints" lab- lab-postgres lab-pgbouncer; }

_ask_tiers() {
    local into=$1 prefix=$2 postgres=$3 pgbouncer=$4
    compose exec -T "$postgres" psql --no-psqlrc --csv --dbname=postgres --command "
        SELECT name, current_setting(name) AS setting FROM pg_settings WHERE name IN (
            'server_version', 'max_connections', 'superuser_reserved_connections',
            'reserved_connections', 'shared_buffers', 'work_mem', 'ssl', 'fsync',
            'synchronous_commit', 'max_wal_size') ORDER BY name" >"$into/${prefix}postgres.csv"
    compose exec -T "$pgbouncer" psql --no-psqlrc --csv --host=/run/pgbouncer --port=6432 \
        --username=pgbouncer --command 'SHOW CONFIG' pgbouncer >"$into/${prefix}pgbouncer.csv"
    compose exec -T "$pgbouncer" psql --no-psqlrc --csv --host=/run/pgbouncer --port=6432 \
        --username=pgbouncer --command 'SHOW DATABASES' pgbouncer >"$into/${prefix}databases.csv"
    compose exec -T "$pgbouncer" pgbouncer --version | head -n 1 >"$into/${prefix}pgbouncer-version.txt"
}
