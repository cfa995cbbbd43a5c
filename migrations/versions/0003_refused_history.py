"""history of refused requests; what the retention has purged."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "refused_history",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("raw_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("result", sa.String(length=10), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=True),
        sa.Column("operator", sa.String(length=64), nullable=True),
        sa.Column("fault_code", sa.String(length=40), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["id_pa", "raw_hash"],
            ["refused.id_pa", "refused.raw_hash"],
            name="fk_refused_history_refused",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id_pa", "raw_hash", "number", name="pk_refused_history"),
    )
    op.create_table(
        "purge_progress",
        sa.Column("part", sa.String(length=10), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("part", name="pk_purge_progress"),
    )
    # Columns that may be null are added without rewriting a row. `receipt.raw` stays NOT NULL, and empty once purged:
    # SQLite drops a NOT NULL only by building the table again, and the transfers would go with it (ON DELETE CASCADE).
    op.add_column("refused", sa.Column("settled_at", TIME, nullable=True))
    op.add_column("receipt", sa.Column("raw_purged_at", TIME, nullable=True))
    op.add_column("receipt", sa.Column("anonymised_at", TIME, nullable=True))


def downgrade() -> None:
    op.drop_column("receipt", "anonymised_at")
    op.drop_column("receipt", "raw_purged_at")
    op.drop_column("refused", "settled_at")
    op.drop_table("purge_progress")
    op.drop_table("refused_history")
