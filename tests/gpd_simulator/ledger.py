"""What the simulated service knows: receipts by organisation and IUV, debt positions, and the rules of listing them.

Here: loading, the order and paging of lists, the reading of `from` and `to`, the wait for a position to be paid. Not
here: HTTP (see `server`), keys and limits (see `gateway`). Callers hold the simulator's lock.
"""

import calendar
import gc
import json
import re
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .receipts import END, GENERATED, START, VERSIONS, headline, make_position, make_receipt, position_headline

RECEIPT_KEYS = {
    *("org", "n", "seed", "start", "end", "version", "broker", "station", "segregation"),
    *("iuv", "receipt_id", "payment_date_time", "debtor", "xml", "status", "unpaid", "hidden", "faulty", "date_zone"),
}
POSITION_KEYS = {
    *("org", "n", "seed", "start", "end"),
    *("iupd", "iuv", "nav", "amount", "id_receipt", "payment_date", "status"),
}
GENERATE_KEYS = {
    *("org", "count", "seed", "from", "to", "version", "broker", "station", "segregation", "first"),
    *("hidden_every", "hidden_range", "unpaid_every", "unpaid", "receipts", "positions", "without", "date_zone"),
}
MAKE_KEYS = ("start", "end", "version", "broker", "station", "segregation", "date_zone")


class BadRequestError(Exception):
    """The caller's parameters are wrong; `title` and `detail` as the service words it, no title means no body."""

    def __init__(self, title: str | None = None, detail: str = "") -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail


@dataclass(slots=True)
class Row:
    """One receipt: what the list shows, and the recipe or the bytes of its document."""

    iuv: str
    paid_at: str
    debtor: str
    recipe: tuple[Any, ...] | dict[str, Any]
    status: str = "PAID"
    xml: bytes | None = None
    hidden: bool = False
    faulty: bool = False
    calls_left: float = 0  # 422 is answered so many times yet
    unpaid_until: float = 0  # 422 is answered before this time (time.time())
    listed_unpaid: bool = False
    json: bytes | None = None

    def is_paid(self) -> bool:
        return self.calls_left <= 0 and self.unpaid_until <= time.time()

    def is_listed(self) -> bool:
        return not self.hidden and bool(self.paid_at) and (self.listed_unpaid or self.is_paid())

    def document(self, org: str) -> bytes:
        if self.xml is not None:
            return self.xml
        if isinstance(self.recipe, dict):
            return make_receipt(org, **self.recipe)["xml"]
        n, seed, options = self.recipe
        return make_receipt(org, n, seed, **options)["xml"]

    def listed(self, org: str) -> bytes:
        if self.json is None:
            shown = {
                "organizationFiscalCode": org,
                "iuv": self.iuv,
                "debtor": self.debtor,
                "paymentDateTime": self.paid_at,
                "status": self.status,
            }
            self.json = json.dumps(shown, ensure_ascii=False).encode()
        return self.json


@dataclass(slots=True)
class Organisation:
    """The receipts of one organisation, `iuvs` sorted and `rows` in the same order, and its positions."""

    code: str
    iuvs: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    positions: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # payment date, status, recipe
    version: int = 0

    def find(self, iuv: str) -> Row | None:
        at = bisect_left(self.iuvs, iuv)
        return self.rows[at] if at < len(self.iuvs) and self.iuvs[at] == iuv else None

    def add(self, rows: Iterable[Row]) -> int:
        """Adds what is new by IUV and tells how many: the second payment of an IUV is not taken."""
        new: dict[str, Row] = {}
        for row in rows:
            if row.iuv not in new and self.find(row.iuv) is None:
                new[row.iuv] = row
        if len(new) < 100:
            for iuv, row in new.items():
                at = bisect_left(self.iuvs, iuv)
                self.iuvs.insert(at, iuv)
                self.rows.insert(at, row)
        else:
            self.rows = sorted([*self.rows, *new.values()], key=lambda row: row.iuv)
            self.iuvs = [row.iuv for row in self.rows]
        self.version += 1
        return len(new)

    def remove(self, iuv: str) -> bool:
        at = bisect_left(self.iuvs, iuv)
        if at >= len(self.iuvs) or self.iuvs[at] != iuv:
            return False
        del self.iuvs[at], self.rows[at]
        self.version += 1
        return True


@dataclass(frozen=True)
class Query:
    """A list call's filters, as the service compares them; `low` and `high` are strings, and compared as strings."""

    low: str
    high: str
    debtor: str | None = None
    service: str | None = None
    debtor_or_iuv: str | None = None
    segregation_codes: tuple[str, ...] = ()

    def in_period(self, row: Row) -> bool:
        return self.low <= row.paid_at <= self.high

    def wants(self, row: Row) -> bool:
        return (
            (self.debtor is None or row.debtor == self.debtor)
            and (self.service is None or row.iuv.startswith(self.service))
            and (
                self.debtor_or_iuv is None
                or row.iuv.startswith(self.debtor_or_iuv)
                or row.debtor.startswith(self.debtor_or_iuv)
            )
            and (not self.segregation_codes or row.iuv.startswith(self.segregation_codes))
        )

    @property
    def plain(self) -> bool:
        return not (self.debtor or self.service or self.debtor_or_iuv or self.segregation_codes)


class Ledger:
    """Everything that was loaded."""

    def __init__(self) -> None:
        self.organisations: dict[str, Organisation] = {}
        self.faulty = False  # whether some row is
        self._selections: OrderedDict[tuple[Any, ...], list[Row]] = OrderedDict()

    def organisation(self, code: str) -> Organisation:
        if code not in self.organisations:
            self.organisations[code] = Organisation(code)
        return self.organisations[code]

    def load(self, part: dict[str, Any]) -> dict[str, int]:
        """Takes `receipts`, `positions` and `generate` of a scenario; tells what was taken and what was there."""
        counts = {"receipts": 0, "ignored": 0, "positions": 0}
        by_org: dict[str, list[Row]] = {}
        for item in part.get("receipts", []):
            _known(item, RECEIPT_KEYS, "receipt")
            by_org.setdefault(item["org"], []).append(_row(item))
            self.faulty |= item.get("faulty", False)
        for org, rows in by_org.items():
            taken = self.organisation(org).add(rows)
            counts["receipts"] += taken
            counts["ignored"] += len(rows) - taken
        for item in part.get("positions", []):
            _known(item, POSITION_KEYS, "position")
            recipe = {"n": 0, **item}
            org = recipe.pop("org")
            paid_at, status = position_headline(org, **recipe)
            self.organisation(org).positions.append((paid_at, status, recipe))
            counts["positions"] += 1
        generate = part.get("generate", [])
        for order in [generate] if isinstance(generate, dict) else generate:
            _known(order, GENERATE_KEYS, "generate")
            self._generate(order, counts)
        gc.freeze()  # else every collection walks the rows
        return counts

    def _generate(self, order: dict[str, Any], counts: dict[str, int]) -> None:
        org, seed = order["org"], order.get("seed", 0)
        start, end = order.get("from", START), order.get("to", END)
        options = {"start": start, "end": end}
        options |= {name: order[name] for name in MAKE_KEYS[2:] if name in order}
        segregation = order.get("segregation", "01")
        first, without = order.get("first", 0), set(order.get("without", ()))
        numbers = [n for n in range(first, first + order["count"]) if n not in without]
        organisation = self.organisation(org)
        if order.get("receipts", True):
            hidden_every, unpaid_every = order.get("hidden_every"), order.get("unpaid_every")
            rows = []
            for n in numbers:
                row = Row(*headline(org, n, seed, start, end, segregation), (n, seed, options))
                if unpaid_every and n % unpaid_every == unpaid_every - 1:
                    _make_unpaid(row, order.get("unpaid", True))
                if hidden_every and n % hidden_every == hidden_every - 1:
                    row.hidden = True
                rows.append(row)
            if "hidden_range" in order:  # by place in the order of IUVs, to make pages empty
                first, last = order["hidden_range"]
                for row in sorted(rows, key=lambda row: row.iuv)[first:last]:
                    row.hidden = True
            taken = organisation.add(rows)
            counts["receipts"] += taken
            counts["ignored"] += len(rows) - taken
        if order.get("positions", False):
            for n in numbers:
                recipe = {"n": n, "seed": seed, "start": start, "end": end}
                organisation.positions.append((*position_headline(org, **recipe), recipe))
            counts["positions"] += len(numbers)

    def select(self, org: str, query: Query, after_paging: bool) -> list[Row]:
        """The rows that make up the pages, in the order of their IUVs."""
        organisation = self.organisation(org)
        if after_paging and query.plain:
            return organisation.rows
        key = (org, organisation.version, query, after_paging)
        if key in self._selections:
            self._selections.move_to_end(key)
            return self._selections[key]
        rows = organisation.rows
        if not after_paging:
            low, high = query.low, query.high
            rows = [row for row in rows if low <= row.paid_at <= high]
        if not query.plain:
            rows = [row for row in rows if query.wants(row)]
        self._selections[key] = rows
        while len(self._selections) > 64:
            self._selections.popitem(last=False)
        return rows

    def positions(self, org: str, low: str, high: str, status: str | None) -> list[dict[str, Any]]:
        """The recipes of the positions paid between two moments, the last loaded first."""
        found = []
        for paid_at, its_status, recipe in reversed(self.organisation(org).positions):
            if (not low or low <= paid_at <= high) and status in (None, its_status):
                found.append(recipe)
        return found


def position(org: str, recipe: dict[str, Any]) -> dict[str, Any]:
    return make_position(org, **recipe)


def _known(item: dict[str, Any], keys: set[str], what: str) -> None:
    if unknown := set(item) - keys:
        raise ValueError(f"{what}: unknown {', '.join(sorted(unknown))}")
    if item.get("version", "v2") not in VERSIONS:
        raise ValueError(f"{what}: version must be one of {', '.join(VERSIONS)}")


def _row(item: dict[str, Any]) -> Row:
    """A row from what a scenario says of one receipt; `n` and `seed` make the rest."""
    org, n, seed = item["org"], item.get("n", 0), item.get("seed", 0)
    iuv, paid_at, debtor = headline(
        org, n, seed, item.get("start", START), item.get("end", END), item.get("segregation", "01")
    )
    paid_at = item.get("payment_date_time", paid_at)
    recipe = {name: item[name] for name in MAKE_KEYS if name in item}
    recipe |= {"n": n, "seed": seed, "iuv": item.get("iuv"), "receipt_id": item.get("receipt_id")}
    recipe |= {"debtor": item.get("debtor"), "payment_date_time": item.get("payment_date_time", GENERATED)}
    row = Row(item.get("iuv") or iuv, paid_at or "", item.get("debtor") or debtor, recipe)
    row.status = item.get("status", "PAID")
    row.hidden = item.get("hidden", False)
    row.faulty = item.get("faulty", False)
    if "xml" in item:
        row.xml = item["xml"].encode()
    if item.get("unpaid"):
        _make_unpaid(row, item["unpaid"])
    return row


def _make_unpaid(row: Row, how: bool | dict[str, Any]) -> None:
    """`true`, or any of `calls`, `seconds` and `listed`: until so many calls, or so many seconds from now."""
    how = {} if how is True else how or {}
    row.status = "CREATED"
    row.listed_unpaid = how.get("listed", False)
    if "seconds" in how:
        row.unpaid_until = time.time() + how["seconds"]
    if "calls" in how:
        row.calls_left = how["calls"]
    if not how.keys() & {"seconds", "calls"}:
        row.calls_left = float("inf")
    row.json = None


def pay(row: Row) -> None:
    """The position is paid, whatever was said before."""
    row.calls_left = row.unpaid_until = 0
    row.status = "PAID"
    row.json = None


# --- from and to ------------------------------------------------------------------------------------------------------

_BOUND = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?", re.ASCII)


def period(start: str | None, end: str | None, now: datetime) -> tuple[str, str, float]:
    """The strings to compare with, and the length in days; neither bound: the last three months.

    A moment is written as Java's LocalDateTime writes it: without seconds if they are zero, and fractions in groups of
    three digits. So the receipts of a full minute lie behind an upper bound of that minute.
    """
    first, first_text = _bound(start, "00:00:00", lambda: _months(now, -3).replace(hour=0, minute=0, second=0))
    last, last_text = _bound(end, "23:59:59", lambda: now.replace(hour=23, minute=59, second=59))
    if start and not end:
        cap = now if "T" in start else now.replace(hour=23, minute=59, second=59)
        last = _months(first, 3) if "T" in start else _months(first, 3).replace(hour=23, minute=59, second=59)
        last = min(last, cap)
        last_text = _java(last)
    elif end and not start:
        first = _months(last, -3)
        first = first if "T" in end else first.replace(hour=0, minute=0, second=0)
        first_text = _java(first) if "T" in end else f"{first:%Y-%m-%dT%H:%M:%S}"
    if first > last:
        raise _invalid_range()
    return first_text, last_text, (last - first) / timedelta(days=1)


def day_period(start: str | None, end: str | None, longest: int) -> tuple[str, str]:
    """GPD-Core's bounds, days only; a missing one lies `longest` days away, a longer period is refused."""
    if not start and not end:
        return "", ""
    try:
        first = datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC) if start else None
        last = datetime.strptime(end, "%Y-%m-%d").replace(tzinfo=UTC) if end else None
    except ValueError as error:
        raise BadRequestError("BAD REQUEST", "Invalid value for property of type LocalDate") from error
    if first is None:
        first = last - timedelta(days=longest)
    elif last is None:
        last = first + timedelta(days=longest)
    if first > last or (last - first).days > longest:
        detail = f"The dates interval from {first:%Y-%m-%d} to {last:%Y-%m-%d} is reversed or over {longest} days"
        raise BadRequestError("Organization's debt positions not recoverable", detail)
    return f"{first:%Y-%m-%d}T00:00:00", f"{last:%Y-%m-%d}T23:59:59"


def _bound(text: str | None, clock: str, default: Callable[[], datetime]) -> tuple[datetime, str]:
    if not text:
        moment = default()
        return moment, f"{moment:%Y-%m-%dT%H:%M:%S}"
    try:
        if not _BOUND.fullmatch(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text if "T" in text else f"{text}T{clock}")
    except ValueError as error:
        raise _invalid_range() from error
    return moment, _java(moment) if "T" in text else f"{text}T{clock}"


def _java(moment: datetime) -> str:
    if moment.microsecond:
        return moment.isoformat(timespec="microseconds" if moment.microsecond % 1000 else "milliseconds")
    return moment.isoformat(timespec="seconds" if moment.second else "minutes")


def _months(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def _invalid_range() -> BadRequestError:
    return BadRequestError(
        "Invalid date range",
        "The requested date range is invalid or exceeds the maximum configured number of months",
    )
