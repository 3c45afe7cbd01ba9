"""What an S3 server's refusals and a broken connection mean to whoever called the store."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from wardround.runtime.store.port import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidKeyError,
    LoginRefusedError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)

FULL = "XMinioStorageFull"
OUT_OF_RANGE = "InvalidRange"
OURS_ALREADY = "BucketAlreadyOwnedByYou"

_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchUpload"})
_WRONG_SECRET = "SignatureDoesNotMatch"  # noqa: S105 - the name of an error
_UNKNOWN_LOGIN = "InvalidAccessKeyId"
_CLOCK = "RequestTimeTooSkewed"
_IN_THE_WAY = frozenset({"XMinioParentIsObject", "XMinioObjectExistsAsDirectory", "XMinioInvalidObjectName"})
_NO_QUEUE = "A specified destination ARN"
# Below 500, and still nobody's fault: the body was cut off, or somebody else wrote at the same moment.
_PASSING = frozenset({"RequestTimeout", "SlowDown", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict"})
_PASSING_STATUS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
# MinIO says here what the body would, where an answer has none: to a HEAD.
_CODE_HEADER = "x-minio-error-code"


class UnsupportedError(StoreError):
    """The server does not know this kind of request."""


@contextmanager
def store_errors(what: str, login: str) -> Iterator[None]:
    """Raise what goes wrong with `what` as the port's errors; `login` is the access key's id, no secret."""
    try:
        yield
    except S3Error as error:
        status = error.response.status
        code = error.response.headers.get(_CODE_HEADER) or error.code or str(status)
        raise refusal(status, code, error.message or "", what, login) from None
    except InvalidResponseError as error:
        raise refusal(error._code, "", "", what, login) from None
    except ServerError as error:
        raise refusal(error.status_code, "", "", what, login) from None
    except HTTPError as error:
        raise StoreUnavailableError(f"{what}: {_broken(error)}; try again") from error
    except (MinioException, OSError, ParseError, ValueError) as error:
        kind = type(error).__name__  # its text may be all that the server said
        raise StoreUnavailableError(f"{what}: the answer cannot be understood ({kind}); try again") from error


def refusal(status: int, code: str, message: str, what: str, login: str) -> StoreError:
    """The port's error for an answer with that HTTP status and S3 error code, of which either may be all there is."""
    said = code or f"HTTP status {status}"
    if code in _NOT_FOUND or status == HTTPStatus.NOT_FOUND:
        return NotFoundError(f"there is no {'bucket' if code == 'NoSuchBucket' else 'object'} {what}")
    if status == HTTPStatus.PRECONDITION_FAILED:
        return AlreadyExistsError(f"{what} exists")
    if code == _CLOCK:
        return StoreUnavailableError(
            f"{what}: the clock of this machine is too far from the store's; set it, and all goes on by itself"
        )
    if code in (_WRONG_SECRET, _UNKNOWN_LOGIN):
        wrong = "does not know the login" if code == _UNKNOWN_LOGIN else "was given a wrong secret for the login"
        return LoginRefusedError(f"{what}: the store {wrong} '{login}'; check its id and the file of its secret")
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
        return AccessDeniedError(f"{what}: the login '{login}' has no right to do this ({said})")
    if code in _IN_THE_WAY:
        return InvalidKeyError(f"{what}: another object is in the way: a key cannot lie below another object's key")
    if code == FULL:
        return StoreUnavailableError(f"{what}: the store's disk is full; make room there, then try again")
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return UnsupportedError(f"{what}: the server does not support this request ({said})")
    if code in _PASSING or status in _PASSING_STATUS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return StoreUnavailableError(f"{what}: the store answered {said}; try again")
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return StoreError(
            f"{what}: the server redirects elsewhere, which is not followed; correct its address or region"
        )
    if message.startswith(_NO_QUEUE):
        return StoreError(f"{what}: the server has no queue of that name to announce to; check its notify settings")
    return StoreError(f"{what}: the store refused it: {said} {message}".rstrip())


def _broken(error: HTTPError) -> str:
    """What is wrong with the connection, without addresses: these are in the settings."""
    match error:
        case SSLError():
            return f"its certificate is not trusted, or it does not speak TLS ({error}); check `ca` and the address"
        case ConnectTimeoutError() | NewConnectionError():
            return "the store cannot be reached"
        case ReadTimeoutError():
            return "the store did not answer in time"
        case _:
            return f"the connection to the store broke ({str(error)[:200]})"
