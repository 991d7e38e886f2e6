"""Clients of PostgreSQL, PgBouncer and the app's control plane."""
