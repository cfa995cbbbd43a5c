"""Synthetic receipts, made from an organisation, a number and a seed, and nothing else.

Here: `make_receipt` and `soap_envelope`, so that a test can push the very receipt that the simulator hands out,
`make_position` for GPD-Core's list, and `headline`, the cheap part of a receipt that a list row needs. Not here: what
the simulated service does with them (see `ledger`). All names and codes are invented.
"""

import base64
import random
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any

PAF_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
SOAP_NS = "http://schemas.xmlsoap.org/soap/envelope/"

BROKER = "15376371009"
STATION = "15376371009_01"
START = "2026-01-01"
END = "2026-03-31"

VERSIONS = ("v1", "v2", "mixed")
ROOTS = {"v1": ("paSendRTReq", "paSendRTReq"), "v2": ("PaSendRTV2Request", "paSendRTV2Request")}
"""By version, the root of the API's document and the body element of the push."""

GENERATED = "generated"

_FIRST_NAMES = ("Tizio", "Caia", "Sempronia", "Mevia", "Filano", "Calpurnia", "Niccolò", "Zoè", "Pinco")
_SURNAMES = ("Pallino", "Dell'Esempio", "D'Invenzione", "Fittizî", "Nessunò", "Prova", "Taldeitali", "Müller-Finto")
_COMPANIES = ("Ditta Prova & Controprova S.n.c.", "Società Così & Cosà S.r.l.", "Circolo «L'Inesistente»")
_OWNERS = ("Comune di Vattelapesca", "Comune di Roccacannuccia", "Unione dei Comuni dell'Altrove & Dintorni")
_OFFICES = ("Ufficio Tributi", "Settore Entrate e Contabilità", "Polizia Locale", "Servizi alla Persona & Scuola")
_PSPS = (
    ("ABI99999", "99999999990", "Banca Immaginaria S.p.A.", "99999999990_01", "app"),
    ("ABI99998", "99999999982", "Posta Inventata S.p.A.", "99999999982_02", "sportello"),
    ("BIC99997", None, "Istituto Però & C.", "99999999974_03", "home banking"),
)
_OTHER_ECS = ("88888888888", "99999999999", "66666666666", "55555555555")
_SUBJECTS = ("TARI 2026, rata unica", "Mensa scolastica di città", "Sanzione C.d.S. n. 0/2026 & spese", "IMU <saldo>")


def make_receipt(
    org: str,
    n: int,
    seed: int | str = 0,
    *,
    start: str = START,
    end: str = END,
    version: str = "v2",
    broker: str = BROKER,
    station: str = STATION,
    segregation: str = "01",
    iuv: str | None = None,
    receipt_id: str | None = None,
    payment_date_time: str | None = GENERATED,
    debtor: str | None = None,
    date_zone: str = "",
) -> dict[str, Any]:
    """Receipt number `n` of `org`, the same whenever the arguments are the same.

    Returns `org`, `n`, `seed`, `version`, `iuv`, `notice_number`, `receipt_id`, `payment_date_time`, `debtor` (its
    fiscal code), `amount` (euro, as text), `fields` (the whole content as dicts, lists and strings), `root` (the push's
    body element) and `xml` (the document as the API hands it out). The payment lies between `start` and `end`;
    `payment_date_time=None` leaves it out. With `date_zone` (+00:00, say) applicationDate and transferDate carry it,
    and `Z` in the document, as the real service writes them anew. The IUV hangs on `n` and `seed` alone: two
    organisations share IUVs.
    """
    digest = _digest(org, n, seed)
    version = _version(digest, version)
    plain_iuv, paid_at, plain_debtor = headline(org, n, seed, start, end, segregation)
    iuv = iuv or plain_iuv
    receipt_id = receipt_id or digest[:16].hex()
    if payment_date_time == GENERATED:
        payment_date_time = paid_at
    receipt = _content(digest, org, iuv, receipt_id, payment_date_time, debtor or plain_debtor, version)
    fields = {"idPA": org, "idBrokerPA": broker, "idStation": station, "receipt": receipt}
    rewritten = fields
    if date_zone:
        dates = {name: receipt[name] for name in ("applicationDate", "transferDate") if name in receipt}
        rewritten = {**fields, "receipt": receipt | {name: f"{day}Z" for name, day in dates.items()}}
        receipt |= {name: f"{day}{date_zone}" for name, day in dates.items()}
    document_root, root = ROOTS[version]
    return {
        "org": org,
        "n": n,
        "seed": seed,
        "version": version,
        "iuv": iuv,
        "notice_number": receipt["noticeNumber"],
        "receipt_id": receipt_id,
        "payment_date_time": payment_date_time,
        "debtor": debtor or plain_debtor,
        "amount": receipt["paymentAmount"],
        "fields": fields,
        "root": root,
        "xml": _document(document_root, rewritten),
    }


def soap_envelope(
    receipt: dict[str, Any], *, id_pa: str | None = None, broker: str | None = None, station: str | None = None
) -> bytes:
    """The same receipt as the Nodo pushes it: on one line, the root in the namespace, to another station if wanted."""
    fields = dict(receipt["fields"])
    for name, value in (("idPA", id_pa), ("idBrokerPA", broker), ("idStation", station)):
        if value is not None:
            fields[name] = value
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<soapenv:Envelope xmlns:soapenv="{SOAP_NS}" xmlns:pafn="{PAF_NS}"><soapenv:Body>',
    ]
    _write(out, f"pafn:{receipt['root']}", fields, None)
    out.append("</soapenv:Body></soapenv:Envelope>")
    return "".join(out).encode()


def headline(
    org: str, n: int, seed: int | str = 0, start: str = START, end: str = END, segregation: str = "01"
) -> tuple[str, str, str]:
    """IUV, paymentDateTime and debtor of `make_receipt` with the same arguments, in a few microseconds."""
    digest = _digest(org, n, seed)
    # Odd and no multiple of 5: no two numbers below 10^13 share an IUV, and neighbours lie far apart in IUV order.
    base = f"{segregation}{(n * 6180339887501 + _offset(seed)) % 10**13:013d}"
    iuv = f"{base}{int('3' + base) % 93:02d}"
    return iuv, _payment_date_time(digest, start, end), _fiscal_code(digest)


def make_position(org: str, n: int, seed: int | str = 0, **over: Any) -> dict[str, Any]:
    """The debt position that `make_receipt(org, n, seed)` pays, in the words of GPD-Core's list, amounts in cents.

    `over` may hold `iupd`, `iuv`, `nav`, `amount`, `id_receipt`, `payment_date`, `status`, and `start` and `end`.
    """
    period = {name: over[name] for name in ("start", "end") if name in over}
    receipt = make_receipt(org, n, seed, iuv=over.get("iuv"), receipt_id=over.get("id_receipt"), **period)
    content = receipt["fields"]["receipt"]
    amount = over.get("amount", _cents(receipt["amount"]))
    paid_at = over.get("payment_date", receipt["payment_date_time"])[:19]
    inserted = f"{paid_at[:4]}-01-01T00:00:00"
    owner = {"organizationFiscalCode": org, "companyName": content["companyName"]}
    dates = {"insertedDate": inserted, "lastUpdatedDate": paid_at}
    option: dict[str, Any] = {
        "nav": over.get("nav", receipt["notice_number"]),
        "iuv": receipt["iuv"],
        "organizationFiscalCode": org,
        "amount": amount,
        "description": content["description"],
        "isPartialPayment": False,
        "dueDate": f"{paid_at[:4]}-12-31T00:00:00",
        "paymentDate": paid_at,
        "paymentMethod": content.get("paymentMethod", "other"),
        "fee": _cents(content.get("fee", "0.00")),
        "notificationFee": 0,
        "pspCompany": content["PSPCompanyName"],
        "idReceipt": receipt["receipt_id"],
        "status": "PO_PAID",
        "paymentOptionMetadata": [],
        "transfer": [
            {
                **owner,
                "idTransfer": "1",
                "amount": amount,
                "remittanceInformation": content["description"],
                "category": "9/0201101IM/",
                "iban": "IT88X0000000000000000000001",
                "status": "T_UNREPORTED",
                **dates,
            }
        ],
        **dates,
    }
    options = [option]
    if n % 8 == 7:  # paid in one sum: the instalments that were offered beside it stay unpaid
        unpaid = {**option, "status": "PO_UNPAID", "isPartialPayment": True, "fee": 0, "amount": amount // 2}
        unpaid |= {"iuv": f"02{receipt['iuv'][2:]}", "nav": f"302{receipt['iuv'][2:]}", "transfer": []}
        for name in ("idReceipt", "paymentDate", "pspCompany", "paymentMethod"):
            del unpaid[name]
        options.append(unpaid)
    return {
        "iupd": over.get("iupd", f"SIM-{receipt['receipt_id'][:20]}"),
        **owner,
        "type": content["debtor"]["uniqueIdentifier"]["entityUniqueIdentifierType"],
        "officeName": content.get("officeName", ""),
        "publishDate": inserted,
        "validityDate": inserted,
        "paymentDate": paid_at,
        "status": over.get("status", "PAID"),
        "paymentOption": options,
        **dates,
    }


def position_headline(org: str, n: int, seed: int | str = 0, **over: Any) -> tuple[str, str]:
    """Payment date and status of `make_position` with the same arguments, without making it."""
    paid_at = over.get("payment_date") or headline(org, n, seed, over.get("start", START), over.get("end", END))[1]
    return paid_at[:19], over.get("status", "PAID")


# --- the content ------------------------------------------------------------------------------------------------------


def _digest(org: str, n: int, seed: int | str) -> bytes:
    return blake2b(f"{seed}|{org}|{n}".encode(), digest_size=32).digest()


@lru_cache(maxsize=64)
def _offset(seed: int | str) -> int:
    return int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest()) % 10**13


@lru_cache(maxsize=64)
def _period(start: str, end: str) -> tuple[datetime, int]:
    first = datetime.fromisoformat(start)
    last = datetime.fromisoformat(end if "T" in end else f"{end}T23:59:59")
    if last <= first:
        raise ValueError("the period ends before it starts")
    return first, (last - first) // timedelta(microseconds=1)


def _version(digest: bytes, version: str) -> str:
    if version == "mixed":
        return "v2" if digest[17] % 4 else "v1"
    return version


def _payment_date_time(digest: bytes, start: str, end: str) -> str:
    first, length = _period(start, end)
    moment = first + timedelta(microseconds=int.from_bytes(digest[18:26]) * length >> 64)
    form, zone = digest[26] & 15, digest[27] & 1
    if digest[26] >> 4 == 0:
        moment = max(first, moment.replace(second=0, microsecond=0))
    if form < 8 or form in (12, 13):
        text = moment.isoformat(timespec="seconds")
    elif form == 10:
        text = f"{moment.isoformat(timespec='seconds')}.{moment.microsecond // 100_000}"
    else:
        text = moment.isoformat(timespec="microseconds" if form == 11 else "milliseconds")
    if form in (12, 14):
        text += "Z"
    elif form in (13, 15):
        text += "+02:00" if zone else "+01:00"
    return text


def _fiscal_code(digest: bytes) -> str:
    kind = digest[28] & 15
    if kind == 0:
        return "ANONIMO"
    if kind == 1:
        return f"{int.from_bytes(digest[29:32]) % 10**9:09d}00"
    # X000X is no municipality: nobody has this code.
    letters = "".join(chr(65 + byte % 26) for byte in (*digest[28:32], *digest[16:18]))
    return f"{letters}{digest[29] % 90 + 10}A{digest[30] % 28 + 1:02d}X000{chr(65 + digest[31] % 26)}"


def _content(
    digest: bytes, org: str, iuv: str, receipt_id: str, paid_at: str | None, debtor: str, version: str
) -> dict[str, Any]:
    dice = random.Random(digest)
    second = version == "v2"
    owner = _OWNERS[dice.randrange(len(_OWNERS))]
    transfers = _transfers(dice, org, owner, iuv, second)
    psp, psp_fiscal_code, psp_name, channel, channel_description = dice.choice(_PSPS)
    cents = sum(_cents(transfer["transferAmount"]) for transfer in transfers)
    paid_on = paid_at[:10] if paid_at else "2026-01-01"
    maybe = dice.random
    receipt: dict[str, Any] = {
        "receiptId": receipt_id,
        "noticeNumber": f"3{iuv}" if len(iuv) == 17 and iuv.isdecimal() else f"3{int(digest.hex(), 16) % 10**17:017d}",
        "fiscalCode": org,
        "outcome": "OK",
        "creditorReferenceId": iuv,
        "paymentAmount": _euro(cents),
        "description": dice.choice(_SUBJECTS),
        "companyName": owner if maybe() < 0.97 else " ",
        "officeName": dice.choice(_OFFICES) if maybe() < 0.6 else None,
        "debtor": _subject(dice, debtor),
        "transferList": {"transfer": transfers},
        "idPSP": psp,
        "pspFiscalCode": psp_fiscal_code,
        "pspPartitaIVA": psp_fiscal_code if maybe() < 0.3 else None,
        "PSPCompanyName": psp_name,
        "idChannel": channel,
        "channelDescription": channel_description,
        "payer": _subject(dice, debtor) if maybe() < 0.6 else None,
        "paymentMethod": dice.choice(("creditCard", "bancomat", "other")) if maybe() < 0.8 else None,
        "paymentNote": f"carrello-{dice.randrange(10**6):06d}" if second and maybe() < 0.25 else None,
        "fee": _euro(dice.randrange(50, 300)) if maybe() < 0.7 else None,
        "primaryCiIncurredFee": "0.00" if second and maybe() < 0.15 else None,
        "idBundle": f"pacchetto-{dice.randrange(100)}" if second and maybe() < 0.1 else None,
        "idCiBundle": f"pacchetto-ente-{dice.randrange(100)}" if second and maybe() < 0.05 else None,
        "paymentDateTime": paid_at,
        "applicationDate": paid_on if maybe() < 0.8 else None,
        "transferDate": paid_on if maybe() < 0.8 else None,
        "metadata": _metadata(dice) if maybe() < 0.25 else None,
        "standIn": dice.choice(("true", "false", "false")) if maybe() < 0.4 else None,
    }
    return {name: value for name, value in receipt.items() if value is not None}


def _transfers(dice: random.Random, org: str, owner: str, iuv: str, second: bool) -> list[dict[str, Any]]:
    transfers = []
    for number in range(1, dice.choice((1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 4, 5)) + 1):
        amount = _euro(dice.randrange(100, 50_000))
        transfer: dict[str, Any] = {
            "idTransfer": str(number),
            "transferAmount": amount,
            "fiscalCodePA": org if number == 1 else dice.choice(_OTHER_ECS),
        }
        if second and dice.random() < 0.7:
            transfer["companyName"] = owner if number == 1 else "Provincia di Chissadove"
        if second and dice.random() < 0.05:
            transfer["transferAmount"] = "16.00"
            transfer["MBDAttachment"] = _stamp(dice)
        else:
            transfer["IBAN"] = f"IT88X{dice.randrange(10**10):022d}"
        transfer["remittanceInformation"] = f"/RFB/{iuv}/{transfer['transferAmount']}/TXT/quota n° {number}"
        transfer["transferCategory"] = dice.choice(("9/0201101IM/", "9/0201102TS/", "0101100IM"))
        if dice.random() < 0.1:
            transfer["metadata"] = _map({f"TARI-TEFA-{number}": "TEFA", "IBANAPPOGGIO": f"IT88X{number:022d}"})
        transfers.append(transfer)
    return transfers


def _subject(dice: random.Random, fiscal_code: str) -> dict[str, Any]:
    legal = fiscal_code.isdecimal()
    first, last = dice.choice(_FIRST_NAMES), dice.choice(_SURNAMES)
    subject: dict[str, Any] = {
        "uniqueIdentifier": {
            "entityUniqueIdentifierType": "G" if legal else "F",
            "entityUniqueIdentifierValue": fiscal_code,
        },
        "fullName": dice.choice(_COMPANIES) if legal else f"{first} {last}",
    }
    if dice.random() < 0.5:
        subject |= {"streetName": "Via dell'Esempio", "civicNumber": f"{dice.randrange(1, 99)}/bis"}
        subject |= {"postalCode": "00000", "city": "Vattelapesca", "stateProvinceRegion": "XX", "country": "IT"}
    if dice.random() < 0.5:
        subject["e-mail"] = f"prova{dice.randrange(1000)}@example.invalid"
    return subject


def _metadata(dice: random.Random) -> dict[str, Any]:
    known = {"NOTIFICATION_FEE": "200", "CORRISPETTIVO_DL118": "sì & no", "INCASSO_TIPICO": "S", "CIVILISTICO": "N"}
    names = dice.sample(sorted(known), dice.randint(1, 4))
    entries = {name: known[name] for name in names} | {f"chiave-ignota-{i}": f"à{i}" for i in range(dice.randrange(3))}
    if dice.random() < 0.1:
        entries = {f"voce-{i:02d}": f"valore {i}" for i in range(15)}  # as many as the schema allows
    return _map(entries)


def _map(entries: dict[str, str]) -> dict[str, Any]:
    return {"mapEntry": [{"key": key, "value": value} for key, value in entries.items()]}


def _stamp(dice: random.Random) -> str:
    seal = base64.b64encode(dice.randbytes(dice.randrange(1500, 3000))).decode()
    stamp = f'<?xml version="1.0"?><marcaDaBollo><psp>Banca Immaginaria</psp><sigillo>{seal}</sigillo></marcaDaBollo>'
    return base64.b64encode(stamp.encode()).decode()


def _cents(euro: str) -> int:
    return int(euro.replace(".", ""))


def _euro(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


# --- the writing ------------------------------------------------------------------------------------------------------


def _document(root: str, fields: dict[str, Any]) -> bytes:
    """As the API writes it: indented by four, no namespace."""
    out = ['<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n']
    _write(out, root, fields, "")
    return "".join(out).encode()


def _write(out: list[str], name: str, node: Any, pad: str | None) -> None:
    """`pad` is the indentation, None for everything on one line."""
    if isinstance(node, list):
        for each in node:
            _write(out, name, each, pad)
        return
    end = "" if pad is None else "\n"
    if isinstance(node, str):
        out.append(f"{pad or ''}<{name}>{_escaped(node)}</{name}>{end}")
        return
    out.append(f"{pad or ''}<{name}>{end}")
    for child, content in node.items():
        _write(out, child, content, None if pad is None else pad + "    ")
    out.append(f"{pad or ''}</{name}>{end}")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
