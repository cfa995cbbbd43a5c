"""The settings of destinations: what each kind of [[destination]] needs."""

import base64
import binascii
from collections import Counter
from datetime import date, time
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, SecretStr, StringConstraints, ValidationInfo
from pydantic import model_validator as check

from station.columns import RECEIPTS_CSV, TRANSFERS_CSV_CHOICE
from station.config.ground import EcId, Listed, Networks, Section


def _webhook_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        size = 0
    if not text.startswith("whsec_") or not 24 <= size <= 64:
        raise ValueError("expected whsec_ and 24 to 64 bytes in base64; the command `deliveries secret` makes one")
    return SecretStr(text)


WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]
KeyHash = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


def _column(text: str, info: ValidationInfo) -> str:
    known = RECEIPTS_CSV if info.field_name == "receipts_columns" else TRANSFERS_CSV_CHOICE
    name, equals, title = (part.strip() for part in text.partition("="))
    if name not in known:
        raise ValueError(f"no such column; there are: {', '.join(known)}")
    if equals and not (title and title.isprintable() and len(title) <= _TITLE_MAX):
        raise ValueError(f"after the = expected a title of 1 to {_TITLE_MAX} printable characters")
    return f"{name}={title}" if equals else name


_TITLE_MAX = 100
ColumnOfFile = Annotated[str, AfterValidator(_column)]


class Chosen(Section):
    """What every destination has: a name, and which receipts it gets."""

    name: Name = Field(description="Its name, which must stay the same: small letters, digits, - and _.")
    ecs: Listed[EcId] = Field((), description="Receipts of these ECs only (idPA); none: of all.")
    categories: Listed[Annotated[str, StringConstraints(min_length=1, max_length=140)]] = Field(
        (), description="Receipts with a transfer whose transferCategory begins with one of these; none: all."
    )
    copies: bool = Field(
        True, description="Whether it also gets copies of payments that another EC owns (secondary beneficiaries)."
    )
    start: Literal["now", "beginning"] | date = Field(
        "now", description="Where it begins when it is first served: now, with all that is stored, or a day of arrival."
    )


class Webhook(Chosen):
    """A destination of kind `webhook`: each receipt is sent to a URL at once (Standard Webhooks, CloudEvents)."""

    kind: Literal["webhook"]
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!\"$-?A-~]+$", max_length=2000)] = Field(
        description="Where to POST; https, or http to this machine."
    )
    secret: WebhookSecret = Field(description="The secret that signs: `whsec_` and base64.")
    previous_secret: WebhookSecret | None = Field(
        None, description="The secret before, which signs too while receivers change over."
    )
    content: Literal["full", "thin"] = Field(
        "full", description="Send the receipt, or its identifiers only, for a receiver that asks the feed for it."
    )
    document: bool = Field(False, description="Also send the exact XML, in base64; the body may exceed 20 KB.")
    in_flight: int = Field(8, ge=1, le=64, description="Requests at the same time; 1 keeps the order strictly.")
    connect_timeout: float = Field(5.0, gt=0, le=60, description="Seconds to wait for a connection.")
    timeout: float = Field(20.0, gt=0, le=300, description="Seconds to wait for the answer.")
    give_up_days: int = Field(30, ge=1, le=365, description="Days of attempts after which one receipt is given up.")
    private_addresses: Networks = Field(
        (), description="Private networks that its host may be in; by default only public addresses are called."
    )
    ca_file: FilePath | None = Field(None, description="PEM file with the CAs to trust instead of the usual ones.")

    @property
    def shown_url(self) -> str:
        """The URL for people: without its query, which may be a key of the receiver's."""
        place, mark, _ = self.url.partition("?")
        return f"{place}{mark}***" if mark else place

    @check(mode="after")
    def _https(self) -> Self:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        if not parts.hostname or port == 0:
            raise ValueError("url: expected https://host/path or https://host:port/path")
        # The whole name: http://localhost.example is another machine.
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("url: plain http is allowed to this machine only (127.0.0.1, localhost)")
        return self


class Folder(Chosen):
    """A destination of kind `folder`: a ZIP at a time of day or every so often, with all since the one before."""

    kind: Literal["folder"]
    path: Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")] = Field(description="The folder, which must exist.")
    at: time | None = Field(None, description='The time of day in Italy, such as "02:30".')
    every_minutes: int | None = Field(
        None, ge=1, le=1440, description="Or every so many minutes from midnight in Italy."
    )
    italian: bool = Field(False, description="Semicolons, decimal commas, UTF-8 with BOM, Italian titles and times.")
    exact: bool = Field(
        False,
        description="Write text exactly, for a program; otherwise with the marks that keep a spreadsheet program from"
        " running it as a formula, or from taking a number such as an IUV for an amount.",
    )
    receipts_columns: tuple[ColumnOfFile, ...] = Field(
        (), description="The columns of receipts.csv in this order, each as `name` or `name=TITLE`; none: all."
    )
    transfers_columns: tuple[ColumnOfFile, ...] = Field(
        (), description="The columns of transfers.csv in the same way; none: those in docs/delivery-folder.md."
    )
    after: tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")], ...] = Field(
        (), description="A command to run with the file's path as its last argument; exit status 0 is success."
    )
    after_timeout: float = Field(600.0, gt=0, le=86_400, description="Seconds that the command may take.")

    @check(mode="after")
    def _one_schedule(self) -> Self:
        if (self.at is None) == (self.every_minutes is None):
            raise ValueError("set either at or every_minutes")
        if self.at is not None and self.at.tzinfo is not None:
            raise ValueError("at: a time of day in Italy has no time zone")
        if self.after and not self.after[0]:
            raise ValueError("after: the first entry is the command")
        for setting in ("receipts_columns", "transfers_columns"):
            titles = Counter(text.partition("=")[2] or text for text in getattr(self, setting))
            if twice := [title for title, times in titles.items() if times > 1]:
                raise ValueError(f"{setting}: several columns have the title {twice[0]}")
        return self


class Feed(Chosen):
    """A destination of kind `feed`: a reader that asks for receipts, and keeps its own place."""

    kind: Literal["feed"]
    start: Literal["beginning"] = Field("beginning", description="A reader chooses its own place: it may begin at 0.")
    keys: Listed[KeyHash] = Field(
        min_length=1, description="SHA-256 of its bearer keys: the command `deliveries key` makes one."
    )


Destination = Annotated[Webhook | Folder | Feed, Field(discriminator="kind")]
