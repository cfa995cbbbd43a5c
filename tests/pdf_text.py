"""What a PDF says, read by pdfminer: the text of each element of its structure tree, and where each letter stands.

Imports nothing from the station and nothing of typst.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pdfminer.converter import PDFLayoutAnalyzer
from pdfminer.layout import LTChar
from pdfminer.pdfdocument import PDFDocument
from pdfminer.pdfinterp import PDFPageInterpreter, PDFResourceManager
from pdfminer.pdfpage import PDFPage
from pdfminer.pdfparser import PDFParser
from pdfminer.pdftypes import resolve1
from pdfminer.psparser import PSLiteral
from pdfminer.utils import decode_text


@dataclass
class Letter:
    """A letter, or what stands for several; its place in points from the page's lower left corner."""

    text: str
    page: int
    mcid: int | None  # None outside the tagged content: page numbers
    box: tuple[float, float, float, float]


@dataclass
class Element:
    """An element of the structure tree: its role, attributes, children, and the text within it."""

    role: str
    raw: dict[str, Any]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def all(self, *roles: str) -> Iterator["Element"]:
        """This element and those below it that have one of these roles."""
        if self.role in roles:
            yield self
        for child in self.children:
            yield from child.all(*roles)


class _Device(PDFLayoutAnalyzer):
    def __init__(self, manager: PDFResourceManager) -> None:
        super().__init__(manager)
        self.letters: list[Letter] = []
        self.page = -1
        self._tags: list[dict[str, Any]] = []

    def begin_page(self, page: PDFPage, ctm: Any) -> None:
        super().begin_page(page, ctm)
        self.page += 1

    def begin_tag(self, tag: Any, props: Any = None) -> None:
        self._tags.append({key: resolve1(value) for key, value in (props or {}).items()})

    def end_tag(self) -> None:
        tag = self._tags.pop()
        if "ActualText" in tag and tag.get("at") is not None:
            # What stands for all letters of the tag.
            first, *rest = self.letters[tag["at"] :]
            first.text = decode_text(tag["ActualText"])
            for one in rest:
                one.text = ""

    def render_char(self, *args: Any, **kwargs: Any) -> float:
        advance = super().render_char(*args, **kwargs)
        char = next(one for one in reversed(self.cur_item._objs) if isinstance(one, LTChar))
        for tag in self._tags:
            tag.setdefault("at", len(self.letters))
        mcid = next((tag["MCID"] for tag in reversed(self._tags) if "MCID" in tag), None)
        self.letters.append(Letter(char.get_text(), self.page, mcid, char.bbox))
        return advance


class Pdf:
    """A PDF file."""

    def __init__(self, content: bytes) -> None:
        self.document = PDFDocument(PDFParser(io.BytesIO(content)))
        self.pages = list(PDFPage.create_pages(self.document))
        self.catalog = self.document.catalog
        manager = PDFResourceManager()
        device = _Device(manager)
        interpreter = PDFPageInterpreter(manager, device)
        for page in self.pages:
            interpreter.process_page(page)
        self.letters = device.letters

    @cached_property
    def title(self) -> str:
        return decode_text(self.document.info[0]["Title"])

    @cached_property
    def xmp(self) -> str:
        return str(resolve1(self.catalog["Metadata"]).get_data().decode())

    @cached_property
    def tree(self) -> Element:
        """The structure tree, its root's role `StructTreeRoot`."""
        page_of = {page.pageid: number for number, page in enumerate(self.pages)}
        texts: dict[tuple[int, int], str] = {}
        for letter in self.letters:
            if letter.mcid is not None:
                key = letter.page, letter.mcid
                texts[key] = texts.get(key, "") + letter.text

        def grow(node: Any, page: Any) -> Element:
            raw = resolve1(node)
            role = raw.get("S")
            element = Element(role.name if isinstance(role, PSLiteral) else "StructTreeRoot", raw)
            page = raw.get("Pg", page)
            kids = resolve1(raw.get("K", []))
            for kid in kids if isinstance(kids, list) else [kids]:
                found = resolve1(kid)
                if isinstance(found, int):
                    element.text += texts.get((page_of[page.objid], found), "")
                elif "MCID" in found:
                    element.text += texts.get((page_of[found.get("Pg", page).objid], found["MCID"]), "")
                elif "S" in found:
                    element.children.append(grow(kid, page))
                    element.text += element.children[-1].text
            return element

        return grow(self.catalog["StructTreeRoot"], None)

    def fields(self) -> list[tuple[str, str, str]]:
        """Heading, label and value of each field, in order; blanks at the ends of lines are not among the letters."""
        found = []
        heading = ""
        for element in self.tree.all("H1", "H2", "LI"):
            if element.role == "LI":
                label, value = (next(element.all(role)).text for role in ("Lbl", "LBody"))
                found.append((heading, label, value))
            else:
                heading = element.text
        return found

    def rows(self) -> list[list[str]]:
        """The cells of the tables, row by row, without their headers."""
        rows = [[cell.text for cell in row.all("TD")] for row in self.tree.all("TR")]
        return [row for row in rows if row]

    def attachments(self) -> dict[str, bytes]:
        """The attached files by name."""
        names = resolve1(resolve1(resolve1(self.catalog.get("Names", {})).get("EmbeddedFiles", {})).get("Names", []))
        pairs = zip(names[::2], names[1::2], strict=True)
        return {decode_text(name): resolve1(resolve1(resolve1(spec)["EF"])["F"]).get_data() for name, spec in pairs}
