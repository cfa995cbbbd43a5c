"""The requests that are sent: templates made by `tests/build.py`, with places for what makes each receipt unique.

A load generator fills a template's places with a receipt id, an IUV and a debtor that it draws at random, so that
generating costs next to nothing and the database meets keys in the order in which the Nodo's would come. The same seed
gives the same receipts: that is how they are sent again.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import build

ROOT = Path(__file__).resolve().parent.parent
BROKER = build.BROKER
STATION = build.STATION
ECS = 200

# Same length as what takes their place, so that sizes stay what they are.
RECEIPT_ID = "R" * 32
IUV = "0" * 17
DEBTOR = "D" * 16


@dataclass(frozen=True)
class Kind:
    """One kind of request: what it is, and what the station answers to it."""

    name: str
    answer: bytes = b"<outcome>OK</outcome>"
    stamps: int = 0
    over: tuple[tuple[str, str], ...] = ()


TYPICAL = Kind("typical")
STAMPS = Kind("stamps", stamps=4)
# Refused by the schema, each with other bytes.
INVALID = Kind("invalid", answer=b"PAA_SINTASSI_EXTRAXSD", over=(("paymentAmount", "120,50"),))
NOT_OURS = Kind("not ours", answer=b"PAA_ID_DOMINIO_ERRATO", over=(("idPA", "99999999999"),))
KINDS = {kind.name: kind for kind in (TYPICAL, STAMPS, INVALID, NOT_OURS)}


def ec(number: int) -> str:
    """The fiscal code of one of the ECs."""
    return f"{70000000000 + number:011d}"


def registry() -> str:
    """The station's configuration: one broker with its station, and its ECs."""
    lines = ["[[broker]]", f'id = "{BROKER}"', f'stations = ["{STATION}"]']
    for number in range(ECS):
        lines += ["[[ec]]", f'id = "{ec(number)}"']
    return "\n".join(lines)


def templates(kind: Kind, count: int = ECS) -> list[bytes]:
    """Envelopes for `count` ECs; some ECs come more often than others, as big cities do."""
    chance = random.Random(kind.name)
    made = []
    for _ in range(count):
        id_pa = ec(int(chance.paretovariate(0.7)) % ECS)
        request = build.a_request(
            receiptId=RECEIPT_ID, creditorReferenceId=IUV, noticeNumber=f"3{IUV}", idPA=id_pa, fiscalCode=id_pa,
            paymentAmount=f"{chance.randint(600, 90000) / 100:.2f}", idPSP=f"ABI{chance.randint(10000, 10020)}",
            description=f"TARI 2026, utenza di via dell'Esempio {chance.randint(1, 400)}",
            debtor__uniqueIdentifier__entityUniqueIdentifierValue=DEBTOR,
            payer__uniqueIdentifier__entityUniqueIdentifierValue=DEBTOR,
        )  # fmt: skip
        for number in range(1, kind.stamps + 1):
            request = request.but(**{f"transfers.{number}": build.a_stamp_transfer(number + 1, 6800)})
        if kind.stamps:
            request = request.but(**_sum_of(request))
        request = request.but(**dict(kind.over))
        made.append(build.an_envelope(request, chance.choice(("compact", "SOAP-ENV", "S"))))
    return made


def _sum_of(request: build.Request) -> dict[str, str]:
    cents = sum(int(one["transferAmount"].replace(".", "")) for one in request["transfers"])
    return {"paymentAmount": f"{cents // 100}.{cents % 100:02d}"}


def parts(template: bytes) -> list[bytes]:
    """A template cut at its places: literal, place, literal, place, ... with the places named r, i, d."""
    pieces = [template]
    for name, place in ((b"r", RECEIPT_ID), (b"i", IUV), (b"d", DEBTOR)):
        cut: list[bytes] = []
        for number, piece in enumerate(pieces):
            if number % 2:
                cut.append(piece)
                continue
            literals = piece.split(place.encode())
            for literal in literals[:-1]:
                cut += [literal, name]
            cut.append(literals[-1])
        pieces = cut
    return pieces


def identifiers(chance: random.Random) -> dict[bytes, bytes]:
    """What fills the places of one receipt."""
    return {
        b"r": b"%032x" % chance.getrandbits(128),
        b"i": b"01%015d" % chance.randrange(10**15),
        b"d": b"%016d" % chance.randrange(10**9),
    }


def fill(pieces: list[bytes], places: dict[bytes, bytes]) -> bytes:
    """One request's body."""
    return b"".join(places[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def write_templates(folder: Path, kind: Kind) -> Path:
    """The templates as files that the Lua script reads: one for each literal and place, in folders by number."""
    file = folder / f"{kind.name.replace(' ', '-')}.templates"
    with file.open("wb") as out:
        for template in templates(kind):
            pieces = parts(template)
            out.write(b"%d\n" % len(pieces))
            for piece in pieces:
                out.write(b"%d\n" % len(piece))
                out.write(piece)
    return file
