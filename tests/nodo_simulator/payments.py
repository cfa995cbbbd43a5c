"""Payments and the copies of their receipts, each from the seed and its number alone."""

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # `build` lies beside this package

from build import (
    ABSENT,
    BROKER,
    EC,
    OTHER_EC,
    STATION,
    STYLES,
    Request,
    a_request,
    a_stamp_transfer,
    a_transfer,
    an_envelope,
)

SECOND_STATION = f"{BROKER}_02"
FOREIGN_EC = "99999999999"
RECIPIENTS = [(ec, station) for ec in (EC, OTHER_EC) for station in (STATION, SECOND_STATION)]

# How the station that the simulator sends to must be configured, so that it refuses what it should.
REGISTRY = f"""
[[broker]]
id = "{BROKER}"
stations = ["{STATION}", "{SECOND_STATION}"]

[[ec]]
id = "{EC}"

[[ec]]
id = "{OTHER_EC}"
"""


@dataclass(frozen=True)
class Copy:
    """One copy of a receipt, for one recipient. `refuse`: a station must not store it (but keep it)."""

    id: str
    request: Request
    raw: bytes
    refuse: bool

    @property
    def entry(self) -> dict[str, object]:
        """What the ledger says of it."""
        request = self.request
        transfers = request.receipt["transferList"]["transfer"]
        return {
            "d": self.id,
            "refuse": self.refuse,
            "sha": sha256(self.raw).hexdigest(),
            "id_pa": request["idPA"],
            "id_station": request["idStation"],
            "receipt_id": request["receiptId"],
            "notice_number": request["noticeNumber"],
            "iuv": request["creditorReferenceId"],
            "amount": request["paymentAmount"],
            "transfers": [one["transferAmount"] for one in transfers],
        }


class Payments:
    """An endless row of payments: `next()` gives the copies of the next one's receipt."""

    def __init__(self, seed: int, odd: float = 0.25, refused: float = 0.08) -> None:
        self._seed = seed
        self._odd = odd
        self._refused = refused
        self._numbers = itertools.count(1)
        self._last: Request | None = None

    def __iter__(self) -> Iterator[list[Copy]]:
        while True:
            yield self.next()

    def next(self) -> list[Copy]:
        number = next(self._numbers)
        chance = random.Random(f"{self._seed} {number}")
        request = self._request(chance, number)
        recipients = chance.sample(RECIPIENTS, chance.choice((1, 1, 1, 2, 2, 3, 4)))
        copies = [request.but(idPA=ec, idStation=station) for ec, station in recipients]
        refuse = [False] * len(copies)
        if chance.random() < self._refused:
            copies.append(self._invalid(chance, copies[0]))
            refuse.append(True)
        return [
            Copy(f"{number}.{place}", copy, self._raw(chance, copy), refused)
            for place, (copy, refused) in enumerate(zip(copies, refuse, strict=True), start=1)
        ]

    def _request(self, chance: random.Random, number: int) -> Request:
        base = f"01{(self._seed * 10**7 + number) % 10**13:013d}"
        iuv = f"{base}{int('3' + base) % 93:02d}"
        over: dict[str, object] = {
            "receiptId": chance.randbytes(16).hex(),
            "creditorReferenceId": iuv,
            "paymentAmount": f"{chance.randrange(600, 100_000) / 100:.2f}",
        }
        version = 2
        if chance.random() < self._odd:
            kind = chance.choice(("second", "bare", "stamp", "stand_in", "five", "version_1"))
            if kind == "second" and self._last is not None:  # paid twice: another receipt of the same notice
                over["creditorReferenceId"] = self._last["creditorReferenceId"]
            elif kind == "bare":
                over |= dict.fromkeys(("payer", "officeName", "fee", "paymentDateTime", "metadata", "standIn"), ABSENT)
            elif kind == "stamp":
                over |= {"transferList": {"transfer": [a_stamp_transfer(1, chance.randrange(2000, 30_000))]}}
                over["paymentAmount"] = "16.00"
            elif kind == "stand_in":
                over |= {"standIn": "true", "companyName": " "}
            elif kind == "five":
                transfers = [a_transfer(number, transferAmount="45.00") for number in range(1, 6)]
                over |= {"paymentAmount": "225.00", "transferList": {"transfer": transfers}}
            elif kind == "version_1":
                version = 1
        self._last = a_request(version, **over)
        return self._last

    def _invalid(self, chance: random.Random, copy: Request) -> Request:
        """A copy that must be refused: broken, or for an EC that is not ours."""
        match chance.choice(("missing", "amount", "foreign")):
            case "missing":
                return copy.but(receiptId=chance.randbytes(16).hex(), debtor=ABSENT)
            case "amount":
                return copy.but(receiptId=chance.randbytes(16).hex(), paymentAmount="12,5")
        return copy.but(idPA=FOREIGN_EC)

    def _raw(self, chance: random.Random, copy: Request) -> bytes:
        style = chance.choice(list(STYLES)) if chance.random() < self._odd else "plain"
        return an_envelope(copy, style, **({} if STYLES[style].seed is None else {"seed": chance.randrange(10**6)}))
