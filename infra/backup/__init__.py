"""Backups of PostgreSQL: the service that makes them, and what looks at and restores them."""
