"""Alembic's entry point: runs the migrations on the connection that `migrate` hands over."""

from alembic import context


def run() -> None:
    """Run what is due in one transaction; the version table lives in schema risk."""
    context.configure(
        connection=context.config.attributes["connection"],
        version_table_schema="risk",
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
