"""The two simulated APIs: what each call is answered, and what the control endpoints change.

Here: `FdrService`, with one lock around all it knows, and the face that `gpd_simulator.server` serves.
"""

import json
import re
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from gpd_simulator.faults import Fault, a_fault, page_of
from gpd_simulator.gateway import Key, Limiter, Stats, whole_seconds
from gpd_simulator.service import Answer, phrase

from .flows import Published, Shelf

FDR_BASE = "/fdr-org/service/v1"
BIZ_BASE = "/bizevents/service/v1"

_FLOWS = re.compile(re.escape(FDR_BASE) + r"/organizations/([^/]+)/fdrs")
_FLOW = re.compile(_FLOWS.pattern + r"/([^/]+)/revisions/([^/]+)/psps/([^/]+)(/payments)?")
_RECEIPT = re.compile(re.escape(BIZ_BASE) + r"/organizations/([^/]+)/receipts/([^/]+)(?:/paymentoptions/([^/]+))?")
_LOG_LENGTH = 50_000
ENDPOINTS = ("flows", "flow", "payments", "receipt", "other")

_PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "openapi_components.json").read_text())
_PARAMETERS = {  # of each endpoint; the paths of FdR in the order of their length are these three
    endpoint: _PUBLISHED[file]["paths"][path]["parameters"]
    for file, endpoints in (("fdr_organization.json", ("flows", "flow", "payments")), ("biz_events.json", ("receipt",)))
    for endpoint, path in zip(endpoints, sorted(_PUBLISHED[file]["paths"], key=len), strict=True)
}


@dataclass
class Settings:
    """How the services and their gateway behave."""

    rate_calls: int = 0  # in rate_period seconds, for each key and endpoint of FdR; 0: no limit
    rate_period: float = 10.0
    biz_calls: int = 0  # the same for BizEvents
    biz_period: float = 3600.0
    retry_after: bool = True
    nothing_found: str = "404"  # an empty list: 404, empty (404 without a body), or closed (no answer at all)
    page_size: int = 1000  # the most that a page of the list or of payments has
    unknown_key_status: int = 401
    latency: float = 0.0  # seconds before every answer
    unknown_ecs: tuple[str, ...] = ()  # 400 FDR-2008
    now: str | None = None  # the services' clock, UTC; None: the real one


_CHOICES = {"nothing_found": ("404", "empty", "closed")}
SCENARIO = {"settings", "keys", "biz_keys", "flows", "generate", "receipts", "faults", "publish_while_paging", "down"}
_DEFAULTS: dict[str, Any] = {"keys": {"fdr-key": "*"}, "biz_keys": {"biz-key": "*"}}


@dataclass
class FdrCall:
    """One call of an API. `iuv` is the flow's name or the IUR: faults call it so."""

    endpoint: str
    org: str
    iuv: str | None
    revision: str
    psp: str
    params: dict[str, str]
    key: str
    request_id: str | None
    path: str

    @property
    def page(self) -> int | None:
        text = self.params.get("page", "1")
        return int(text) if text.isdecimal() and self.endpoint in ("flows", "payments") else None

    @classmethod
    def read(cls, method: str, path: str, query: str, key: str, request_id: str | None, _accept: str) -> "FdrCall":
        params = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        endpoint, org, iuv, revision, psp = "other", "", None, "", ""
        if method != "GET":
            pass
        elif match := _FLOWS.fullmatch(path):
            endpoint, org = "flows", unquote(match[1])
        elif match := _FLOW.fullmatch(path):
            endpoint = "payments" if match[5] else "flow"
            org, iuv, revision, psp = (unquote(match[n]) for n in (1, 2, 3, 4))
        elif match := _RECEIPT.fullmatch(path):
            endpoint, org, iuv = "receipt", unquote(match[1]), unquote(match[2])
        full = f"{path}?{query}" if query else path
        return cls(endpoint, org, iuv, revision, psp, params, key, request_id, full)


class _BadRequestError(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class FdrService:
    """Everything behind the HTTP server."""

    read = staticmethod(FdrCall.read)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset({})

    # --- what tests change --------------------------------------------------------------------------------------------

    def reset(self, scenario: dict[str, Any]) -> dict[str, Any]:
        """Forgets everything, then loads the scenario."""
        self.settings = Settings()
        self.keys: dict[str, Key] = {}
        self.biz_keys: dict[str, Key] = {}
        self.shelf = Shelf()
        self.limiter = Limiter()
        self.stats = Stats(endpoints=ENDPOINTS)
        self.faults: list[Fault] = []
        self.down: Fault | None = None
        self.insertions: list[dict[str, Any]] = []
        self.log: deque[dict[str, Any]] = deque(maxlen=_LOG_LENGTH)
        self.started = time.monotonic()
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
        for name in ("keys", "biz_keys"):
            if name in part:
                setattr(self, name, {key: Key.read(value) for key, value in part[name].items()})
        taken = self.shelf.load(part, self._now())
        rules = part.get("faults", [])
        new = [a_fault(rule) for rule in ([rules] if isinstance(rules, dict) else rules)]
        self.faults += new
        if "publish_while_paging" in part:
            order = part["publish_while_paging"]
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
            case "POST", ["remove"]:
                return {"removed": self.shelf.remove(body["org"], body["fdr"])}
            case "GET", ["stats"]:
                return self.stats.report()
            case "DELETE", ["stats"]:
                self.stats = Stats(in_flight=self.stats.in_flight, endpoints=ENDPOINTS)
                self.log.clear()
            case "GET", ["log"]:
                return list(self.log)
            case _:
                raise ValueError(f"no such control endpoint: {method} {what}")
        return {}

    # --- what callers see ---------------------------------------------------------------------------------------------

    def answer(self, call: FdrCall, new_connection: bool) -> tuple[Answer, Fault | None]:
        """The answer and the fault to carry out on it. Counts the call as arrived, not yet as answered."""
        with self.lock:
            counted = f"{call.key}/{call.endpoint}"
            period = self.settings.rate_period
            self.stats.arrived(call.endpoint, call.org, counted, call.request_id, period, new_connection)
            if self.down:
                self.stats.by_fault["down"] += 1
                return self._struck(self.down, None), self.down
            try:
                return self._answer(call)
            except Exception:
                self.stats.errors.append(traceback.format_exc())
                return self._error(500, "FDR-0500", "see stats.errors"), None

    def answered(self, call: FdrCall, status: str, fault: Fault | None) -> None:
        with self.lock:
            self.stats.answered(status)
            self.log.append(
                {
                    "at": round(time.monotonic() - self.started, 4),
                    "endpoint": call.endpoint,
                    "org": call.org,
                    "iuv": call.iuv,
                    "revision": call.revision,
                    "params": call.params,
                    "key": call.key,
                    "status": status,
                    "fault": fault.name if fault else None,
                    "path": call.path,
                }
            )

    def left_alone(self) -> None:
        """The caller was gone before the whole answer was written."""
        with self.lock:
            self.stats.callers_gone += 1

    def _answer(self, call: FdrCall) -> tuple[Answer, Fault | None]:
        biz = call.path.startswith(BIZ_BASE)
        key = (self.biz_keys if biz else self.keys).get(call.key)
        if key is None:
            return self._gateway(
                self.settings.unknown_key_status, "Access denied due to invalid subscription key."
            ), None
        calls, period = self.settings.rate_calls, self.settings.rate_period
        if biz:
            calls, period = self.settings.biz_calls, self.settings.biz_period
        if calls:
            remaining, wait = self.limiter.take(f"{call.key}/{call.endpoint}", calls, period)
            if remaining < 0:
                answer = self._gateway(429, "Rate limit is exceeded.")
                if self.settings.retry_after:
                    answer.headers["Retry-After"] = str(whole_seconds(wait))
                return answer, None
        for fault in self.faults:
            if fault.strikes(call.endpoint, call.org, call.iuv, call.page, call.key):
                self.stats.by_fault[fault.name] += 1
                right = None if fault.replaces() else self._serve(call, key)[0]
                return self._struck(fault, right), fault
        return self._serve(call, key)

    def _struck(self, fault: Fault, right: Answer | None) -> Answer:
        """The answer with what the fault says of its content; the rest happens on the wire."""
        body = fault.replacement()
        if body is not None:
            answer = Answer(fault.status or 200, body)
        elif right is not None:
            answer = right
        elif fault.style == "html":
            status = fault.status or 503
            answer = Answer(status, page_of(status, phrase(status)), "text/html")
        elif fault.style == "empty":
            answer = Answer(fault.status or 503, b"")
        elif fault.style == "gateway":
            answer = self._gateway(fault.status or 503, "Simulated failure")
        else:
            answer = self._error(fault.status or 503, "FDR-0500", "Simulated failure")
        answer.content_type = fault.content_type or answer.content_type
        answer.headers = answer.headers | fault.headers
        if fault.truncate is not None:
            answer.body = answer.body[: int(len(answer.body) * fault.truncate)]
        return answer

    def _serve(self, call: FdrCall, key: Key) -> tuple[Answer, Fault | None]:
        if call.endpoint == "other":
            return self._gateway(404, "Resource not found"), None
        if not key.opens(call.org):
            return self._gateway(key.denied, "You are not allowed to access this resource."), None
        for name in sorted(call.params.keys() - _PARAMETERS[call.endpoint].keys()):
            self.stats.errors.append(f"{call.endpoint}: {name} is not published")
        if call.endpoint == "receipt":
            return self._receipt(call), None
        try:
            if call.org in self.settings.unknown_ecs:
                raise _BadRequestError("FDR-2008", f"Creditor institution [{call.org}] unknown")
            if call.endpoint == "flows":
                return self._flows(call)
            flow = self._flow(call)
            if call.endpoint == "flow":
                return Answer(200, json.dumps(flow.detail()).encode()), None
            return self._page(flow.rows(), call), None
        except _BadRequestError as error:
            return self._error(error.status, error.code, error.message), None

    def _flows(self, call: FdrCall) -> tuple[Answer, Fault | None]:
        now = self._now()
        month = now - timedelta(days=30)
        bounds = []
        for name in ("publishedGt", "flowDate"):
            text = call.params.get(name)
            if text is not None and not text.endswith("Z"):  # an offset: production answered so
                return Answer(404, b""), None
            try:
                bounds.append(datetime.fromisoformat(text) if text else month)
            except ValueError:
                raise _BadRequestError("FDR-1000", f"{name} is no instant") from None
            if text and bounds[-1] < month:
                raise _BadRequestError("FDR-1000", f"{name} is older than one month")
        found = self.shelf.latest(call.org, bounds[0], bounds[1], call.params.get("pspId"))
        if not found:
            if self.settings.nothing_found == "closed":
                return Answer(200, b""), Fault(name="nothing found", drop="before")
            if self.settings.nothing_found == "empty":
                return Answer(404, b""), None
            raise _BadRequestError("FDR-0404", "No flow found", 404)
        answer = self._page([flow.listed() for flow in found], call)
        self._publish()
        return answer, None

    def _publish(self) -> None:
        for order in list(self.insertions):
            order["left"] -= 1
            if order["left"] <= 0:
                self.insertions.remove(order)
                self.shelf.load({"flows": order.get("flows", ())}, self._now())
                for org in self.shelf.flows:
                    for name in order.get("remove", ()):
                        self.shelf.remove(org, name)

    def _flow(self, call: FdrCall) -> Published:
        if not re.fullmatch(r"[1-9][0-9]{0,8}", call.revision):
            raise _BadRequestError("FDR-1000", "revision is no number")
        flow = self.shelf.find(call.org, call.iuv or "", call.psp, int(call.revision))
        if flow is None:
            raise _BadRequestError("FDR-3001", "Flow unknown", 404)
        if flow.more.get("disabled"):
            raise _BadRequestError("FDR-2001", f"PSP [{flow.psp}] not enabled")
        return flow

    def _page(self, rows: list[dict[str, Any]], call: FdrCall) -> Answer:
        page, size = (_number(call.params, name, default) for name, default in (("page", 1), ("size", 1000)))
        if size > 1000 and call.endpoint == "flows":
            raise _BadRequestError("FDR-1000", "size is too large")
        size = min(size, self.settings.page_size)
        pages = max(1, -(-len(rows) // size))
        shown = rows[(page - 1) * size : page * size]
        body = {
            "metadata": {"pageSize": size, "pageNumber": page, "totPage": pages},
            "count": len(shown),
            "data": shown,
        }
        return Answer(200, json.dumps(body).encode())

    def _receipt(self, call: FdrCall) -> Answer:
        ecs, body = self.shelf.receipts.get(call.iuv or "", (frozenset(), b""))
        if call.org not in ecs:
            detail = f"Receipt not found with id organization {call.org} and iur {call.iuv}"
            content = {"title": "Not found", "status": 404, "detail": detail}
            return Answer(404, json.dumps(content).encode())
        return Answer(200, body)

    def _error(self, status: int, code: str, message: str) -> Answer:
        content = {
            "httpStatusCode": status,
            "httpStatusDescription": phrase(status),
            "appErrorCode": code,
            "errors": [{"message": message}],
        }
        return Answer(status, json.dumps(content).encode())

    def _gateway(self, status: int, message: str) -> Answer:
        return Answer(status, json.dumps({"statusCode": status, "message": message}).encode())

    def _now(self) -> datetime:
        return datetime.fromisoformat(self.settings.now) if self.settings.now else datetime.now(UTC)


def _number(params: dict[str, str], name: str, default: int) -> int:
    text = params.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise _BadRequestError("FDR-1000", f"{name} is not a number from 1")
    return int(text)
