"""The database schema: its migrations, and the synthetic reference data."""
