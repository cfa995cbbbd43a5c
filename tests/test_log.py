"""One renderer, one masking rule."""

import io
import json
import logging
import sys

import pytest

from station import log


@pytest.fixture
def stream():
    """Standard error."""
    return io.StringIO()


@pytest.fixture
def lines(monkeypatch, stream):
    """The JSON lines that were logged."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("json", "info")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.configure("json", "info")  # not to a terminal that capsys has closed
    root.handlers, root.level = before


@pytest.mark.parametrize(
    "personal",
    [
        "PLLPNC80A01X000X",
        "rssmra80a01h501u",
        "mario.rossi@example.invalid",
        "IT60X0542811101000000123456",
        "NO9386011117947",
        "BE68539007547034",
        "be68539007547034",
        "BE6853900754703A",
    ],
)
def test_personal_data_is_masked(lines, personal):
    """What looks like a person's code, an e-mail or an IBAN does not reach a log, ours or a library's."""
    log.get().info("receipt_stored", reason=f"about {personal}.")
    logging.getLogger("some.library").warning("about %s.", personal)
    assert [personal in json.dumps(line) for line in lines()] == [False, False]


def test_identifiers_stay(lines):
    """Identifiers that an operator looks for are not masked."""
    fields = {
        "id_pa": "77777777777",
        "receipt_id": "0123456789abcdef0123456789abcdef",
        "notice_number": "301000000000000144",
        "iuv": "01000000000000144",
        "id_station": "15376371009_01",
        "request_id": "de05e3ca927ffd9e8a7a7bd2146900d0",  # begins as an IBAN would
        "refused_id": "de05e3ca927ffd9e",
        "reason": "kept as refused be05e3ca927ffd9e",
    }
    log.get().info("receipt_stored", **fields)
    line = lines()[0]
    assert {name: line[name] for name in fields} == fields


def test_nothing_is_obeyed(lines):
    """Line ends and terminal escapes from outside are written out, long values cut."""
    log.get().info("x", reason="a\r\nb\x1b[31m", long="y" * 10_000)
    line = lines()[0]
    assert line["reason"] == r"a\r\nb\x1b[31m"
    assert len(line["long"]) < 600


def test_exception_without_its_message(lines):
    """An exception is logged by its classes and places; its message may quote a document."""
    try:
        try:
            raise ValueError("Mario Rossi")
        except ValueError as error:
            raise RuntimeError("also Mario Rossi") from error
    except RuntimeError as error:
        log.get().exception("unexpected_error")
        log.get().error("given_up", exc_info=error)
        logging.getLogger("some.library").exception("failed")
    logged = lines()
    assert len(logged) == 3
    for line in logged:
        assert "Mario" not in json.dumps(line)
        assert "RuntimeError at test_log.py" in line["exception"]
        assert "caused by builtins.ValueError" in line["exception"]


def test_spyne_is_silent(lines):
    """Spyne logs whole documents: not here."""
    logging.getLogger("spyne.protocol.xml").error("<receipt>Mario</receipt>")
    assert lines() == []


def test_database_password(lines):
    """A database URL in a line loses its password."""
    log.get().info("x", url="postgresql://station:hunter2@db/station")
    assert "hunter2" not in json.dumps(lines())


def test_lines_that_cannot_be_written(lines, monkeypatch):
    """A full disk under the log fails nobody."""

    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    log.configure("json", "info")
    log.get().info("receipt_stored")


def test_level(lines, stream, monkeypatch):
    """What is below the level is not written, also by a logger that was used before."""
    logger = log.get()
    logger.info("first")
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure("json", "warning")
    logger.info("second")
    logger.warning("third")
    assert [line["event"] for line in lines()] == ["first", "third"]


def test_console(lines, capsys):
    """Readable lines are masked and escaped as JSON is, and show no message of an exception, nor local variables."""
    log.configure("console", "info")
    person = "PLLPNC80A01X000X"
    try:
        raise ValueError(person)
    except ValueError as error:
        log.get().error("given_up", exc_info=error, reason=f"{person}\x1b[31m")
    out = capsys.readouterr().err
    assert "given_up" in out
    assert "builtins.ValueError at test_log.py" in out
    assert r"***\x1b[31m" in out
    assert person not in out
