"""the event journal."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = [
    ("ix_journal_at", ["at", "id_pa", "event_id"], None),
    ("ix_journal_receipt_id", ["receipt_id"], "outcome <> 'stored' OR source <> 'push'"),
    ("ix_journal_fault_code", ["fault_code", "at"], "fault_code IS NOT NULL"),
    ("ix_journal_iuv", ["iuv"], "fault_code IS NOT NULL"),
    ("ix_journal_notice_number", ["notice_number"], "fault_code IS NOT NULL"),
    ("ix_journal_outcome", ["outcome", "at"], "outcome <> 'stored'"),
    ("ix_journal_source", ["source", "at"], "source <> 'push'"),
]


def upgrade() -> None:
    op.create_table(
        "journal",
        sa.Column("id_pa", sa.String(length=11), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.String(length=8), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("operation", sa.String(length=64), nullable=False),
        sa.Column("id_broker_pa", sa.String(length=35), nullable=True),
        sa.Column("id_station", sa.String(length=35), nullable=True),
        sa.Column("notice_number", sa.String(length=18), nullable=True),
        sa.Column("iuv", sa.String(length=35), nullable=True),
        sa.Column("receipt_id", sa.String(length=71), nullable=True),
        sa.Column("id_psp", sa.String(length=35), nullable=True),
        sa.Column("id_channel", sa.String(length=35), nullable=True),
        sa.Column("payment_method", sa.String(length=35), nullable=True),
        sa.Column("outcome", sa.String(length=10), nullable=False),
        sa.Column("fault_code", sa.String(length=40), nullable=True),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("document_hash", sa.LargeBinary(length=32), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("peer_subject", sa.String(length=256), nullable=True),
        sa.PrimaryKeyConstraint("id_pa", "at", "event_id", name="pk_journal"),
        sqlite_with_rowid=False,
    )
    for name, columns, condition in INDEXES:
        where = sa.text(condition) if condition else None
        op.create_index(name, "journal", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_table("journal")
