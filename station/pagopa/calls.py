"""The calls of one EC to one API: paced, counted, and retried where that may help."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from station import log
from station.errors import (
    ApiAnswerError,
    ApiClosedError,
    ApiError,
    ApiTimeoutError,
    ApiUnavailableError,
    StoppedError,
)
from station.pagopa.answers import error_text
from station.pagopa.http import ApiClient, ApiResponse

T = TypeVar("T")

_log = log.get(__name__)

_BACKOFF_MAX_S = 30.0
_MESSAGE_LENGTH = 200


class EcCalls:
    """The calls of one EC to one API, counted in `number`; threads share it."""

    def __init__(self, client: ApiClient[Any], id_pa: str) -> None:
        self.client = client
        self.id_pa = id_pa
        self.number = 0
        self._lock = threading.Lock()

    def get(
        self,
        url: str,
        params: dict[str, str],
        key: str,
        read: Callable[[ApiResponse], T],
        *,
        operation: str = "",
        accept: str = "application/json",
        read_retries: int = 1,
        retries: Callable[[ApiError], int | None] | None = None,
    ) -> T:
        """Return what `read` makes of the answer; retry with backoff after no answer, 429 and 5xx.

        Also retried, `read_retries` times: an answer that `read` finds unreadable. `retries` bounds the retries by the
        error; `None`: as configured. The rate is that of the key and `operation`. Raise `ApiError`, and `StoppedError`
        instead of waiting once the client is stopped.
        """
        settings, stop = self.client.settings, self.client.stop
        bucket = self.client.bucket(key, operation)
        began = time.monotonic()
        tries = 0
        while True:
            bucket.wait(stop)
            with self._lock:
                self.number += 1
            tries += 1
            backoff = random.uniform(0.5, 1) * min(settings.retry_pause * 2 ** (tries - 1), _BACKOFF_MAX_S)  # noqa: S311
            request_id = str(uuid.uuid4())
            error: ApiError
            try:
                response = self.client.get(url, params, key, accept, request_id, operation)
                if response.status != 429 and response.status < 500:
                    self.client.record(failed=False)
                    return read(response)
                # 504: the gateway gave up waiting.
                kind = ApiTimeoutError if response.status == 504 else ApiUnavailableError
                error = kind(f"{response.status}{error_text(response)}", request_id=request_id, status=response.status)
                backoff = max(backoff, response.retry_after or 0)
                if response.status == 429:
                    bucket.hold(backoff)
            except httpx.HTTPError as failure:
                kind = ApiTimeoutError if isinstance(failure, httpx.ReadTimeout) else ApiUnavailableError
                if isinstance(failure, httpx.RemoteProtocolError) and "without sending a response" in str(failure):
                    kind = ApiClosedError
                message = log.safe(str(failure))[:_MESSAGE_LENGTH]
                error = kind(f"{type(failure).__name__}: {message}", request_id=request_id)
            except ApiAnswerError as failure:
                if read_retries <= 0:
                    raise
                read_retries -= 1
                error = failure
            allowed = self.client.retries
            if retries is not None and (bound := retries(error)) is not None:
                allowed = min(allowed, bound)
            if tries > allowed or time.monotonic() - began + backoff > settings.retry_within:
                self.client.record(failed=isinstance(error, ApiUnavailableError))
                raise error
            _log.warning("api_call_retried", id_pa=self.id_pa, tries=tries, pause_s=round(backoff, 2),
                         error=error.code, reason=str(error))  # fmt: skip
            if stop.wait(backoff):
                raise StoppedError
