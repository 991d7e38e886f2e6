"""Load on the api: users, shapes, thresholds."""
