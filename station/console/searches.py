"""What is asked of Cerca: the box and the filters beside it, as a browser sends them and as a query has them.

A person's fiscal code or name must stand in no address: a proxy's log and the browser's history keep those, and others
read them. So the form is sent by POST. A question that may be about a person is kept in the session, under a random
key that the address has in its place, and is gone with the session; every other one stands in the address, which can be
kept and passed on. An address that asks for a person nevertheless finds nothing until the form is sent.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from station import clock
from station.console import question
from station.console.flags import SIGNS
from station.console.question import QuestionReading
from station.store.conditions import Filter

FIELDS = ("q", "ente", "da", "a", "importo_da", "importo_a", "psp", "segnalazione")
NAME_DAYS = 31  # of receipts, in which a name is looked for: no index finds it
_KEPT = 20  # searches of a session
_TEXT_MAX = 100


@dataclass
class Question:
    """The values of a form, checked: `errors` are by the field's name, `fields` are those of a `store.Filter`."""

    values: dict[str, str]
    ecs: Mapping[str, str]
    errors: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, str], ecs: Mapping[str, str]) -> "Question":
        """Read the values that a browser sent; `ecs` are the names of the ECs that the user sees."""
        asked = cls({name: value for name in FIELDS if (value := given.get(name, "").strip())}, ecs)
        for name, value in asked.values.items():
            if len(value) > (question.LENGTH_MAX if name == "q" else _TEXT_MAX):
                asked.errors[name] = "Il testo è troppo lungo."
                asked.values[name] = value[:_TEXT_MAX]
        asked._read()
        return asked

    def _read(self) -> None:
        for name, column, is_end in (("da", "paid_from", False), ("a", "paid_to", True)):
            if name in self.values and name not in self.errors:
                try:
                    day = clock.day(self.values[name])
                    self.fields[column] = clock.moment(day.isoformat(), end=is_end)
                except (ValueError, OverflowError):
                    self.errors[name] = "Scrivi un giorno, per esempio 28/11/2026."
        for name, column in (("importo_da", "amount_from"), ("importo_a", "amount_to")):
            if name in self.values and name not in self.errors:
                self.fields[column] = question.amount(self.values[name])
                if self.fields[column] is None:
                    self.errors[name] = "Scrivi un importo, per esempio 120,50."
        for name, column in (("ente", "id_pa"), ("psp", "id_psp"), ("segnalazione", "flag")):
            if name in self.values:
                self.fields[column] = question.clean(self.values[name])
        if self.values.get("segnalazione", next(iter(SIGNS))) not in SIGNS:
            self.errors["q"] = "Scegli una segnalazione dell'elenco."
        for name, start, end in (("a", "paid_from", "paid_to"), ("importo_a", "amount_from", "amount_to")):
            if not self.errors and start in self.fields and end in self.fields:
                first, last = self.fields[start], self.fields[end]
                if last < first or (last == first and name == "a"):
                    self.errors[name] = "Viene prima dell'inizio."
        if self.values.get("q") and not self.errors and not self.readings:
            self.errors["q"] = "Scrivi un codice, un importo o un nome."

    @cached_property
    def readings(self) -> list[QuestionReading]:
        """How the box may be read; one that looks for nothing in particular where it is empty."""
        return question.readings(self.values["q"], self.ecs) if "q" in self.values else [QuestionReading("", {})]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return not self.values

    @property
    def is_personal(self) -> bool:
        """Whether it may be about a person."""
        return not self.errors and any(reading.is_personal for reading in self.readings)

    def filter(self, reading: QuestionReading, id_pas: tuple[str, ...] | None, now: datetime) -> Filter | None:
        """Return which receipts are meant; `None` where a name is looked for in too many days.

        A name without days is looked for among the receipts that arrived in the last `NAME_DAYS` days.
        """
        fields = {"id_pas": id_pas} | self.fields | reading.fields
        if reading.kind == question.NAME:
            start, end = fields.get("paid_from"), fields.get("paid_to")
            if start is None and end is None:
                fields["received_from"] = now - timedelta(days=NAME_DAYS)
            elif start is None or (end or now) - start > timedelta(days=NAME_DAYS, hours=1):
                return None
        return Filter(**fields)


def keep(session: Any, values: dict[str, str]) -> str:
    """Keep a search in the session. Return its key, the same for the same search: a page that has it stays open."""
    searches = session.get("searches", [])
    key = next((key for key, held in searches if held == values), None) or secrets.token_urlsafe(9)
    session["searches"] = [*(one for one in searches if one[0] != key), [key, values]][-_KEPT:]
    return key


def kept(session: Any, key: str) -> dict[str, str] | None:
    """Return a search that was kept; `None` where it is there no more."""
    return dict(session.get("searches", [])).get(key)
