"""The Spyne service and the table from our errors to faults. The only user of Spyne.

Spyne owns the operations, the answers' envelope and faults. The bytes are parsed once, by `contract`'s hardened parser;
the request element goes to `intake` as it is and answers come back as elements.

Spyne's own `WsgiApplication` also makes WSDLs, answers in chunks, packs attachments, copies every header, and tells a
dozen events to listeners, of which there are none here: two thirds of what Spyne cost a receipt.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lxml import etree

from station import contract, log, media_type
from station.contract import NS
from station.errors import (
    DocumentError,
    MalformedDocumentError,
    MissingRightsError,
    RefusalError,
    StoreError,
    out_of_resource,
)
from station.intake import Intake
from station.journal import DECLINED
from station.receipt import Identifiers
from station.soap import spyne_import  # noqa: F401  (before Spyne)

from spyne import Application, Fault, MethodContext, Service, rpc  # isort: skip
from spyne.model import AnyXml  # isort: skip
from spyne.protocol.soap import Soap11  # isort: skip
from spyne.server import ServerBase  # isort: skip

_log = log.get(__name__)

RETRY_AFTER_S = "60"
NOT_OFFERED = "not offered by a broadcast station"
AGAIN = "The receipt cannot be stored now: send it again."

# The keys of the WSGI environment: the fields of the request's log line, and the `Origin` of its document.
NOTES = "station.notes"
ORIGIN = "station.origin"


class _Protocol(Soap11):  # type: ignore[misc]  # Spyne has no types
    """SOAP 1.1 as Spyne has it, with elements where Spyne would build objects."""

    def get_context(self, parent: Any, transport: Any) -> None:
        """Return no state of the protocol: Spyne's refers to itself, for contexts within it that are not used here."""

    def to_parent(
        self, ctx: Any, cls: type, inst: Any, parent: contract.Element, ns: str, *args: Any, **kwargs: Any
    ) -> Any:
        """Append the answer, an element already; faults are Spyne's."""
        if isinstance(inst, etree._Element):
            parent.append(inst)
            return None
        return super().to_parent(ctx, cls, inst, parent, ns, *args, **kwargs)


class _Context(MethodContext):  # type: ignore[misc]  # Spyne has no types
    """One call. Its events have no listeners, and its attributes need no protection."""

    __setattr__ = object.__setattr__

    def fire_event(self, event: str, *args: Any, **kwargs: Any) -> None:
        return None


class SoapApplication(ServerBase):  # type: ignore[misc]  # Spyne has no types
    """Spyne's server for one HTTP request with one SOAP document in it."""

    transport = "http://schemas.xmlsoap.org/soap/http"

    def answer(self, environ: dict[str, Any], body: bytes) -> tuple[str, bytes, tuple[tuple[str, str], ...]]:
        """Return status, body and further header fields of the answer to a POST. `body` is bounded by the caller."""
        ctx = _Context(self, MethodContext.SERVER)
        try:
            ctx.transport.req_env = environ
            ctx.transport.resp_code = None
            ctx.transport.resp_headers = {}
            try:
                # The operation is chosen by the root element of the Body; the SOAPAction header is ignored. The
                # published schema validates the request, not Spyne.
                charset = media_type.read(environ.get("CONTENT_TYPE", "")).charset
                ctx.in_document = contract.parse(body, charset)
                root = ctx.in_document.root
                if root.tag != f"{{{contract.NS_SOAP}}}Envelope":
                    raise DocumentError("the document is not a SOAP 1.1 envelope")
                ctx.in_object = request = contract.request_element(root)
                if request.tag not in self.app.interface.service_method_map:
                    raise DocumentError("the element in the SOAP Body is not an operation of paForNode")
                (ctx.descriptor,) = self.app.interface.service_method_map[request.tag]
            except DocumentError as error:
                environ[NOTES].update(result="rejected", reason=str(error))
                ctx.in_error = ctx.out_error = Fault("Client", str(error))
                # SOAP 1.1 answers faults with 500; what is not even XML is a bad HTTP request (WS-I Basic Profile
                # R1113).
                if isinstance(error, MalformedDocumentError):
                    ctx.transport.resp_code = "400 Bad Request"
            else:
                self.get_out_object(ctx)
            self.get_out_string(ctx)
            status = ctx.transport.resp_code
            if status is None:  # no local name for the error: its traceback holds this frame, which would hold it
                failed = ctx.out_error is not None
                status = ctx.out_protocol.fault_to_http_response_code(ctx.out_error) if failed else "200 OK"
            return status, b"".join(ctx.out_string), tuple(ctx.transport.resp_headers.items())
        finally:
            # They refer to each other: documents and their trees would stay in memory until Python looks for cycles.
            ctx.__dict__.clear()


def _server_fault(ctx: Any, status: str, text: str) -> Fault:
    """Never an outcome KO: after a fault the Nodo sends the receipt again, after a KO it never does."""
    ctx.transport.resp_code = status
    ctx.transport.resp_headers["Retry-After"] = RETRY_AFTER_S
    return Fault("Server", text)


# The whole answer with outcome OK, by the name of its element.
_ACCEPTED = {
    name: (
        "<?xml version='1.0' encoding='UTF-8'?>\n"
        f'<soap:Envelope xmlns:soap="{contract.NS_SOAP}" xmlns:pafn="{NS}"><soap:Body>'
        f"<pafn:{name}><outcome>OK</outcome></pafn:{name}></soap:Body></soap:Envelope>"
    ).encode()
    for name in ("paSendRTRes", "paSendRTV2Response")
}


def _answer(name: str, refusal: RefusalError, id_: str, description: str = "") -> contract.Element:
    """Return a ctResponse with outcome KO and its fault."""
    answer = etree.Element(f"{{{NS}}}{name}", nsmap={"pafn": NS})
    etree.SubElement(answer, "outcome").text = "KO"
    fault = etree.SubElement(answer, "fault")
    etree.SubElement(fault, "faultCode").text = refusal.fault_code
    etree.SubElement(fault, "faultString").text = refusal.fault_string
    etree.SubElement(fault, "id").text = id_
    etree.SubElement(fault, "description").text = description or str(refusal)
    return answer


def _receive(ctx: Any, request: contract.Element, identifiers: Identifiers, answer: str) -> contract.Element | None:
    """Pass a pushed receipt request to `accept`. Its outcome is committed before the answer leaves."""
    environ = ctx.transport.req_env
    notes = environ[NOTES]
    intake: Intake = ctx.app.config
    try:
        outcome = intake.accept(ctx.in_document, request, environ[ORIGIN], identifiers)
    except StoreError as error:
        notes.update(result="store_error", reason=error.reason)
        if isinstance(error, MissingRightsError):
            notes["hint"] = str(error)
        raise _server_fault(ctx, "503 Service Unavailable", AGAIN) from error
    except Exception as error:
        if lacking := out_of_resource(error):
            _log.error("out_of_resource", lacking=lacking, exc_info=error)
            notes.update(result="store_error", reason=lacking)
            raise _server_fault(ctx, "503 Service Unavailable", AGAIN) from error
        _log.error("unexpected_error", exc_info=error)
        notes.update(result="unexpected_error")
        raise _server_fault(ctx, "500 Internal Server Error", "Internal error: send the receipt again.") from error
    notes["result"] = outcome.result.value
    if outcome.flags:
        notes["flags"] = sorted(outcome.flags)
    if outcome.refusal is None:
        ctx.out_string = [_ACCEPTED[answer]]  # which Spyne then leaves alone
        return None
    notes.update(fault_code=outcome.refusal.fault_code, reason=str(outcome.refusal), refused_id=outcome.refused_id)
    return _answer(answer, outcome.refusal, id_=outcome.identifiers.id_pa or intake.settings.own_id)


def _decline(ctx: Any, _request: contract.Element, identifiers: Identifiers, answer: str) -> contract.Element:
    """Answer another operation, such as the back office's "verify URL": its own answer, outcome KO."""
    refusal = RefusalError()
    environ, intake = ctx.transport.req_env, ctx.app.config
    notes = environ[NOTES]
    notes.update(result="declined", fault_code=refusal.fault_code)
    identifiers = replace(identifiers, operation=notes["operation"])
    notes["journaled"] = intake.note(
        identifiers, environ[ORIGIN], outcome=DECLINED, fault_code=refusal.fault_code, raw=ctx.in_document.raw
    )
    return _answer(answer, refusal, id_=identifiers.id_pa or intake.settings.own_id, description=NOT_OFFERED)


def _operation(
    name: str,
    request: str,
    answer: str,
    work: Callable[[Any, contract.Element, Identifiers, str], contract.Element | None],
) -> Any:
    """One operation of the port type: bare elements in and out, their names as the WSDL has them."""

    def operation(ctx: Any, element: contract.Element) -> contract.Element | None:
        identifiers = contract.identify(element)
        ctx.transport.req_env[NOTES].update(
            operation=name,
            id_pa=identifiers.id_pa,
            id_station=identifiers.id_station,
            receipt_id=identifiers.receipt_id,
            notice_number=identifiers.notice_number,
        )
        return work(ctx, element, identifiers, answer)

    operation.__name__ = name
    return rpc(
        AnyXml,
        _returns=AnyXml,
        _body_style="bare",
        _in_message_name=f"{{{NS}}}{request}",
        _out_message_name=f"{{{NS}}}{answer}",
    )(operation)


class PaForNode(Service):  # type: ignore[misc]  # Spyne has no types
    """The six operations of the port type paForNode."""

    paDemandPaymentNotice = _operation(
        "paDemandPaymentNotice", "paDemandPaymentNoticeRequest", "paDemandPaymentNoticeResponse", _decline
    )
    paVerifyPaymentNotice = _operation(
        "paVerifyPaymentNotice", "paVerifyPaymentNoticeReq", "paVerifyPaymentNoticeRes", _decline
    )
    paGetPayment = _operation("paGetPayment", "paGetPaymentReq", "paGetPaymentRes", _decline)
    paGetPaymentV2 = _operation("paGetPaymentV2", "paGetPaymentV2Request", "paGetPaymentV2Response", _decline)
    paSendRT = _operation("paSendRT", "paSendRTReq", "paSendRTRes", _receive)
    paSendRTV2 = _operation("paSendRTV2", "paSendRTV2Request", "paSendRTV2Response", _receive)


def create_soap_app(intake: Intake) -> SoapApplication:
    """Return what answers POSTs. Their bodies must have been read and bounded (see `app`)."""
    application = Application(
        [PaForNode], NS, name="paForNode", in_protocol=_Protocol(), out_protocol=_Protocol(), config=intake
    )
    return SoapApplication(application)


def fault_document(text: str) -> bytes:
    """Return a SOAP Fault Server without Spyne, for when Spyne itself failed."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<soap:Envelope xmlns:soap="{contract.NS_SOAP}"><soap:Body><soap:Fault><faultcode>soap:Server</faultcode>'
        f"<faultstring>{text}</faultstring></soap:Fault></soap:Body></soap:Envelope>"
    ).encode()
