"""Reference data, assessments, tasks, results, and who may do what with them."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCRIPTS = ("0001_reference.sql", "0001_risk.sql", "0001_synthetic.sql", "0001_grants.sql")


def upgrade() -> None:
    """Run the SQL scripts beside this file, in order."""
    for name in SCRIPTS:
        sql = Path(__file__).with_name(name).read_text(encoding="utf-8")
        # Without parameters the script goes over unprepared and may hold many statements.
        op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})


def downgrade() -> None:
    """Refuse: there is no earlier schema to go back to."""
    raise NotImplementedError("0001 is the first schema; restore a backup, or drop the database")
