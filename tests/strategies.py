"""Random requests: every receipt the published schema admits, every way to write it down, and ways to break it.

Here: `receipts()` draws a `build.Request`, whose `leaves()` tell the lexical text of every field by its path;
`styles()` draws a `build.Style`; `invalid_mutations(request)` and `newer_fields(request)` draw variants of a request.
The schema stands here a second time, as a table: `test_build.py` compares it with the published one, and the strategies
draw from it. Nothing here imports the station.
"""

import base64
import calendar
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from build import BROKER, EC, OTHER_EC, STATION, Request, Style
from hypothesis import strategies as st

# --- lexical forms ----------------------------------------------------------------------------------------------------

_FORBIDDEN = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]))
"""What XML 1.0 cannot hold even as a reference, besides surrogates."""

characters = st.characters(exclude_categories=["Cs"], exclude_characters=_FORBIDDEN) | st.sampled_from(
    "&<>'\"]\\/%{}$;-_ \t\n\r\x7f\x85\xa0\u2028\u200b\u200f\u202e\ufeff\ufffd\u0301\u0130ßﬁàÀéèìòùç€Ǆ漢😀\U0010ffff"
)
_NASTY = (
    "]]>", "<!--", "-->", "&amp;", "&lt;", "&#13;", "<![CDATA[", "<?x ?>", "e\u0301", "é", "👩\u200d👧",
    "D'Alò & Figli", "';--", "{0}", "%s", "\r\n", "NULL", "None", "Ⅷ", "١٢٣", "İ", "A\u00adB", "ANONIMO",
)  # fmt: skip


def texts(longest: int, shortest: int = 1) -> st.SearchStrategy[str]:
    """Any text within these borders, the borders themselves often; the length is counted in characters."""
    usual = st.text(characters, min_size=shortest, max_size=min(longest, max(12, shortest)))
    nasty = st.sampled_from([text for text in _NASTY if shortest <= len(text) <= longest] or ["x" * shortest])
    # Filled up from a few characters, as long texts of their own would exhaust what one example may draw.
    filled = st.builds(
        lambda pattern, length: (pattern * length)[:length],
        st.text(characters, min_size=1, max_size=4),
        st.sampled_from(sorted({max(shortest, 1), max(shortest, longest - 1), longest})),
    )
    blank = st.sampled_from([" " * max(shortest, 1), "\t" * longest, "\n" * max(shortest, 1)])
    return st.one_of(usual, filled, nasty, blank)


def digits(length: int) -> st.SearchStrategy[str]:
    return st.integers(0, 10**length - 1).map(lambda number: f"{number:0{length}d}")


blanks = st.one_of(st.just(""), st.just(""), st.just(""), st.text(" \t\n\r", min_size=1, max_size=3))
"""What whitespace collapse takes away, mostly nothing."""


def _around(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(blanks, text, blanks).map("".join)


def amounts(least: int = 0) -> st.SearchStrategy[str]:
    """Euro, from so many cents up."""
    cents = st.integers(least, 99_999_999_999) | st.sampled_from([least, least + 1, 100, 1_000_000, 99_999_999_999])
    zeros = st.sampled_from(["", "", "", "", "0", "000", "0" * 40])
    return _around(st.builds(lambda zeros, cents: f"{zeros}{cents // 100}.{cents % 100:02d}", zeros, cents))


_years = st.one_of(
    st.integers(1950, 2100).map(str),
    st.integers(1950, 2100).map(str),
    st.integers(1950, 2100).map(str),
    st.integers(1, 9999).map("{:04d}".format),
    # Not the year 0000: XSD 1.0 and libxml2 have none, XSD 1.1 has. Not beyond 2**63 - 1: libxml2 gives up there.
    st.sampled_from(["0001", "9999", "10000", "-0001", "-0044", "-9999", "-10000", "999999999", "9223372036854775807"]),
)
_zones = st.one_of(
    st.sampled_from(["", "", "Z", "+01:00", "+02:00", "+14:00", "-14:00", "+00:00", "-00:00", "+05:45", "-03:30"]),
    st.builds("{}{:02d}:{:02d}".format, st.sampled_from("+-"), st.integers(0, 13), st.integers(0, 59)),
)


@st.composite
def _days(draw: st.DrawFn) -> str:
    year = draw(_years)
    month = draw(st.integers(1, 12))
    # No 29 February before Christ: XSD 1.0 has no year 0, and opinions differ on which of those years are leap years.
    reckoned = int(year) % 400 + 400 if int(year) > 0 else 1999
    return f"{year}-{month:02d}-{draw(st.integers(1, calendar.monthrange(reckoned, month)[1])):02d}"


# libxml2 does not collapse blanks around xs:date, though XSD does: no date with blanks here. See LIBXML2_REFUSES.
dates = st.builds("{}{}".format, _days(), _zones)

_fractions = st.one_of(
    st.just(""),
    st.just(""),
    st.integers(1, 9).flatmap(digits).map(".{}".format),
    st.sampled_from([".0", ".5", ".000", ".999", ".999999", ".999999999", ".000000001", ".12345678901234567890"]),
)
_times = st.one_of(
    # Not 59.99999999999999999: libxml2 rounds seconds to a double, gets 60 and refuses.
    st.builds("{:02d}:{:02d}:{:02d}{}".format, st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), _fractions),
    st.sampled_from(["00:00:00", "24:00:00", "24:00:00.0", "24:00:00.000000000", "23:59:59.999999999", "02:30:00"]),
)


@st.composite
def _moments(draw: st.DrawFn) -> str:
    zone = draw(_zones)
    # libxml2 takes blanks behind the zone of a dateTime, but neither before it nor where there is no zone.
    return f"{draw(_days())}T{draw(_times)}{zone}{draw(blanks) if zone else ''}"


date_times = _moments()
booleans = _around(st.sampled_from(["true", "false", "1", "0"]))
transfer_ids = _around(
    st.builds(
        "{}{}{}".format, st.sampled_from(["", "", "", "+"]), st.sampled_from(["", "", "0", "0000"]), st.integers(1, 5)
    )
)


@st.composite
def base64_texts(draw: st.DrawFn) -> str:
    """Base64 of nothing, of a few bytes or of some KB, in one line or in several, or with blanks anywhere."""
    size = draw(st.sampled_from([0, 1, 2, 3, 60, 3000]) | st.integers(0, 100))
    seed = draw(st.binary(min_size=1, max_size=8))
    text = base64.b64encode((seed * (size // len(seed) + 1))[:size]).decode("ascii")
    layout = draw(st.sampled_from(["plain", "plain", "lines", "crlf", "spaced"]))
    if layout == "spaced":
        text = " ".join(text[:100]) + text[100:]
    elif layout != "plain":
        end = {"lines": "\n", "crlf": "\r\n"}[layout]
        text = "".join(text[start : start + 76] + end for start in range(0, len(text), 76))
    return draw(blanks) + text + draw(blanks)


_MAIL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
e_mails = st.one_of(
    st.builds(
        lambda local, host, more: f"{local}@{'.'.join([host, *more])}",
        st.text(_MAIL + "_.+", min_size=1, max_size=20),
        st.text(_MAIL, min_size=1, max_size=20),
        st.lists(st.text(_MAIL, min_size=1, max_size=9), max_size=3),
    ),
    st.sampled_from(["a" * 254 + "@b", "a@" + "b" * 254, "..@-.-"]),
)
receipt_ids = st.one_of(
    st.uuids().map(lambda uuid: uuid.hex),
    texts(60, 0),
    st.builds(
        lambda pattern, times: pattern * times, st.text(characters, min_size=1, max_size=3), st.integers(1, 1500)
    ),
    st.sampled_from(["", " ", "x" * 4000, "😀" * 1000, " 01 ", "\t", "../../etc/passwd", "a b\nc", "%00"]),
)

# --- the schema -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Simple:
    """A simple type: its name in the schema, what it admits, and texts that break a facet or the type."""

    name: str
    valid: st.SearchStrategy[str]
    breaks: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Field:
    """An element within a sequence; `content` is its simple type or its own sequence."""

    name: str
    content: "Simple | tuple[Field, ...]"
    least: int = 1
    most: int = 1
    choice: bool = False  # one of this field and its neighbours that are a choice too


def _facets(*texts: str) -> tuple[tuple[str, str], ...]:
    return tuple(("facet", text) for text in texts)


def _types(*texts: str) -> tuple[tuple[str, str], ...]:
    return tuple(("type", text) for text in texts)


def _text_type(name: str, longest: int, shortest: int = 1) -> Simple:
    breaks = _facets("x" * (shortest - 1), "x" * (longest + 1), "à" * (longest + 1), "😀" * (longest + 1), " " * 500)
    return Simple(name, texts(longest, shortest), breaks)


_ST_16 = _text_type("stText16", 16)
_ST_20 = _text_type("stText20", 20)
_ST_35 = _text_type("stText35", 35)
_ST_70 = _text_type("stText70", 70)
_ST_140 = _text_type("stText140", 140)
_ST_210 = _text_type("stText210", 210)
_IBAN = _text_type("stIBAN", 35)
_ENTITY_VALUE = _text_type("stEntityUniqueIdentifierValue", 16, 2)
_ENTITY_TYPE = Simple("stEntityUniqueIdentifierType", st.sampled_from("FG"), _facets("", "X", "f", "FG", " F", "F\n"))
_STRING = Simple("string", receipt_ids)
_FISCAL_CODE = Simple(
    "stFiscalCodePA",
    digits(11) | st.sampled_from([EC, OTHER_EC, "0" * 11]),
    _facets("", "7777777777", "777777777777", "7777777777X", " 7777777777", "77777777777 ", "٧" * 11),
)
_NOTICE_NUMBER = Simple(
    "stNoticeNumber",
    digits(18) | digits(17).map("3{}".format),
    _facets("", "3" * 17, "3" * 19, "3" * 17 + "X", "3" * 18 + "\n", " " + "3" * 18, "３" * 18),
)
_OUTCOME = Simple("stOutcome", st.sampled_from(["OK", "KO"]), _facets("", "ok", "OK ", " KO", "BOH"))
_BAD_AMOUNTS = (
    *_facets("1", "1.0", "1.000", "+1.00", "-1.00", ".50", "1.", "1000000000.00"),
    *_types("", "1,00", "1.00 EUR", "1 000.00", "1e2", "NaN", "INF", "٣.٠٠", "1.00\xa0"),
)
_AMOUNT = Simple("stAmount", amounts(), _BAD_AMOUNTS)
_AMOUNT_NOT_ZERO = Simple("stAmountNotZero", amounts(1), (*_BAD_AMOUNTS, *_facets("0.00", "000.00")))
_ID_TRANSFER = Simple(
    "stIdTransfer",
    transfer_ids,
    (*_facets("0", "6", "-1", "10"), *_types("", "1.0", "x", "1e0", "+ 1", "٣", "4294967297")),
)
_BASE64 = Simple("base64Binary", base64_texts(), _types("A", "AA", "AA=", "A===", "AB==", "AAB=", "QUI==", "AA==AAAA"))
_COUNTRY = Simple(
    "stNazioneProvincia",
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2),
    _facets("", "I", "ITA", "it", " IT", "IT ", "I1", "ÀÈ"),
)
_MAIL_TYPE = Simple(
    "stEMail",
    e_mails,
    _facets("", "a", "@b", "a@", "a@b.", "a@b..c", "a b@c", " a@b", "a@b\n", "à@b", "a@b_c", "a" * 255 + "@b"),
)
_DATE = Simple(
    "stISODate",
    dates,
    _types(
        "", "2026-02-30", "2025-02-29", "2026-7-1", "01/07/2026", "2026-07-01T00:00:00", "26-07-01", "2026-07-01+15:00"
    ),
)
_DATE_TIME = Simple(
    "stISODateTime",
    date_times,
    _types(
        "", "2026-07-01", "2026-07-01 10:20:30", "2026-07-01T10:20", "2026-07-01T24:00:01", "2026-07-01T25:00:00",
        "2026-02-30T10:20:30", "2026-07-01T10:20:60", "2026-07-01T10:20:30.", "2026-07-01T10:20:30+0200",
        "2026-07-01T10:20:30+14:01", "2026-07-01T10:20:30z", "02026-07-01T10:20:30", "1782900000",
    ),
)  # fmt: skip
_BOOLEAN = Simple("boolean", booleans, _types("", "TRUE", "True", "2", "yes", "vero", "\xa0true"))

_SUBJECT = (
    Field(
        "uniqueIdentifier",
        (Field("entityUniqueIdentifierType", _ENTITY_TYPE), Field("entityUniqueIdentifierValue", _ENTITY_VALUE)),
    ),
    Field("fullName", _ST_70),
    Field("streetName", _ST_70, 0),
    Field("civicNumber", _ST_16, 0),
    Field("postalCode", _ST_16, 0),
    Field("city", _ST_35, 0),
    Field("stateProvinceRegion", _ST_35, 0),
    Field("country", _COUNTRY, 0),
    Field("e-mail", _MAIL_TYPE, 0),
)
_METADATA = (Field("mapEntry", (Field("key", _ST_140), Field("value", _ST_140)), 1, 15),)


def _transfer(version: int) -> tuple[Field, ...]:
    company = (Field("companyName", _ST_140, 0),) if version == 2 else ()
    target = (
        (Field("IBAN", _IBAN, choice=True), Field("MBDAttachment", _BASE64, choice=True))
        if version == 2
        else (Field("IBAN", _IBAN),)
    )
    return (
        Field("idTransfer", _ID_TRANSFER),
        Field("transferAmount", _AMOUNT_NOT_ZERO),
        Field("fiscalCodePA", _FISCAL_CODE),
        *company,
        *target,
        Field("remittanceInformation", _ST_140),
        Field("transferCategory", _ST_140),
        Field("metadata", _METADATA, 0),
    )


def _receipt(version: int) -> tuple[Field, ...]:
    note = (Field("paymentNote", _ST_210, 0),) if version == 2 else ()
    bundle = (
        (Field("primaryCiIncurredFee", _AMOUNT, 0), Field("idBundle", _ST_70, 0), Field("idCiBundle", _ST_70, 0))
        if version == 2
        else ()
    )
    return (
        Field("receiptId", _STRING),
        Field("noticeNumber", _NOTICE_NUMBER),
        Field("fiscalCode", _FISCAL_CODE),
        Field("outcome", _OUTCOME),
        Field("creditorReferenceId", _ST_35),
        Field("paymentAmount", _AMOUNT),
        Field("description", _ST_140),
        Field("companyName", _ST_140),
        Field("officeName", _ST_140, 0),
        Field("debtor", _SUBJECT),
        Field("transferList", (Field("transfer", _transfer(version), 1, 5),)),
        Field("idPSP", _ST_35),
        Field("pspFiscalCode", _ST_70, 0),
        Field("pspPartitaIVA", _ST_20, 0),
        Field("PSPCompanyName", _ST_70),
        Field("idChannel", _ST_35),
        Field("channelDescription", _ST_35),
        Field("payer", _SUBJECT, 0),
        Field("paymentMethod", _ST_35, 0),
        *note,
        Field("fee", _AMOUNT, 0),
        *bundle,
        Field("paymentDateTime", _DATE_TIME, 0),
        Field("applicationDate", _DATE, 0),
        Field("transferDate", _DATE, 0),
        Field("metadata", _METADATA, 0),
        Field("standIn", _BOOLEAN, 0),
    )


ROOTS = {1: "paSendRTReq", 2: "paSendRTV2Request"}
SCHEMA: dict[str, tuple[Field, ...]] = {
    root: (
        Field("idPA", _ST_35),
        Field("idBrokerPA", _ST_35),
        Field("idStation", _ST_35),
        Field("receipt", _receipt(version)),
    )
    for version, root in ROOTS.items()
}
"""The content of the two messages that carry a receipt."""

LIBXML2_REFUSES: tuple[tuple[str, str], ...] = (
    ("paymentDateTime", " 2026-07-01T10:20:30"),
    ("paymentDateTime", "2026-07-01T10:20:30\n"),
    ("paymentDateTime", "2026-07-01T10:20:59.99999999999999999"),
    ("paymentDateTime", "9223372036854775808-01-01T00:00:00"),
    ("applicationDate", " 2026-07-01"),
    ("applicationDate", "2026-07-01 "),
    ("applicationDate", "2026-07-01Z\n"),
)
"""Valid by XSD, refused by libxml2, so never drawn."""

LIBXML2_ADMITS: tuple[tuple[str, str], ...] = tuple(
    ("transfers.0.MBDAttachment", text) for text in ("*", "Q*U-J_D", "éQUJD", "QUI=\xa0", "😀", "<>&QUJD")
)
"""Invalid by XSD, admitted by libxml2, which skips what is no letter of base64: who decodes it must not trip."""

# --- requests ---------------------------------------------------------------------------------------------------------


def receipts(version: int | None = None, **over: Any) -> st.SearchStrategy[Request]:
    """Any request with a receipt that the schema admits, of one version or of either, save what is given.

    `over` is in the words of `build.a_request`. Our own addresses come often, any others sometimes.
    """
    versions = [version] if version else [1, 2, 2]
    return st.sampled_from(versions).flatmap(_requests).map(lambda request: request.but(**over))


def our_receipts(version: int | None = None, **over: Any) -> st.SearchStrategy[Request]:
    """The same, addressed to us."""
    return receipts(version, **{"idPA": EC, "idBrokerPA": BROKER, "idStation": STATION} | over)


@st.composite
def _requests(draw: st.DrawFn, version: int) -> Request:
    root = ROOTS[version]
    fields = _content(draw, SCHEMA[root])
    if draw(st.integers(0, 3)):
        fields |= {"idPA": draw(st.sampled_from([EC, OTHER_EC])), "idBrokerPA": BROKER, "idStation": STATION}
    if draw(st.integers(0, 3)):
        # The usual case, which chance alone would never make: what belongs together agrees.
        receipt = fields["receipt"]
        receipt["creditorReferenceId"] = receipt["noticeNumber"][1:]
    return Request(root, fields)


def _content(draw: st.DrawFn, content: tuple[Field, ...]) -> dict[str, Any]:
    # How much of what may be missing is there: all, nothing or some of it.
    presence = draw(st.sampled_from(["some", "some", "all", "none"]))
    choices = [field.name for field in content if field.choice]
    chosen = draw(st.sampled_from(choices)) if choices else None
    node: dict[str, Any] = {}
    for field in content:
        if field.choice and field.name != chosen:
            continue
        if field.least == 0 and (presence == "none" or (presence == "some" and draw(st.booleans()))):
            continue
        if field.most > 1:
            count = draw(st.sampled_from([1, 1, 2, field.most]) | st.integers(field.least, field.most))
            node[field.name] = [_one(draw, field) for _ in range(count)]
        else:
            node[field.name] = _one(draw, field)
    return node


def _one(draw: st.DrawFn, field: Field) -> Any:
    if isinstance(field.content, Simple):
        return draw(field.content.valid)
    return _content(draw, field.content)


# --- writing ----------------------------------------------------------------------------------------------------------


def styles(**over: Any) -> st.SearchStrategy[Style]:
    """Any way to write a request down; what is given is fixed."""
    parts: dict[str, Any] = {
        "soap": st.sampled_from(["soapenv", "soap", "SOAP-ENV", "S", "env", None]),
        "paf": st.sampled_from(["pafn", "paf", "ns2", "ns3", "_p.1-x", "à", None]),
        "declare": st.sampled_from(["envelope", "root"]),
        "undeclare": st.sampled_from(["children", "root"]),
        "extra_namespaces": st.booleans(),
        "header": st.sampled_from([None, "empty", "full"]),
        "indent": st.sampled_from([None, "", " ", "  ", "\t"]),
        "newline": st.sampled_from(["\n", "\r\n", "\r"]),
        "comments": st.booleans(),
        "instructions": st.booleans(),
        "comment_in_text": st.booleans(),
        "cdata": st.booleans(),
        "references": st.sampled_from([None, "decimal", "hex"]),
        "ragged": st.booleans(),
        "encoding": st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1"]),
        "bom": st.booleans(),
        "declaration": st.booleans(),
        "seed": st.none() | st.integers(0, 2**16),
    }
    return st.builds(Style, **parts | {name: st.just(value) for name, value in over.items()})


# --- breaking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A request that breaks the schema, what was done (missing, too_many, order, choice, facet, type) and where."""

    kind: str
    path: str
    request: Request

    @property
    def label(self) -> str:
        return f"{self.kind} {self.path}"


def invalid_mutations(request: Request, *kinds: str) -> st.SearchStrategy[Broken]:
    """One way to break a valid request; of these kinds only, if any are named."""
    ways = [way for way in _ways(request) if not kinds or way[0] in kinds]
    # By kind first, or the many texts would crowd out the rest.
    by_kind = [[way for way in ways if way[0] == kind] for kind in sorted({way[0] for way in ways})]
    return st.sampled_from(by_kind).flatmap(st.sampled_from).map(lambda way: _break(request, *way))


def every_invalid_mutation(request: Request) -> Iterator[Broken]:
    """All of them, some hundreds to thousands."""
    for way in _ways(request):
        yield _break(request, *way)


def newer_fields(request: Request) -> st.SearchStrategy[Request]:
    """The request with an element somewhere that the schema does not know (yet)."""
    places = [place for place, _, _ in _places(request.fields, SCHEMA[request.root], ())]
    names = ["newField", "standin", "x", "receipt2", "àè"]
    contents: list[Any] = ["valore", "", {"inner": "valore", "deeper": {"x": "1"}}]
    return st.builds(
        lambda place, name, content, at: _grown(request, place, name, content, at),
        st.sampled_from(places),
        st.sampled_from(names),
        st.sampled_from(contents),
        st.floats(0, 1),
    )


_Place = tuple[str | int, ...]
_Way = tuple[str, _Place, Any]


def _places(
    node: dict[str, Any], content: tuple[Field, ...], place: _Place
) -> Iterator[tuple[_Place, dict[str, Any], tuple[Field, ...]]]:
    """Each sequence of the request: where it is, what is there, what may be there."""
    yield place, node, content
    for field in content:
        if field.name not in node or isinstance(field.content, Simple):
            continue
        child = node[field.name]
        if isinstance(child, list):
            for number, one in enumerate(child):
                yield from _places(one, field.content, (*place, field.name, number))
        else:
            yield from _places(child, field.content, (*place, field.name))


def _ways(request: Request) -> Iterator[_Way]:
    for place, node, content in _places(request.fields, SCHEMA[request.root], ()):
        known = {field.name: field for field in content}
        present = [name for name in node if name in known]
        for first, second in itertools.pairwise(present):
            yield "order", place, (first, second)
        for name in present:
            field = known[name]
            here = (*place, name)
            if field.choice:
                other = next(one for one in content if one.choice and one.name != name)
                yield "choice", here, (other.name, "QUJD")
                yield "choice", here, None
            elif field.least:
                yield "missing", here, None
            yield "too_many", here, field.most
            if isinstance(field.content, Simple):
                for kind, text in field.content.breaks:
                    yield kind, here, text
            elif field.most == 1:
                yield "type", here, "testo"


def _break(request: Request, kind: str, place: _Place, what: Any) -> Broken:
    fields = copy.deepcopy(request.fields)
    if kind == "order":
        parent = _at(fields, place)
        first, second = what
        swapped = {first: second, second: first}
        items = [(swapped.get(name, name), parent[swapped.get(name, name)]) for name in parent]
        parent.clear()
        parent.update(items)
        return Broken(kind, _dotted((*place, first)), Request(request.root, fields))
    parent, name = _at(fields, place[:-1]), place[-1]
    if kind == "missing" or (kind == "choice" and what is None):
        del parent[name]
    elif kind == "choice":
        other, text = what
        items = [pair for key in parent for pair in ([(key, parent[key])] + ([(other, text)] if key == name else []))]
        parent.clear()
        parent.update(items)
    elif kind == "too_many":
        child = parent[name]
        one = child[0] if isinstance(child, list) else child
        parent[name] = [copy.deepcopy(one) for _ in range(what + 1)]
    else:
        parent[name] = what
    return Broken(kind, _dotted(place), Request(request.root, fields))


def _grown(request: Request, place: _Place, name: str, content: Any, at: float) -> Request:
    fields = copy.deepcopy(request.fields)
    parent = _at(fields, place)
    items = list(parent.items())
    items.insert(round(at * len(items)), (name, copy.deepcopy(content)))
    parent.clear()
    parent.update(items)
    return Request(request.root, fields)


def _at(fields: Any, place: _Place) -> Any:
    for step in place:
        fields = fields[step]
    return fields


def _dotted(place: _Place) -> str:
    return ".".join(map(str, place))
