"""A TCP proxy that hurts: between the station and PostgreSQL it is a bad network, before two stations a balancer."""

import asyncio
import contextlib
import threading
from collections.abc import Sequence


class Proxy:
    """Forwards one port to the first of `targets`, or to each in turn. Runs in a thread of its own."""

    def __init__(self, targets: Sequence[int], *, balance: bool = False) -> None:
        self.targets = list(targets)
        self._balance = balance
        self._turn = 0
        self.mode = "pass"  # or "refuse", "swallow" (nothing goes through, connections stand)
        self.delay = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flow = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.port = 0

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> None:
            self._flow.set()
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.run_until_complete(listen())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    def _do(self, work: object) -> None:
        done = threading.Event()

        def run() -> None:
            work()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(10)

    def set(self, mode: str, delay: float = 0.0) -> None:
        """Changes what happens to all connections, old and new ones."""

        def change() -> None:
            self.mode, self.delay = mode, delay
            self._flow.clear() if mode == "swallow" else self._flow.set()

        self._do(change)

    def drop(self) -> None:
        """Resets every connection that stands."""
        self._do(lambda: [writer.transport.abort() for writer in list(self._writers)])

    def half_close(self) -> None:
        """Ends one direction of every connection that stands: the other side is still written to."""

        def end() -> None:
            for writer in list(self._writers):
                if writer.can_write_eof():
                    with contextlib.suppress(OSError):
                        writer.write_eof()

        self._do(end)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        other = None
        try:
            if self.mode == "refuse":
                return
            await self._flow.wait()
            other_reader, other = await self._upstream()
            self._writers.add(other)
            await asyncio.gather(self._pump(reader, other), self._pump(other_reader, writer))
        except (OSError, asyncio.CancelledError):  # cancelled in the end, when nobody waits for it
            pass
        finally:
            for one in (writer, other):
                if one is not None:
                    one.transport.abort()
                    self._writers.discard(one)

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        first = self._turn if self._balance else 0
        self._turn += 1
        for place in range(len(self.targets)):
            target = self.targets[(first + place) % len(self.targets)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", target)
        raise ConnectionRefusedError

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flow.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
