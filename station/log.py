"""structlog for our lines, libraries' lines and gunicorn's: one renderer, one masking rule.

No name, fiscal code of a person, e-mail, address or payload belongs in a log. Our own events carry identifiers only;
what looks like personal data all the same, in ours or a library's lines, is masked here.
"""

import codecs
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger as GunicornBaseLogger
from structlog.typing import EventDict, WrappedLogger

_MAX_LENGTH = 500
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
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + "..."
    if "@" in text:
        text = _ADDRESS.sub("***", text)
    if len(text) >= _SHORTEST_CODE and not text.isdecimal() and not _ID.fullmatch(text):
        text = _CODE.sub("***", text)
    return printable(text)


codecs.lookup("unicode_escape")  # loaded now: a line must not fail for want of file descriptors


def printable(text: str) -> str:
    """`text` with everything written out that a terminal or a line-based reader would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _line(level: str, event: str, fields: Mapping[str, Any]) -> EventDict:
    """A line before it is rendered: what people read first comes first, and all that came with it is masked."""
    line: EventDict = {
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "level": level,
        "event": safe(str(event)),
    }
    for name, value in fields.items():
        line[name] = safe(value) if isinstance(value, str) else value
    error = _error(line.pop("exc_info", None))
    if error is not None:
        line["exception"] = describe(error)
    return line


def _error(info: Any) -> BaseException | None:
    """The exception that `exc_info` stands for, in each of the ways that logging knows."""
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    return error if isinstance(error, BaseException) else None


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


class _Lines:
    """Where our own lines go. A line that cannot be written is lost, and whatever it is about goes on."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.stream = sys.stderr
        self.render: Callable[[EventDict], str] = _as_json
        self._lock = threading.Lock()

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if _LEVELS[level] < self.level:
            return
        line = self.render(_line(level, event, fields))
        try:
            with self._lock:
                self.stream.write(f"{line}\n")
                self.stream.flush()
        except (OSError, ValueError):
            return


_lines = _Lines()


class _Logger(structlog.BoundLoggerBase):
    """Our own lines. structlog's loggers do the same in a chain of processors, which takes half as long again."""

    def debug(self, event: str, **fields: Any) -> None:
        self._logger.write("debug", event, self._context | fields)

    def info(self, event: str, **fields: Any) -> None:
        self._logger.write("info", event, self._context | fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.write("warning", event, self._context | fields)

    def error(self, event: str, **fields: Any) -> None:
        self._logger.write("error", event, self._context | fields)

    def exception(self, event: str, **fields: Any) -> None:
        self.error(event, exc_info=True, **fields)


structlog.configure(logger_factory=lambda *_name: _lines, wrapper_class=_Logger)


def _of_a_library(_logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
    return _line(level, event.pop("event"), event)


def configure(format_: str = "auto", level: str = "info") -> None:
    """Sets up structlog and the standard library's logging, which libraries write to, on standard error.

    Our own lines do not go through the library's handlers, which would take two thirds of the time of a line.
    """
    as_json = format_ == "json" or (format_ == "auto" and not sys.stderr.isatty())
    render = _as_json if as_json else partial(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), None, "")
    _lines.level = _LEVELS[level.lower()]
    _lines.stream = sys.stderr
    _lines.render = render
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder([]), structlog.stdlib.add_logger_name, _of_a_library],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                lambda _logger, _level, line: render(line),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Spyne logs whole documents and a traceback for every fault: our line for each request says it instead.
    logging.getLogger("spyne").setLevel(logging.CRITICAL + 1)
    for noisy in ("alembic", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str = "station") -> _Logger:
    """A logger: `log.info("event_in_the_past", field=value)`."""
    logger: _Logger = structlog.get_logger(name).bind()  # or it would look for what it is at every line
    return logger


class GunicornLogger(GunicornBaseLogger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own lines through our renderer. Its access log is off: we log one line for each request."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
            logger.propagate = True

    def access(self, *_args: object) -> None:
        return None
