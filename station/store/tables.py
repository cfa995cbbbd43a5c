"""The tables. Migrations build them; this is the schema that the code of today expects.

Every key starts with `id_pa`, so that the tables can be distributed by it one day. Constraints have names. On
SQLite, rows are written past SQLAlchemy's types: `rows` converts their values in the same way.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import TypeEngine


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times. SQLite has no time type: there the text is UTC without a zone, which sorts as time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Euro(TypeDecorator[Decimal]):
    """Exact euro with two decimals. SQLite has no exact numbers but integers: there the column holds cents."""

    impl = Numeric(12, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else Numeric(12, 2))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        return int(value * 100) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return Decimal(value).scaleb(-2) if value is not None and dialect.name == "sqlite" else value


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# Of indexes that do not have every row: which they have, in their `info`. The migrations build them so. (As options of
# the index they load SQLAlchemy's PostgreSQL with all its drivers: 0.05 s of each command on SQLite.)
_PAID_BY_OTHER = text("payer_id <> debtor_id")

# A fiscal code however it is written: in small letters, with blanks. A query must have it word by word.
ALIKE = "upper(replace({}, ' ', ''))"
_NOT_PUSHED = text("source <> 'push'")
_IS_STAMP = text("digital_stamp")
_AT_FAULT = text("fault_code IS NOT NULL")
_NOT_STORED = text("outcome <> 'stored'")
_NOT_STORED_PUSH = text("outcome <> 'stored' OR source <> 'push'")
_NOT_FETCHED = text("fetched_at IS NULL")
_NOT_ADDED_UP = text("credited IS NULL AND fetched_at IS NOT NULL")
_NOT_MATCHED = text("matched_by IS NULL AND NOT superseded")
_MATCHED = text("receipt_id IS NOT NULL")
_BY_IUV = text("matched_by = 'iuv'")
IS_OPEN = text("state = 'open'")
HAS_FAILED = text("state = 'failed'")
IS_SETTLED = text("settled_at IS NOT NULL")
NOT_SETTLED = text("settled_at IS NULL")

receipt = Table(
    "receipt",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("id_broker_pa", String(35), nullable=False),
    Column("id_station", String(35), nullable=False),
    Column("notice_number", String(18), nullable=False),
    Column("fiscal_code", String(11), nullable=False),
    # 0 for the first receipt of a notice, 1, 2, ... for the next: the constraint below lets the database judge which
    # of two receipts that arrive at once is the second.
    Column("notice_ordinal", SmallInteger, nullable=False),
    Column("iuv", String(35), nullable=False),
    Column("outcome", String(2), nullable=False),
    Column("amount", Euro, nullable=False),
    Column("fee", Euro),
    Column("primary_ci_incurred_fee", Euro),
    Column("description", Text, nullable=False),
    Column("company_name", Text, nullable=False),
    Column("office_name", Text),
    Column("debtor_type", String(1), nullable=False),
    Column("debtor_id", String(16), nullable=False),
    Column("debtor_name", Text, nullable=False),
    Column("payer_type", String(1)),
    Column("payer_id", String(16)),
    Column("payer_name", Text),
    Column("id_psp", String(35), nullable=False),
    Column("psp_fiscal_code", String(70)),
    Column("psp_partita_iva", String(20)),
    Column("psp_company_name", Text, nullable=False),
    Column("id_channel", String(35), nullable=False),
    Column("channel_description", Text, nullable=False),
    Column("payment_method", String(35)),
    Column("payment_note", Text),
    Column("id_bundle", String(70)),
    Column("id_ci_bundle", String(70)),
    Column("payment_date_time", UtcDateTime),
    Column("application_date", Date),
    Column("transfer_date", Date),
    Column("metadata", JSON(none_as_null=True)),  # [[key, value], ...]: keys may occur twice, their order counts
    Column("stand_in", Boolean),
    Column("digital_stamp", Boolean, nullable=False, server_default=false()),  # one of its transfers is one
    Column("version", SmallInteger, nullable=False),
    Column("source", String(10), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("resends", Integer, nullable=False),
    Column("last_resend_at", UtcDateTime),
    Column("content_hash", LargeBinary(32), nullable=False),
    Column("charset", String(40)),
    Column("raw", LargeBinary, nullable=False),  # empty once it was purged
    Column("raw_purged_at", UtcDateTime),
    Column("anonymised_at", UtcDateTime),
    # 1 as it was stored, one more each time its content changed: another document made it fuller, or replaced it.
    Column("revision", SmallInteger, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("id_pa", "receipt_id"),
    UniqueConstraint("id_pa", "notice_number", "fiscal_code", "notice_ordinal", name="uq_receipt_notice"),
    Index("ix_receipt_received_at", "received_at", "id_pa", "receipt_id"),
    Index("ix_receipt_receipt_id", "receipt_id"),
    Index("ix_receipt_notice_number", "notice_number"),
    Index("ix_receipt_iuv", "iuv", "id_pa"),
    # What operators ask for beyond that. Each index costs every push: measured on PostgreSQL at a million receipts on
    # a busy machine, one insert took the server 112 us and 13.8 KB of WAL without these, 216 us and 21.9 KB with them.
    # Few distinct values with the time behind them: new entries land on the last page of their value (12 us and 0.4 KB
    # each), and the latest receipts of a value are read in order, however rare or long ago.
    Index("ix_receipt_id_pa_received_at", "id_pa", "received_at"),  # also: since when an EC had no push
    Index("ix_receipt_id_psp_received_at", "id_psp", "received_at"),
    Index("ix_receipt_id_broker_pa", "id_broker_pa", "id_station", "received_at"),  # for broker and for station
    # People: random keys, so most of the WAL (15 us and 3.3 KB each). Who paid for themselves is found by the first.
    Index("ix_receipt_debtor", text(ALIKE.format("debtor_id")), "received_at"),
    Index(
        "ix_receipt_payer",
        text(ALIKE.format("payer_id")),
        "received_at",
        info={"where": _PAID_BY_OTHER},
    ),
    # Without the time, an amount that many paid long ago and none since would be looked for through all that is newer.
    Index("ix_receipt_amount", "amount", "received_at"),
    Index("ix_receipt_payment_date_time", "payment_date_time"),  # about 20 us: payments come nearly in order
    # Nothing to pay for most of what comes by push: few receipts have digital stamps.
    Index(
        "ix_receipt_digital_stamp",
        "received_at",
        "id_pa",
        "receipt_id",
        info={"where": _IS_STAMP},
    ),
    Index("ix_receipt_source", "source", "received_at", info={"where": _NOT_PUSHED}),
)

transfer = Table(
    "transfer",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("position", SmallInteger, nullable=False),  # in the document; the schema lets idTransfer occur twice
    Column("id_transfer", SmallInteger, nullable=False),
    Column("amount", Euro, nullable=False),
    Column("fiscal_code_pa", String(11), nullable=False),
    Column("company_name", Text),
    Column("iban", String(35)),
    Column("digital_stamp", Boolean, nullable=False),
    Column("remittance_information", Text, nullable=False),
    Column("transfer_category", Text, nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    PrimaryKeyConstraint("id_pa", "receipt_id", "position"),
    ForeignKeyConstraint(["id_pa", "receipt_id"], ["receipt.id_pa", "receipt.receipt_id"], ondelete="CASCADE"),
)

receipt_flag = Table(
    "receipt_flag",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("flag", String(40), nullable=False),
    # The receipt's own, again: of a flag that only old receipts have, the latest are found without walking the others.
    Column("received_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("id_pa", "receipt_id", "flag"),
    ForeignKeyConstraint(["id_pa", "receipt_id"], ["receipt.id_pa", "receipt.receipt_id"], ondelete="CASCADE"),
    Index("ix_receipt_flag_flag", "flag", "received_at", "id_pa", "receipt_id"),
)

# Brokers and stations by which a receipt came again, other than those it came by first.
receipt_route = Table(
    "receipt_route",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("id_broker_pa", String(35), nullable=False),
    Column("id_station", String(35), nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),  # the receipt's own, as in receipt_flag
    PrimaryKeyConstraint("id_pa", "receipt_id", "id_broker_pa", "id_station"),
    ForeignKeyConstraint(["id_pa", "receipt_id"], ["receipt.id_pa", "receipt.receipt_id"], ondelete="CASCADE"),
    Index("ix_receipt_route_id_station", "id_station", "received_at", "id_pa", "receipt_id"),
    Index("ix_receipt_route_id_broker_pa", "id_broker_pa", "received_at", "id_pa", "receipt_id"),
)

# The documents of a receipt of which several came that say the same, one of them more than another: in the order in
# which they were accepted. `receipt` has the fullest again. A receipt with one document has no rows here.
receipt_document = Table(
    "receipt_document",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("number", SmallInteger, nullable=False),  # 1 for the document that the receipt was stored with
    Column("content_hash", LargeBinary(32), nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("source", String(10), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("charset", String(40)),
    Column("raw", LargeBinary, nullable=False),  # empty once it was purged
    PrimaryKeyConstraint("id_pa", "receipt_id", "number"),
    ForeignKeyConstraint(["id_pa", "receipt_id"], ["receipt.id_pa", "receipt.receipt_id"], ondelete="CASCADE"),
)

# Requests that were refused: they live nowhere else. Identifiers are as read and may be wrong or missing; `id_pa` is
# empty where there was none. The same bytes refused again are counted, not kept twice.
refused = Table(
    "refused",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("raw_hash", LargeBinary(32), nullable=False),
    Column("refused_id", String(16), nullable=False),  # the first half of the hash in hex: what operators type
    Column("operation", String(64), nullable=False),
    Column("id_broker_pa", String(64)),
    Column("id_station", String(64)),
    Column("receipt_id", String(64)),
    Column("notice_number", String(64)),
    Column("iuv", String(64)),
    Column("source", String(10), nullable=False),
    Column("peer", String(64)),
    Column("request_id", String(128)),
    Column("fault_code", String(40), nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String(10), nullable=False),  # open, accepted, discarded
    Column("settled_at", UtcDateTime),  # since when it is accepted or discarded
    Column("received_at", UtcDateTime, nullable=False),
    Column("times", Integer, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("charset", String(40)),
    Column("raw", LargeBinary, nullable=False),
    PrimaryKeyConstraint("id_pa", "raw_hash"),
    Index("ix_refused_received_at", "received_at", "id_pa", "raw_hash"),
    Index("ix_refused_state", "state", "received_at"),
    Index("ix_refused_refused_id", "refused_id"),
)

# What happened to a refused request, in order: its first refusal, replays, other reasons, the operator's discard.
refused_history = Table(
    "refused_history",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("raw_hash", LargeBinary(32), nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("result", String(10), nullable=False),  # refused, stored, duplicate, discarded
    Column("source", String(10)),  # by which door the document came that time
    Column("operator", String(64)),
    Column("fault_code", String(40)),
    Column("reason", Text),
    PrimaryKeyConstraint("id_pa", "raw_hash", "number"),
    ForeignKeyConstraint(["id_pa", "raw_hash"], ["refused.id_pa", "refused.raw_hash"], ondelete="CASCADE"),
)

# How far each part of the retention has come: what stands before this place was purged.
purge_progress = Table(
    "purge_progress",
    metadata,
    Column("part", String(10), nullable=False),  # raw, personal
    Column("received_at", UtcDateTime, nullable=False),
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    PrimaryKeyConstraint("part"),
)

# The event journal (giornale degli eventi): one row for each exchange. No personal data: see `station.journal`, which
# keeps an identifier only where it looks like one. `id_pa` is empty where there was none.
journal = Table(
    "journal",
    metadata,
    Column("id_pa", String(11), nullable=False),
    Column("at", UtcDateTime, nullable=False),  # of a receipt that was pushed and stored its `received_at`
    Column("event_id", BigInteger, nullable=False),  # random: tells apart what happened in the same microsecond
    Column("direction", String(8), nullable=False),  # in, out, internal
    Column("source", String(10), nullable=False),
    Column("operation", String(64), nullable=False),
    Column("id_broker_pa", String(35)),
    Column("id_station", String(35)),
    Column("notice_number", String(18)),
    Column("iuv", String(35)),
    Column("receipt_id", String(71)),
    Column("id_psp", String(35)),
    Column("id_channel", String(35)),
    Column("payment_method", String(35)),
    Column("outcome", String(10), nullable=False),  # stored, duplicate, refused, declined, failed
    Column("fault_code", String(40)),  # wherever the outcome is not stored or duplicate
    Column("http_status", SmallInteger),
    Column("duration_ms", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("document_hash", LargeBinary(32)),
    Column("request_id", String(128)),
    Column("peer_subject", String(256)),
    PrimaryKeyConstraint("id_pa", "at", "event_id"),  # an EC's events in order, appended
    Index("ix_journal_at", "at", "id_pa", "event_id"),  # all events in order, appended; for the retention too
    # A push that is stored pays for these two only; an index with random keys would cost it as much as both. It is
    # found by its receipt, which stays in `receipt`: `id_pa` and `received_at` are the key here. The others are few.
    Index("ix_journal_receipt_id", "receipt_id", info={"where": _NOT_STORED_PUSH}),
    Index("ix_journal_fault_code", "fault_code", "at", info={"where": _AT_FAULT}),
    Index("ix_journal_iuv", "iuv", info={"where": _AT_FAULT}),
    Index("ix_journal_notice_number", "notice_number", info={"where": _AT_FAULT}),
    Index("ix_journal_outcome", "outcome", "at", info={"where": _NOT_STORED}),
    Index("ix_journal_source", "source", "at", info={"where": _NOT_PUSHED}),
    sqlite_with_rowid=False,  # the rows themselves lie in the key's order: one page less to write for each
)

# --- reconciliation ---------------------------------------------------------------------------------------------------

# How far each EC was walked. `watermark`: the start of the last run that walked its whole window; `walked_at`: the end
# of it; `swept_at`: the end of the last walk that also covered the wide sweep; `window_hours`: how much one call may
# cover where the API was too slow for more.
reconcile_ec = Table(
    "reconcile_ec",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("watermark", UtcDateTime, nullable=False),
    Column("walked_at", UtcDateTime, nullable=False),
    Column("swept_at", UtcDateTime),
    Column("window_hours", Integer),
    PrimaryKeyConstraint("id_pa"),
)

# The ledger: one row for each run and EC.
reconcile_run = Table(
    "reconcile_run",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("run_id", String(36), nullable=False),
    Column("kind", String(10), nullable=False),  # window, sweep (window and sweep), range, iuv
    Column("outcome", String(10), nullable=False),  # running, done, failed, stopped, aborted
    Column("window_from", Date),
    Column("window_to", Date),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("listed", Integer, nullable=False),
    Column("here", Integer, nullable=False),
    Column("fetched", Integer, nullable=False),
    Column("not_yet", Integer, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("id_pa", "run_id"),
    Index("ix_reconcile_run_started_at", "started_at"),
    Index("ix_reconcile_run_id_pa", "id_pa", "started_at"),
)

# Receipts that are known to exist and are not here: they wait for another try, or were given up.
reconcile_item = Table(
    "reconcile_item",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("iuv", String(35), nullable=False),
    Column("state", String(10), nullable=False),  # open, refused, given_up
    Column("reason", String(40), nullable=False),  # a slug: not_yet, refused, api_unavailable, ...
    Column("notice_number", String(35)),  # where GPD-Core's positions named the payment
    Column("amount", Euro),
    Column("attempts", Integer, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("request_id", String(36)),
    PrimaryKeyConstraint("id_pa", "iuv"),
    Index("ix_reconcile_item_next_attempt_at", "id_pa", "state", "next_attempt_at"),
)

# --- delivery ---------------------------------------------------------------------------------------------------------

# Revisions of receipts that have no number yet: each is written in the transaction that stores or changes the receipt.
# The key begins with the time, since pushes then append to it, and the oldest are found without reading the others.
outbox = Table(
    "outbox",
    metadata,
    Column("at", UtcDateTime, nullable=False),  # when the document arrived that made this revision
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("revision", SmallInteger, nullable=False),
    PrimaryKeyConstraint("at", "id_pa", "receipt_id", "revision"),
    sqlite_with_rowid=False,
)

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # the name of SQLite's own key of rows

# The order in which revisions of receipts are delivered: numbers without gaps, given by one planner to what it saw
# committed. It keeps a row for each receipt as long as there is the receipt: a reader may begin at 0.
outgoing = Table(
    "outgoing",
    metadata,
    Column("number", _NUMBER, nullable=False, autoincrement=False),
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("revision", SmallInteger, nullable=False),
    Column("numbered_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("number"),
    UniqueConstraint("id_pa", "receipt_id", "revision"),
    Index("ix_outgoing_id_pa", "id_pa", "number"),
)

# How far receipts were looked through for one without a number: those of before this table, and those that an older
# version of the station stores at an upgrade.
outgoing_check = Table(
    "outgoing_check",
    metadata,
    Column("part", String(10), nullable=False),  # receipts
    Column("received_at", UtcDateTime, nullable=False),
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    PrimaryKeyConstraint("part"),
)

# A [[destination]] that was served at least once, under its name.
destination = Table(
    "destination",
    metadata,
    Column("name", String(64), nullable=False),
    Column("kind", String(10), nullable=False),  # webhook, folder, feed
    # The last number that was looked at: what it chooses of those up to here is in `delivery` or in a file. Of a feed:
    # the highest `after` that its reader asked for.
    Column("position", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),  # active, paused
    Column("reason", Text),  # why it is paused
    Column("failures", Integer, nullable=False),  # in a row; 0 after a success
    Column("next_attempt_at", UtcDateTime),  # nothing is sent before: it is away, or asked to be left alone
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_attempt_at", UtcDateTime),
    Column("last_success_at", UtcDateTime),
    Column("last_error", Text),
    PrimaryKeyConstraint("name"),
)

# What a webhook was sent, or is to be sent.
delivery = Table(
    "delivery",
    metadata,
    Column("destination", String(64), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),  # open, delivered, failed (given up), skipped
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("first_at", UtcDateTime),  # of the first and the last attempt
    Column("last_at", UtcDateTime),
    Column("status", SmallInteger),  # the HTTP status of the last answer
    Column("error", Text),
    Column("settled_at", UtcDateTime),  # since when it is not open
    PrimaryKeyConstraint("destination", "number"),
    Index("ix_delivery_open", "destination", "number", info={"where": IS_OPEN}),
    Index("ix_delivery_next_attempt_at", "next_attempt_at", info={"where": IS_OPEN}),
    Index("ix_delivery_failed", "destination", "number", info={"where": HAS_FAILED}),
    Index("ix_delivery_settled_at", "settled_at", info={"where": IS_SETTLED}),
)

# Attempts by result, counted since the destination exists: `delivery` keeps its rows for a time only.
delivery_count = Table(
    "delivery_count",
    metadata,
    Column("destination", String(64), nullable=False),
    Column("result", String(20), nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("destination", "result"),
)

# The files of a folder, each planned before it is written: after a crash it is written again with the same content.
delivery_file = Table(
    "delivery_file",
    metadata,
    Column("destination", String(64), nullable=False),
    Column("planned_at", UtcDateTime, nullable=False),
    Column("name", Text, nullable=False),
    Column("number_from", BigInteger, nullable=False),
    Column("number_to", BigInteger, nullable=False),  # one less than `number_from` where there was nothing
    Column("state", String(10), nullable=False),  # planned, written (its command is to run), done, failed (given up)
    Column("receipts", Integer),
    Column("transfers", Integer),
    Column("amount", Euro),
    Column("size", BigInteger),
    Column("sha256", String(64)),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime),
    Column("error", Text),
    Column("settled_at", UtcDateTime),
    PrimaryKeyConstraint("destination", "planned_at"),
    Index("ix_delivery_file_open", "destination", "planned_at", info={"where": NOT_SETTLED}),
)

# --- flows (FdR) ------------------------------------------------------------------------------------------------------

# How far each EC's flows were listed. `watermark`: the start of the last run that read the whole list; a gap is a time
# that no list can cover any more, an error until it is acknowledged. `biz_paused_until`: BizEvents limits the EC's key.
fdr_ec = Table(
    "fdr_ec",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("watermark", UtcDateTime),
    Column("walked_at", UtcDateTime),
    Column("gap_from", UtcDateTime),
    Column("gap_to", UtcDateTime),
    Column("gap_acknowledged_at", UtcDateTime),
    Column("gap_acknowledged_by", String(64)),
    Column("biz_paused_until", UtcDateTime),
    Column("awaited_from", UtcDateTime),  # receipts that arrived between these are looked for in flows
    Column("awaited_to", UtcDateTime),
    PrimaryKeyConstraint("id_pa"),
)

# The ledger: one row for each run of `station fdr` and EC.
fdr_run = Table(
    "fdr_run",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("run_id", String(36), nullable=False),
    Column("kind", String(10), nullable=False),  # walk
    Column("outcome", String(10), nullable=False),  # running, done, failed, stopped, aborted
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("listed", Integer, nullable=False),
    Column("new", Integer, nullable=False),
    Column("revised", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("payments", Integer, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("id_pa", "run_id"),
    Index("ix_fdr_run_started_at", "started_at"),
    Index("ix_fdr_run_id_pa", "id_pa", "started_at"),
)

# A revision of a flow, as FdR tells it. Written when it is listed (`fetched_at` is null until its payments are here,
# `error` says why they are not), completed together with its payments. All columns of FdR but the key may be missing.
fdr_flow = Table(
    "fdr_flow",
    metadata,
    Column("id_pa", String(35), nullable=False),  # the EC that lists it
    Column("fdr", String(35), nullable=False),
    Column("psp_id", String(35), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("status", String(10)),
    Column("published", UtcDateTime),
    Column("created", UtcDateTime),
    Column("flow_date", UtcDateTime),
    Column("regulation", Text),  # the TRN of the bank transfer
    Column("regulation_date", Date),
    Column("bic", String(35)),
    Column("sender_id", String(35)),
    Column("psp_name", Text),
    Column("receiver_id", String(35)),
    Column("receiver_organization_id", String(35)),
    Column("receiver_name", Text),
    Column("tot_payments", Integer),  # as the PSP declares
    Column("sum_payments", Euro),
    Column("computed_tot_payments", Integer),  # as FdR counts
    Column("computed_sum_payments", Euro),
    Column("credited", Euro),  # the sum of its payments as they are here; null until they were matched once
    Column("listed_at", UtcDateTime, nullable=False),
    Column("fetched_at", UtcDateTime),
    Column("superseded", Boolean, nullable=False, server_default=false()),  # a later revision is here
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("error", Text),
    PrimaryKeyConstraint("id_pa", "fdr", "psp_id", "revision"),
    Index("ix_fdr_flow_fdr", "fdr", "id_pa"),
    Index("ix_fdr_flow_published", "published", "id_pa", "fdr"),
    Index("ix_fdr_flow_id_pa_published", "id_pa", "published"),
    Index("ix_fdr_flow_not_matched", "id_pa", info={"where": _NOT_ADDED_UP}),
    Index("ix_fdr_flow_not_fetched", "id_pa", "next_attempt_at", info={"where": _NOT_FETCHED}),
)

# The payments of a revision of a flow, and the receipt that each was matched with.
fdr_payment = Table(
    "fdr_payment",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("fdr", String(35), nullable=False),
    Column("psp_id", String(35), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("position", Integer, nullable=False),  # FdR's `index`
    Column("iuv", String(35), nullable=False),
    Column("iur", String(35), nullable=False),
    Column("id_transfer", SmallInteger, nullable=False),
    Column("amount", Euro, nullable=False),
    Column("pay_status", SmallInteger, nullable=False),  # 0 executed, 3 revoked, 4 stand-in, 8 and 9 without RPT
    Column("pay_date", UtcDateTime),
    Column("superseded", Boolean, nullable=False, server_default=false()),  # its flow's
    Column("matched_by", String(10)),  # by what the receipt was found: iur, iuv; null: no receipt
    Column("receipt_id_pa", String(35)),  # of the receipt: the flow's EC, or the receiver that it names
    Column("receipt_id", Text),
    Column("matched_at", UtcDateTime),
    PrimaryKeyConstraint("id_pa", "fdr", "psp_id", "revision", "position"),
    ForeignKeyConstraint(
        ["id_pa", "fdr", "psp_id", "revision"],
        ["fdr_flow.id_pa", "fdr_flow.fdr", "fdr_flow.psp_id", "fdr_flow.revision"],
        ondelete="CASCADE",
    ),
    Index("ix_fdr_payment_not_matched", "id_pa", "iuv", "iur", info={"where": _NOT_MATCHED}),
    Index("ix_fdr_payment_by_iuv", "id_pa", info={"where": _BY_IUV}),
    Index("ix_fdr_payment_receipt_id", "receipt_id", "receipt_id_pa", info={"where": _MATCHED}),
)

# Transfers to an EC that its receipts tell of and that no flow has yet: what stays too long was not credited.
fdr_awaited = Table(
    "fdr_awaited",
    metadata,
    Column("id_pa", String(35), nullable=False),
    Column("receipt_id", Text, nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("id_transfer", SmallInteger, nullable=False),
    Column("amount", Euro, nullable=False),
    Column("paid_at", UtcDateTime, nullable=False),  # the receipt's arrival where it has no payment time
    PrimaryKeyConstraint("id_pa", "receipt_id", "position"),
    ForeignKeyConstraint(["id_pa", "receipt_id"], ["receipt.id_pa", "receipt.receipt_id"], ondelete="CASCADE"),
    Index("ix_fdr_awaited_paid_at", "id_pa", "paid_at"),
)

# A session of the console: only the hash of its token is here, so that who reads the database is not signed in by it.
console_session = Table(
    "console_session",
    metadata,
    Column("token_hash", String(64), nullable=False),
    Column("username", Text),  # null until the user has signed in
    Column("data", Text, nullable=False),  # JSON
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("token_hash"),
    Index("ix_console_session_expires_at", "expires_at"),
    Index("ix_console_session_username", "username"),
)

# The console's own users, where no identity provider names them.
console_user = Table(
    "console_user",
    metadata,
    Column("name", String(64), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("last_login_at", UtcDateTime),
    Column("failures", Integer, nullable=False),  # wrong passwords since the last right one
    Column("locked_until", UtcDateTime),
    Column("disabled", Boolean, nullable=False),
    PrimaryKeyConstraint("name"),
)

# Who looked up whom in the console.
console_access = Table(
    "console_access",
    metadata,
    Column("at", UtcDateTime, nullable=False),
    Column("access_id", BigInteger, nullable=False),  # random, as in the journal
    Column("username", Text, nullable=False),
    Column("address", Text),
    Column("action", String(20), nullable=False),  # search, list, receipt, pdf, xml, csv, accesses
    Column("id_pa", String(35)),  # null: a search that found nothing
    Column("receipt_id", Text),
    Column("subject", Text),  # the fiscal code that was looked for, or whose receipt was shown
    Column("found", Integer),
    PrimaryKeyConstraint("at", "access_id"),
    Index("ix_console_access_id_pa", "id_pa", "at", "access_id"),
)
