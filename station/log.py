"""The log: our lines, libraries' lines and gunicorn's through one renderer and one masking rule.

No name, fiscal code of a person, e-mail, address or payload belongs in a log. Our own events carry identifiers only;
what looks like personal data all the same, in ours or a library's lines, is masked here.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from station.text import LENGTH, plain, printable

Line: TypeAlias = dict[str, Any]

# A person's fiscal code, an IBAN. 32 hexadecimal digits are a receiptId or a request's id, 16 small ones our name for a
# refused request; one in twenty of these would look like an IBAN. Belgium's have 16: two letters and digits only.
_CODE = re.compile(
    r"\b[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]\b"
    r"|\b(?![0-9A-F]{32}\b)(?!(?-i:[a-f]{2}(?![0-9]{14})[0-9a-f]{14}\b))[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}\b",
    re.IGNORECASE,
)
# An e-mail address, and the password in a database URL. To look for these takes longer than all the rest of a line, so
# that they are looked for only where there can be one.
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+|(?<=://)[^/\s@]{1,200}@")


_SHORTEST_CODE = 15  # an IBAN's; neither has only digits
_ID = re.compile(r"[0-9A-Fa-f]{32}")  # as most long values are, and none of these codes


def safe(text: str) -> str:
    """`text` masked, cut to a sane length, and without anything a terminal or a line-based reader would obey."""
    if len(text) > LENGTH:
        text = f"{text[:LENGTH]}..."
    if "@" in text:
        text = _ADDRESS.sub("***", text)
    if len(text) >= _SHORTEST_CODE and not text.isdecimal() and not _ID.fullmatch(text):
        text = _CODE.sub("***", text)
    return printable(text, LENGTH + 3)


def _safe(value: Any) -> Any:
    """A field's value: `safe`, wherever text stands in it."""
    match value:
        case str():
            return safe(value)
        case None | bool() | int() | float():
            return value
        case dict():
            return {safe(str(name)): _safe(one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_safe(one) for one in value]
    try:
        return safe(plain(value))
    except TypeError:
        return safe(str(value))


def _line(level: str, event: str, fields: Mapping[str, Any], error: BaseException | None = None) -> Line:
    """A line before it is rendered: what people read first comes first, and all that came with it is masked."""
    line: Line = {
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "level": level,
        "event": safe(str(event)),
    }
    for name, value in fields.items():
        line[name] = safe(value) if isinstance(value, str) else _safe(value)
    if error is not None:
        line["exception"] = describe(error)
    return line


def describe(error: BaseException) -> str:
    """The classes of an exception and its causes, and the innermost places in the code.

    Without their messages, which may quote a document or a row.
    """
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        places = []
        frame = seen.__traceback__
        while frame is not None:
            code = frame.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{frame.tb_lineno} {code.co_name}")
            frame = frame.tb_next
        parts.append(f"{type(seen).__module__}.{type(seen).__qualname__} at {' > '.join(places[-8:])}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " caused by ".join(parts)


_as_json = json.JSONEncoder(ensure_ascii=False, default=repr).encode
_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}


def _for_a_terminal(line: Line) -> str:
    """A line for people. structlog takes a tenth of a second to import, and most commands log nothing."""
    import structlog

    _lines.render = lambda line: str(renderer(None, "", line))
    renderer = structlog.dev.ConsoleRenderer(colors=_lines.stream.isatty())
    return _lines.render(line)


class _Lines:
    """Where lines go. A line that cannot be written is lost, and whatever it is about goes on."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.stream = sys.stderr
        self.render: Callable[[Line], str] = _as_json
        self._lock = threading.Lock()

    def write(self, level: str, event: str, fields: Mapping[str, Any], error: BaseException | None = None) -> None:
        if _LEVELS[level] < self.level:
            return
        line = self.render(_line(level, event, fields, error))
        try:
            with self._lock:
                self.stream.write(f"{line}\n")
                self.stream.flush()
        except (OSError, ValueError):
            return


_lines = _Lines()


class _Logger:
    """Our own lines."""

    def debug(self, event: str, **fields: Any) -> None:
        _lines.write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        _lines.write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        _lines.write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        _lines.write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        _lines.write("error", event, fields, sys.exc_info()[1])


class _OfLibraries(logging.Handler):
    """The lines of libraries, and of gunicorn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception:  # a library's own mistake in a line
            event = str(record.msg)
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        level = record.levelname.lower()
        _lines.write(level if level in _LEVELS else "info", event, {"logger": record.name}, error)


def configure(format_: str = "auto", level: str = "info") -> None:
    """Sets up our log and the standard library's logging, which libraries write to, on standard error."""
    as_json = format_ == "json" or (format_ == "auto" and not sys.stderr.isatty())
    _lines.level = _LEVELS[level.lower()]
    _lines.stream = sys.stderr
    _lines.render = _as_json if as_json else _for_a_terminal
    root = logging.getLogger()
    root.handlers = [_OfLibraries()]
    root.setLevel(level.upper())
    # Spyne logs whole documents and a traceback for every fault: our line for each request says it instead.
    logging.getLogger("spyne").setLevel(logging.CRITICAL + 1)
    for noisy in ("alembic", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(_name: str = "station") -> _Logger:
    """A logger: `log.info("event_in_the_past", field=value)`."""
    return _LOGGER


_LOGGER = _Logger()
