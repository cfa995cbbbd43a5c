"""Names as citizens' programs send them: markup, formulas, overrides of direction, letters of all kinds."""

from collections.abc import Iterator

from build import Request, a_subject
from console_world import Ec

NAMES = [
    "<script>alert('nome')</script>",
    '"><img src=x onerror=alert(1)>',
    "</title><svg/onload=alert(2)>",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt; &amp;amp; &#x27;",
    "javascript:alert(3)//' onfocus='alert(4)",
    "=HYPERLINK(\"http://example.invalid\";\"x\")",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\u009b31mrosso\u009b0m [red]markup[/red] \\x1b[31m",
    "\u202egnirts thgir-ot-thgir\u202c fine",
    "\u2066isolato\u2069 \u200f\u200eא ב",
    "àèìòù" * 28,
    "Ж" * 70 + "щ" * 70,
    "W" * 140,
    "Борис Николаевич Годунов",
    "D'Àngelo-Mc\u2019Straßer, Nicolò (\u201cNico\u201d)",
]  # fmt: skip


def hostile_receipts(ec: Ec) -> Iterator[Request]:
    """A receipt for each name: of debtor and payer, in what it is for, and in what else is free text."""
    for name in NAMES:
        person = a_subject(fullName=name[:70], uniqueIdentifier__entityUniqueIdentifierValue=ec.debtor)
        texts = {"description": name, "debtor": person, "payer": person, "companyName": name, "officeName": name,
                 "PSPCompanyName": name[:70], "paymentNote": name[:100], "metadata": {"chiave": name}}  # fmt: skip
        yield ec.request(**texts, **{"transfers.0.remittanceInformation": name})
