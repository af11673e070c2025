"""Which error is of which kind, and what happens after an error of each kind. Pure functions, no waiting.

    error -> kind_of(error) -> POLICIES[kind]

Covers: errors of Python, of the operating system, of HTTP, of the libraries below fsspec (botocore, aiohttp, google,
azure, requests, urllib), of torch, and of daskt2i; text of errors without addresses' secrets.
Does not cover: doing what a policy says (`patience`, `suspects`, `encode.chunks`).

Errors of libraries are known by their class name and by the codes that they carry, so that no library is imported.
docs/reference/errors-and-retries.md is the table for users. A test compares it with this module, line by line.
"""

from __future__ import annotations

import enum
import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from daskt2i import errors
from daskt2i.errors import Daskt2iError
from daskt2i.retries import ACCESS_TRIES, DEVICE_SECONDS, TRANSPORT_SECONDS, WORKER_CHUNKS


class Kind(enum.StrEnum):
    """The kind of an error."""

    ACCESS = "access"
    TRANSPORT = "transport"
    DEVICE = "device"
    STALL = "stall"
    MISSING = "missing"
    MEMORY = "memory"
    DEATH = "death"
    SETUP = "setup"
    FINAL = "final"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens after an error of a kind.

    Attributes:
        tries: how often the worker tries the same read or write; 0: as often as `seconds` allow.
        seconds: how long the worker tries, at the default of `run.transport_patience`.
        worker: number of different chunks after which the worker, and not the chunk, is the suspect; 0 for never.
        ends: when the run ends early: `never`, `everywhere` (no worker is left that does better), `at once`.
    """

    tries: int
    seconds: float
    worker: int
    ends: str


POLICIES = {
    Kind.ACCESS: Policy(ACCESS_TRIES, 0, WORKER_CHUNKS, "everywhere"),
    Kind.TRANSPORT: Policy(0, TRANSPORT_SECONDS, 1, "everywhere"),
    Kind.DEVICE: Policy(0, DEVICE_SECONDS, 1, "everywhere"),
    Kind.STALL: Policy(1, 0, WORKER_CHUNKS, "everywhere"),
    Kind.MISSING: Policy(1, 0, 0, "never"),
    Kind.MEMORY: Policy(1, 0, WORKER_CHUNKS, "everywhere"),
    Kind.DEATH: Policy(1, 0, 0, "never"),
    Kind.SETUP: Policy(1, 0, 1, "everywhere"),
    Kind.FINAL: Policy(1, 0, 0, "at once"),
    Kind.OTHER: Policy(1, 0, WORKER_CHUNKS, "everywhere"),
}


def _numbers(*names: str) -> frozenset[int]:
    """Error numbers of this system; Windows and macOS lack some."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


ERRNO = {
    Kind.ACCESS: _numbers("EACCES", "EPERM", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED", "ENOKEY"),
    Kind.TRANSPORT: _numbers(
        *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOLINK", "ECOMM", "EAGAIN", "EINTR", "EBUSY"),
        *("ENONET", "EPROTO", "ETIME"),
    ),
    Kind.DEVICE: _numbers("EIO", "ESTALE", "EREMOTEIO", "ENXIO", "ENODEV", "EMFILE", "ENFILE", "ENOMEDIUM", "EUCLEAN"),
    Kind.MISSING: _numbers("ENOENT", "ENOTDIR", "EISDIR"),
    Kind.MEMORY: _numbers("ENOMEM"),
}
"""Numbers of `OSError`. A device (a disk, a mount) gets less time than a network: it comes back soon or not at all."""

STATUS = {
    Kind.ACCESS: frozenset({401, 402, 403, 407, 451, 511}),
    Kind.TRANSPORT: frozenset(
        {408, 409, 421, 423, 425, 429, 500, 502, 503, 504, 507, 508, 509, *range(520, 531), 598, 599}
    ),
    Kind.MISSING: frozenset({404, 410}),
}
"""Status codes of HTTP."""

CODES = {
    Kind.ACCESS: frozenset(
        {
            *("AccessDenied", "AccessDeniedException", "AccountProblem", "AllAccessDisabled", "AuthFailure"),
            *("AuthorizationHeaderMalformed", "ExpiredToken", "ExpiredTokenException", "Forbidden"),
            *("IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidObjectState"),
            *("InvalidPayer", "InvalidSecurity", "InvalidToken", "MissingSecurityHeader", "NotSignedUp"),
            *("RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"),
            *("Unauthorized", "UnauthorizedAccess", "UnrecognizedClientException"),
            *(
                "AuthenticationFailed",
                "AuthorizationFailure",
                "AuthorizationPermissionMismatch",
                "InsufficientAccountPermissions",
            ),
        }
    ),
    Kind.TRANSPORT: frozenset(
        {
            *("SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
            *("RequestLimitExceeded", "TooManyRequestsException", "TooManyRequests", "BandwidthLimitExceeded"),
            *("ServiceUnavailable", "InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException"),
            *("OperationAborted", "PriorRequestNotComplete", "ServerBusy", "OperationTimedOut", "IncompleteBody"),
        }
    ),
    Kind.MISSING: frozenset({"NoSuchKey", "NoSuchVersion", "NotFound", "BlobNotFound"}),
}
"""Error codes of object stores (S3, Azure)."""

CLASSES = {
    Kind.ACCESS: frozenset(
        {
            *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"),
            *("SSOTokenLoadError", "UnauthorizedSSOTokenError", "NoAuthTokenError", "LoginRefreshRequired"),
            *("DefaultCredentialsError", "RefreshError", "Forbidden", "Unauthorized", "PermissionDenied"),
            *("Unauthenticated", "ClientAuthenticationError", "CredentialUnavailableError", "GatedRepoError"),
            *("SSLCertVerificationError", "CertificateError"),
        }
    ),
    Kind.TRANSPORT: frozenset(
        {
            *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),
            *("IncompleteReadError", "ResponseStreamingError", "HTTPClientError", "ProxyConnectionError"),
            *("ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "ServerTimeoutError"),
            *("ClientConnectorError", "ClientOSError", "ClientConnectorDNSError", "ConnectionTimeoutError"),
            *("IncompleteRead", "RemoteDisconnected", "FSTimeoutError", "ProtocolError", "MaxRetryError"),
            *("NewConnectionError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ChunkedEncodingError"),
            *("ServiceRequestError", "ServiceResponseError", "TransportError", "TooManyRequests"),
            *("ServiceUnavailable", "DeadlineExceeded", "ConnectError", "ReadError", "RemoteProtocolError"),
            *("PoolTimeout", "SSHException"),
        }
    ),
    Kind.MEMORY: frozenset({"OutOfMemoryError"}),
}
"""Names of classes, of any library."""

MEMORY_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not create a memory object",
    "failed to allocate",
    "unable to allocate",
    "allocation failed",
    "alloc_failed",
    "allocation_failed",
    "memory allocation",
    "insufficient memory",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine to execute",
    "resource_exhausted",
)
"""What a message says where memory is short, in lower case: torch's allocators (CPU, CUDA, HIP, MPS, XPU), oneDNN,
cuDNN, cuBLAS, C++. cuDNN finds no algorithm where its workspace does not fit."""

_OF_ALL = (errors.StoreFull, errors.FingerprintMismatch, errors.StoreBusy)
_OF_ONE = (errors.SourceError, errors.ModelError, errors.StoreError, errors.ConfigError, errors.WorkerWithoutFiles)
"""Errors that end a run, and that one worker alone may have: its mount, its models, its packages."""


def kind_of(error: BaseException) -> Kind:
    """The kind of an error. Its causes count too: what s3fs raises says less than the answer of S3 behind it."""
    if isinstance(error, Daskt2iError):
        return _ours(error)
    behind = list(_chain(error))
    for of in (_by_code, _by_class):
        for one in behind:
            if (kind := of(one)) is not None:
                return kind
    return Kind.OTHER


def is_passing(error: BaseException) -> bool:
    """Whether the error may pass by itself, or with other credentials: it says nothing about an image."""
    return kind_of(error) in (Kind.ACCESS, Kind.TRANSPORT, Kind.DEVICE)


def passing_cause(error: BaseException) -> Exception | None:
    """The error behind what a source made of it, if it may pass: no row is rejected, and no run ends, for that."""
    cause = error.__cause__
    if (
        isinstance(error, errors.RowRejected | errors.SourceError)
        and isinstance(cause, Exception)
        and is_passing(cause)
    ):
        return cause
    return None


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or in this process."""
    return kind_of(error) is Kind.MEMORY


def is_old_refusal(reason: errors.Reason, detail: str) -> bool:
    """Whether an earlier version rejected a row because access was refused. Such a row is tried again."""
    return reason is errors.Reason.UNREADABLE_IMAGE and detail == "no permission to read the file"


def _ours(error: Daskt2iError) -> Kind:
    if isinstance(error, errors.AccessRefused):
        return Kind.ACCESS
    if isinstance(error, errors.TransportFailed):
        return Kind.TRANSPORT
    if isinstance(error, errors.ReadStalled):
        return Kind.STALL
    if isinstance(error, MemoryError):
        return Kind.MEMORY
    if isinstance(error, errors.WorkerLost):
        return Kind.DEATH
    if not error.ends_run:
        return Kind.OTHER
    return Kind.SETUP if isinstance(error, _OF_ONE) and not isinstance(error, _OF_ALL) else Kind.FINAL


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, each once."""
    seen = set[int]()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _by_code(error: BaseException) -> Kind | None:
    """The kind that an answer of a server shows: an error code, or a status of HTTP."""
    response = getattr(error, "response", None)
    answer: dict[str, Any] = response if isinstance(response, dict) else {}
    about = answer.get("Error")
    named = {about.get("Code") if isinstance(about, dict) else None, getattr(error, "error_code", None)}
    for code in named - {None}:
        for kind, codes in CODES.items():
            if str(code) in codes:
                return kind
    meta = answer.get("ResponseMetadata")
    numbers: list[Any] = [meta.get("HTTPStatusCode") if isinstance(meta, dict) else None]
    numbers += [getattr(error, name, None) for name in ("status", "status_code", "code")]
    numbers += [getattr(response, name, None) for name in ("status_code", "status")]
    for number in numbers:
        for kind, statuses in STATUS.items():
            if isinstance(number, int) and not isinstance(number, bool) and number in statuses:
                return kind
    return None


def _by_class(error: BaseException) -> Kind | None:
    for kind, names in CLASSES.items():
        if any(base.__name__ in names for base in type(error).__mro__):
            return kind
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _says_memory(str(error))):
        return Kind.MEMORY
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return Kind.MISSING
    if isinstance(error, PermissionError):
        return Kind.ACCESS
    if isinstance(error, TimeoutError | ConnectionError | socket.gaierror | ssl.SSLError):
        return Kind.TRANSPORT
    if isinstance(error, OSError):
        return next((kind for kind, numbers in ERRNO.items() if error.errno in numbers), None)
    return None


def _says_memory(text: str) -> bool:
    text = text.lower()
    return any(sign in text for sign in MEMORY_SIGNS)
