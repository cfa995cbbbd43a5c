"""What the station cannot be faster than, measured in the same run: the database alone, and reading a receipt alone.

The floors know nothing of the station but its tables and one receipt's row.
"""

import random
import secrets
import sqlite3
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from lxml import etree

from bench import documents, service
from station import contract
from station.receipt import Source
from station.store.rows import receipt_row

PGBENCH_CLIENTS = 8


def row() -> dict[str, Any]:
    """The row of one typical receipt."""
    template = documents.templates(documents.TYPICAL, 1)[0]
    body = documents.fill(documents.parts(template), documents.identifiers(random.Random(1)))
    receipt = contract.read(contract.request_element(contract.parse(body).root))
    return receipt_row(receipt) | {
        "metadata": '[["TARI-TEFA-2", "TEFA"], ["NOTIFICATION_FEE", "200"]]', "notice_ordinal": 0,
        "source": Source.PUSH.value, "received_at": datetime.now(UTC), "charset": "utf-8", "raw": body, "resends": 0,
    }  # fmt: skip


# What differs from row to row, as PostgreSQL makes it up at no cost: as random as the Nodo's.
_RANDOM = {
    "receipt_id": "replace(gen_random_uuid()::text, '-', '')",
    "notice_number": "lpad((random() * 1e15)::bigint::text, 18, '3')",
    "iuv": "lpad((random() * 1e15)::bigint::text, 17, '0')",
    "debtor_id": "lpad((random() * 1e9)::bigint::text, 16, '0')",
    "received_at": "clock_timestamp()",
    "id_pa": f"(70000000000 + (random() ^ 3 * {documents.ECS - 1})::bigint)::text",
}


def pgbench(folder: Path, url: str, seconds: float, *, bare: bool = False) -> float:
    """Rows a second that PostgreSQL commits durably, one in each transaction, driven by pgbench.

    The row of a receipt in the table `receipt` with all its indexes, or `bare`: the document and a random key only.
    """
    values = row()
    if bare:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, raw bytea NOT NULL)")
        statement = f"INSERT INTO bare VALUES (gen_random_uuid(), {_literal(values['raw'])});\n"
    else:
        made = [_RANDOM.get(name) or _literal(value) for name, value in values.items()]
        statement = f"INSERT INTO receipt ({', '.join(values)}) VALUES ({', '.join(made)});\n"
    script = folder / "floor.sql"
    script.write_text(statement)
    printed = service.run(
        [*service.pgbench_command(), "--no-vacuum", "--protocol", "prepared", "--client", str(PGBENCH_CLIENTS),
         "--time", f"{max(1, round(seconds))}", "--file", str(script), url]
    )  # fmt: skip
    return next(float(line.split()[2]) for line in printed.splitlines() if line.startswith("tps"))


def _literal(value: Any) -> str:
    """A value as SQL without a colon, which pgbench would take for a variable of its own."""
    match value:
        case None:
            return "NULL"
        case bool() | int() | Decimal():
            return str(value)
        case bytes():
            return f"'\\x{value.hex()}'"
        case datetime():
            return f"to_timestamp({value.timestamp()})"
        case date():
            return f"'{value.isoformat()}'"
    if ":" in value:
        return f"convert_from('\\x{value.encode().hex()}', 'UTF8')"
    return "'" + value.replace("'", "''") + "'"


def sqlite(file: Path, seconds: float) -> float:
    """Rows a second that SQLite commits durably, one in each transaction: the same row, a migrated `file`."""
    values = {name: _for_sqlite(value) for name, value in row().items()}
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    statement = f"INSERT INTO receipt ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)})"
    count = 0
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        number = secrets.randbelow(10**15)
        values |= {"receipt_id": secrets.token_hex(16), "notice_number": f"301{number:015d}", "iuv": f"01{number:015d}"}
        connection.execute(statement, values)
        count += 1
    rate = count / (time.perf_counter() - begun)
    connection.close()
    return rate


def _for_sqlite(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value * 100)
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S.%f")
        case date():
            return value.isoformat()
    return value


def reading(seconds: float) -> float:
    """Requests a second that lxml parses and validates against the published schema, on one core."""
    schema = etree.XMLSchema(etree.parse(documents.ROOT / "wsdl" / "paForNode.xsd"))
    template = documents.templates(documents.TYPICAL, 1)[0]
    body = documents.fill(documents.parts(template), documents.identifiers(random.Random(1)))
    count = 0
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        root = etree.fromstring(body)
        if not schema.validate(contract.request_element(root)):
            raise SystemExit("WRONG: the typical receipt is not valid")
        count += 1
    return count / (time.perf_counter() - begun)
