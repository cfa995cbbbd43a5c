"""The two simulated APIs: what each call is answered, and what the control endpoints change.

Here: `Simulator`, with one lock around all it knows. Not here: sockets and how faults look on the wire (see `server`).
"""

import email.utils
import itertools
import json
import re
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from .faults import Fault, a_fault, page_of
from .gateway import Key, Limiter, Stats, whole_seconds
from .ledger import BadRequestError, Ledger, Query, Row, day_period, pay, period, position

RECEIPTS_BASE = "/gpd/payments-receipts-service/v1"
CORE_BASE = "/gpd/debt-positions-service/v1"
CONTROL_BASE = "/_control/"

_RECEIPTS = re.compile(re.escape(RECEIPTS_BASE) + r"/payments/([^/]+)/receipts(?:/([^/]+))?")
_POSITIONS = re.compile(re.escape(CORE_BASE) + r"/organizations/([^/]+)/debtpositions")
_LOG_LENGTH = 50_000

_PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "openapi_components.json").read_text())
_PARAMETERS = {  # of each endpoint
    endpoint: _PUBLISHED[file]["paths"][path]["parameters"]
    for endpoint, file, path in (
        ("list", "gpd_payments.json", "/payments/{organizationfiscalcode}/receipts"),
        ("receipt", "gpd_payments.json", "/payments/{organizationfiscalcode}/receipts/{iuv}"),
        ("positions", "gpd.json", "/organizations/{organizationfiscalcode}/debtpositions"),
    )
}


@dataclass
class Settings:
    """How the service and its gateway behave."""

    rate_calls: int = 100  # in rate_period seconds and for each key; 0: no limit
    rate_period: float = 10.0
    retry_after: str = "seconds"  # seconds, date, none, or mixed: one after the other
    nothing_found: int = 200  # status for an empty list, 200 or 404
    reject_over_days: float | None = None  # longer periods asked for are answered 400
    date_filter: str = "query"  # or after_paging: pages over all rows, thinned out by date afterwards
    error_style: str | None = None  # problem, gateway or html for every error; None: each as its author writes it
    unknown_key_status: int = 401
    latency: float = 0.0  # seconds before every answer
    slow_rows: int = 0  # rows of a period that cost each of its pages two seconds, as 5,000 do at the real one; 0: none
    now: str | None = None  # the service's clock, UTC without zone; None: the real one


_CHOICES = {
    "retry_after": ("seconds", "date", "none", "mixed"),
    "nothing_found": (200, 404),
    "date_filter": ("query", "after_paging"),
    "error_style": (None, "problem", "gateway", "html"),
}
SCENARIO = {
    *("settings", "keys", "core_keys", "receipts", "positions", "generate", "faults", "insert_while_paging", "down"),
}
_DEFAULTS: dict[str, Any] = {"keys": {"receipts-key": "*"}, "core_keys": {"core-key": "*"}}


@dataclass
class Answer:
    """What goes back, before any fault."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    silence: float = 0.0  # seconds until it goes out


@dataclass
class Call:
    """One call of an API."""

    endpoint: str  # list, receipt, positions or other
    org: str
    iuv: str | None
    params: dict[str, str]
    key: str
    request_id: str | None
    path: str
    accept: str = "*/*"

    @property
    def page(self) -> int | None:
        text = self.params.get("pageNum" if self.endpoint == "list" else "page", "0")
        return int(text) if text.isdecimal() and self.endpoint != "receipt" else None

    @classmethod
    def read(cls, method: str, path: str, query: str, key: str, request_id: str | None, accept: str = "*/*") -> "Call":
        params = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        endpoint, org, iuv = "other", "", None
        if method != "GET":
            pass
        elif match := _RECEIPTS.fullmatch(path):
            org, iuv = unquote(match[1]), unquote(match[2]) if match[2] else None
            endpoint = "receipt" if iuv else "list"
        elif match := _POSITIONS.fullmatch(path):
            endpoint, org = "positions", unquote(match[1])
        return cls(endpoint, org, iuv, params, key, request_id, f"{path}?{query}" if query else path, accept)


class Simulator:
    """Everything behind the HTTP server."""

    read = staticmethod(Call.read)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset({})

    # --- what tests change --------------------------------------------------------------------------------------------

    def reset(self, scenario: dict[str, Any]) -> dict[str, Any]:
        """Forgets everything, then loads the scenario."""
        self.settings = Settings()
        self.keys: dict[str, Key] = {}
        self.core_keys: dict[str, Key] = {}
        self.ledger = Ledger()
        self.limiter = Limiter()
        self.stats = Stats()
        self.faults: list[Fault] = []
        self.down: Fault | None = None
        self.insertions: list[dict[str, Any]] = []
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LENGTH)
        self.started = time.monotonic()
        self._waits = itertools.cycle(("seconds", "date", "none"))
        return self.load(_DEFAULTS | scenario)

    def load(self, part: dict[str, Any]) -> dict[str, Any]:
        """Takes any part of a scenario: settings and keys replace what they name, the rest is added."""
        if unknown := set(part) - SCENARIO:
            raise ValueError(f"scenario: unknown {', '.join(sorted(unknown))}")
        known = {each.name for each in fields(Settings)}
        for name, value in part.get("settings", {}).items():
            if name not in known or value not in _CHOICES.get(name, (value,)):
                raise ValueError(f"settings: {name} is unknown or cannot be {value!r}")
            setattr(self.settings, name, value)
        if "keys" in part:
            self.keys = {key: Key.read(value) for key, value in part["keys"].items()}
        if "core_keys" in part:
            self.core_keys = {key: Key.read(value) for key, value in part["core_keys"].items()}
        taken = self.ledger.load(part)
        faults = part.get("faults", [])
        new = [a_fault(rule) for rule in ([faults] if isinstance(faults, dict) else faults)]
        self.faults += new
        insertions = part.get("insert_while_paging", [])
        for order in [insertions] if isinstance(insertions, dict) else insertions:
            if unknown := set(order) - {"after", "org", "receipts", "generate", "remove"}:
                raise ValueError(f"insert_while_paging: unknown {', '.join(sorted(unknown))}")
            self.insertions.append({"left": order["after"], **order})
        if "down" in part:
            self.down = a_fault({"name": "down", **(part["down"] or {"status": 503, "style": "html"})})
        return {**taken, "faults": [fault.name for fault in new]}

    def control(self, method: str, what: str, body: Any) -> Any:
        """A control endpoint's answer; ValueError and KeyError mean that it was asked wrongly."""
        match method, what.strip("/").split("/"):
            case "POST", ["load"]:
                return self.load(body)
            case "POST", ["reset"]:
                return self.reset(body)
            case "POST", ["faults"]:
                return self.load({"faults": body})
            case "GET", ["faults"]:
                return [{"name": fault.name, "seen": fault.seen, "hits": fault.hits} for fault in self.faults]
            case "DELETE", ["faults"]:
                self.faults = []
            case "DELETE", ["faults", name]:
                self.faults = [fault for fault in self.faults if fault.name != name]
            case "POST", ["down"]:
                self.load({"down": body})
            case "POST", ["up"]:
                self.down = None
            case "POST", ["pay"]:
                pay(self._row(body))
            case "POST", ["remove"]:
                return {"removed": self.ledger.organisation(body["org"]).remove(body["iuv"])}
            case "GET", ["stats"]:
                return self.stats.report()
            case "DELETE", ["stats"]:
                self.stats = Stats(in_flight=self.stats.in_flight)
                self.log.clear()
            case "GET", ["log"]:
                return list(self.log)
            case _:
                raise ValueError(f"no such control endpoint: {method} {what}")
        return {}

    def _row(self, body: dict[str, Any]) -> Row:
        row = self.ledger.organisation(body["org"]).find(body["iuv"])
        if row is None:
            raise ValueError(f"no receipt {body['iuv']} of {body['org']}")
        return row

    # --- what callers see ---------------------------------------------------------------------------------------------

    def answer(self, call: Call, new_connection: bool) -> tuple[Answer, Fault | None]:
        """The answer and the fault to carry out on it. Counts the call as arrived, not yet as answered."""
        with self.lock:
            length = self.settings.rate_period
            self.stats.arrived(call.endpoint, call.org, call.key, call.request_id, length, new_connection)
            if self.down:
                self.stats.by_fault["down"] += 1
                return self.struck(self.down, None), self.down
            try:
                return self._answer(call)
            except Exception:
                self.stats.errors.append(traceback.format_exc())
                return self._problem(500, "Simulator failure", "see stats.errors"), None

    def answered(self, call: Call, status: str, fault: Fault | None) -> None:
        with self.lock:
            self.stats.answered(status)
            self.log.append(
                {
                    "at": round(time.monotonic() - self.started, 4),
                    "endpoint": call.endpoint,
                    "org": call.org,
                    "iuv": call.iuv,
                    "params": call.params,
                    "key": call.key,
                    "request_id": call.request_id,
                    "status": status,
                    "fault": fault.name if fault else None,
                    "path": call.path,
                }
            )

    def left_alone(self) -> None:
        """The caller was gone before the whole answer was written."""
        with self.lock:
            self.stats.callers_gone += 1

    def _answer(self, call: Call) -> tuple[Answer, Fault | None]:
        keys = self.core_keys if call.path.startswith(CORE_BASE) else self.keys
        key = keys.get(call.key)
        if key is None:
            return self._unknown_key(call), None
        headers = {}
        if self.settings.rate_calls:
            remaining, wait = self.limiter.take(call.key, self.settings.rate_calls, self.settings.rate_period)
            if remaining < 0:
                return self._too_many(wait), None
            headers = {"x-remaining-calls-per-period": str(remaining)}
        for fault in self.faults:
            start = call.params.get("from", "")
            if fault.strikes(call.endpoint, call.org, call.iuv, call.page, call.key, start):
                self.stats.by_fault[fault.name] += 1
                answer = self.struck(fault, None if fault.replaces() else self._serve(call, key))
                answer.headers = headers | answer.headers
                return answer, fault
        answer = self._serve(call, key)
        answer.headers = headers | answer.headers
        return answer, None

    def struck(self, fault: Fault, right: Answer | None) -> Answer:
        """The answer with what the fault says of its content; the rest happens on the wire."""
        body = fault.replacement()
        if body is not None:
            answer = Answer(fault.status or 200, body)
        elif right is not None:
            answer = right
        else:
            answer = self._error(
                fault.status or 503, "Service unavailable", "Simulated failure", fault.style or "problem"
            )
        answer.content_type = fault.content_type or answer.content_type
        answer.headers = answer.headers | fault.headers
        if fault.truncate is not None:
            answer.body = answer.body[: int(len(answer.body) * fault.truncate)]
        return answer

    def _serve(self, call: Call, key: Key) -> Answer:
        if call.endpoint == "other":
            if call.path.startswith((f"{RECEIPTS_BASE}/", f"{CORE_BASE}/")):
                return self._spring(404, call.path)
            return self._gateway(404, "Resource not found")
        if not key.opens(call.org):
            return self._gateway(key.denied, "You are not allowed to access this resource.")
        if not set(re.split(r"[;,\s]+", call.accept)) & {"*/*", "application/*", "application/json", "application/xml"}:
            return Answer(406, b"")
        for name in sorted(call.params.keys() - _PARAMETERS[call.endpoint].keys()):
            self.stats.errors.append(f"{call.endpoint}: {name} is not published")
        try:
            if call.endpoint == "list":
                answer = self._list(call, key)
                if answer.status == 200:
                    self._insert(call.org)
                return answer
            if call.endpoint == "receipt":
                return self._receipt(call, key)
            return self._positions(call)
        except BadRequestError as error:
            if error.title is None and self.settings.error_style is None:
                return Answer(400, b"")
            return self._problem(400, error.title or "BAD REQUEST", error.detail)

    def _list(self, call: Call, key: Key) -> Answer:
        params = call.params
        page = _number(params, "pageNum", 0, 0, 2**31 - 1)
        size = _number(params, "pageSize", 20, 1, 100)
        start, end = params.get("from") or None, params.get("to") or None
        low, high, days = period(start, end, self._now())
        if start or end:
            self.stats.asked(days)
            if self.settings.reject_over_days is not None and days > self.settings.reject_over_days:
                raise BadRequestError("Invalid date range", f"{days:.2f} days are too many")
        if "" in (params.get("service"), params.get("debtorOrIuv")):
            return self._problem(500, "Internal Server Error", "An unexpected error has occurred")
        filters = {name: params.get(name) or None for name in ("debtor", "service", "debtorOrIuv")}
        codes = _codes(params, key)
        query = Query(low, high, filters["debtor"], filters["service"], filters["debtorOrIuv"], codes)
        after_paging = self.settings.date_filter == "after_paging"
        rows = self.ledger.select(call.org, query, after_paging)
        if self.ledger.faulty and any(row.faulty for row in rows):
            return self._problem(500, "Internal Server Error", "The list cannot be made")
        if not rows and page == 0 and self.settings.nothing_found == 404:
            detail = f"Not found receipts for Organization Fiscal Code {call.org} and page {page}"
            return self._problem(404, "Not found the receipts", detail)
        pages = max(1, -(-len(rows) // size))
        if page >= pages:
            self.stats.past_last_page += 1
            raise BadRequestError("Not enough elements", "The page number is too big for the filtered elements")
        shown = []
        for row in rows[page * size : (page + 1) * size]:
            _refresh(row)
            if row.is_listed() and (not after_paging or query.in_period(row)):
                shown.append(row.listed(call.org))
        head = f'{{"currentPageNumber": {page}, "length": {len(shown)}, "totalPages": {pages}, "results": ['
        answer = Answer(200, b"".join((head.encode(), b", ".join(shown), b"]}")))
        if self.settings.slow_rows:  # 5,000 rows took the real service 2 s a page, 20,000 took 40 s
            answer.silence = 2 * (len(rows) / self.settings.slow_rows) ** 2.16
        return answer

    def _insert(self, org: str) -> None:
        due = []
        for order in self.insertions:
            if order.get("org") in (None, org):
                order["left"] -= 1
                if order["left"] <= 0:
                    due.append(order)
        for order in due:
            self.insertions.remove(order)
            self.ledger.load({name: order[name] for name in ("receipts", "generate") if name in order})
            for iuv in order.get("remove", ()):
                self.ledger.organisation(order.get("org", org)).remove(iuv)

    def _receipt(self, call: Call, key: Key) -> Answer:
        org, iuv = call.org, call.iuv or ""
        codes = _codes(call.params, key)
        where = f"[Organization Fiscal Code={org}, IUV={iuv}]"
        if codes and not iuv.startswith(codes):
            detail = f"The caller does not have proper authorization to access IUV with segregation code {iuv[:2]}"
            return self._problem(403, "The receipt retrieve is forbidden", f"{detail} {where}")
        row = self.ledger.organisation(org).find(iuv)
        if row is None:
            detail = f"Not found a receipt for Organization Fiscal Code {org} and IUV {iuv}"
            return self._problem(404, "Not found the receipt", detail)
        if row.faulty:
            return self._problem(500, "Internal Server Error", f"The debt position is unknown {where}")
        if not row.is_paid():
            row.calls_left -= 1
            detail = "The debt position is in an inappropriate state [status= PO_UNPAID] to provide the receipt"
            return self._problem(422, "The receipts recovery is failed", f"{detail} {where}")
        _refresh(row)
        return Answer(200, row.document(org), "application/xml")

    def _positions(self, call: Call) -> Answer:
        params = call.params
        size = _number(params, "limit", 10, 1, 50)
        page = _number(params, "page", 0, 0, 2**31 - 1)
        paid = [params.get(f"payment_date_{end}") or None for end in ("from", "to")]
        if any(paid) and (params.get("due_date_from") or params.get("due_date_to")):
            raise BadRequestError("BAD REQUEST", "The due dates interval excludes the payment dates interval")
        day_period(params.get("due_date_from") or None, params.get("due_date_to") or None, 30)
        for name in ("status", "orderby", "ordering"):
            if params.get(name, "") not in ("", *_PARAMETERS["positions"][name]["schema"]["enum"]):
                raise BadRequestError("BAD REQUEST", f"Invalid value for {name}")
        low, high = day_period(paid[0], paid[1], 30)
        found = self.ledger.positions(call.org, low, high, params.get("status") or None)
        if params.get("ordering") == "ASC":
            found.reverse()
        shown = [position(call.org, recipe) for recipe in found[page * size : (page + 1) * size]]
        info = {"page": page, "limit": size, "items_found": len(shown), "total_pages": -(-len(found) // size)}
        body = {"payment_position_list": shown, "page_info": info}
        return Answer(200, json.dumps(body, ensure_ascii=False).encode())

    # --- errors -------------------------------------------------------------------------------------------------------

    def _unknown_key(self, call: Call) -> Answer:
        what = "invalid subscription key. Make sure to provide a valid key for an active subscription."
        if not call.key:
            what = "missing subscription key. Make sure to include subscription key when making requests to an API."
        answer = self._gateway(self.settings.unknown_key_status, f"Access denied due to {what}")
        scheme = "AzureApiManagementKey realm"
        answer.headers["WWW-Authenticate"] = f'{scheme}="sim", name="Ocp-Apim-Subscription-Key", type="header"'
        return answer

    def _too_many(self, wait: float) -> Answer:
        seconds = whole_seconds(wait)
        answer = self._gateway(429, f"Rate limit is exceeded. Try again in {seconds} seconds.")
        form = self.settings.retry_after
        if form == "mixed":
            form = next(self._waits)
        if form == "seconds":
            answer.headers["Retry-After"] = str(seconds)
        elif form == "date":
            answer.headers["Retry-After"] = email.utils.formatdate(int(time.time()) + seconds + 1, usegmt=True)
        answer.headers["x-remaining-calls-per-period"] = "0"
        return answer

    def _problem(self, status: int, title: str, detail: str) -> Answer:
        return self._error(status, title, detail, self.settings.error_style or "problem")

    def _gateway(self, status: int, message: str) -> Answer:
        return self._error(status, message, message, self.settings.error_style or "gateway")

    def _spring(self, status: int, path: str) -> Answer:
        """As the application server writes it, before the service sees the call."""
        at = f"{self._now().isoformat()}.000+00:00"
        content = {"timestamp": at, "status": status, "error": phrase(status), "path": path.partition("?")[0]}
        return Answer(status, json.dumps(content).encode())

    def _error(self, status: int, title: str, detail: str, style: str) -> Answer:
        if style == "html":
            return Answer(status, page_of(status, phrase(status)), "text/html")
        if style == "empty":
            return Answer(status, b"")
        content: dict[str, Any] = {"title": title, "status": status, "detail": detail}
        if style == "gateway":
            content = {"statusCode": status, "message": detail}
        return Answer(status, json.dumps(content).encode())

    def _now(self) -> datetime:
        if self.settings.now:
            return datetime.fromisoformat(self.settings.now)
        return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _refresh(row: Row) -> None:
    if row.status == "CREATED" and row.is_paid():
        pay(row)


def _codes(params: dict[str, str], key: Key) -> tuple[str, ...]:
    """The segregation codes that hold: the key's, which the gateway sets whatever the caller says, or the caller's."""
    asked = params.get("segregationCodes")
    if asked is not None and not re.fullmatch(r"\d{2}(,\d{2})*", asked):
        raise BadRequestError
    return key.segregation_codes or tuple(asked.split(",") if asked else ())


def _number(params: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = params.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise BadRequestError
    return int(text)
