"""The printed copy of a receipt (copia analogica) as an accessible PDF in Italian. The only user of typst.

What stands on the page is in `content`, how it looks in `receipt.typ`.
"""

from __future__ import annotations  # the settings are loaded when they are needed

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from station.errors import MissingExtraError, StationError
from station.pdf.content import content
from station.text import as_json, printable

if TYPE_CHECKING:
    from station.config import Settings

__all__ = ["PdfError", "is_installed", "render"]


class PdfError(StationError):
    """The PDF of a receipt cannot be written."""

    code = "pdf_unwritten"


def is_installed() -> bool:
    """Return whether PDFs can be made here: typst is there."""
    return find_spec("typst") is not None


def render(settings: Settings, receipt: dict[str, Any], *, attach_xml: bool = False) -> bytes:
    """Return the PDF of a receipt, which is as `store.find` returns it: PDF/UA-1, the same bytes each time.

    Logos are those of the settings: pagoPA's and that of the copy's EC (`id_pa`). With `attach_xml` the document as it
    was received is attached. Takes 10 to 30 ms, in which other threads run. Raises `MissingExtraError` where typst is
    not installed, and `PdfError` where the receipt has no document to attach or a logo cannot be read.
    """
    copy = content(settings, receipt)
    if attach_xml:
        if not copy["has_document"]:
            raise PdfError(f"receipt {receipt['receipt_id']} of EC {receipt['id_pa']}: it has no document to attach")
        copy["xml"] = list(receipt["raw"])
    compiler, error_type = _typst()
    try:
        written = compiler().compile(
            format="pdf",
            pdf_standards="ua-1",
            sys_inputs={"copy": as_json(copy)},
            timestamp=int(receipt["received_at"].timestamp()),
        )
    except error_type as error:
        # Up to the first quotation, which may be a person's name.
        reason = printable(error.message.partition("`")[0])
        raise PdfError(f"receipt {receipt['receipt_id']} of EC {receipt['id_pa']}: typst reports: {reason}") from None
    assert isinstance(written, bytes)  # noqa: S101  # a list is what it returns for several images
    return written


@cache
def _typst() -> tuple[Any, Any]:
    """Return a function that makes a compiler of the template, and typst's error.

    The fonts are typst's own, read once. The root is the file system's, since logos can be anywhere; no text of a
    receipt is a path. The template is given as bytes: as a file its folder would be in the names of attachments.
    """
    try:
        import typst
    except ImportError:
        raise MissingExtraError("A PDF", "pdf") from None
    fonts = typst.Fonts(include_system_fonts=False)
    template = Path(__file__).with_name("receipt.typ").read_bytes()
    return lambda: typst.Compiler(template, root="/", font_paths=fonts, ignore_system_fonts=True), typst.TypstError
