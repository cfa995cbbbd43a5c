"""reconcile remembers how much one call may cover where the API is slow."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reconcile_ec", sa.Column("window_hours", sa.Integer()))


def downgrade() -> None:
    op.drop_column("reconcile_ec", "window_hours")
