"""All webhooks of one run: what each is to send next is read and claimed, and what came of it is written."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from station import store
from station.deliver.schedule import Task
from station.deliver.sender import WebhookSender
from station.store import deliveries, outgoing
from station.store.outgoing import Choice

_REREAD_S = 1.0  # how often open deliveries are looked for: retries, and what operators ask for
_PAGE = 256  # of deliveries, for one destination
_PAGE_BUSY = 32  # a second, for each of them, while receipts come so fast that they need the machine
_PROBES = 16  # for a destination that is away
_SHOWN_MIN = 2_000


@dataclass
class _Webhook:
    """A webhook and what is known of it."""

    sender: WebhookSender
    position: int = 0
    began_at: int | None = None  # its position when this run began, for progress
    seen: tuple[Any, ...] = ()  # the state that was read or written last: another one is an operator's
    read_at: float = float("-inf")
    may_have_more: bool = True  # open deliveries beyond those that were read


class Dispatch:
    """The webhooks, by name. `show` is called with progress. Only one thread may call it."""

    def __init__(
        self,
        engine: store.Engine,
        senders: Iterable[WebhookSender],
        *,
        now: Callable[[], datetime],
        show: Callable[[str, int, int | None], None],
    ) -> None:
        self._engine = engine
        self._webhooks = {sender.destination.name: _Webhook(sender) for sender in senders}
        self._now = now
        self._show = show
        self._looked_at = float("-inf")
        self._due: set[str] = set()
        self._page = _PAGE

    def write_results(self) -> None:
        """Write the results of all webhooks in one transaction."""
        results = {name: webhook.sender.results() for name, webhook in self._webhooks.items()}
        attempts = [one for some, _ in results.values() for one in some]
        if not attempts:
            return
        health = {name: values for name, (some, values) in results.items() if some}
        with store.transaction(self._engine) as connection:
            deliveries.write_results(connection, attempts, health)
        for name, values in health.items():
            webhook = self._webhooks[name]
            webhook.sender.written(results[name][0])
            webhook.seen = (values.get("state", "active"), values["failures"], values["next_attempt_at"])

    def serve(self, rows: Mapping[str, Any], last: int, *, busy: bool) -> bool:
        """Give each webhook of `rows` what it may send next, up to the number `last`; little if `busy`.

        Return whether nothing is to be sent now, or is on its way.
        """
        self._page = _PAGE_BUSY if busy else _PAGE
        self._look_for_due()
        served = [webhook for name, webhook in self._webhooks.items() if name in rows]
        wanting, at_rest = [], True
        for webhook in served:
            self._load(webhook, rows[webhook.sender.destination.name])
            if webhook.sender.limit > 0:
                if self._read_more(webhook):
                    at_rest = False
                elif webhook.position < last:
                    wanting.append(webhook)
        if wanting:
            at_rest = self._claim(wanting, last) and at_rest
        for webhook in served:
            sender = webhook.sender
            sender.wake()
            # In this order: what ends between the two questions has its result by the second.
            at_rest = at_rest and sender.is_at_rest and not sender.has_results
            if (total := last - (webhook.began_at or 0)) > _SHOWN_MIN:
                self._show(f"{sender.destination.name}: numbers", webhook.position - (webhook.began_at or 0), total)
        return at_rest

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way and nothing may be sent of what was read."""
        return all(webhook.sender.is_at_rest for webhook in self._webhooks.values())

    def clear(self) -> None:
        """Leave what is not on its way."""
        for webhook in self._webhooks.values():
            webhook.sender.clear()
            webhook.may_have_more = True

    def finish(self, seconds: float) -> None:
        """Send nothing more, let what is on its way end within so many seconds, and write what came of it."""
        for webhook in self._webhooks.values():
            webhook.sender.stop()
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.is_at_rest:
            time.sleep(0.02)
        self.write_results()

    def has_open(self, last: int) -> bool:
        """Return whether anything up to the number `last` is not settled, or was given up in this run."""
        if any(webhook.sender.given_up for webhook in self._webhooks.values()):
            return True
        with store.transaction(self._engine, readonly=True) as connection:
            rows = deliveries.destinations(connection)
            return any(rows[name].position < last or deliveries.has_open(connection, name) for name in self._webhooks)

    # --- what is to be sent next ---

    def _look_for_due(self) -> None:
        """Read now and then which webhooks have open deliveries whose time has come: one query for all."""
        if time.monotonic() >= self._looked_at + _REREAD_S:
            with store.transaction(self._engine, readonly=True) as connection:
                self._due = deliveries.names_due(connection, now=self._now())
            self._looked_at = time.monotonic()

    def _load(self, webhook: _Webhook, row: Any) -> None:
        """Take over what the database says, which an operator may have changed."""
        state = (row.state, row.failures, row.next_attempt_at)
        if state != webhook.seen and not webhook.sender.has_results:
            webhook.sender.load(row)
            webhook.seen, webhook.may_have_more = state, True
        webhook.position = row.position
        if webhook.began_at is None:
            webhook.began_at = row.position

    def _read_more(self, webhook: _Webhook) -> bool:
        """Read open deliveries that are due, unless enough wait to be sent. Return whether it has enough of them."""
        sender = webhook.sender
        name = sender.destination.name
        again = name in self._due and webhook.read_at < self._looked_at
        if sender.health.failures:
            webhook.may_have_more = True  # when it is reached again
            if not sender.ready or again:
                # An operator may have skipped what was read before; and probes were taken out of the order.
                sender.clear()
                self._read_due(webhook, _PROBES, away=True, in_turn=sender.health.probes_in_turn)
            return sender.ready > (1 if sender.health.probes_in_turn else 0)  # another one may wait to be claimed
        if sender.ready >= self._page // 2:
            return True
        if webhook.may_have_more or again:
            webhook.may_have_more = self._read_due(webhook, self._page)
        return webhook.may_have_more

    def _read_due(self, webhook: _Webhook, page: int, *, away: bool = False, in_turn: bool = False) -> bool:
        """Read open deliveries whose time has come. Return whether there may be more.

        To probe a destination that is `away`, those that were never refused come first: another one may be refused for
        what it is. With `in_turn` those that were sent longest ago come first of these.
        """
        sender = webhook.sender
        name, raw = sender.destination.name, sender.destination.document
        known = sender.known
        limit = len(known) + page
        with store.transaction(self._engine, readonly=True) as connection:
            rows = deliveries.due(connection, name, now=self._now(), limit=limit, untried_first=away, in_turn=in_turn)
            new = [row for row in rows if row.number not in known]
            numbers = [row.number for row in new]
            found = {one.number: one for one in outgoing.by_number(connection, numbers, raw=raw)} if new else {}
        webhook.read_at = time.monotonic()
        if missing := set(numbers) - found.keys():
            with store.transaction(self._engine) as connection:
                deliveries.settle_missing(connection, name, missing, at=self._now())
        sender.put(
            Task(found[row.number], row.attempts, row.next_attempt_at, row.first_at)
            for row in new
            if row.number in found
        )
        return len(rows) == limit

    def _claim(self, webhooks: list[_Webhook], last: int) -> bool:
        """Take the next numbers for these webhooks. Return whether there are no more for any of them.

        Webhooks that stand at the same place share what is read: new receipts are read once, whatever their number.
        """
        places: dict[int, list[_Webhook]] = defaultdict(list)
        for webhook in webhooks:
            places[webhook.position].append(webhook)
        complete = True
        for position, some in places.items():
            raw = any(webhook.sender.destination.document for webhook in some)
            choice = some[0].sender.choice if len(some) == 1 else Choice()
            limit = min(_PROBES if webhook.sender.health.failures else self._page for webhook in some)
            at = self._now()
            with store.transaction(self._engine, readonly=True) as connection:
                page = outgoing.outgoing_page(connection, choice, after=position, limit=limit, last=last, raw=raw)
            chosen = [[one for one in page.items if webhook.sender.choice.has(one.receipt)] for webhook in some]
            claims = {
                webhook.sender.destination.name: [one.number for one in items]
                for webhook, items in zip(some, chosen, strict=True)
            }
            with store.transaction(self._engine) as connection:
                claimed = deliveries.claim(connection, claims, position=position, to=page.next, at=at)
            for webhook, items in zip(some, chosen, strict=True):
                if webhook.sender.destination.name in claimed:
                    if webhook.sender.health.probes_in_turn:
                        webhook.sender.clear()  # what was sent before is read again behind these
                    webhook.sender.put(Task(one, next_attempt_at=at) for one in items)
                else:
                    complete = False  # an operator or another deliverer was quicker: the position is read again
            complete = complete and not page.more
        return complete
