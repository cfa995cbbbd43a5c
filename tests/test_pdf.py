"""`station receipts pdf`: each field on the page, as it is stored, in a PDF that assistive technology can read.

The text is read by pdfminer (see pdf_text.py). `make pdf-check` looks at 1,000 receipts and has veraPDF judge them.
"""

import os
import pty
import re
import subprocess
import sys
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import forked
import pytest
import strategies
import typst
from build import ABSENT, EC, OTHER_EC, a_request, a_stamp_transfer, an_envelope
from hypothesis import HealthCheck, Phase, given, seed, settings
from pdf_text import Pdf
from process import STATION, environment
from refusals import Door
from spreadsheets import CONTROLS, TRAPS, in_italy
from sqlalchemy import update

from station import config, store
from station.errors import ConfigError
from station.pdf import PdfError, render
from station.pdf.content import text as as_shown
from station.store import tables

HOUSE = config.Settings.model_validate(
    {"ec": [{"id": EC, "name": "Comune di Vattelapesca"}, {"id": OTHER_EC, "name": "Provincia di Vattelapesca"}]}
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100"><rect width="200" height="100"/></svg>'
# What typst would take for markup or code, and text that is hard to lay out.
MARKUP = [
    '#panic("x")', "#include sys.inputs", "$x^2$ *b* _c_ `raw` <label> @ref", "= Title\n- item\n+ 1", "\\#h(1em)//",
    "https://example.invalid/ --- ... ~ -- '\"", "/* x */ [a] {b}", '#image("/etc/passwd")', "a/b " * 35, "]]#{",
    "W" * 140, "à" * 140, "Ж" * 70 + " " + "щ" * 69, "fi ffi fl Th -> <= '", "e\u0301 a\u0300",
]  # fmt: skip


@pytest.fixture
def door(sqlite_url, connect):
    return Door(connect(sqlite_url))


def stored(door, request):
    """Take a request in and return its receipt as it is stored, with its receiptId as it was sent."""
    outcome = door.take(an_envelope(request))
    assert outcome.receipt is not None, outcome.refusal
    with store.transaction(door.engine, readonly=True) as connection:
        receipt = store.find(connection, outcome.receipt.id_pa, outcome.receipt.receipt_id)
    return receipt | {"receipt_id": request["receiptId"]}  # the database has the hash of one that is too long


def run(url, *arguments, cwd, **env):
    return forked.run(["receipts", "pdf", *arguments], environment(url, **env), cwd, text=False)


# --- the fields -------------------------------------------------------------------------------------------------------


def fits(shown, value):
    """Whether the page says a text: each letter itself, or its code where a font may lack it."""
    value = unicodedata.normalize("NFC", value)
    if not value.strip():
        return shown == "non indicato"
    pattern = ""
    for char in value:
        itself = re.escape(char)
        coded = re.escape(char.encode("unicode_escape").decode())
        name = unicodedata.name(char, "")
        common = char.isascii() or re.match("(LATIN|CYRILLIC) (SMALL|CAPITAL) LETTER [A-Z]+( WITH [A-Z]+)?$", name)
        pattern += itself if char.isprintable() and common and ord(char) < 0x460 else f"(?:{itself}|{coded})"
        if not char.isprintable():
            assert char not in shown
    return re.fullmatch(pattern, shown) is not None


def money(amount):
    """As written in Italy, made without the station's own code."""
    euro, cents = divmod(int(amount * 100), 100)
    return f"{re.sub(r'(?<=[0-9])(?=(?:[0-9]{3})+$)', '.', str(euro))},{cents:02} €"


def moment(at):
    local = in_italy(at)
    return f"{local.day:02}/{local.month:02}/{local.year:04} {local:%H:%M:%S} (ora italiana)"


def day(at):
    return f"{at.day:02}/{at.month:02}/{at.year:04}"


def wrong_fields(receipt, pdf):
    """Return what the page does not say as it is stored: every field that the printed copy must have, and more."""
    said = {(heading, label): value for heading, label, value in pdf.fields()}
    out = "nel duplicato informatico" if "date_out_of_range" in receipt["flags"] else "non indicato"
    paid, applied = receipt["payment_date_time"], receipt["application_date"]
    psp = "Prestatore di servizi di pagamento (PSP)"
    expected = {
        ("Pagamento", "Esito"): {"OK": "OK: pagamento eseguito", "KO": "KO: non eseguito"}[receipt["outcome"]],
        ("Pagamento", "Importo operazione"): money(receipt["amount"]),
        ("Pagamento", "Data operazione"): moment(paid) if paid else out,
        ("Pagamento", "Data applicativa"): day(applied) if applied else out,
        ("Pagamento", "Identificativo versamento (IUV)"): receipt["iuv"],
        ("Pagamento", "Numero avviso"): receipt["notice_number"],
        ("Pagamento", "Identificativo pagamento"): receipt["receipt_id"],
        ("Pagamento", "Causale"): receipt["description"],
        ("Ente creditore", "Denominazione"): receipt["company_name"],
        ("Ente creditore", "Codice fiscale"): receipt["fiscal_code"],
        (psp, "Denominazione"): receipt["psp_company_name"],
        (psp, "Codice fiscale"): receipt["psp_fiscal_code"] or "non indicato",
        (psp, "Identificativo"): receipt["id_psp"],
        ("Debitore", "Nome o denominazione"): receipt["debtor_name"],
        ("Debitore", "Codice fiscale"): receipt["debtor_id"],
        ("Duplicato informatico", "Impronta (SHA-256)"): sha256(receipt["raw"]).hexdigest(),
        ("Duplicato informatico", "Ricevuto il"): moment(receipt["received_at"]),
    }
    optional = {
        ("Pagamento", "Commissione del PSP"): None if receipt["fee"] is None else money(receipt["fee"]),
        ("Pagamento", "Metodo di pagamento"): receipt["payment_method"],
        ("Ente creditore", "Ufficio"): receipt["office_name"],
        (psp, "Partita IVA"): receipt["psp_partita_iva"],
        ("Versante", "Nome o denominazione"): receipt["payer_name"],
        ("Versante", "Codice fiscale"): receipt["payer_id"],
    }
    expected |= {place: value for place, value in optional.items() if value is not None}
    copy_for = said.pop(("Ente creditore", "Copia per l'ente beneficiario"), None)
    wrong = [] if (copy_for is None) == (receipt["id_pa"] == receipt["fiscal_code"]) else ["id_pa"]
    if copy_for is not None and receipt["id_pa"] not in copy_for:
        wrong.append("id_pa")
    wrong += [place for place, value in expected.items() if place not in said or not fits(said[place], value)]
    return wrong + sorted(said.keys() - expected.keys())


def wrong_transfers(receipt, pdf):
    """Return the transfers that the page does not show as they are stored."""
    rows, wrong = pdf.rows(), []
    assert len(rows) == len(receipt["transfers"])
    for row, transfer in zip(rows, receipt["transfers"], strict=True):
        name = transfer["company_name"]
        expected = (
            str(transfer["id_transfer"]),
            f"{name} ({transfer['fiscal_code_pa']})" if name and name.strip() else None,
            transfer["remittance_information"],
            "Marca da bollo digitale" if transfer["digital_stamp"] else transfer["iban"],
            money(transfer["amount"]),
        )
        if transfer["fiscal_code_pa"] not in row[1]:
            wrong.append(row)
        wrong += [
            shown for shown, value in zip(row, expected, strict=True) if value is not None and not fits(shown, value)
        ]
    return wrong


def outside(pdf):
    """Return the letters that leave the page's printed area (in points), or that stand on each other.

    Blanks at the end of a line are in the margin, and all of them stand there.
    """
    found = []
    seen = set()
    for letter in pdf.letters:
        if letter.text.isspace():
            continue
        left, bottom, right, top = pdf.pages[letter.page].mediabox
        x0, y0, x1, y1 = letter.box
        if x0 < left + 28 or x1 > right - 28 or y0 < bottom + 14 or y1 > top - 14:
            found.append(letter)
        place = (letter.page, round(x0, 1), round(y0, 1))
        if place in seen and x1 - x0 > 0.1:
            found.append(letter)
        seen.add(place)
    return found


def check(receipt, pdf):
    assert wrong_fields(receipt, pdf) == []
    assert wrong_transfers(receipt, pdf) == []
    assert outside(pdf) == []


def test_fields(door):
    """A usual receipt: every field, on one page."""
    receipt = stored(door, a_request())
    pdf = Pdf(render(HOUSE, receipt))
    check(receipt, pdf)
    assert len(pdf.pages) == 1


def test_five_beneficiaries(door):
    """Several beneficiaries, with long names and with digital stamps, fit one page."""
    transfers = [a_stamp_transfer(number + 1) if number % 2 else None for number in range(5)]
    request = a_request(
        receiptId="0" * 32,
        description="Imposta di bollo e diritti di segreteria per certificazioni e copie autentiche " + "x" * 60,
        transfers=[
            stamp
            or {
                "idTransfer": str(number + 1),
                "transferAmount": "16.00",
                "fiscalCodePA": OTHER_EC,
                "companyName": "Unione dei Comuni Montani dell'Alta Valle di Vattelapesca e Castelnuovo",
                "IBAN": "IT88X0000000000000000000001",
                "remittanceInformation": "/RFB/01000000000000017/80.00/TXT/Diritti di segreteria " * 2,
                "transferCategory": "0101101IM",
            }
            for number, stamp in enumerate(transfers)
        ],
    )
    receipt = stored(door, request)
    assert [transfer["digital_stamp"] for transfer in receipt["transfers"]] == [False, True, False, True, False]
    pdf = Pdf(render(HOUSE, receipt))
    check(receipt, pdf)
    assert len(pdf.pages) == 1
    assert [row[3] for row in pdf.rows()][1] == "Marca da bollo digitale"


def test_as_little_as_there_can_be(door):
    absent = ("payer", "paymentDateTime", "fee", "officeName", "metadata", "standIn", "applicationDate")
    absent += ("pspFiscalCode", "pspPartitaIVA", "paymentMethod")
    receipt = stored(door, a_request(companyName=" ", **dict.fromkeys(absent, ABSENT)))
    pdf = Pdf(render(HOUSE, receipt))
    check(receipt, pdf)
    assert not [1 for heading, _, _ in pdf.fields() if heading == "Versante"]


def test_secondary_beneficiary(door):
    """A copy for an EC that does not own the payment names both."""
    receipt = stored(door, a_request(idPA=OTHER_EC))
    said = {(heading, label): value for heading, label, value in Pdf(render(HOUSE, receipt)).fields()}
    assert said["Ente creditore", "Codice fiscale"] == EC
    assert said["Ente creditore", "Copia per l'ente beneficiario"] == f"Provincia di Vattelapesca ({OTHER_EC})"


def random_receipts(door, examples, folder=None, part=0):
    """Take random receipts in, look at the PDF of each, and return how many there were; write them to a folder.

    Another `part` has others.
    """
    done = 0

    @seed(22 + part)
    @settings(max_examples=examples, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(strategies.our_receipts())
    def look(request):
        nonlocal done
        done += 1
        receipt = stored(door, request.but(receiptId=f"{done} {request['receiptId']}"))  # unlike the others
        content = render(HOUSE, receipt)
        check(receipt, Pdf(content))
        if folder is not None:
            (folder / f"{part}-{done}.pdf").write_bytes(content)

    look()
    return done


def test_random(door):
    """Each field's text equals the stored value, and is on the page, for whatever the schema admits."""
    assert random_receipts(door, 12) == 12


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_thousand_random(door, part):
    """The same for a thousand, side by side: to read a PDF takes a quarter of a second.

    `make pdf-check` names a folder, whose files veraPDF judges afterwards.
    """
    folder = os.environ.get("PDF_CHECK_FOLDER")
    assert random_receipts(door, 100, folder and Path(folder), part) == 100


def test_traps(door):
    """Markup, formulas, ANSI codes, accented letters and Cyrillic are shown as they are; typst obeys none of them."""
    names = ("description", "debtor_name", "payer_name", "company_name", "office_name", "psp_company_name", "iuv")
    receipt = stored(door, a_request())
    texts = [*TRAPS, CONTROLS, *MARKUP]
    for start in range(0, len(texts), len(names)):
        changed = receipt | dict(zip(names, texts[start : start + len(names)], strict=False))
        check(changed, Pdf(render(HOUSE, changed)))
    changed = receipt | {"debtor_name": "Иван Ёжиков", "description": "è\nsì\u202e漢\x1b[31m"}
    said = {(heading, label): value for heading, label, value in Pdf(render(HOUSE, changed)).fields()}
    assert said["Debitore", "Nome o denominazione"] == "Иван Ёжиков"
    assert said["Pagamento", "Causale"] == r"è\nsì\u202e\u6f22\x1b[31m"


def test_receipt_id_is_never_cut(door):
    """A receiptId that is too long for the database, and for a page, is on the page as it was sent."""
    receipt = stored(door, a_request(receiptId="x9W" * 1500))
    assert receipt["flags"] == ["receipt_id_hashed"]
    pdf = Pdf(render(HOUSE, receipt | {"receipt_id": "its hash"}))
    check(receipt, pdf)
    assert len(pdf.pages) > 1


def test_letters_of_the_fonts(door):
    """Every character that is not written as a code is in typst's own fonts, and is read back as itself."""
    chars = [char for code in range(0x20, 0x30000) if (char := chr(code)).isprintable() and as_shown(char) == char]
    assert len(chars) > 1300  # Latin, Greek, Cyrillic
    changed = stored(door, a_request()) | {"description": " ".join(chars)}
    said = {label: value for _, label, value in Pdf(render(HOUSE, changed)).fields()}
    assert said["Causale"] == " ".join(chars)


# --- accessible, and the same each time -------------------------------------------------------------------------------


def test_tags(door, tmp_path):
    """Tagged PDF/UA-1 in Italian: title, headings, lists of fields, a table with headers, logos with their names."""
    (tmp_path / "logo.svg").write_text(SVG)
    house = config.Settings.model_validate(
        {"pdf": {"pagopa_logo": tmp_path / "logo.svg"}, "ec": [{"id": EC, "logo": tmp_path / "logo.svg"}]}
    )
    request = a_request()
    pdf = Pdf(render(house, stored(door, request)))
    assert pdf.catalog["Lang"].startswith(b"it")
    assert pdf.catalog["MarkInfo"]["Marked"] is True
    assert pdf.catalog["ViewerPreferences"]["DisplayDocTitle"] is True
    assert pdf.title == f"Ricevuta di pagamento pagoPA, IUV {request['creditorReferenceId']}"
    assert "<pdfuaid:part>1</pdfuaid:part>" in pdf.xmp
    assert [one.text for one in pdf.tree.all("H1")] == ["Ricevuta di pagamento pagoPA"]
    assert len(list(pdf.tree.all("H2"))) == 7
    assert [one.text for one in pdf.tree.all("TH")] == ["N.", "Beneficiario", "Causale", "Accredito", "Importo"]
    alt = [one.raw["Alt"].decode() for one in pdf.tree.all("Figure")]
    assert alt == [f"Logo di {request['companyName']}", "Logo di pagoPA"]
    untagged = "".join(letter.text for letter in pdf.letters if letter.mcid is None)
    assert untagged.endswith("pagina 1 di 1")  # an artifact, which a screen reader leaves out


def test_same_bytes(door, sqlite_url, tmp_path):
    """The same receipt gives the same bytes: here and in other processes, with another zone, language and folder."""
    request = a_request()
    written = render(config.Settings(), stored(door, request))
    assert render(config.Settings(), door.receipt(request)) == written
    elsewhere = {"TZ": "Asia/Tokyo", "LANG": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "HOME": "/nowhere"}
    for env in ({}, elsewhere):
        done = subprocess.run(
            [STATION, "receipts", "pdf", request["receiptId"]],
            env=environment(sqlite_url, **env), cwd=tmp_path, capture_output=True,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == written


def test_no_system_fonts():
    """The fonts that the template names are typst's own."""
    template = (Path(sys.modules["station.pdf"].__file__).parent / "receipt.typ").read_text()
    named = re.search(r'font: \("(.*?)", "(.*?)"\)', template)
    assert set(named.groups()) <= set(typst.Fonts(include_system_fonts=False).families())


# --- what it says of the receipt -------------------------------------------------------------------------------------


def test_attached_xml(door, sqlite_url, tmp_path):
    """With --attach-xml the exact bytes that were received are in the PDF."""
    request = a_request()
    raw = an_envelope(request, encoding="utf-16")
    door.take(raw)
    done = run(sqlite_url, request["receiptId"], "--attach-xml", cwd=tmp_path)
    assert Pdf(done.stdout).attachments() == {"ricevuta.xml": raw}
    assert Pdf(run(sqlite_url, request["receiptId"], cwd=tmp_path).stdout).attachments() == {}


def notices(pdf):
    return " ".join(one.text for one in pdf.tree.children[0].children if one.role not in ("H1", "H2", "L", "Table"))


def test_anonymised(door):
    """An anonymised receipt says so, and that its document is gone; it cannot be attached."""
    at = datetime(2025, 7, 1, tzinfo=UTC)
    receipt = stored(door, a_request()) | {
        "anonymised_at": at, "raw_purged_at": at, "raw": b"", "description": "***", "debtor_id": "***",
        "debtor_name": "***", "payer_id": None, "payer_name": None,
    }  # fmt: skip
    pdf = Pdf(render(HOUSE, receipt))
    assert "Ricevuta RESA ANONIMA il 01/07/2025 02:00:00" in notices(pdf)
    assert ("Duplicato informatico", "Documento XML", "eliminato il 01/07/2025 02:00:00") in pdf.fields()
    assert ("Debitore", "Nome o denominazione", "***") in pdf.fields()
    assert not [1 for heading, _, _ in pdf.fields() if heading == "Versante"]
    with pytest.raises(PdfError, match="no document to attach"):
        render(HOUSE, receipt, attach_xml=True)


def test_provisional_and_ko(door):
    """A provisional receipt and one of a payment that was not made say so."""
    receipt = stored(door, a_request())
    assert notices(Pdf(render(HOUSE, receipt))) == ""
    pdf = Pdf(render(HOUSE, receipt | {"flags": ["provisional"]}))
    assert "Ricevuta PROVVISORIA" in notices(pdf)
    assert ("Duplicato informatico", "Documento XML", "non ancora arrivato") in pdf.fields()
    with pytest.raises(PdfError, match="no document to attach"):
        render(HOUSE, receipt | {"flags": ["provisional"]}, attach_xml=True)
    assert "Pagamento NON eseguito" in notices(Pdf(render(HOUSE, receipt | {"outcome": "KO"})))


def test_date_out_of_range(door):
    """A date that no database holds is not said to be missing."""
    receipt = stored(door, a_request(applicationDate="10000-01-01"))
    assert receipt["flags"] == ["date_out_of_range"]
    check(receipt, Pdf(render(HOUSE, receipt)))


# --- the command ------------------------------------------------------------------------------------------------------


def test_command(door, sqlite_url, tmp_path):
    """One receipt: to standard output or a file, by receiptId, notice number or IUV, and of the EC that is named."""
    request = a_request()
    door.take(an_envelope(request))
    done = run(sqlite_url, "--notice", request["noticeNumber"], "-o", "a.pdf", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "a.pdf").stat().st_mode & 0o077 == 0
    by_iuv = run(sqlite_url, "--iuv", request["creditorReferenceId"], cwd=tmp_path).stdout
    assert by_iuv == (tmp_path / "a.pdf").read_bytes()
    kept = run(sqlite_url, request["receiptId"], "-o", "a.pdf", cwd=tmp_path)
    assert kept.returncode == 2
    assert b"--overwrite" in kept.stderr
    assert run(sqlite_url, request["receiptId"], "-o", "a.pdf", "--overwrite", cwd=tmp_path).returncode == 0
    door.take(an_envelope(request.but(idPA=OTHER_EC)))
    several = run(sqlite_url, request["receiptId"], cwd=tmp_path)
    assert (several.returncode, several.stdout) == (2, b"")
    assert f"--ec {OTHER_EC}".encode() in several.stderr
    assert run(sqlite_url, request["receiptId"], "--ec", EC, cwd=tmp_path).stdout == by_iuv


def test_folder(door, sqlite_url, tmp_path):
    """All matching receipts, each in a file of its own; what cannot be written is told."""
    requests = [a_request(receiptId="a" * 32), a_request(receiptId="../b\n"), a_request(idPA=OTHER_EC)]
    for request in requests:
        door.take(an_envelope(request))
    for _ in range(2):
        done = run(sqlite_url, "--ec", EC, "--folder", "copies/today", "--attach-xml", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"2 PDFs in copies/today\n")
    files = sorted((tmp_path / "copies/today").iterdir())
    assert [file.name for file in files] == [
        f"{EC}_{'a' * 32}.pdf",
        f"{EC}_id-{sha256(b'../b' + chr(10).encode()).hexdigest()[:32]}.pdf",
    ]
    assert files[0].read_bytes() == run(sqlite_url, "a" * 32, "--attach-xml", cwd=tmp_path).stdout
    with store.transaction(door.engine) as connection:
        its = tables.receipt.c.receipt_id == "a" * 32
        connection.execute(update(tables.receipt).where(its).values(raw=b"", raw_purged_at=datetime.now(UTC)))
    done = run(sqlite_url, "--folder", "all", "--attach-xml", cwd=tmp_path)
    assert done.returncode == 1
    assert b"2 PDFs in all, 1 receipt failed" in done.stderr
    assert f"receipt {'a' * 32} of EC {EC}: it has no document to attach".encode() in done.stderr


def test_usage(sqlite_url, tmp_path):
    for arguments, told in (
        ([], b"which receipt?"),
        (["x", "--receipt-id", "y"], b"once"),
        (["x", "-o", "a.pdf", "--folder", "f"], b"not both"),
        (["x", "-o", "nowhere/a.pdf"], b"no such receipt"),
    ):
        done = run(sqlite_url, *arguments, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert told in done.stderr


def test_terminal(door, sqlite_url, tmp_path):
    """A PDF is not written to a terminal."""
    request = a_request()
    door.take(an_envelope(request))
    terminal, its_end = pty.openpty()
    done = subprocess.run(
        [STATION, "receipts", "pdf", request["receiptId"]],
        env=environment(sqlite_url), cwd=tmp_path, stdout=its_end, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(its_end)
    os.close(terminal)
    assert done.returncode == 2
    assert b"a terminal cannot show a PDF: add -o receipt.pdf" in done.stderr


def test_without_typst(door, sqlite_url, tmp_path):
    """Where typst is not installed, the error names the extra, and nothing is left behind."""
    (tmp_path / "typst.py").write_text("raise ImportError")
    request = a_request()
    door.take(an_envelope(request))
    done = subprocess.run(
        [STATION, "receipts", "pdf", request["receiptId"], "-o", "a.pdf"],
        env=environment(sqlite_url, PYTHONPATH=str(tmp_path)), cwd=tmp_path, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"pip install 'pagopa-receipt-station[pdf]'" in done.stderr
    assert not (tmp_path / "a.pdf").exists()


# --- logos ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("logo.svg", None, "Path does not point to a file"),
        ("logo.gif", b"GIF89a", ".svg, .png or .jpg"),
        ("logo.png", b"<svg/>", "content is not PNG"),
        ("logo.SVG", b"\x89PNG\r\n\x1a\n", "content is not SVG"),
        ("logo.jpg", b"\xff\xd8\xff" + bytes(1024 * 1024), "larger than 1 MB"),
    ],
)
def test_wrong_logo(tmp_path, name, content, told):
    """A logo that cannot be shown is found at start, with the place of the setting."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "station.toml").write_text(f'[[ec]]\nid = "{EC}"\nlogo = "{tmp_path / name}"\n')
    with pytest.raises(ConfigError, match=rf"ec\[0\]\.logo: .*{re.escape(told)}"):
        config.load(tmp_path / "station.toml", environ={})


def test_broken_logo(door, tmp_path):
    """A logo that breaks later is an error of that PDF, which says nothing of the receipt's people."""
    (tmp_path / "logo.svg").write_text("<svg")
    house = config.Settings.model_validate({"pdf": {"pagopa_logo": tmp_path / "logo.svg"}})
    with pytest.raises(PdfError, match="typst reports: ") as told:
        render(house, stored(door, a_request(debtor__fullName="Pinco Pallino")))
    assert "Pallino" not in str(told.value)


def test_wide_logo(door, tmp_path):
    """A logo of any proportions stays in its half of the page."""
    (tmp_path / "logo.svg").write_text(SVG.replace('"200"', '"4000"'))
    house = config.Settings.model_validate(
        {"pdf": {"pagopa_logo": tmp_path / "logo.svg"}, "ec": [{"id": EC, "logo": tmp_path / "logo.svg"}]}
    )
    pdf = Pdf(render(house, stored(door, a_request(paymentAmount="1.00"))))
    boxes = [one.raw["A"][0]["BBox"] for one in pdf.tree.all("Figure")]
    assert boxes[0][2] <= boxes[1][0]
    assert boxes[1][2] <= pdf.pages[0].mediabox[2] - 50


def test_amounts():
    """The test's own way to write money is right."""
    assert [money(Decimal(text)) for text in ("0.01", "1234.50", "999999999.99")] == [
        "0,01 €",
        "1.234,50 €",
        "999.999.999,99 €",
    ]
