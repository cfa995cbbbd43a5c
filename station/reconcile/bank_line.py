"""A line of the bank statement: which flow, or which payment, it is the credit of."""

import re

# A bank line as it is printed, whole or cut off, with or without blanks that a printer put in.
_FLOW_LINE = re.compile(r"/?(?:PUR/LGPE-RIVERSAMENTO/)?URI/([0-9A-Za-z._-]{1,35})", re.IGNORECASE)
_IUV_LINE = re.compile(r"/?RF[SB]/([0-9A-Za-z]{1,35})(?:[/\s]|$)", re.IGNORECASE)
_FLOW_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[0-9A-Za-z._-]{0,25}")
_LINE_MAX = 1000


def bank_line(line: str) -> list[tuple[str | None, str | None]]:
    """Return how a bank line may be read, the likeliest first: as the name of a flow, perhaps cut off, or the IUV of a
    payment with a line of its own.

    A blank may be a printer's, in the middle of a name, or the bank's own text follows it. Raises `ValueError` for a
    line that has neither.
    """
    words = line[:_LINE_MAX].split()
    readings: list[tuple[str | None, str | None]] = []
    for text, alone in (("".join(words), "".join(words)), (" ".join(words), "".join(words[:1]))):
        if flow := _FLOW_LINE.search(text) or _FLOW_NAME.fullmatch(alone):
            readings.append((flow[flow.re.groups], None))
        elif payment := _IUV_LINE.search(text):
            readings.append((None, payment[1].upper()))
    if not readings:
        raise ValueError
    return list(dict.fromkeys(readings))
