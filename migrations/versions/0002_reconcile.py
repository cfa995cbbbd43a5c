"""reconciliation: runs, watermarks, open items."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EURO = sa.Numeric(12, 2).with_variant(sa.BigInteger(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reconcile_ec",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("watermark", TIME, nullable=False),
        sa.Column("walked_at", TIME, nullable=False),
        sa.Column("swept_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id_pa", name="pk_reconcile_ec"),
    )
    op.create_table(
        "reconcile_run",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("outcome", sa.String(length=10), nullable=False),
        sa.Column("window_from", sa.Date(), nullable=True),
        sa.Column("window_to", sa.Date(), nullable=True),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("here", sa.Integer(), nullable=False),
        sa.Column("fetched", sa.Integer(), nullable=False),
        sa.Column("not_yet", sa.Integer(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id_pa", "run_id", name="pk_reconcile_run"),
    )
    op.create_index("ix_reconcile_run_started_at", "reconcile_run", ["started_at"])
    op.create_index("ix_reconcile_run_id_pa", "reconcile_run", ["id_pa", "started_at"])
    op.create_table(
        "reconcile_item",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("iuv", sa.String(length=35), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("notice_number", sa.String(length=35), nullable=True),
        sa.Column("amount", EURO, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("request_id", sa.String(length=36), nullable=True),
        sa.PrimaryKeyConstraint("id_pa", "iuv", name="pk_reconcile_item"),
    )
    op.create_index("ix_reconcile_item_next_attempt_at", "reconcile_item", ["id_pa", "state", "next_attempt_at"])


def downgrade() -> None:
    op.drop_table("reconcile_item")
    op.drop_table("reconcile_run")
    op.drop_table("reconcile_ec")
