"""The FdR API: the flows that are published for an EC, and their payments.

Its amounts are JSON numbers from floating point, such as 0.30000000000000004: they are read as text and rounded to
cents, and refused where they are not cents at all. Its "nothing found" is a 404, also with an empty body, or a
connection that is closed without an answer. Times are sent as UTC with `Z`: with an offset production answered 404.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from station.config import Fdr
from station.errors import ApiAnswerError, ApiClosedError, ApiError, ApiRequestError
from station.flow_columns import STATUSES
from station.pagopa.answers import error_text, expect_ok, is_printable, page_count, read_json, read_list, read_object
from station.pagopa.calls import EcCalls
from station.pagopa.http import ApiClient, ApiResponse
from station.text import printable

PAGE_SIZE = 1000  # the most that the API gives
PAYMENTS_MAX = 500_000  # of one flow, which is held in memory until it is stored; real ones have some thousands
_PAGES_MAX = 200  # of the list: 200,000 flows in a month; a list that never ends is a defect of the API
_CHECK_TIMEOUT_S = 10.0
_CLOSED_RETRIES = 1
_ROUNDING = Decimal("0.0001")  # of amounts from floating point, in euro
EURO_MAX = 10**10
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class FlowKey:
    """What tells a flow from the EC's others. Revisions of one flow differ in `revision` alone."""

    fdr: str
    psp_id: str
    revision: int

    def __str__(self) -> str:
        return f"{self.fdr} of {self.psp_id}, revision {self.revision}"


@dataclass(frozen=True, slots=True)
class ListedFlow:
    """A flow in the list, its latest revision."""

    key: FlowKey
    published: datetime | None
    flow_date: datetime | None


@dataclass(frozen=True, slots=True)
class FlowPage:
    """One page of the list; `unreadable`: in words, the rows that cannot be used."""

    flows: Sequence[ListedFlow]
    pages: int
    unreadable: Sequence[str]


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow; amounts in euro. What the PSP declares, and what FdR counted (`computed_`)."""

    key: FlowKey
    status: str | None
    published: datetime | None
    created: datetime | None
    flow_date: datetime | None
    regulation: str | None
    regulation_date: date | None
    bic: str | None
    sender_id: str | None
    psp_name: str | None
    receiver_id: str | None
    receiver_organization_id: str | None
    receiver_name: str | None
    tot_payments: int | None
    sum_payments: Decimal | None
    computed_tot_payments: int | None
    computed_sum_payments: Decimal | None


@dataclass(frozen=True, slots=True)
class FlowPayment:
    """One payment of a flow; `amount` in euro, `position` FdR's index, `pay_status` 0, 3, 4, 8 or 9."""

    position: int
    iuv: str
    iur: str
    id_transfer: int
    amount: Decimal
    pay_status: int
    pay_date: datetime | None


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """One page of a flow's payments."""

    payments: Sequence[FlowPayment]
    pages: int


def check_fdr_access(settings: Fdr, id_pa: str, key: str) -> None:
    """Make one call for an EC, without retries and with a short timeout. Raise `ApiError`."""
    short = settings.model_copy(update={"retries": 0, "timeout": min(settings.timeout, _CHECK_TIMEOUT_S)})
    with ApiClient(short, threading.Event()) as client:
        FdrClient(client, id_pa, key).flows(datetime.now(UTC) - timedelta(minutes=1), 1)


class FdrClient:
    """The calls for one EC. Each raises `ApiError`."""

    def __init__(self, client: ApiClient[Fdr], id_pa: str, key: str) -> None:
        self.id_pa = id_pa
        self._ec_calls = EcCalls(client, id_pa)
        self._key = key
        self._url = f"{client.settings.url.rstrip('/')}/organizations/{quote(id_pa, safe='')}/fdrs"

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._ec_calls.number

    def flows(self, since: datetime, page: int) -> FlowPage | None:
        """Return page `page`, from 1, of the flows published after `since`; `None`: nothing, or no such page."""

        def read(response: ApiResponse) -> FlowPage | None:
            if _nothing_found(response):
                return None
            expect_ok(response, "fdr.url", "application/json")
            return read_flows(response)

        def retries(error: ApiError) -> int | None:
            return _CLOSED_RETRIES if isinstance(error, ApiClosedError) else None

        params = {"publishedGt": f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", "page": str(page)}
        params["size"] = str(PAGE_SIZE)
        try:
            return self._ec_calls.get(self._url, params, self._key, read, operation="flows", retries=retries)
        except ApiClosedError:
            if page > 1:
                raise
            return None

    def flow(self, key: FlowKey) -> Flow:
        """Return a flow without its payments."""

        def read(response: ApiResponse) -> Flow:
            _expect_flow(response)
            return read_flow(response, key, self.id_pa)

        return self._ec_calls.get(self._flow_url(key), {}, self._key, read, operation="flow")

    def payments(self, key: FlowKey, page: int) -> PaymentPage:
        """Return page `page`, from 1, of a flow's payments."""

        def read(response: ApiResponse) -> PaymentPage:
            _expect_flow(response)
            return read_payments(response)

        params = {"page": str(page), "size": str(PAGE_SIZE)}
        return self._ec_calls.get(f"{self._flow_url(key)}/payments", params, self._key, read, operation="payments")

    def _flow_url(self, key: FlowKey) -> str:
        return f"{self._url}/{quote(key.fdr, safe='')}/revisions/{key.revision}/psps/{quote(key.psp_id, safe='')}"


def _nothing_found(response: ApiResponse) -> bool:
    """Return whether it is FdR's own 404, empty or in the form of its errors; any other is not FdR's."""
    if response.status != 404:
        return False
    body = read_json(response)
    return not response.body.strip() or (isinstance(body, dict) and "appErrorCode" in body)


def _expect_flow(response: ApiResponse) -> None:
    if _nothing_found(response):
        raise ApiRequestError(
            f"404{error_text(response)}: the API lists this flow and does not have it",
            request_id=response.request_id,
            status=404,
        )
    expect_ok(response, "fdr.url", "application/json")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_flows(response: ApiResponse) -> FlowPage:
    """Return the page in an answer to the list call."""
    data, pages = _page(response, _PAGES_MAX)
    flows, unreadable = [], []
    for number, value in enumerate(data, start=1):
        try:
            row = _Fields(value)
            key = FlowKey(row.name("fdr"), row.name("pspId"), row.number("revision", 1))
            flows.append(ListedFlow(key, row.moment("published"), row.moment("flowDate")))
        except ValueError as error:
            unreadable.append(f"row {number}: {error}")
    return FlowPage(flows, pages, unreadable)


def read_flow(response: ApiResponse, key: FlowKey, id_pa: str) -> Flow:
    """Return the flow in an answer. Raise `ApiAnswerError` where it is another one, or another EC's."""
    body = read_object(response)
    try:
        fields, sender, receiver = _Fields(body), _Fields(body.get("sender") or {}), _Fields(body.get("receiver") or {})
        found = FlowKey(fields.name("fdr"), sender.name("pspId"), fields.number("revision", 1))
        if found != key:
            raise ValueError(f"it is another flow, {printable(found)}")
        receivers = (receiver.text("id", 35), receiver.text("organizationId", 35))
        if id_pa not in receivers:
            raise ValueError(f"its receiver is another EC, {printable(receivers[1] or receivers[0] or 'none')}")
        flow = Flow(
            key=key,
            status=fields.text("status", 10),
            published=fields.moment("published"),
            created=fields.moment("created"),
            flow_date=fields.moment("fdrDate"),
            regulation=fields.text("regulation", 140),
            regulation_date=fields.day("regulationDate"),
            bic=fields.text("bicCodePouringBank", 35),
            sender_id=sender.text("id", 35),
            psp_name=sender.text("pspName", 140),
            receiver_id=receivers[0],
            receiver_organization_id=receivers[1],
            receiver_name=receiver.text("organizationName", 140),
            tot_payments=fields.optional_number("totPayments"),
            sum_payments=fields.optional_euro("sumPayments"),
            computed_tot_payments=fields.optional_number("computedTotPayments"),
            computed_sum_payments=fields.optional_euro("computedSumPayments"),
        )
    except ValueError as error:
        raise ApiAnswerError(
            f"200 with an unusable flow: {error}", request_id=response.request_id, status=200
        ) from None
    return flow


def read_payments(response: ApiResponse) -> PaymentPage:
    """Return the page in an answer to the call for payments. All of its rows must be readable."""
    data, pages = _page(response, PAYMENTS_MAX)
    payments = []
    for number, value in enumerate(data, start=1):
        try:
            row = _Fields(value)
            payments.append(
                FlowPayment(
                    position=row.number("index", 1),
                    iuv=row.id("iuv"),
                    iur=row.id("iur"),
                    id_transfer=1 if row.missing("idTransfer") else row.number("idTransfer", 1, 5),
                    amount=row.euro("pay"),
                    pay_status=row.pay_status("payStatus"),
                    pay_date=row.moment("payDate"),
                )
            )
        except ValueError as error:
            raise ApiAnswerError(
                f"200 with an unusable payment: row {number}: {error}", request_id=response.request_id, status=200
            ) from None
    return PaymentPage(payments, pages)


def _page(response: ApiResponse, most: int) -> tuple[list[Any], int]:
    body = read_object(response)
    metadata = body.get("metadata")
    pages = page_count(metadata.get("totPage") if isinstance(metadata, dict) else None, response, most)
    return read_list(body.get("data"), response), pages


class _Fields:
    """The fields of a JSON object. Each reader raises `ValueError` that names the field and its rule, never a value."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError("it is not an object")
        self._fields: dict[str, Any] = value

    def missing(self, name: str) -> bool:
        return self._fields.get(name) is None

    def id(self, name: str) -> str:
        value = self._fields.get(name)
        if not is_printable(value) or not 1 <= len(value) <= 35:
            raise ValueError(f"{name} is not a text of 1 to 35 printable characters")
        return value

    def name(self, name: str) -> str:
        """Return an id that can be a part of a path."""
        value = self.id(name)
        if value in (".", ".."):
            raise ValueError(f"{name} is not a name")
        return value

    def text(self, name: str, length: int) -> str | None:
        """Return a text of no further use than to be shown: cut, and with line breaks and the like escaped."""
        value = self._fields.get(name)
        return printable(value, None)[:length] if isinstance(value, str) else None

    def number(self, name: str, least: int, most: int = _INT_MAX) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is not a number from {least} to {most}")
        return value

    def optional_number(self, name: str) -> int | None:
        return None if self.missing(name) else self.number(name, 0)

    def euro(self, name: str) -> Decimal:
        value = self._fields.get(name)
        if type(value) is int:
            value = Decimal(value)
        if not isinstance(value, Decimal) or not 0 <= value < EURO_MAX:
            raise ValueError(f"{name} is not an amount of euro")
        cents = value.quantize(Decimal("0.01"))
        if abs(cents - value) > _ROUNDING or cents >= EURO_MAX:
            raise ValueError(f"{name} is not an amount of euro with two decimals")
        return cents

    def optional_euro(self, name: str) -> Decimal | None:
        return None if self.missing(name) else self.euro(name)

    def pay_status(self, name: str) -> int:
        value = self._fields.get(name)
        if not isinstance(value, str) or value not in STATUSES:
            raise ValueError(f"{name} is none of {', '.join(STATUSES)}")
        return STATUSES[value]

    def moment(self, name: str) -> datetime | None:
        value = self._fields.get(name)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} is not a time") from None

    def day(self, name: str) -> date | None:
        value = self._fields.get(name)
        if value is None:
            return None
        try:
            return date.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is not a day") from None
