"""A receipt as rows of tables, and as parameters of the statements in `sql/`."""

import json
from importlib.resources import files
from typing import Any

from station.journal import Exchange
from station.receipt import Receipt, Subject


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """Return the columns of `receipt` that follow from its documents."""
    row = receipt._asdict()
    debtor, payer, transfers = row.pop("debtor"), row.pop("payer"), row.pop("transfers")
    del row["flags"]
    for name, subject in (("debtor", debtor), ("payer", payer)):
        for field in Subject._fields:
            row[f"{name}_{field}"] = getattr(subject, field, None)
    row["metadata"] = receipt.metadata or None
    row["digital_stamp"] = any(transfer.digital_stamp for transfer in transfers)
    return row


def transfer_rows(receipt: Receipt) -> list[dict[str, Any]]:
    """Return the rows of `transfer`, in the order of the document."""
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    return [
        key | transfer._asdict() | {"position": position, "metadata": transfer.metadata or None}
        for position, transfer in enumerate(receipt.transfers, start=1)
    ]


_JOURNAL = [f"journal.{name}" for name in Exchange._fields]
_NO_EXCHANGE = dict.fromkeys(_JOURNAL)


def exchange_parameters(exchange: Exchange | None) -> dict[str, Any]:
    """Return the parameters of the journal's row in PostgreSQL's statements: `event_id` is NULL without a journal."""
    return _NO_EXCHANGE if exchange is None else dict(zip(_JOURNAL, exchange, strict=True))


as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def read_sql(name: str) -> str:
    """Return the statement in `sql/NAME.sql`, without its comments: the driver would look for parameters in them.

    Call it as a module is loaded: there may be no file descriptor left when a request comes.
    """
    text = files("station.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    return "\n".join(line.partition("--")[0].rstrip() for line in text.splitlines() if not line.startswith("--"))
