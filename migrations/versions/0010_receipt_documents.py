"""a receipt may have several documents: each of them is kept.

The table has rows only for receipts of which more than one document came; those that are stored already have none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "receipt_document",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("receipt_id", sa.Text, nullable=False),
        sa.Column("number", sa.SmallInteger, nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("version", sa.SmallInteger, nullable=False),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("charset", sa.String(40)),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", "number", name="pk_receipt_document"),
        sa.ForeignKeyConstraint(
            ["id_pa", "receipt_id"],
            ["receipt.id_pa", "receipt.receipt_id"],
            name="fk_receipt_document_receipt",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("receipt_document")
