"""Every exception of the station. Imports nothing of ours.

The docstring of a class is its default message, `code` its stable slug for logs and exit status, and whatever a
reader needs beyond the message is an attribute. A refusal carries the pagoPA fault code the caller is answered with.
Duplicates are not errors: they are values that `intake.accept` returns.
"""

import errno
from typing import ClassVar


class StationError(Exception):
    """Something in the station went wrong."""

    code: ClassVar[str] = "station_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigError(StationError):
    """The configuration is wrong."""

    code = "config_wrong"


class MissingExtraError(ConfigError):
    """An optional part of the installation is missing."""

    code = "extra_missing"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra `{extra}`, which is not installed: pip install 'pagopa-receipt-station[{extra}]'"
        )
        self.extra = extra


class UntrustedError(StationError):
    """The sender is not allowed."""

    code = "sender_untrusted"


class DocumentError(StationError):
    """The document is not a request that the station knows: there is no one to answer, so nothing is kept."""

    code = "document_unknown"


class MalformedDocumentError(DocumentError):
    """The document is not well-formed XML, or carries a DTD."""

    code = "document_malformed"


class StoreError(StationError):
    """The database cannot store or return the data at the moment."""

    code = "store_unavailable"

    def __init__(self, message: str | None = None, *, reason: str = "unknown", retry: bool = False) -> None:
        """`reason` names driver error and SQLSTATE without data; `retry`: the same may succeed at once."""
        super().__init__(message)
        self.reason = reason
        self.retry = retry


class StoreRejectedError(StoreError):
    """The database rejected the data or the statement: this is a defect, not an outage."""

    code = "store_rejected"


class DatabaseUnfitError(StoreError):
    """The database, as it is set up, would damage or lose receipts: nothing is stored in it."""

    code = "database_unfit"


class MissingRightsError(StoreError):
    """The database role lacks a right that the operator can grant: no defect, and no reason to refuse a receipt."""

    code = "store_rights_missing"

    def __init__(self, role: str | None, denied: str, *, reason: str) -> None:
        """`denied` is the server's own message, which names tables and never values."""
        super().__init__(
            f"the database role {role or 'of this connection'} lacks a right ({denied}): the owner of the tables "
            f"grants it with `station migrate --grant {role or 'ROLE'}` (to the console's own role: `station grants "
            f"{role or 'ROLE'} --console`, see docs/console.md); `migrate` and `purge` must run as the role that owns "
            "the tables",
            reason=reason,
        )


class MissingDatabaseError(StoreError):
    """There is no database file: run `station migrate` to create it."""

    code = "store_missing"


class SchemaBehindError(StationError):
    """The database schema does not match this version of the station: run `station migrate`."""

    code = "schema_behind"

    def __init__(self, found: str | None, wanted: str | None) -> None:
        super().__init__(
            f"database schema is at revision {found or 'none'}, this version of the station needs {wanted}: "
            "run `station migrate`"
        )
        self.found = found
        self.wanted = wanted


class RefusalError(StationError):
    """The request is refused with outcome KO; it is kept before the answer leaves.

    `fault_code` and `fault_string` are pagoPA's, from the table of faults an EC may use for a receipt.
    """

    code = "refused"
    fault_code: ClassVar[str] = "PAA_SYSTEM_ERROR"
    fault_string: ClassVar[str] = "Errore generico."


class InvalidReceiptError(RefusalError):
    """The request breaks the published schema."""

    code = "receipt_invalid"
    fault_code = "PAA_SINTASSI_EXTRAXSD"
    fault_string = "Errore di sintassi extra XSD"

    def __init__(self, path: str, line: int | None, rule: str) -> None:
        """`path` to the element, its `line` where known, and the `rule` it broke; never the offending value."""
        super().__init__(f"{path}{f' (line {line})' if line else ''}: {rule}")
        self.path = path
        self.line = line
        self.rule = rule


class UnknownEcError(RefusalError):
    """idPA is not an EC of this station"""

    code = "ec_unknown"
    fault_code = "PAA_ID_DOMINIO_ERRATO"
    fault_string = "La PAA non corrisponde al Dominio indicato."


class UnknownBrokerError(RefusalError):
    """idBrokerPA is not a broker of this station"""

    code = "broker_unknown"
    fault_code = "PAA_ID_INTERMEDIARIO_ERRATO"
    fault_string = "Identificativo intermediario non corrispondente."


class UnknownStationError(RefusalError):
    """idStation is not a station of this broker and EC"""

    code = "station_unknown"
    fault_code = "PAA_STAZIONE_INT_ERRATA"
    fault_string = "Stazione intermediario non corrispondente."


class ReceiptConflictError(RefusalError):
    """a receipt with the same idPA and receiptId and other content is stored already"""

    code = "receipt_conflict"
    fault_code = "PAA_RECEIPT_DUPLICATA"
    fault_string = "La CtReceipt è già stata accettata."


class UnexpectedError(RefusalError):
    """An unexpected error while the request was taken in: answered as SOAP Fault, not as KO, and kept nevertheless."""

    code = "unexpected_error"


class ApiError(StationError):
    """A call to one of pagoPA's APIs failed."""

    code = "api_error"

    def __init__(self, message: str, *, request_id: str | None = None, status: int | None = None) -> None:
        """`request_id` is the X-Request-Id of the last call, which pagoPA's support asks for; `status` its answer's."""
        super().__init__(f"{message} (X-Request-Id {request_id})" if request_id else message)
        self.request_id = request_id
        self.status = status


class ApiKeyError(ApiError):
    """The API rejects the key, or the key does not cover this EC."""

    code = "api_key_rejected"


class ApiForbiddenError(ApiError):
    """The key covers the EC, but not this receipt (segregation code)."""

    code = "api_forbidden"


class ApiRequestError(ApiError):
    """The API rejects the request itself: a retry would not help."""

    code = "api_request_rejected"


class ApiUnavailableError(ApiError):
    """The API did not answer, or answered every attempt with an error or a rate limit."""

    code = "api_unavailable"


class ApiTimeoutError(ApiUnavailableError):
    """The API did not complete its answer in time."""

    code = "api_timeout"


class ApiClosedError(ApiUnavailableError):
    """The API closed the connection without an answer."""

    code = "api_closed"


class ApiPausedError(ApiError):
    """The API refused several calls in a row for their number: no call is made until the pause is over."""

    code = "api_paused"


class ApiAddressError(ApiError):
    """The API is not at the configured address."""

    code = "api_address_wrong"


class ApiAnswerError(ApiError):
    """The API's answer does not follow its specification."""

    code = "api_answer_unreadable"


class ProviderUnavailableError(StationError):
    """The identity provider cannot be used at the moment."""

    code = "provider_unavailable"


class SignInError(StationError):
    """The sign-in did not succeed. The message is for the log."""

    code = "sign_in_refused"


class UnreadError(StationError):
    """Some days or pages of an API's lists could not be read."""

    code = "api_unread"


class ClockError(StationError):
    """This machine's clock and the database do not agree on the time."""

    code = "clock_wrong"


class StoppedError(StationError):
    """The run was told to stop."""

    code = "stopped"


class MismatchError(StationError):
    """The GPD API returned a different receipt from the one requested: it is not stored."""

    code = "gpd_mismatch"


class AnotherRunError(StationError):
    """Another run of the same command is active on this database."""

    code = "another_run"

    def __init__(self, command: str) -> None:
        super().__init__(f"Another `station {command}` is running on this database")


_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN}


def out_of_resource(error: BaseException) -> str | None:
    """Name of what the machine ran out of, where that is the error or among its causes: memory, file descriptors, disk
    space or threads. None for any other error. It says nothing about the document: sent again, it may be stored.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return "MemoryError"
        if isinstance(seen, OSError) and seen.errno in _LACKING:
            return f"OSError {errno.errorcode[seen.errno]}"
        if isinstance(seen, RuntimeError) and "start new thread" in str(seen):
            return "RuntimeError no thread"
        seen = seen.__cause__ or seen.__context__
    return None
