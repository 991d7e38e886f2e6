"""pgbench through PgBouncer and direct."""
