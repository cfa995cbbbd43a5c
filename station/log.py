"""structlog for our lines, libraries' lines and gunicorn's: one renderer, one masking rule.

No name, fiscal code of a person, e-mail, address or payload belongs in a log. Our own events carry identifiers only;
what looks like personal data all the same, in ours or a library's lines, is masked here.
"""

import logging
import re
import sys
from typing import Any

import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger as GunicornBaseLogger
from structlog.typing import EventDict, Processor, WrappedLogger

_MAX_LENGTH = 500
# A person's fiscal code, an IBAN. 32 hexadecimal digits are a receiptId or a request's id, one in twenty of which would
# look like an IBAN.
_CODE = re.compile(
    r"\b[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]\b"
    r"|\b(?![0-9A-F]{32}\b)[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}\b",
    re.IGNORECASE,
)
# An e-mail address, and the password in a database URL. To look for these takes longer than all the rest of a line, so
# that they are looked for only where there can be one.
_ADDRESS = re.compile(r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+|(?<=://)[^/\s@]{1,200}@")


def safe(text: str) -> str:
    """`text` masked, cut to a sane length, and without anything a terminal or a line-based reader would obey."""
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + "..."
    if "@" in text:
        text = _ADDRESS.sub("***", text)
    return printable(_CODE.sub("***", text))


def printable(text: str) -> str:
    """`text` with everything written out that a terminal or a line-based reader would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _mask(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = ("timestamp", "level", "event")  # what people read first
    for name in (*first, *(name for name in list(event) if name not in first)):
        value = event.pop(name, None)
        event[name] = safe(value) if isinstance(value, str) and name not in ("timestamp", "exception") else value
    return event


def _frames(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A traceback as class and places in the code: an exception's message may quote a document or a row."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if error is not None:
        event["exception"] = describe(error)
    return event


def describe(error: BaseException) -> str:
    """The classes of an exception and its causes, and the innermost places in the code, without their messages."""
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


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _frames,
    _mask,
]


def configure(format_: str = "auto", level: str = "info") -> None:
    """Sets up structlog and the standard library's logging, which libraries write to, on standard error."""
    as_json = format_ == "json" or (format_ == "auto" and not sys.stderr.isatty())
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder([]), structlog.stdlib.add_logger_name, *_SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Spyne logs whole documents and a traceback for every fault: our line for each request says it instead.
    logging.getLogger("spyne").setLevel(logging.CRITICAL + 1)
    for noisy in ("alembic", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get(name: str = "station") -> Any:
    """A logger: `log.info("event_in_the_past", field=value)`."""
    return structlog.stdlib.get_logger(name)


class GunicornLogger(GunicornBaseLogger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own lines through our renderer. Its access log is off: we log one line for each request."""

    def setup(self, cfg: Config) -> None:
        self.cfg = cfg
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
            logger.propagate = True

    def access(self, *_args: object) -> None:
        return None
