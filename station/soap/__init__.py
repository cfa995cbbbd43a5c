"""The Spyne service and the table from our errors to faults. The only user of Spyne.

Spyne owns the envelope, dispatch and faults. The bytes are parsed once, by `contract`'s hardened parser, in Spyne's own
extension points; the request element goes to `intake` as it is and answers come back as elements.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from lxml import etree

from station import contract, log
from station.contract import NS
from station.errors import (
    DocumentError,
    MalformedDocumentError,
    MissingRightsError,
    RefusalError,
    StoreError,
    out_of_resource,
)
from station.intake import Intake, Origin
from station.journal import DECLINED
from station.receipt import Identifiers, Source
from station.soap import spyne_import  # noqa: F401  (before Spyne)
from station.soap.transport import ProtocolContext, Transport

from spyne import Application, Fault, Service, rpc  # isort: skip
from spyne.model import AnyXml  # isort: skip
from spyne.protocol.soap import Soap11  # isort: skip

_log = log.get(__name__)

RETRY_AFTER_S = "60"
NOT_OFFERED = "not offered by a broadcast station"
AGAIN = "The receipt cannot be stored now: send it again."

# The keys of the WSGI environment: the fields of the request's log line, the sender, the request's id.
NOTES = "station.notes"
PEER = "station.peer"
PEER_SUBJECT = "station.peer_subject"  # of the certificate that the transport verified, if it did
REQUEST_ID = "station.request_id"


class _Protocol(Soap11):  # type: ignore[misc]  # Spyne has no types
    """SOAP 1.1 as Spyne has it, with our parser and with elements where Spyne would build objects."""

    def get_context(self, parent: Any, transport: Any) -> ProtocolContext:
        """Return the protocol's state of one call."""
        return ProtocolContext(parent, transport)

    def create_in_document(self, ctx: Any, charset: str | None = None) -> None:
        """Parse the bytes, once."""
        try:
            ctx.in_document = contract.parse(b"".join(ctx.in_string), charset)
        except MalformedDocumentError as error:
            # SOAP 1.1 answers faults with 500; what is not even XML is a bad HTTP request (WS-I Basic Profile R1113).
            ctx.transport.resp_code = "400 Bad Request"
            raise _client_fault(ctx, error) from error

    def decompose_incoming_envelope(self, ctx: Any, message: Any = Soap11.REQUEST) -> None:
        """Dispatch by the root element of the Body; the SOAPAction header is ignored."""
        try:
            root = ctx.in_document.root
            if root.tag != f"{{{contract.NS_SOAP}}}Envelope":
                raise DocumentError("the document is not a SOAP 1.1 envelope")
            request = contract.request_element(root)
            if request.tag not in ctx.app.interface.service_method_map:
                raise DocumentError("the element in the SOAP Body is not an operation of paForNode")
        except DocumentError as error:
            raise _client_fault(ctx, error) from error
        ctx.in_header_doc = None
        ctx.in_body_doc = request
        ctx.method_request_string = request.tag

    def generate_method_contexts(self, ctx: Any) -> list[Any]:
        """Return the one context: each operation is one method's, and Spyne copies the context for several."""
        (ctx.descriptor,) = self.get_call_handles(ctx)
        return [ctx]

    def from_element(self, ctx: Any, cls: type, element: contract.Element) -> contract.Element:
        """Return the request as it is: the published schema validates it, not Spyne."""
        return element

    def to_parent(
        self, ctx: Any, cls: type, inst: Any, parent: contract.Element, ns: str, *args: Any, **kwargs: Any
    ) -> Any:
        """Append the answer, an element already; faults are Spyne's."""
        if isinstance(inst, etree._Element):
            parent.append(inst)
            return None
        return super().to_parent(ctx, cls, inst, parent, ns, *args, **kwargs)


def _client_fault(ctx: Any, error: DocumentError) -> Fault:
    ctx.transport.req_env[NOTES].update(result="rejected", reason=str(error))
    return Fault("Client", str(error))


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
        outcome = intake.accept(ctx.in_document, request, _origin(environ), identifiers)
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


def _origin(environ: dict[str, Any]) -> Origin:
    return Origin(
        Source.PUSH,
        peer=environ[PEER],
        request_id=environ[REQUEST_ID],
        peer_subject=environ.get(PEER_SUBJECT),
    )


def _decline(ctx: Any, _request: contract.Element, identifiers: Identifiers, answer: str) -> contract.Element:
    """Answer another operation, such as the back office's "verify URL": its own answer, outcome KO."""
    refusal = RefusalError()
    environ, intake = ctx.transport.req_env, ctx.app.config
    notes = environ[NOTES]
    notes.update(result="declined", fault_code=refusal.fault_code)
    identifiers = replace(identifiers, operation=notes["operation"])
    notes["journaled"] = intake.note(
        identifiers, _origin(environ), outcome=DECLINED, fault_code=refusal.fault_code, raw=ctx.in_document.raw
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


def create_soap_app(intake: Intake) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application that answers POSTs. Their bodies must have been read and bounded (see `app`)."""
    application = Application(
        [PaForNode], NS, name="paForNode", in_protocol=_Protocol(), out_protocol=_Protocol(), config=intake
    )
    return Transport(application)


def fault_document(text: str) -> bytes:
    """Return a SOAP Fault Server without Spyne, for when Spyne itself failed."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<soap:Envelope xmlns:soap="{contract.NS_SOAP}"><soap:Body><soap:Fault><faultcode>soap:Server</faultcode>'
        f"<faultstring>{text}</faultstring></soap:Fault></soap:Body></soap:Envelope>"
    ).encode()
