"""BizEvents: single receipts as JSON, also for secondary beneficiaries. Meant for anomalies, and limited accordingly.

After a call that was refused (429) at each of its tries, three unless configured otherwise, no call is made with its
key for an hour.
"""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from station.config import BizEvents
from station.errors import ApiError, ApiPausedError, ApiRequestError
from station.pagopa.answers import error_text, expect_ok, nothing_found
from station.pagopa.calls import EcCalls
from station.pagopa.http import ApiClient, ApiResponse


class BizEventsClient:
    """The calls for one EC. The clients of ECs with the same key share its pause.

    `paused_until`: when the pause ends, over all runs: pass in what an earlier run left, and keep what this one leaves.
    """

    def __init__(
        self, client: ApiClient[BizEvents], id_pa: str, key: str, paused_until: datetime | None = None
    ) -> None:
        self.id_pa = id_pa
        self._client = client
        if paused_until is not None:
            client.paused[key] = max(paused_until, client.paused.get(key, paused_until))
        self._pause = timedelta(seconds=client.settings.pause)
        self._ec_calls = EcCalls(client, id_pa)
        self._key = key
        self._url = f"{client.settings.url.rstrip('/')}/organizations/{quote(id_pa, safe='')}/receipts"

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._ec_calls.number

    @property
    def paused_until(self) -> datetime | None:
        """When the pause of its key ends or ended; `None`: there was none."""
        return self._client.paused.get(self._key)

    def receipt(self, iur: str) -> ApiResponse | None:
        """Return the answer with a receipt's JSON as it came; `None` where the API does not have it.

        Raise `ApiPausedError` once the key is paused, and `ApiError`.
        """

        def read(response: ApiResponse) -> ApiResponse | None:
            if nothing_found(response):
                return None
            if response.status == 422:
                raise ApiRequestError(
                    f"422{error_text(response)}: the API cannot make a receipt of what it has",
                    request_id=response.request_id,
                    status=422,
                )
            expect_ok(response, "biz_events.url", "application/json")
            return response

        until = self.paused_until
        if until is not None and datetime.now(UTC) < until:
            raise ApiPausedError(f"the API refused too many calls: none is made until {until:%H:%M} UTC")
        try:
            return self._ec_calls.get(
                f"{self._url}/{quote(iur, safe='')}", {}, self._key, read, operation="receipt", read_retries=0
            )  # fmt: skip
        except ApiError as error:
            if error.status == 429:
                until = self._client.paused[self._key] = datetime.now(UTC) + self._pause
                raise ApiPausedError(f"429 at each of its tries: no call is made until {until:%H:%M} UTC") from error
            raise
