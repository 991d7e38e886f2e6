"""The database schema: its migrations, its reference data, synthetic or loaded from files."""
