"""flows (FdR) and their payments: what pagoPA says was credited.

New tables only: a station that does not run `station fdr` keeps them empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

EURO = sa.Numeric(12, 2).with_variant(sa.BigInteger(), "sqlite")
NOT_FETCHED = sa.text("fetched_at IS NULL")
BY_IUV = sa.text("matched_by = 'iuv'")
NOT_ADDED_UP = sa.text("credited IS NULL AND fetched_at IS NOT NULL")
NOT_MATCHED = sa.text("matched_by IS NULL AND NOT superseded")
MATCHED = sa.text("receipt_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "fdr_ec",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("watermark", sa.DateTime(timezone=True)),
        sa.Column("walked_at", sa.DateTime(timezone=True)),
        sa.Column("gap_from", sa.DateTime(timezone=True)),
        sa.Column("gap_to", sa.DateTime(timezone=True)),
        sa.Column("gap_acknowledged_at", sa.DateTime(timezone=True)),
        sa.Column("gap_acknowledged_by", sa.String(64)),
        sa.Column("biz_paused_until", sa.DateTime(timezone=True)),
        sa.Column("awaited_from", sa.DateTime(timezone=True)),
        sa.Column("awaited_to", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id_pa", name="pk_fdr_ec"),
    )
    op.create_table(
        "fdr_run",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("outcome", sa.String(10), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("listed", sa.Integer, nullable=False),
        sa.Column("new", sa.Integer, nullable=False),
        sa.Column("revised", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("payments", sa.Integer, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id_pa", "run_id", name="pk_fdr_run"),
    )
    op.create_table(
        "fdr_flow",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("fdr", sa.String(35), nullable=False),
        sa.Column("psp_id", sa.String(35), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("status", sa.String(10)),
        sa.Column("published", sa.DateTime(timezone=True)),
        sa.Column("created", sa.DateTime(timezone=True)),
        sa.Column("flow_date", sa.DateTime(timezone=True)),
        sa.Column("regulation", sa.Text),
        sa.Column("regulation_date", sa.Date),
        sa.Column("bic", sa.String(35)),
        sa.Column("sender_id", sa.String(35)),
        sa.Column("psp_name", sa.Text),
        sa.Column("receiver_id", sa.String(35)),
        sa.Column("receiver_organization_id", sa.String(35)),
        sa.Column("receiver_name", sa.Text),
        sa.Column("tot_payments", sa.Integer),
        sa.Column("sum_payments", EURO),
        sa.Column("computed_tot_payments", sa.Integer),
        sa.Column("computed_sum_payments", EURO),
        sa.Column("credited", EURO),
        sa.Column("listed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fetched_at", sa.DateTime(timezone=True)),
        sa.Column("superseded", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id_pa", "fdr", "psp_id", "revision", name="pk_fdr_flow"),
    )
    op.create_table(
        "fdr_payment",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("fdr", sa.String(35), nullable=False),
        sa.Column("psp_id", sa.String(35), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("iuv", sa.String(35), nullable=False),
        sa.Column("iur", sa.String(35), nullable=False),
        sa.Column("id_transfer", sa.SmallInteger, nullable=False),
        sa.Column("amount", EURO, nullable=False),
        sa.Column("pay_status", sa.SmallInteger, nullable=False),
        sa.Column("pay_date", sa.DateTime(timezone=True)),
        sa.Column("superseded", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("matched_by", sa.String(10)),
        sa.Column("receipt_id_pa", sa.String(35)),
        sa.Column("receipt_id", sa.Text),
        sa.Column("matched_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id_pa", "fdr", "psp_id", "revision", "position", name="pk_fdr_payment"),
        sa.ForeignKeyConstraint(
            ["id_pa", "fdr", "psp_id", "revision"],
            ["fdr_flow.id_pa", "fdr_flow.fdr", "fdr_flow.psp_id", "fdr_flow.revision"],
            name="fk_fdr_payment_fdr_flow",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "fdr_awaited",
        sa.Column("id_pa", sa.String(35), nullable=False),
        sa.Column("receipt_id", sa.Text, nullable=False),
        sa.Column("position", sa.SmallInteger, nullable=False),
        sa.Column("id_transfer", sa.SmallInteger, nullable=False),
        sa.Column("amount", EURO, nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", "position", name="pk_fdr_awaited"),
        sa.ForeignKeyConstraint(
            ["id_pa", "receipt_id"],
            ["receipt.id_pa", "receipt.receipt_id"],
            name="fk_fdr_awaited_receipt",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_fdr_run_started_at", "fdr_run", ["started_at"])
    op.create_index("ix_fdr_run_id_pa", "fdr_run", ["id_pa", "started_at"])
    op.create_index("ix_fdr_flow_fdr", "fdr_flow", ["fdr", "id_pa"])
    op.create_index("ix_fdr_flow_published", "fdr_flow", ["published", "id_pa", "fdr"])
    op.create_index("ix_fdr_flow_id_pa_published", "fdr_flow", ["id_pa", "published"])
    op.create_index(
        "ix_fdr_flow_not_matched", "fdr_flow", ["id_pa"], sqlite_where=NOT_ADDED_UP, postgresql_where=NOT_ADDED_UP
    )
    op.create_index(
        "ix_fdr_flow_not_fetched",
        "fdr_flow",
        ["id_pa", "next_attempt_at"],
        sqlite_where=NOT_FETCHED,
        postgresql_where=NOT_FETCHED,
    )
    op.create_index("ix_fdr_awaited_paid_at", "fdr_awaited", ["id_pa", "paid_at"])
    op.create_index(
        "ix_fdr_payment_not_matched",
        "fdr_payment",
        ["id_pa", "iuv", "iur"],
        sqlite_where=NOT_MATCHED,
        postgresql_where=NOT_MATCHED,
    )
    op.create_index("ix_fdr_payment_by_iuv", "fdr_payment", ["id_pa"], sqlite_where=BY_IUV, postgresql_where=BY_IUV)
    op.create_index(
        "ix_fdr_payment_receipt_id",
        "fdr_payment",
        ["receipt_id", "receipt_id_pa"],
        sqlite_where=MATCHED,
        postgresql_where=MATCHED,
    )


def downgrade() -> None:
    for table in ("fdr_awaited", "fdr_payment", "fdr_flow", "fdr_run", "fdr_ec"):
        op.drop_table(table)
