"""Copies on their way: new payments at a rate, several connections, and the table of what is to be sent again."""

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from dataclasses import dataclass, field

from .ledger import Writer
from .payments import Copy, Payments
from .wire import Channel, Unanswered, meaning


@dataclass(frozen=True)
class Settings:
    """How the Nodo behaves. Times are seconds; the real Nodo waits 15 for an answer and pauses for an hour."""

    seed: int = 1
    rate: float = 30.0  # payments a second, so many as the connections can carry
    payments: int | None = None  # ends after so many
    connections: int = 16
    timeout: float = 15.0
    attempts: int = 48
    pause: float = 1.0
    leaving: float = 0.01  # share of sends whose connection the sender gives up
    twice: float = 0.02  # share of sends that go out twice at the same time
    odd: float = 0.25
    refused: float = 0.08


@dataclass(order=True)
class _Due:
    at: float
    number: int
    copy: Copy = field(compare=False)
    attempt: int = field(compare=False, default=1)


class Sender:
    """Sends until it is told to make no more payments, and then until every copy is final or given up."""

    def __init__(self, settings: Settings, urls: list[str], ledger: Writer) -> None:
        self.settings = settings
        self._urls = urls
        self._ledger = ledger
        self._due: list[_Due] = []
        self._numbers = itertools.count()
        self._chance = random.Random(settings.seed)
        self._making = True
        self._open = 0  # copies that are neither final nor given up

    def stop_making(self) -> None:
        self._making = False

    async def run(self) -> None:
        maker = asyncio.create_task(self._make())
        workers = [asyncio.create_task(self._work(number)) for number in range(self.settings.connections)]
        await maker
        while self._open:
            await asyncio.sleep(0.02)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _make(self) -> None:
        settings = self.settings
        payments = Payments(settings.seed, settings.odd, settings.refused)
        begun = time.monotonic()
        for number in itertools.count(1):
            if not self._making or (settings.payments is not None and number > settings.payments):
                return
            copies = payments.next()
            for copy in copies:
                self._ledger.write("copy", **copy.entry)
                self._open += 1
                heapq.heappush(self._due, _Due(time.monotonic(), next(self._numbers), copy))
            await asyncio.sleep(0)  # on a busy machine it may be behind for ever, and what is made is to be sent
            # Beyond this the connections cannot follow: more payments would only wait.
            while self._making and (
                time.monotonic() < begun + number / settings.rate or len(self._due) > 100 * settings.connections
            ):
                await asyncio.sleep(0.005)

    async def _work(self, number: int) -> None:
        channel = Channel(self._urls[number % len(self._urls)])
        try:
            while True:
                if not self._due or self._due[0].at > time.monotonic():
                    await asyncio.sleep(0.01)
                    continue
                due = heapq.heappop(self._due)
                twin = None
                if self._chance.random() < self.settings.twice:
                    twin = asyncio.create_task(self._attempt(Channel(channel.url), due, None))
                leave = (
                    self._chance.choice(("inside", "before")) if self._chance.random() < self.settings.leaving else None
                )
                results = [await self._attempt(channel, due, leave)]
                if twin is not None:
                    results.append(await twin)
                self._judge(due, results)
        finally:
            channel.close()

    async def _attempt(self, channel: Channel, due: _Due, leave: str | None) -> str:
        copy = due.copy
        operation = copy.request.operation
        self._ledger.write("send", d=copy.id, n=due.attempt)
        begun = time.monotonic()
        try:
            status, body = await channel.post(copy.raw, operation, self.settings.timeout, leave=leave)
            result = meaning(status, body, operation)
        except TimeoutError:
            result = "timeout"
        except Unanswered:
            result = "left" if leave else "broken"
        with contextlib.suppress(RuntimeError):
            milliseconds = round((time.monotonic() - begun) * 1000, 1)
            self._ledger.write("answer", d=copy.id, n=due.attempt, r=result, ms=milliseconds)
        return result

    def _judge(self, due: _Due, results: list[str]) -> None:
        if "OK" in results or "KO" in results:
            self._open -= 1
        elif due.attempt >= self.settings.attempts:
            self._ledger.write("given_up", d=due.copy.id)
            self._open -= 1
        else:
            at = time.monotonic() + self.settings.pause
            heapq.heappush(self._due, _Due(at, next(self._numbers), due.copy, due.attempt + 1))
