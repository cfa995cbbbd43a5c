"""Text for people: numbers with their nouns."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, `1 receipt` or `2,760 receipts`; `plural` where an s at the end does not make it."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
