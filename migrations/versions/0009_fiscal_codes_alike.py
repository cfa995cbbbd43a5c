"""fiscal codes are found however they are written: in small letters, with blanks.

The indexes take the place of those on the codes as they came, and cost a push the same. Built without CONCURRENTLY,
since migrations run in one transaction: on a large table writing waits while this runs, and the Nodo sends again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

PAID_BY_OTHER = sa.text("payer_id <> debtor_id")
ALIKE = "upper(replace({}, ' ', ''))"


def upgrade() -> None:
    for name, where in (("debtor", None), ("payer", PAID_BY_OTHER)):
        columns = [sa.text(ALIKE.format(f"{name}_id")), "received_at"]
        op.create_index(f"ix_receipt_{name}", "receipt", columns, sqlite_where=where, postgresql_where=where)
        op.drop_index(f"ix_receipt_{name}_id", table_name="receipt")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ANALYZE receipt")  # of an expression it knows how often its values occur by its index alone


def downgrade() -> None:
    for name, where in (("debtor", None), ("payer", PAID_BY_OTHER)):
        columns = [f"{name}_id", "received_at"]
        op.create_index(f"ix_receipt_{name}_id", "receipt", columns, sqlite_where=where, postgresql_where=where)
        op.drop_index(f"ix_receipt_{name}", table_name="receipt")
