"""Operator commands, run in a container: `docker compose run --rm ops <command>`."""
