"""Let the operator count tasks by state, and see nothing else of them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Grant one column."""
    op.execute("GRANT USAGE ON SCHEMA risk TO sluice_operator")
    op.execute("GRANT SELECT (state) ON risk.tasks TO sluice_operator")


def downgrade() -> None:
    """Take the rights back."""
    op.execute("REVOKE SELECT (state) ON risk.tasks FROM sluice_operator")
    op.execute("REVOKE USAGE ON SCHEMA risk FROM sluice_operator")
