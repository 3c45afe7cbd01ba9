"""What the client library raises, in the words of the port."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelAccessRefused
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException

from wardround.runtime.bus.port import BusUnavailableError, ForbiddenError, UnroutableError

# Of a connection that is lost: the library raises RuntimeError for what is closed already.
LOST = (AMQPError, PAMQPException, OSError, EOFError, RuntimeError, StopAsyncIteration)
LONGEST_TEXT = 300


@contextmanager
def connecting(address: str, login: str, vhost: str) -> Iterator[None]:
    """Raises `ForbiddenError` for a refused login, `BusUnavailableError` for everything else."""
    try:
        yield
    except (ProbableAuthenticationError, AuthenticationError):
        raise ForbiddenError(f"{address} refuses the login {login!r}: unknown, or another password") from None
    except InvalidFrameError:
        raise BusUnavailableError(
            f"{address} does not open the virtual host {vhost!r} to {login!r}: it is missing, stopped, or not allowed"
        ) from None
    except TimeoutError:
        raise BusUnavailableError(f"{address} did not answer in time") from None
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
        raise BusUnavailableError(f"the connection to {address} was lost") from None
    except LOST as error:
        raise BusUnavailableError(_why_unreachable(address, error)) from None


def _why_unreachable(address: str, error: BaseException) -> str:
    refused = error.__cause__
    if isinstance(refused, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {address} is not accepted: {refused.verify_message}; "
            "is `ca` the hub's, and does the certificate name this host?"
        )
    return f"{address} cannot be reached: {_text(error)}"


@contextmanager
def publishing(login: str, exchange: str, routing_key: str) -> Iterator[None]:
    """Raises `ForbiddenError`, `UnroutableError`, `BusUnavailableError`."""
    try:
        yield
    except DeliveryError as error:
        if isinstance(error.frame, Basic.Return):
            raise UnroutableError(
                f"no queue of {exchange!r} is bound for {routing_key!r}: is the receiver in the roster?"
            ) from None
        raise BusUnavailableError(
            "the broker did not store the message: a queue that it is meant for is full"
        ) from None
    except (ChannelAccessRefused, ChannelPreconditionFailed) as error:
        raise ForbiddenError(f"{login} may not write {routing_key!r} to {exchange!r}: {_text(error)}") from None
    except ChannelNotFoundEntity:
        raise UnroutableError(f"the broker has no exchange {exchange!r}: load its definitions") from None
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
        raise BusUnavailableError("the connection was lost before the broker confirmed") from None
    except LOST as error:
        raise BusUnavailableError(f"the connection was lost before the broker confirmed: {_text(error)}") from None


@contextmanager
def subscribing(login: str, queue: str) -> Iterator[None]:
    """Raises `ForbiddenError`, `BusUnavailableError`."""
    try:
        yield
    except ChannelAccessRefused:
        raise ForbiddenError(f"{login} may not read {queue!r}") from None
    except ChannelNotFoundEntity:
        raise BusUnavailableError(f"the broker has no queue {queue!r}: load its definitions") from None
    except TimeoutError:
        raise BusUnavailableError(f"the broker did not answer when {queue!r} was subscribed to") from None
    except asyncio.CancelledError:
        if cancelled_from_outside():
            raise
        raise BusUnavailableError(f"the connection was lost before {queue!r} was subscribed to") from None
    except LOST as error:
        raise BusUnavailableError(f"{queue!r} cannot be subscribed to: {_text(error)}") from None


def cancelled_from_outside() -> bool:
    """Whether the running task is being cancelled: the library raises `CancelledError` also for what is closed."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _text(error: BaseException) -> str:
    return (", ".join(str(argument) for argument in error.args) or type(error).__name__)[:LONGEST_TEXT]
