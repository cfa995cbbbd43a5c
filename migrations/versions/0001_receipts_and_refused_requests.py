"""receipts and refused requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


# Frozen here: what station.store.tables says may change, this revision may not.
EURO = sa.Numeric(12, 2).with_variant(sa.BigInteger(), "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "receipt",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("id_broker_pa", sa.String(length=35), nullable=False),
        sa.Column("id_station", sa.String(length=35), nullable=False),
        sa.Column("notice_number", sa.String(length=18), nullable=False),
        sa.Column("fiscal_code", sa.String(length=11), nullable=False),
        sa.Column("notice_ordinal", sa.SmallInteger(), nullable=False),
        sa.Column("iuv", sa.String(length=35), nullable=False),
        sa.Column("outcome", sa.String(length=2), nullable=False),
        sa.Column("amount", EURO, nullable=False),
        sa.Column("fee", EURO, nullable=True),
        sa.Column("primary_ci_incurred_fee", EURO, nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("company_name", sa.Text(), nullable=False),
        sa.Column("office_name", sa.Text(), nullable=True),
        sa.Column("debtor_type", sa.String(length=1), nullable=False),
        sa.Column("debtor_id", sa.String(length=16), nullable=False),
        sa.Column("debtor_name", sa.Text(), nullable=False),
        sa.Column("payer_type", sa.String(length=1), nullable=True),
        sa.Column("payer_id", sa.String(length=16), nullable=True),
        sa.Column("payer_name", sa.Text(), nullable=True),
        sa.Column("id_psp", sa.String(length=35), nullable=False),
        sa.Column("psp_fiscal_code", sa.String(length=70), nullable=True),
        sa.Column("psp_partita_iva", sa.String(length=20), nullable=True),
        sa.Column("psp_company_name", sa.Text(), nullable=False),
        sa.Column("id_channel", sa.String(length=35), nullable=False),
        sa.Column("channel_description", sa.Text(), nullable=False),
        sa.Column("payment_method", sa.String(length=35), nullable=True),
        sa.Column("payment_note", sa.Text(), nullable=True),
        sa.Column("id_bundle", sa.String(length=70), nullable=True),
        sa.Column("id_ci_bundle", sa.String(length=70), nullable=True),
        sa.Column("payment_date_time", TIME, nullable=True),
        sa.Column("application_date", sa.Date(), nullable=True),
        sa.Column("transfer_date", sa.Date(), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("stand_in", sa.Boolean(), nullable=True),
        sa.Column("version", sa.SmallInteger(), nullable=False),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("resends", sa.Integer(), nullable=False),
        sa.Column("last_resend_at", TIME, nullable=True),
        sa.Column("content_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("charset", sa.String(length=40), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", name="pk_receipt"),
        sa.UniqueConstraint("id_pa", "notice_number", "fiscal_code", "notice_ordinal", name="uq_receipt_notice"),
    )
    op.create_index("ix_receipt_iuv", "receipt", ["iuv", "id_pa"])
    op.create_index("ix_receipt_notice_number", "receipt", ["notice_number"])
    op.create_index("ix_receipt_receipt_id", "receipt", ["receipt_id"])
    op.create_index("ix_receipt_received_at", "receipt", ["received_at", "id_pa", "receipt_id"])
    op.create_table(
        "refused",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("raw_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("refused_id", sa.String(length=16), nullable=False),
        sa.Column("operation", sa.String(length=64), nullable=False),
        sa.Column("id_broker_pa", sa.String(length=64), nullable=True),
        sa.Column("id_station", sa.String(length=64), nullable=True),
        sa.Column("receipt_id", sa.String(length=64), nullable=True),
        sa.Column("notice_number", sa.String(length=64), nullable=True),
        sa.Column("iuv", sa.String(length=64), nullable=True),
        sa.Column("source", sa.String(length=10), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("fault_code", sa.String(length=40), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("charset", sa.String(length=40), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id_pa", "raw_hash", name="pk_refused"),
    )
    op.create_index("ix_refused_received_at", "refused", ["received_at", "id_pa", "raw_hash"])
    op.create_index("ix_refused_refused_id", "refused", ["refused_id"])
    op.create_index("ix_refused_state", "refused", ["state", "received_at"])
    op.create_table(
        "receipt_flag",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("flag", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["id_pa", "receipt_id"],
            ["receipt.id_pa", "receipt.receipt_id"],
            name="fk_receipt_flag_receipt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", "flag", name="pk_receipt_flag"),
    )
    op.create_index("ix_receipt_flag_flag", "receipt_flag", ["flag", "id_pa", "receipt_id"])
    op.create_table(
        "receipt_route",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("id_broker_pa", sa.String(length=35), nullable=False),
        sa.Column("id_station", sa.String(length=35), nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["id_pa", "receipt_id"],
            ["receipt.id_pa", "receipt.receipt_id"],
            name="fk_receipt_route_receipt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", "id_broker_pa", "id_station", name="pk_receipt_route"),
    )
    op.create_index("ix_receipt_route_id_station", "receipt_route", ["id_station", "id_pa", "receipt_id"])
    op.create_table(
        "transfer",
        sa.Column("id_pa", sa.String(length=35), nullable=False),
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("id_transfer", sa.SmallInteger(), nullable=False),
        sa.Column("amount", EURO, nullable=False),
        sa.Column("fiscal_code_pa", sa.String(length=11), nullable=False),
        sa.Column("company_name", sa.Text(), nullable=True),
        sa.Column("iban", sa.String(length=35), nullable=True),
        sa.Column("digital_stamp", sa.Boolean(), nullable=False),
        sa.Column("remittance_information", sa.Text(), nullable=False),
        sa.Column("transfer_category", sa.Text(), nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["id_pa", "receipt_id"],
            ["receipt.id_pa", "receipt.receipt_id"],
            name="fk_transfer_receipt",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id_pa", "receipt_id", "position", name="pk_transfer"),
    )


def downgrade() -> None:
    op.drop_table("transfer")
    op.drop_table("receipt_route")
    op.drop_table("receipt_flag")
    op.drop_table("refused")
    op.drop_table("receipt")
