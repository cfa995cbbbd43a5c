"""The libraries as they come: gunicorn's threads, Spyne's `WsgiApplication`, lxml validating. Answers OK to all that is
valid, and stores nothing. `gunicorn bench.stock:application` serves it; `bench.layers` measures it."""

from typing import Any

from lxml import etree

import station.soap.spyne_import  # noqa: F401  (before Spyne)
from bench.documents import ROOT

from spyne import AnyXml, Application, ComplexModel, Fault, Service, Unicode, rpc  # isort: skip
from spyne.protocol.soap import Soap11  # isort: skip
from spyne.server.wsgi import WsgiApplication  # isort: skip

NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
_schema = etree.XMLSchema(etree.parse(ROOT / "wsdl" / "paForNode.xsd"))


class Answer(ComplexModel):  # type: ignore[misc]  # Spyne has no types
    """ctResponse."""

    __namespace__ = NS
    outcome = Unicode


class PaForNode(Service):  # type: ignore[misc]  # Spyne has no types
    """One operation."""

    @rpc(AnyXml, _returns=Answer, _body_style="bare", _in_message_name=f"{{{NS}}}paSendRTV2Request",
         _out_message_name=f"{{{NS}}}paSendRTV2Response")  # fmt: skip
    def paSendRTV2(ctx: Any, _request: Any) -> Answer:  # noqa: N802, N805
        if not _schema.validate(ctx.in_body_doc):
            raise Fault("Client", "not valid")
        return Answer(outcome="OK")


_spyne = WsgiApplication(Application([PaForNode], NS, in_protocol=Soap11(), out_protocol=Soap11()))


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Spyne's, with the header by which the load generator knows what was answered."""
    told = ("X-Request-Id", environ.get("HTTP_X_REQUEST_ID", ""))
    return _spyne(environ, lambda status, headers, *more: start_response(status, [*headers, told], *more))
