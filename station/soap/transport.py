"""Spyne's server transport for one WSGI request with one SOAP document in it.

Spyne's own `WsgiApplication` also makes WSDLs, answers in chunks, packs attachments, copies every header and tells a
dozen events to listeners, of which there are none here: two thirds of what Spyne cost a receipt.
"""

from collections.abc import Callable, Iterable
from typing import Any

from station import media_type
from station.soap import spyne_import  # noqa: F401  (before Spyne)

import spyne.context  # isort: skip
from spyne import MethodContext, TransportContext  # isort: skip
from spyne.server import ServerBase  # isort: skip


class _TransportContext(TransportContext):  # type: ignore[misc]  # Spyne has no types
    """The request's WSGI environment, and status and header fields of the answer."""

    def __init__(self, parent: Any, transport: Any) -> None:
        super().__init__(parent, transport, "wsgi")
        self.req_env: dict[str, Any] = {}
        self.resp_code: str | None = None
        self.resp_headers: dict[str, str] = {}


class ProtocolContext(spyne.context.ProtocolContext):  # type: ignore[misc]  # Spyne has no types
    """The protocol's state of one call. Spyne's own refers to itself, for contexts within it that are not used here."""

    def __init__(self, parent: Any, transport: Any) -> None:
        self.parent = parent
        self.itself = transport
        self.type = None


class _Context(MethodContext):  # type: ignore[misc]  # Spyne has no types
    """One call. Its events have no listeners, and its attributes need no protection."""

    TransportContext = _TransportContext
    __setattr__ = object.__setattr__

    def fire_event(self, event: str, *args: Any, **kwargs: Any) -> None:
        return None


class Transport(ServerBase):  # type: ignore[misc]  # Spyne has no types
    """A WSGI application for POSTs whose body the caller has read and bounded."""

    transport = "http://schemas.xmlsoap.org/soap/http"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        initial = ctx = _Context(self, MethodContext.SERVER)
        try:
            ctx.transport.req_env = environ
            ctx.in_string = [environ["wsgi.input"].read()]
            ctx = self.generate_contexts(ctx, media_type.read(environ.get("CONTENT_TYPE", "")).charset)[0]
            if ctx.in_error is None:
                self.get_in_object(ctx)
            if ctx.in_error is None:
                self.get_out_object(ctx)
            self.get_out_string(ctx)
            answer = b"".join(ctx.out_string)
            status = ctx.transport.resp_code
            if status is None:  # no local name for the error: its traceback holds this frame, which would hold it
                failed = ctx.out_error is not None
                status = ctx.out_protocol.fault_to_http_response_code(ctx.out_error) if failed else "200 OK"
            headers = {"Content-Type": "text/xml; charset=utf-8", "Content-Length": str(len(answer))}
            start_response(status, [*headers.items(), *ctx.transport.resp_headers.items()])
            return [answer]
        finally:
            # They refer to each other: documents and their trees would stay in memory until Python looks for cycles.
            initial.__dict__.clear()
