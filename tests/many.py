"""Fifty thousand receipts in a moment, for tests that need a table with some depth. No documents: rows only.

The receipts arrive one a minute and are dealt out by fixed rules, so that a test can say how many of each there are.
"""

import functools
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

COUNT = 50_000
START = datetime(2025, 7, 1, tzinfo=UTC)
BROKER = "15376371009"
BIG_EC, OTHER_EC, SMALL_EC = "77777777777", "88888888888", "99999999999"


def key(i: int) -> dict[str, str]:
    """Its EC and receiptId. The small EC has a receipt each 10,000, the other one a third."""
    id_pa = SMALL_EC if i % 10_000 == 7 else OTHER_EC if i % 3 == 0 else BIG_EC
    return {"id_pa": id_pa, "receipt_id": hashlib.md5(f"{i:017}".encode(), usedforsecurity=False).hexdigest()}


def arrival(i: int) -> datetime:
    """When it arrived: one a minute."""
    return START + timedelta(minutes=i)


def receipt(i: int) -> dict[str, Any]:
    """The `i`th receipt, as columns."""
    received_at = arrival(i)
    iuv = f"{i:017}"
    amount = Decimal(100 + i * 7919 % 49_900) / 100
    if i % 1000 == 0:
        amount = Decimal(9_999 + i)
    elif i % 2 == 0 and i < 12_000:  # a tax that is no more
        amount = Decimal("770.00")
    debtor = "ANONIMO" if i % 5 == 0 else f"DEBTOR{i // 4:010}"
    return {
        **key(i),
        "id_broker_pa": BROKER,
        # station 09 was left early, 02 takes a tenth
        "id_station": f"{BROKER}_09" if i < 500 else f"{BROKER}_02" if i % 10 == 0 else f"{BROKER}_01",
        "notice_number": f"3{iuv}",
        "fiscal_code": BIG_EC,
        "notice_ordinal": 0,
        "iuv": iuv,
        "outcome": "OK",
        "amount": Decimal("16.00") if i % 4 == 1 else amount,
        "fee": Decimal("1.50"),
        "description": f"=SUM(A1) {i}" if i % 1000 == 1 else f"TARI {i}",
        "company_name": "Comune di Vattelapesca",
        "debtor_type": "F",
        "debtor_id": debtor,
        "debtor_name": "Pinco Pallino",
        "payer_type": "F" if i % 2 else None,
        "payer_id": (debtor if i % 3 else f"PAYER{i // 30:011}") if i % 2 else None,
        "payer_name": "Tizia Sempronia" if i % 2 else None,
        "id_psp": "RARE" if i % 12_500 == 3 else f"ABI{i % 40:05}",
        "psp_company_name": "Banca Immaginaria",
        "id_channel": "99999999990_01",
        "channel_description": "app",
        # some arrive days after the payment
        "payment_date_time": received_at - (timedelta(days=3) if i % 100 == 50 else timedelta(seconds=2 + i % 60)),
        "metadata": [["TARI-TEFA-2", "TEFA"]] if i % 2 else None,
        "stand_in": False,
        "digital_stamp": any(row["digital_stamp"] for row in transfers(i)),
        "version": 2,
        "source": "reconcile" if i % 100 == 50 else "push",
        "received_at": received_at,
        "resends": 0,
        "content_hash": hashlib.sha256(iuv.encode()).digest(),
        "raw": b"<none/>",
    }


def transfers(i: int) -> Iterator[dict[str, Any]]:
    """Its transfers: one, or two for each third receipt; a stamp for each 5,000th."""
    for position in range(1, 3 if i % 3 == 0 else 2):
        stamp = i % 5_000 == 4
        yield {
            "position": position,
            "id_transfer": position,
            "amount": Decimal("8.00"),
            "fiscal_code_pa": BIG_EC,
            "iban": None if stamp else "IT88X0000000000000000000001",
            "digital_stamp": stamp,
            "remittance_information": f"/RFB/{i:017}",
            "transfer_category": "9/0201102TS/",
        }


def flags(i: int) -> Iterator[dict[str, Any]]:
    """Its flags: a common one, one that only the oldest receipts have, and a rare one."""
    if i % 2 == 0:
        yield {"flag": "secondary_beneficiary", "received_at": arrival(i)}
    if i < 30_000:
        yield {"flag": "unknown_station", "received_at": arrival(i)}
    if i % 10_000 == 11:
        yield {"flag": "stand_in", "received_at": arrival(i)}


def routes(i: int) -> Iterator[dict[str, Any]]:
    """The other ways it came by: each 50th receipt came again by station 03."""
    if i % 50 == 0:
        yield {
            "id_broker_pa": BROKER,
            "id_station": f"{BROKER}_03",
            "first_at": arrival(i + 1),
            "received_at": arrival(i),
        }


@functools.cache
def receipts() -> list[dict[str, Any]]:
    """All of them, with what filters ask for in other tables: `flags` and `stations`."""
    found = []
    for i in range(COUNT):
        one = receipt(i)
        one["flags"] = {row["flag"] for row in flags(i)}
        one["stations"] = {one["id_station"], *(row["id_station"] for row in routes(i))}
        found.append(one)
    return found


def rows() -> Iterator[tuple[str, list[str], Iterator[dict[str, Any]]]]:
    """Each table, its columns and its rows, parents first."""
    keys = [{"id_pa": one["id_pa"], "receipt_id": one["receipt_id"]} for one in receipts()]
    yield "receipt", list(receipt(0)), iter(receipts())
    for table, of_one in (("transfer", transfers), ("receipt_flag", flags), ("receipt_route", routes)):
        yield table, [*keys[0], *next(of_one(0))], (keys[i] | row for i in range(COUNT) for row in of_one(i))


def fill(url: str) -> None:
    """Puts them into a migrated, empty database, past the station's own code.

    To build each index at once is faster than to keep them all up to date.
    """
    from station import store

    parsed = store.parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _fill_sqlite(parsed.database or "")
    else:
        _fill_postgres(parsed.set(drivername="postgresql").render_as_string(hide_password=False))


def _fill_sqlite(file: str) -> None:
    plain: dict[type, Callable[[Any], Any]] = {
        datetime: lambda value: value.replace(tzinfo=None).isoformat(" ", "microseconds"),
        Decimal: lambda value: int(value * 100),
        list: json.dumps,
    }
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA synchronous=OFF")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql > ''").fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    for table, names, all_rows in rows():
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        values = ([row[name] for name in names] for row in all_rows)
        connection.executemany(
            insert, ([plain[type(v)](v) if type(v) in plain else v for v in some] for some in values)
        )
    for _, create in indexes:
        connection.execute(create)
    connection.commit()
    connection.close()


def _fill_postgres(dsn: str) -> None:
    import psycopg
    from psycopg.types.json import Json

    with psycopg.connect(dsn) as connection:
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(%s)"
            " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = indexname)",
            [["receipt", "transfer", "receipt_flag", "receipt_route"]],
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for table, names, all_rows in rows():
            with connection.cursor().copy(f"COPY {table} ({', '.join(names)}) FROM STDIN") as copy:
                for row in all_rows:
                    copy.write_row([Json(row[name]) if type(row[name]) is list else row[name] for name in names])
        for _, create in indexes:
            connection.execute(create)
    with psycopg.connect(dsn, autocommit=True) as connection:
        # As autovacuum does it some time later: the planner goes by what may be read from an index alone.
        connection.execute("VACUUM (ANALYZE)")
