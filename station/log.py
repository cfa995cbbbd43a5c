"""The log, by structlog: our lines, libraries' lines and gunicorn's pass the same processors, so the same masking rule.

No name, fiscal code of a person, e-mail, address or payload belongs in a log. Our own events carry identifiers only;
text that looks like personal data all the same, in ours or a library's lines, is masked here.
"""

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

from station.text import LENGTH, plain, printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger

# A person's fiscal code, an IBAN. 32 hexadecimal digits are a receiptId or a request's id, 16 small ones our name for a
# refused request; one in twenty of these would look like an IBAN. Belgium's have 16: two letters and digits only.
_CODE = re.compile(
    r"\b[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]\b"
    r"|\b(?![0-9A-F]{32}\b)(?!(?-i:[a-f]{2}(?![0-9]{14})[0-9a-f]{14}\b))[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}\b",
    re.IGNORECASE,
)
# An e-mail address, and the password in a database URL. The search takes longer than the rest of the line, so it is
# made only where there is an @.
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+|(?<=://)[^/\s@]{1,200}@")

_CODE_LENGTH_MIN = 15  # an IBAN's; neither code has only digits
_ID = re.compile(r"[0-9A-Fa-f]{32}")  # most long values are such ids, and no id is such a code


def safe(text: str) -> str:
    """Return `text` masked, cut to `LENGTH`, and without characters that a terminal or a line-based reader obeys."""
    if len(text) > LENGTH:
        text = f"{text[:LENGTH]}..."
    if "@" in text:
        text = _ADDRESS.sub("***", text)
    if len(text) >= _CODE_LENGTH_MIN and not text.isdecimal() and not _ID.fullmatch(text):
        text = _CODE.sub("***", text)
    return text if text.isprintable() else printable(text, None)


def _safe(value: Any) -> Any:
    """Return a field's value with `safe` applied to every text in it."""
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


def _mask(_logger: Any, level: str, fields: "EventDict") -> "EventDict":
    """Mask every field, and put first the fields that people read first."""
    line = {"timestamp": fields.pop("timestamp"), "level": level, "event": safe(str(fields.pop("event")))}
    error = fields.pop("exc_info", None)
    for name, value in fields.items():
        match value:
            case str():
                line[name] = safe(value)
            case None | bool() | int() | float():
                line[name] = value
            case _:
                line[name] = _safe(value)
    if error:
        line["exc_info"] = error  # for ExceptionRenderer, which has `describe` render it
    return line


def describe(error: BaseException) -> str:
    """Return the classes of an exception and its causes, and the innermost places in the code.

    Their messages are left out: they may quote a document or a row.
    """
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 5:
        places = []
        frame = cause.__traceback__
        while frame is not None:
            code = frame.tb_frame.f_code
            places.append(f"{code.co_filename.rpartition('/')[2]}:{frame.tb_lineno} {code.co_name}")
            frame = frame.tb_next
        parts.append(f"{type(cause).__module__}.{type(cause).__qualname__} at {' > '.join(places[-8:])}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " caused by ".join(parts)


class _Output:
    """structlog's output: it loses a line that it cannot write (full disk, closed pipe), and the request that logs it
    goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = write


class _LazyLogger:
    """structlog's logger, built when the first line is logged.

    structlog takes a tenth of a second to import, and most commands log nothing.
    """

    def __init__(self) -> None:
        self.configure("json", "info")

    def configure(self, format_: str, level: str) -> None:
        self.__dict__ = {"_configuration": (format_, level, sys.stderr)}  # without the methods built before

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)
        import structlog

        format_, level, stream = self._configuration
        logger = structlog.wrap_logger(
            _Output(stream),
            processors=[
                structlog.processors.TimeStamper("iso"),
                _mask,
                structlog.processors.ExceptionRenderer(lambda exc_info: describe(exc_info[1])),
                structlog.processors.JSONRenderer(lambda line, **_: _as_json(line))
                if format_ == "json"
                else structlog.dev.ConsoleRenderer(colors=stream.isatty()),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(level),
        ).bind()
        vars(self)[method] = getattr(logger, method)
        return vars(self)[method]


_as_json = json.JSONEncoder(ensure_ascii=False).encode  # an encoder for all lines: json.dumps makes one for each
_LOGGER = _LazyLogger()
_LEVELS = {name.lower() for name in logging.getLevelNamesMapping()}


class _LibraryHandler(logging.Handler):
    """Passes the lines of libraries, and of gunicorn, to our logger."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception:  # a library's own mistake in a line
            event = str(record.msg)
        level = record.levelname.lower()
        getattr(_LOGGER, level if level in _LEVELS else "info")(event, logger=record.name, exc_info=record.exc_info)


def configure(format_: str = "auto", level: str = "info") -> None:
    """Set up our log and the standard library's logging, which libraries write to, on standard error."""
    if format_ == "auto":
        format_ = "console" if sys.stderr.isatty() else "json"
    _LOGGER.configure(format_, level)
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    root.setLevel(level.upper())
    # Spyne logs whole documents and a traceback for every fault: our line for each request says it instead.
    logging.getLogger("spyne").setLevel(logging.CRITICAL + 1)
    for noisy in ("alembic", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def load() -> None:
    """Import structlog now: a request must not fail because no file can be opened any more."""
    _LOGGER.__getattr__("info")


def get(_name: str = "station") -> "FilteringBoundLogger":
    """Return the logger: `log.info("event_in_the_past", field=value)`."""
    return cast("FilteringBoundLogger", _LOGGER)
