"""Compares a ledger with what is in the database, by SQL of its own: nothing lost, nothing twice, nothing else."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any

import psycopg
from psycopg.rows import dict_row

from .ledger import Copied, Ledger


@dataclass
class Report:
    """What the comparison found. `problems` is empty where the promise was kept."""

    receipts: int = 0
    refused: int = 0
    lost: int = 0
    doubled: int = 0
    resends: int = 0
    problems: list[str] = field(default_factory=list)

    def wrong(self, text: str) -> None:
        self.problems.append(text)


def rows(database_url: str, sql: str) -> list[dict[str, Any]]:
    """Asks the database, past the station."""
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=10)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql)]
        finally:
            connection.close()
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(sql).fetchall()


def check(
    ledger: Ledger,
    database_url: str,
    *,
    others: Iterable[tuple[str, str]] = (),
    open_ok: bool = False,
    defects_ok: bool = False,
    journal: bool = True,
) -> Report:
    """Compares. `others`: keys (`id_pa`, `receipt_id`) that came by another door; `open_ok`: the Nodo was stopped while
    copies were on their way, which may then be stored or not; `defects_ok`: what should be stored may have been kept as
    refused before; `journal`: whether all of the journal must be there."""
    report = Report()
    cents = 100 if database_url.startswith("sqlite") else 1  # SQLite's amounts are cents
    stored = defaultdict(list)
    for row in rows(
        database_url,
        "SELECT id_pa, receipt_id, id_station, notice_number, iuv, amount, resends, source, raw FROM receipt",
    ):
        stored[row["id_pa"], row["receipt_id"]].append(row)
    transfers = defaultdict(list)
    for row in rows(database_url, "SELECT id_pa, receipt_id, position, amount FROM transfer ORDER BY position"):
        transfers[row["id_pa"], row["receipt_id"]].append(Decimal(row["amount"]) / cents)
    refused = defaultdict(list)
    for row in rows(database_url, "SELECT raw_hash, raw, times FROM refused"):
        refused[bytes(row["raw_hash"]).hex()].append(row)
    copies: dict[tuple[str, str], list[Copied]] = defaultdict(list)
    for copy in ledger.copies.values():
        if not copy.entry["refuse"]:
            copies[copy.key].append(copy)

    report.receipts, report.refused = sum(map(len, stored.values())), sum(map(len, refused.values()))
    report.resends = sum(len(copy.sent) - 1 for copy in ledger.copies.values() if copy.sent)
    for copy in ledger.copies.values():
        _answers(report, copy, stored, refused, open_ok)
    for key, found in stored.items():
        if len(found) > 1:
            report.doubled += len(found) - 1
            report.wrong(f"{key} is stored {len(found)} times")
        if key not in copies and key not in set(others):
            report.wrong(f"{key} is stored and was never sent")
        elif key in copies:
            _content(report, key, found[0], transfers.get(key, []), copies[key], cents)
    for part in ("transfer", "receipt_flag", "receipt_route", "receipt_document"):
        found_in_part = rows(database_url, f"SELECT DISTINCT id_pa, receipt_id FROM {part}")
        for key in {(row["id_pa"], row["receipt_id"]) for row in found_in_part} - stored.keys():
            report.wrong(f"{key} has rows in {part} and no receipt")
    known = {copy.entry["sha"]: copy.entry["refuse"] for copy in ledger.copies.values()}
    for raw_hash, kept in refused.items():
        if any(not one["raw"] or sha256(one["raw"]).hexdigest() != raw_hash for one in kept):
            report.wrong(f"refused {raw_hash[:16]} is kept without its bytes")
        if len(kept) > 1:
            report.doubled += len(kept) - 1
            report.wrong(f"refused {raw_hash[:16]} is kept {len(kept)} times")
        if raw_hash not in known:
            report.wrong(f"refused {raw_hash[:16]} was never sent")
        elif not known[raw_hash] and not defects_ok:
            report.wrong(f"refused {raw_hash[:16]} is a receipt to be stored")
    _notices(report, database_url)
    _routes(report, database_url, stored, copies)
    _history(report, database_url, refused)
    if journal:
        _journal(report, database_url, stored, refused, ledger)
    return report


def _answers(report: Report, copy: Copied, stored: Any, refused: Any, open_ok: bool) -> None:
    entry, outcomes = copy.entry, set(copy.outcomes)
    wrong = "OK" if entry["refuse"] else "KO"
    if wrong in outcomes:
        report.wrong(f"copy {entry['d']} of {copy.key} was answered {wrong}")
    if "OK" in outcomes and copy.key not in stored:
        report.lost += 1
        report.wrong(f"copy {entry['d']} of {copy.key} was answered OK and is not stored")
    if "KO" in outcomes and entry["sha"] not in refused:
        report.lost += 1
        report.wrong(f"copy {entry['d']} of {copy.key} was answered KO and is not kept")
    if copy.given_up:
        report.lost += 1
        report.wrong(f"copy {entry['d']} of {copy.key} was given up: {Counter(one['r'] for one in copy.answers)}")
    elif not outcomes and not open_ok:
        report.wrong(f"copy {entry['d']} of {copy.key} is still on its way")


def _content(
    report: Report, key: tuple[str, str], row: dict[str, Any], amounts: list[Decimal], copies: list[Copied], cents: int
) -> None:
    entry = copies[0].entry
    if sha256(row["raw"]).hexdigest() not in {one.entry["sha"] for one in copies}:
        report.wrong(f"{key} is stored with bytes that were never sent")
    found = (row["notice_number"], row["iuv"], Decimal(row["amount"]) / cents)
    if found != (entry["notice_number"], entry["iuv"], Decimal(entry["amount"])):
        report.wrong(f"{key} is stored with other values: {found}")
    if amounts != [Decimal(one) for one in entry["transfers"]]:
        report.wrong(f"{key} is stored with {len(amounts)} of {len(entry['transfers'])} transfers")
    sent = sum(len(one.sent) for one in copies)
    # A client makes a connection again that was closed while idle, so that one send can arrive twice.
    least = sum(len(one.outcomes) for one in copies) - (1 if row["source"] == "push" else 0)
    if not least <= row["resends"] <= 2 * sent:
        report.wrong(f"{key} was sent {sent} times, answered {least + 1} times and has {row['resends']} resends")


def _notices(report: Report, database_url: str) -> None:
    """The receipts of one notice are numbered, and all but the first are flagged."""
    sql = "SELECT id_pa, notice_number, fiscal_code, notice_ordinal FROM receipt"
    numbers = defaultdict(list)
    for row in rows(database_url, sql):
        numbers[row["id_pa"], row["notice_number"], row["fiscal_code"]].append(row["notice_ordinal"])
    for key, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            report.wrong(f"the receipts of notice {key} are numbered {sorted(found)}")
    flagged = rows(database_url, "SELECT count(*) AS n FROM receipt_flag WHERE flag = 'second_receipt'")[0]["n"]
    if flagged != sum(len(found) - 1 for found in numbers.values()):
        report.wrong(f"{flagged} receipts are flagged as second ones")


def _routes(report: Report, database_url: str, stored: Any, copies: dict[tuple[str, str], list[Copied]]) -> None:
    """Every station by which a copy was taken in is known."""
    known = {(key, row["id_station"]) for key, found in stored.items() for row in found}
    for row in rows(database_url, "SELECT id_pa, receipt_id, id_station FROM receipt_route"):
        known.add(((row["id_pa"], row["receipt_id"]), row["id_station"]))
    for key, sent in copies.items():
        for copy in sent:
            if "OK" in copy.outcomes and key in stored and (key, copy.entry["id_station"]) not in known:
                report.wrong(f"{key}: nothing tells that it came by {copy.entry['id_station']}")


def _history(report: Report, database_url: str, refused: Any) -> None:
    """What happened to a refused request is numbered, from its first refusal on."""
    numbers = defaultdict(list)
    for row in rows(database_url, "SELECT raw_hash, number FROM refused_history"):
        numbers[bytes(row["raw_hash"]).hex()].append(row["number"])
    for raw_hash in numbers.keys() | refused.keys():
        found = sorted(numbers.get(raw_hash, []))
        if raw_hash not in refused or not found or found != list(range(1, len(found) + 1)):
            report.wrong(f"the history of refused {raw_hash[:16]} is numbered {found}")


def _journal(report: Report, database_url: str, stored: Any, refused: Any, ledger: Ledger) -> None:
    """The journal has one row for each receipt that was stored, each resend and each refusal, and no other.

    Where the commit of a refusal was in doubt and tried again, it may be counted twice; it is in the journal once.
    """
    answered: dict[str, Counter[Any]] = defaultdict(Counter)
    for copy in ledger.copies.values():
        for outcome in copy.outcomes:
            answered[outcome][copy.key if outcome == "OK" else copy.entry["sha"]] += 1
    told: dict[str, Counter[Any]] = defaultdict(Counter)
    sql = "SELECT id_pa, receipt_id, outcome, source, document_hash FROM journal WHERE document_hash IS NOT NULL"
    for row in rows(database_url, sql):
        if row["outcome"] in ("refused", "failed") and row["source"] != "replay":  # an operator's are in the history
            told["refused"][bytes(row["document_hash"]).hex()] += 1
        elif row["outcome"] == "stored" or row["source"] == "push":
            told[row["outcome"]][row["id_pa"], row["receipt_id"]] += 1
    times = {raw_hash: sum(row["times"] for row in kept) for raw_hash, kept in refused.items()}
    wanted: dict[str, dict[Any, tuple[int, int]]] = {
        "stored": {key: (len(found), len(found)) for key, found in stored.items()},
        "duplicate": {
            key: (answered["OK"][key] - (row["source"] == "push"), row["resends"]) for key, (row, *_) in stored.items()
        },
        "refused": {raw_hash: (answered["KO"][raw_hash], number) for raw_hash, number in times.items()},
    }
    for raw_hash, number in times.items():
        if number < answered["KO"][raw_hash]:
            report.wrong(f"refused {raw_hash[:16]} was answered more often than {number - 1} resends")
    for outcome, numbers in wanted.items():
        for key in numbers.keys() | told[outcome].keys():
            least, most = numbers.get(key, (0, 0))
            least = min(least, most)  # what was counted too seldom is told elsewhere
            if not least <= told[outcome][key] <= most:
                report.wrong(f"{key} is {told[outcome][key]} times {outcome} in the journal, not {least} to {most}")
