"""Fills a PostgreSQL database with millions of receipts, their transfers, flags, routes and journal, in minutes.

PostgreSQL makes the rows up itself. Indexes and constraints are taken away before and built again after. Receipts
arrive evenly over three years up to now; a few ECs have most of them, as big cities do; payers, amounts and flags are
dealt out about as pagoPA's are. The document is a stand-in of `RAW` bytes: nothing that is measured reads it.
"""

import argparse
import time

import psycopg
from process import migrate

from bench.documents import BROKER, STATION

RAW = 512
ECS = 5000
_CHUNK = 500_000
_YEARS = 3

# Of the i-th receipt. `dice` are sixteen bytes as random as can be, and the same for the same i.
_RECEIPTS = f"""
WITH made AS (
  SELECT i, uuid_send(md5(i::text || 'd')::uuid) AS dice, md5(i::text || 'r') AS receipt_id,
         '01' || lpad((('x' || left(md5(i::text), 12))::bit(48)::bigint %% 1000000000000000)::text, 15, '0') AS iuv,
         now() - make_interval(secs => ({_YEARS} * 365 * 86400.0 / %(count)s) * (%(count)s - i)) AS received_at
  FROM generate_series(%(first)s::int, %(last)s::int) AS i
), dealt AS (
  SELECT *, get_byte(dice, 0) AS a, get_byte(dice, 1) AS b, get_byte(dice, 2) AS c, get_byte(dice, 3) AS d,
         (70000000000 + floor({ECS} * power((get_byte(dice, 4) * 256 + get_byte(dice, 5)) / 65536.0, 4))::bigint)::text
           AS id_pa,
         lpad((('x' || substr(md5(i::text), 13, 6))::bit(24)::int * 3 %% 20000000)::text, 16, 'P') AS debtor
  FROM made
)
INSERT INTO receipt (id_pa, receipt_id, id_broker_pa, id_station, notice_number, fiscal_code, notice_ordinal, iuv,
  outcome, amount, fee, description, company_name, office_name, debtor_type, debtor_id, debtor_name, payer_type,
  payer_id, payer_name, id_psp, psp_fiscal_code, psp_company_name, id_channel, channel_description, payment_method,
  payment_date_time, application_date, transfer_date, metadata, stand_in, digital_stamp, version, source, received_at,
  resends, content_hash, charset, raw)
SELECT id_pa, receipt_id, '{BROKER}',
  CASE WHEN a < 3 THEN '{BROKER}_02' ELSE '{STATION}' END, '3' || iuv,
  CASE WHEN b < 13 THEN '69999999999' ELSE id_pa END, 0, iuv, 'OK',
  CASE WHEN c < 40 THEN 16.00 ELSE (600 + (c * 256 + d) * 7919 %% 89400) / 100.0 END, 1.50,
  'TARI 2026, utenza di via dell''Esempio', 'Comune di Vattelapesca', 'Ufficio Tributi', 'F', debtor, 'Pinco Pallino',
  CASE WHEN a %% 2 = 0 THEN 'F' END,
  CASE WHEN a %% 2 = 0 THEN CASE WHEN a < 26 THEN reverse(debtor) ELSE debtor END END,
  CASE WHEN a %% 2 = 0 THEN 'Tizia Sempronia' END, 'ABI' || (10000 + least(b %% 64, d %% 64)), '99999999990',
  'Banca Immaginaria S.p.A.', '99999999990_01', 'app', 'creditCard', received_at - make_interval(secs => a * 60),
  (received_at - make_interval(secs => a * 60))::date, received_at::date + 1,
  '[["TARI-TEFA-2", "TEFA"]]', b = 7 AND c < 128,
  c < 40 AND get_byte(sha256(receipt_id::bytea), 1) <= 2, 2, CASE WHEN b = 9 THEN 'reconcile' ELSE 'push' END,
  received_at, 0, sha256(receipt_id::bytea), 'utf-8', convert_to(repeat('<documento/>', {RAW} / 12), 'UTF8')
FROM dealt
"""
_TRANSFERS = """
INSERT INTO transfer (id_pa, receipt_id, position, id_transfer, amount, fiscal_code_pa, company_name, iban,
  digital_stamp, remittance_information, transfer_category)
SELECT id_pa, receipt_id, position, position, amount, id_pa, 'Comune di Vattelapesca',
  CASE WHEN position > 1 OR amount <> 16 OR get_byte(content_hash, 1) > 2 THEN 'IT88X0000000000000000000001' END,
  position = 1 AND amount = 16 AND get_byte(content_hash, 1) <= 2, '/RFB/' || iuv || '/TXT/TARI', '9/0201101IM/'
FROM receipt, generate_series(1, CASE WHEN get_byte(content_hash, 0) < 180 THEN 1 WHEN get_byte(content_hash, 0) < 243
  THEN 2 ELSE 3 END) AS position
"""
_FLAGS = """
INSERT INTO receipt_flag (id_pa, receipt_id, flag, received_at)
SELECT id_pa, receipt_id, 'secondary_beneficiary', received_at FROM receipt WHERE fiscal_code <> id_pa
UNION ALL SELECT id_pa, receipt_id, 'stand_in', received_at FROM receipt WHERE stand_in
UNION ALL SELECT id_pa, receipt_id, 'transfer_sum_differs', received_at FROM receipt
  WHERE get_byte(content_hash, 2) = 1 AND get_byte(content_hash, 3) < 16
"""
_ROUTES = f"""
INSERT INTO receipt_route (id_pa, receipt_id, id_broker_pa, id_station, first_at, received_at)
SELECT id_pa, receipt_id, '{BROKER}', '{BROKER}_03', received_at, received_at FROM receipt
WHERE get_byte(content_hash, 2) = 2
"""
_JOURNAL = """
INSERT INTO journal (id_pa, at, event_id, direction, source, operation, id_broker_pa, id_station, notice_number, iuv,
  receipt_id, id_psp, id_channel, payment_method, outcome, http_status, duration_ms, size, document_hash, request_id)
SELECT id_pa, received_at, ('x' || left(receipt_id, 15))::bit(60)::bigint,
  CASE source WHEN 'push' THEN 'in' ELSE 'out' END, source, 'paSendRTV2', id_broker_pa, id_station,
  notice_number, iuv, receipt_id, id_psp, id_channel, payment_method,
  'stored', 200, 7, 3200, content_hash, receipt_id
FROM receipt
"""
# As `number_unnumbered` would give them, which takes a hundred times as long.
_OUTGOING = """
INSERT INTO outgoing (number, id_pa, receipt_id, revision, numbered_at)
SELECT row_number() OVER (ORDER BY received_at, id_pa, receipt_id), id_pa, receipt_id, 1, received_at FROM receipt
"""
_CHECKED = """
INSERT INTO outgoing_check (part, received_at, id_pa, receipt_id)
SELECT 'receipts', received_at, id_pa, receipt_id FROM receipt ORDER BY received_at DESC, id_pa DESC LIMIT 1
"""
TABLES = ("receipt", "transfer", "receipt_flag", "receipt_route", "receipt_document", "journal", "outgoing")


def grow(url: str, count: int, *, only_receipts: bool = False) -> None:
    """Fills an empty, migrated database with so many receipts; `only_receipts`: and their transfers, no more."""
    with psycopg.connect(url, autocommit=True) as connection:

        def run(statement: str, told: str) -> None:
            begun = time.monotonic()
            connection.execute(statement)
            print(f"  {told}: {time.monotonic() - begun:.0f} s", flush=True)

        for setting in ("synchronous_commit = off", "maintenance_work_mem = '1GB'", "work_mem = '256MB'"):
            connection.execute(f"SET {setting}")
        later = _take_away(connection)
        for first in range(1, count + 1, _CHUNK):
            last = min(first + _CHUNK - 1, count)
            connection.execute(_RECEIPTS, {"first": first, "last": last, "count": count})
            print(f"  {last:,} receipts", flush=True)
        more = ((_FLAGS, "flags"), (_ROUTES, "routes"), (_JOURNAL, "journal"))
        for statement, told in ((_TRANSFERS, "transfers"), *(() if only_receipts else more)):
            run(statement, told)
        run(_OUTGOING, "numbers")
        for statement in later:
            run(statement, statement[:80])
        for table in TABLES:
            run(f"VACUUM (ANALYZE) {table}", f"vacuum {table}")
        run(_CHECKED, "all are numbered")
        run("CHECKPOINT", "checkpoint")


def _take_away(connection: psycopg.Connection) -> list[str]:
    """Drops indexes and constraints; returns the statements that build them again, in order."""
    names = list(TABLES)
    constraints = connection.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), contype FROM pg_constraint "
        "WHERE contype IN ('f', 'u', 'p') AND (conrelid::regclass::text = ANY(%s) "
        "OR confrelid::regclass::text = ANY(%s)) ORDER BY contype = 'f' DESC", (names, names),
    ).fetchall()  # fmt: skip
    for table, name, _definition, _kind in constraints:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s)", (names,)
    ).fetchall()
    for name, _definition in indexes:
        connection.execute(f"DROP INDEX {name}")
    again = {kind: [] for kind in "puf"}
    for table, name, definition, kind in constraints:
        again[kind].append(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    return [*again["p"], *again["u"], *(definition for _name, definition in indexes), *again["f"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.grow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="postgresql://... of an empty database")
    parser.add_argument("--count", type=int, default=10_000_000)
    arguments = parser.parse_args()
    migrate(arguments.url)
    grow(arguments.url, arguments.count)


if __name__ == "__main__":
    main()
