"""console: sessions, local users, and who looked up whom."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

# Under row-level security an index serves leakproof comparisons only. By this view the console's role finds receipts by
# fiscal code and amount: it reads with the rights of its owner, for whom the policies are off, and shows the same rows
# as they do. It is no barrier against what the querying role computes: that role could as well name all ECs.
VIEW = """
CREATE VIEW console_receipt AS
SELECT id_pa, receipt_id, received_at, amount, debtor_id, payer_id FROM receipt
WHERE (SELECT current_setting('station.ecs', true)) = '*'
OR id_pa = ANY ((SELECT string_to_array(current_setting('station.ecs', true), ','))::text[])"""


def upgrade() -> None:
    op.create_table(
        "console_session",
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name="pk_console_session"),
    )
    op.create_index("ix_console_session_expires_at", "console_session", ["expires_at"])
    op.create_index("ix_console_session_username", "console_session", ["username"])
    op.create_table(
        "console_user",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("last_login_at", TIME, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("locked_until", TIME, nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_console_user"),
    )
    op.create_table(
        "console_access",
        sa.Column("at", TIME, nullable=False),
        sa.Column("access_id", sa.BigInteger(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("id_pa", sa.String(35), nullable=True),
        sa.Column("receipt_id", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("found", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("at", "access_id", name="pk_console_access"),
    )
    op.create_index("ix_console_access_id_pa", "console_access", ["id_pa", "at", "access_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(VIEW)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP VIEW console_receipt")
    for table in ("console_access", "console_user", "console_session"):
        op.drop_table(table)
