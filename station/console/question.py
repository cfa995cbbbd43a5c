"""What a clerk types into the one box of Cerca, and the ways in which it may be read, the likeliest first."""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from unicodedata import category, combining, normalize

from station.reconcile.bank_line import bank_line

LENGTH_MAX = 1000
_WORDS_MAX = 8

PERSON, NOTICE, IUV, RECEIPT, AMOUNT, EC, NAME, LINE = (
    "persona", "avviso", "iuv", "ricevuta", "importo", "ente", "nome", "bonifico",
)  # fmt: skip
KINDS = {
    PERSON: "codice fiscale",
    NOTICE: "numero avviso",
    IUV: "IUV",
    RECEIPT: "identificativo della ricevuta",
    AMOUNT: "importo",
    EC: "ente creditore",
    NAME: "nome del debitore o di chi ha pagato",
    LINE: "riga di bonifico",
}

_NOTICE_DIGITS, _COMPANY_DIGITS, _AMOUNT_DIGITS = 18, 11, 8
_IUV_MAX, _IUV_USUAL = 35, 25
# A person's, also with the letters that stand for digits where two people would have the same one.
_DIGIT = "[0-9LMNPQRSTUV]"
_FISCAL_CODE = re.compile(f"[A-Z]{{6}}{_DIGIT}{{2}}[A-Z]{_DIGIT}{{2}}[A-Z]{_DIGIT}{{3}}[A-Z]")
_CREDITOR_REFERENCE = re.compile("RF[0-9]{2}[0-9A-Z]{1,21}")  # ISO 11649
_EURO = re.compile(r"(?:€|euro?\b)\s*|\s*(?:€|\beuro?)$", re.IGNORECASE)
_AMOUNT = re.compile(r"(?:[0-9]{1,10}|[0-9]{1,3}(?:\.[0-9]{3}){1,3})(?:,[0-9]{1,2})?|[0-9]{1,10}\.[0-9]{1,2}")


class QuestionReading(NamedTuple):
    """One way to read a question: its kind, and the fields of a `store.Filter`. Of a bank line, the line itself."""

    kind: str
    fields: dict[str, Any]

    @property
    def is_personal(self) -> bool:
        """Whether it looks for a person: then it stands in no address, and is written down."""
        return self.kind in (PERSON, NAME)


def clean(text: str) -> str:
    """Return a text without what cannot be seen, each run of blanks as one."""
    seen = "".join(" " if category(char) in ("Cc", "Zs") else char for char in text if category(char) != "Cf")
    return " ".join(seen.split())


def amount(text: str) -> Decimal | None:
    """Return the euro of `12,50`, `1.234,00`, `12.50` or `€ 12`; `None` for what is no amount."""
    given = "".join(_EURO.sub("", text.strip()).split())
    if not _AMOUNT.fullmatch(given):
        return None
    whole, comma, cents = given.partition(",")
    if comma or re.fullmatch(r"[0-9]{1,3}(\.[0-9]{3})+", whole):
        whole = whole.replace(".", "")
    return Decimal(f"{whole}.{cents}" if comma else whole)


def readings(text: str, ecs: Mapping[str, str]) -> list[QuestionReading]:
    """Return how a question may be read, the likeliest first; one of each kind.

    `ecs`: the names of the ECs that the user sees, by fiscal code.
    """
    found: dict[str, QuestionReading] = {}
    for kind, fields in _readings(clean(text), text.strip().replace("\0", ""), ecs):
        found.setdefault(kind, QuestionReading(kind, fields))
    return list(found.values())


def _readings(text: str, exact: str, ecs: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    joined = "".join(text.split())
    code, is_number = joined.upper(), joined.isascii() and joined.isdecimal()
    is_person, is_reference = bool(_FISCAL_CODE.fullmatch(code)), bool(_CREDITOR_REFERENCE.fullmatch(code))
    try:
        flow, iuv = bank_line(text)[0]
    except ValueError:
        pass
    else:
        yield (LINE, {"line": text}) if flow is not None else (IUV, {"iuv": iuv})
        return
    if not joined:
        return
    value = amount(text)
    exactly = {"amount_from": value, "amount_to": value}
    if is_person:
        yield PERSON, {"person_id": code}
    if value is not None and (not is_number or len(joined) <= _AMOUNT_DIGITS):
        yield AMOUNT, exactly
        if not is_number:
            return
    if is_number and len(joined) == _NOTICE_DIGITS:
        yield NOTICE, {"notice_number": joined}
    if joined in ecs:
        yield EC, {"id_pas": (joined,)}
    if is_number and len(joined) == _COMPANY_DIGITS:
        yield PERSON, {"person_id": joined}
    has_digit = any(char.isdecimal() for char in joined)
    words = text.split()
    if not has_digit or (len(words) > 1 and not (is_number or is_person or is_reference)):
        if named := tuple(id_pa for id_pa, name in ecs.items() if _is_named(words, name)):
            yield EC, {"id_pas": named}
        if len(words) <= _WORDS_MAX:
            yield NAME, {"name": text}
    if has_digit or len(words) == 1:
        is_iuv = joined.isascii() and joined.isalnum() and len(joined) <= _IUV_MAX
        iuvs = [(IUV, {"iuv": code if is_reference else joined})] if is_iuv else []
        # IUVs have 15, 17 or 25 characters; a receiptId is a UUID without hyphens, mostly.
        ids = [(RECEIPT, {"receipt_id": exact})]
        yield from [*iuvs, *ids] if len(joined) <= _IUV_USUAL else [*ids, *iuvs]
    if len(code) == 16 and code.isascii() and code.isalnum():
        yield PERSON, {"person_id": code}


def _is_named(words: list[str], name: str) -> bool:
    """Return whether all words, one of them of three letters or more, are in a name, accents and capitals apart."""
    theirs, own = set(_plain(name).split()), [_plain(word) for word in words]
    return any(len(word) > 2 for word in own) and theirs.issuperset(own)


def _plain(text: str) -> str:
    return "".join(char for char in normalize("NFD", text.casefold()) if not combining(char))
