"""How pagoPA's REST services are called: one section for each."""

import re
from datetime import date
from typing import Literal

from pydantic import Field, FilePath, SecretStr, field_validator

from station.config.ground import Key, Section, Url

KeyName = Literal["gpd_key", "gpd_positions_key", "fdr_key", "biz_events_key"]


class RestApi(Section):
    """How one of pagoPA's REST services is called."""

    url: Url
    key: Key | None = None
    rate: float = Field(1.0, gt=0, le=1_000_000, description="Calls per second for each key and operation.")
    connect_timeout: float = Field(5.0, gt=0, le=3600, description="Seconds to wait for a connection.")
    timeout: float = Field(30.0, gt=0, le=3600, description="Seconds to wait for a complete answer.")
    retries: int = Field(5, ge=0, le=20, description="Retries of a call after a temporary failure.")
    retry_pause: float = Field(0.5, gt=0, le=3600, description="Seconds before the first retry; doubled each time.")
    retry_within: float = Field(
        120.0, ge=0, le=86_400, description="Seconds within which all attempts of one call must start."
    )
    proxy: SecretStr | None = Field(None, description="http://user:password@host:port, if calls need a proxy.")
    ca_file: FilePath | None = Field(None, description="PEM file with the CAs to trust instead of the usual ones.")

    @field_validator("proxy")
    @classmethod
    def _proxy_is_url(cls, proxy: SecretStr | None) -> SecretStr | None:
        if proxy and not re.fullmatch(r"(https?|socks5h?)://[^\s/]+/?", proxy.get_secret_value()):
            raise ValueError("expected http://host:port")
        return proxy


class Gpd(RestApi):
    """The GPD receipts API, from which `station reconcile` fetches receipts that the push missed."""

    url: Url = Field(
        "https://api.platform.pagopa.it/gpd/payments-receipts-service/v1", description="URL of the GPD receipts API."
    )
    key: Key | None = Field(None, description="Its key, for each EC without a key of its own or of its broker.")
    rate: float = Field(
        5.0, gt=0, le=1_000_000, description="Calls per second for each key; the gateway refuses more than 10."
    )
    positions_url: Url = Field(
        "https://api.platform.pagopa.it/gpd/debt-positions-service/v1",
        description="URL of GPD-Core's debt positions, used only by `station reconcile --positions`.",
    )
    positions_key: Key | None = Field(None, description="Its key, in the same way.")
    start: date | None = Field(
        None, description="The first day that an EC's first run checks. Default: three months ago."
    )
    overlap_days: int = Field(
        7, ge=1, le=365, description="Days before the last run's start from which the next run starts."
    )
    sweep_days: int = Field(90, ge=0, le=3650, description="Days that the full check covers, once a day; 0: never.")
    window_days: int = Field(30, ge=2, le=30, description="Maximum days per call; the API allows 30.")
    workers: int = Field(
        4, ge=1, le=32, description="ECs checked at the same time, and receipts fetched at the same time."
    )
    again_after: float = Field(3000.0, ge=0, le=31 * 86_400,
                               description="Seconds before a receipt that is not yet available is requested again;"
                               " doubled each time, at most a day.")  # fmt: skip
    give_up_days: int = Field(
        30, ge=1, le=3650, description="Days after which an open item is given up (it stays visible)."
    )
    late_hours: float = Field(
        36.0, gt=0, le=8784, description="Hours without a complete check after which `--status` reports an EC as late."
    )
    keep_runs_days: int = Field(180, ge=1, le=36_500, description="Days for which the records of runs are kept.")


class Fdr(RestApi):
    """The FdR API (flussi di rendicontazione), from which `station fdr` learns what was credited to each EC."""

    url: Url = Field("https://api.platform.pagopa.it/fdr-org/service/v1", description="URL of the FdR API.")
    key: Key | None = Field(None, description="Its key, for each EC without a key of its own or of its broker.")
    overlap_days: int = Field(
        7, ge=0, le=28, description="Days before the last run's start from which the next run lists flows again."
    )
    due_days: int = Field(
        7, ge=2, le=365, description="Days after a payment from which its credit, or its receipt, counts as missing."
    )
    workers: int = Field(4, ge=1, le=32, description="ECs walked at the same time.")
    again_after: float = Field(3000.0, ge=0, le=31 * 86_400,
                               description="Seconds before a flow that could not be read is tried again; doubled each"
                               " time, at most a day.")  # fmt: skip
    give_up_days: int = Field(
        30, ge=1, le=3650, description="Days after which a flow that cannot be read is given up (it stays visible)."
    )
    late_hours: float = Field(
        36.0, gt=0, le=720, description="Hours without a complete walk after which `--status` reports an EC as late."
    )
    keep_runs_days: int = Field(180, ge=1, le=36_500, description="Days for which the records of runs are kept.")


class BizEvents(RestApi):
    """The BizEvents API, asked for receipts that a flow proves missing and GPD does not have."""

    url: Url = Field("https://api.platform.pagopa.it/bizevents/service/v1", description="URL of the BizEvents API.")
    key: Key | None = Field(None, description="Its key, for each EC without a key of its own or of its broker.")
    rate: float = Field(
        0.1,
        gt=0,
        le=1_000_000,
        description="Calls per second for each key. The API is meant for anomalies: documented are ten calls an hour.",
    )
    retries: int = Field(2, ge=0, le=20, description="Retries of a call after a temporary failure.")
    pause: float = Field(
        3600.0,
        gt=0,
        le=7 * 86_400,
        description="Seconds without calls after a call that was refused (429) at each try, over all runs.",
    )
