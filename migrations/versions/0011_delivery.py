"""delivery: an outbox, numbers for what is committed, and how far each destination was served.

Receipts that are stored already get their numbers from `station deliver`, in order of arrival: here they would keep the
migration busy for minutes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
INDEXES = [
    ("ix_delivery_open", "delivery", ["destination", "number"], "state = 'open'"),
    ("ix_delivery_next_attempt_at", "delivery", ["next_attempt_at"], "state = 'open'"),
    ("ix_delivery_failed", "delivery", ["destination", "number"], "state = 'failed'"),
    ("ix_delivery_settled_at", "delivery", ["settled_at"], "settled_at IS NOT NULL"),
    ("ix_delivery_file_open", "delivery_file", ["destination", "planned_at"], "settled_at IS NULL"),
]


def amount() -> sa.types.TypeEngine:
    return sa.BigInteger() if op.get_bind().dialect.name == "sqlite" else sa.Numeric(12, 2)


def upgrade() -> None:
    op.add_column("receipt", sa.Column("revision", sa.SmallInteger(), nullable=False, server_default=sa.text("1")))
    op.create_table(
        "outbox",
        sa.Column("at", TIME, nullable=False),
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("at", "id_pa", "receipt_id", "revision", name="pk_outbox"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outgoing",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column("numbered_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_outgoing"),
        sa.UniqueConstraint("id_pa", "receipt_id", "revision", name="uq_outgoing_id_pa_receipt_id_revision"),
    )
    op.create_index("ix_outgoing_id_pa", "outgoing", ["id_pa", "number"])
    op.create_table(
        "outgoing_check",
        sa.Column("part", sa.String(10), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("part", name="pk_outgoing_check"),
    )
    op.create_table(
        "destination",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_attempt_at", TIME),
        sa.Column("last_success_at", TIME),
        sa.Column("last_error", sa.Text()),
        sa.PrimaryKeyConstraint("name", name="pk_destination"),
    )
    op.create_table(
        "delivery",
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("first_at", TIME),
        sa.Column("last_at", TIME),
        sa.Column("status", sa.SmallInteger()),
        sa.Column("error", sa.Text()),
        sa.Column("settled_at", TIME),
        sa.PrimaryKeyConstraint("destination", "number", name="pk_delivery"),
    )
    op.create_table(
        "delivery_count",
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("result", sa.String(20), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("destination", "result", name="pk_delivery_count"),
    )
    op.create_table(
        "delivery_file",
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("planned_at", TIME, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number_from", sa.BigInteger(), nullable=False),
        sa.Column("number_to", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("receipts", sa.Integer()),
        sa.Column("transfers", sa.Integer()),
        sa.Column("amount", amount()),
        sa.Column("size", sa.BigInteger()),
        sa.Column("sha256", sa.String(64)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", TIME, nullable=False),
        sa.Column("last_at", TIME),
        sa.Column("error", sa.Text()),
        sa.Column("settled_at", TIME),
        sa.PrimaryKeyConstraint("destination", "planned_at", name="pk_delivery_file"),
    )
    for name, table, columns, condition in INDEXES:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for table in (
        "delivery_file", "delivery_count", "delivery", "destination", "outgoing_check", "outgoing", "outbox",
    ):  # fmt: skip
        op.drop_table(table)
    op.drop_column("receipt", "revision")
