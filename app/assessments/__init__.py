"""Assessments in the database: what is done with them, SQL beside the code that runs it.

Every function takes a psycopg connection and is meant to be passed to the pool's `run`.
All names are fully qualified and nothing depends on session state, so every statement
is safe through a transaction pool.
"""
