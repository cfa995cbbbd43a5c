"""One copy on the wire: HTTP/1.1 on a kept connection, the Nodo's 15 s, and what an answer means to the Nodo."""

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from lxml import etree

NS = "{http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd}"
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Unanswered(Exception):  # noqa: N818  (the Nodo's word is a result, not an error)
    """The connection broke, was given up or brought no HTTP."""


@dataclass
class Channel:
    """One sender's connection."""

    url: str
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def post(self, raw: bytes, operation: str, timeout: float, *, leave: str | None = None) -> tuple[int, bytes]:
        """Status and body. Raises `Unanswered` and `TimeoutError`.

        A connection that was closed while it was idle is made again, as every HTTP client does. `leave` gives up
        "inside" of the request, or "before" the answer.
        """
        try:
            async with asyncio.timeout(timeout):
                kept = self.writer is not None
                try:
                    return await self._once(raw, operation, leave)
                except (OSError, EOFError):
                    self.close()
                    if not kept or leave:
                        raise
                return await self._once(raw, operation, leave)
        except (OSError, EOFError) as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            raise Unanswered(type(error).__name__) from error

    async def _once(self, raw: bytes, operation: str, leave: str | None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(parts.hostname, parts.port)
        assert self.reader is not None
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: text/xml; charset=utf-8\r\n"
            f'SOAPAction: "{operation}"\r\nContent-Length: {len(raw)}\r\n\r\n'
        )
        data = head.encode() + raw
        self.writer.write(data[: len(data) // 2] if leave == "inside" else data)
        await self.writer.drain()
        if leave:
            self.close()
            raise EOFError
        answer = await self.reader.readuntil(b"\r\n\r\n")
        found = _LENGTH.search(answer)
        body = await self.reader.readexactly(int(found[1])) if found else await self.reader.read()
        if _CLOSE.search(answer) or not found:
            self.close()
        return int(answer.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def meaning(status: int, body: bytes, operation: str) -> str:
    """OK and KO are final; everything else is a reason to send again."""
    if status != 200:
        return f"http {status}"
    try:
        answer = etree.fromstring(body).find(f"{SOAP}Body")[0]
    except (etree.XMLSyntaxError, TypeError, IndexError):
        return "invalid"
    if answer.tag == f"{SOAP}Fault":
        return "fault"
    fault = answer.find("fault")
    complete = fault is not None and all(fault.findtext(name) for name in ("faultCode", "faultString", "id"))
    outcome = answer.findtext("outcome")
    names = {"paSendRTV2": f"{NS}paSendRTV2Response", "paSendRT": f"{NS}paSendRTRes"}
    if answer.tag == names[operation] and ((outcome == "OK" and fault is None) or (outcome == "KO" and complete)):
        return outcome
    return "invalid"
