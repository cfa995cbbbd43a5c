"""The threads that send to one webhook, so that a slow or dead destination holds none of another's."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from station import config, journal, log
from station.deliver import address, content
from station.deliver.schedule import DestinationHealth, Task
from station.deliver.webhook import WebhookAnswer, WebhookClient, event
from station.store.deliveries import Attempt

_log = log.get(__name__)


class WebhookSender:
    """What is to be sent to one webhook soon, the threads that send it, and what came of it.

    The deliverer adds tasks, takes results and writes them; the threads do not touch the database. At most `in_flight`
    threads are started, each when there is something for it to do. `notify` is called, by a thread, when a result is
    there.
    """

    def __init__(
        self,
        destination: config.Webhook,
        *,
        source: str,
        journal: bool,
        now: Callable[[], datetime],
        resolve: address.Resolve,
        notify: Callable[[], None],
    ) -> None:
        self.destination = destination
        self.choice = content.choice(destination)
        self.health = DestinationHealth(destination.in_flight, timedelta(days=destination.give_up_days))
        self._source = source
        self._journal = journal
        self._now = now
        self._notify = notify
        self._client = WebhookClient(destination, now=now, resolve=resolve)
        self._changed = threading.Condition()
        self._ready: deque[Task] = deque()
        self._busy = 0
        self._idle = 0
        self._threads = 0
        self._stopped = False
        self.given_up = 0
        self._results: list[Attempt] = []
        self._known: set[int] = set()  # ready, on the way, or with a result that is not written

    # --- called by the deliverer ---

    @property
    def ready(self) -> int:
        """How many tasks wait."""
        return len(self._ready)

    @property
    def known(self) -> frozenset[int]:
        """The numbers of tasks that wait, are on their way, or whose results are not written."""
        with self._changed:
            return frozenset(self._known)

    @property
    def has_results(self) -> bool:
        """Whether there are results that are not written."""
        return bool(self._results)

    @property
    def limit(self) -> int:
        """How many requests may be on their way now."""
        return self.health.limit(self._now())

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way and nothing may be sent now."""
        with self._changed:
            return not self._busy and not (self._ready and self.limit)

    def put(self, tasks: Iterable[Task]) -> None:
        """Add tasks, to be sent in order of their numbers."""
        with self._changed:
            new = [task for task in tasks if task.number not in self._known]
            self._known.update(task.number for task in new)
            if self._ready and new and new[0].number < self._ready[-1].number:
                self._ready = deque(sorted([*self._ready, *new], key=lambda task: task.number))
            else:
                self._ready.extend(new)

    def wake(self) -> None:
        """Let the threads look for what may be sent now; start one more where that is needed."""
        with self._changed:
            room = self.limit - self._busy
            wanted = min(len(self._ready), room)
            if wanted <= 0 or self._stopped:
                return
            self._changed.notify(wanted)
            for _ in range(min(wanted - self._idle, self.destination.in_flight - self._threads)):
                self._threads += 1
                threading.Thread(target=self._work, name=f"webhook {self.destination.name}", daemon=True).start()

    def results(self) -> tuple[list[Attempt], dict[str, Any]]:
        """Return the results that are not written, and the columns of the destination with them."""
        with self._changed:
            return list(self._results), self.health.values()

    def written(self, results: Sequence[Attempt]) -> None:
        """Forget results that were written."""
        with self._changed:
            del self._results[: len(results)]
            self._known.difference_update(result.number for result in results)

    def load(self, row: Any) -> None:
        """Take over the state that the database has, which an operator may have changed."""
        with self._changed:
            self.health.load(row)
            self._clear()  # an operator may have skipped some

    def clear(self) -> None:
        """Leave what is not on its way."""
        with self._changed:
            self._clear()

    def _clear(self) -> None:
        self._known.difference_update(task.number for task in self._ready)
        self._ready.clear()

    def stop(self) -> None:
        """Send nothing more; what is on its way may end."""
        with self._changed:
            self._stopped = True
            self._clear()
            self._changed.notify_all()
        self._client.close()

    # --- the threads ---

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not (self._ready and self._busy < self.limit):
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                if self._stopped:
                    return
                task = self._ready.popleft()
                self._busy += 1
            answer = self._send(task)
            with self._changed:
                self._busy -= 1
                self._take(task, answer)
            self._notify()

    def _send(self, task: Task) -> WebhookAnswer:
        try:
            body = event(task.numbered, self.destination, self._source)
            return self._client.send(content.event_id(task.numbered), body)
        except Exception as error:  # a defect: the others go on, and this one is tried again by its schedule
            _log.error(
                "unexpected_error", destination=self.destination.name, number=task.number,
                receipt_id=task.numbered.receipt["receipt_id"], exc_info=error,
            )  # fmt: skip
            told = f"a defect of the station ({type(error).__name__}): see the log"
            return WebhookAnswer(None, "defect", told, None, self._now(), time.monotonic(), 0.0, 0)

    def _take(self, task: Task, answer: WebhookAnswer) -> None:
        """Judge an answer, and keep the result for the deliverer."""
        was_away, now = self.health.failures, self._now()
        row = self.health.judge(task, answer, now)
        exchange = None
        if self._journal:
            exchange = journal.delivery(
                task.numbered.receipt, at=answer.at, event_id=secrets.randbits(63),
                operation=content.event_type(task.numbered), destination=self.destination.name,
                webhook_id=content.event_id(task.numbered), reason=answer.reason, http_status=answer.status,
                took_s=answer.took_s, size=answer.size,
            )  # fmt: skip
        self._results.append(Attempt(destination=self.destination.name, number=task.number, exchange=exchange, **row))
        if self.health.failures > was_away:
            _log.warning("destination_away", destination=self.destination.name, failures=self.health.failures,
                         reason=answer.reason, error=answer.error, status=answer.status,
                         next_attempt_at=self.health.next_attempt_at)  # fmt: skip
        elif was_away and not self.health.failures:
            _log.info("destination_reached", destination=self.destination.name, failures=was_away)
            self._clear()  # to be read again in order: probes were taken out of it
        fields = {"destination": self.destination.name, "number": task.number, "error": answer.error,
                  "receipt_id": task.numbered.receipt["receipt_id"]}  # fmt: skip
        if row["state"] == "failed":
            self.given_up += 1
            _log.error("delivery_given_up", **fields)
        if answer.gone:
            _log.error("destination_paused", **fields)
            self._clear()
