"""Measurements: load on the api, pgbench, requests beside batch work, growth."""
