"""Takings as an accountant books them: by account, by category and IBAN, and apart from all that is not the EC's."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from station.config import Account
from station.store.takings import TakingsGroup, TakingsKind

_ZERO = Decimal("0.00")


def account_of(accounts: Sequence[Account], id_pa: str, category: str, iban: str | None) -> Account | None:
    """Return the account that a transfer of an EC's receipt is booked on: the first that fits."""
    for account in accounts:
        fits = (not account.ecs or id_pa in account.ecs) and (not account.ibans or iban in account.ibans)
        if fits and (not account.categories or category.startswith(tuple(account.categories))):
            return account
    return None


class TakingsSum(NamedTuple):
    """A number of transfers, and euro."""

    number: int = 0
    amount: Decimal = _ZERO

    def plus(self, group: TakingsGroup) -> "TakingsSum":
        """Return the sum with a group."""
        return TakingsSum(self.number + group.number, self.amount + group.amount)


@dataclass(frozen=True, slots=True)
class Books:
    """The tables of a range; rows as dictionaries with `number` and `amount`.

    `lines` are the takings by account, category and IBAN, `accounts` and `ecs` the same added up; `others`: other ECs'
    parts by beneficiary, with what is among the beneficiary's own takings (`again_number`, `again_amount`); `stamps`
    and `failed` likewise are no takings. `own` and `everything` are their sums.
    """

    lines: list[dict[str, Any]]
    accounts: list[dict[str, Any]]
    ecs: list[dict[str, Any]]
    others: list[dict[str, Any]]
    stamps: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    own: TakingsSum
    everything: TakingsSum
    provisional: TakingsSum

    def sum_of(self, rows: Sequence[dict[str, Any]]) -> TakingsSum:
        """Return the sum of a table's rows."""
        return TakingsSum(sum(row["number"] for row in rows), sum((row["amount"] for row in rows), _ZERO))


def keep_books(groups: Sequence[TakingsGroup], accounts: Sequence[Account]) -> Books:
    """Sort groups of transfers into tables."""
    place = {account: number for number, account in enumerate(accounts)}
    own, everything, provisional = TakingsSum(), TakingsSum(), TakingsSum()
    tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {
        name: {} for name in ("lines", "accounts", "ecs", "others", "stamps", "failed")
    }

    def book(table: str, key: tuple[Any, ...], group: TakingsGroup, **cells: Any) -> dict[str, Any]:
        row = tables[table].setdefault(key, {"id_pa": group.id_pa, **cells, "number": 0, "amount": _ZERO})
        row["number"] += group.number
        row["amount"] += group.amount
        return row

    for group in groups:
        everything = everything.plus(group)
        match group.kind:
            case TakingsKind.OWN:
                own = own.plus(group)
                if group.provisional:
                    provisional = provisional.plus(group)
                account = account_of(accounts, group.id_pa, group.category, group.iban)
                order = len(place) if account is None else place[account]
                cells = {"code": account and account.code, "account": account.name if account else ""}
                line = (group.id_pa, order, group.category, group.iban)
                book("lines", line, group, **cells, category=group.category, iban=group.iban)
                code = account.code if account else ""
                book("accounts", (group.id_pa, min(order, _first(accounts, code, order)), code), group, **cells)
                book("ecs", (group.id_pa,), group)
            case TakingsKind.OTHER:
                row = book("others", (group.id_pa, group.owner), group, owner=group.owner, name=None)
                row["name"] = row["name"] or group.name
                again = group if group.again else None
                row["again_number"] = row.get("again_number", 0) + (again.number if again else 0)
                row["again_amount"] = row.get("again_amount", _ZERO) + (again.amount if again else _ZERO)
            case TakingsKind.STAMP:
                book("stamps", (group.id_pa, group.category), group, category=group.category)
            case _:
                book("failed", (group.id_pa,), group)
    return Books(
        **{name: [rows[key] for key in sorted(rows)] for name, rows in tables.items()},
        own=own, everything=everything, provisional=provisional,
    )  # fmt: skip


def _first(accounts: Sequence[Account], code: str, default: int) -> int:
    """Return the place of a code's first account: a code may stand in several."""
    return next((number for number, account in enumerate(accounts) if account.code == code), default)
