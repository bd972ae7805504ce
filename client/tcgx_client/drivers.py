"""The two drivers: they perform the effects of calls, one blocks and one awaits."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import httpcore2
import httpx2

from tcgx_client.effects import (
    READ_BYTES,
    Acquire,
    Call,
    Close,
    Connect,
    Effect,
    Read,
    Release,
    Request,
    Response,
    Sleep,
    Write,
)
from tcgx_client.errors import AsyncResolver, ConnectFailed, OutcomeUnknown, Resolver, Timeout, TransportError

T = TypeVar("T")
CLIENT_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
"""The exchange closes a connection that has been idle for 5 s."""

NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpcore2.ConnectError)
LATE = (httpx2.TimeoutException, httpcore2.TimeoutException)
FAILED = (
    *(httpx2.TransportError, httpcore2.NetworkError, httpcore2.ProtocolError),
    *(httpx2.DecodingError, httpx2.InvalidURL),
)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Turns the exceptions of the libraries below into those of the client."""
    try:
        yield
    except (*NOT_SENT, httpcore2.ConnectTimeout) as error:
        raise ConnectFailed(f"there is no connection: {_reason(error)}") from error
    except LATE as error:
        raise Timeout(f"there was no answer in time ({_reason(error)})") from error
    except FAILED as error:
        raise TransportError(f"the connection broke: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _response(answer: httpx2.Response, body: bytes) -> Response:
    return Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body)


class SyncDriver:
    """Performs effects and blocks."""

    def __init__(
        self, origin: str, *, verify: ssl.SSLContext | bool, transport: httpx2.BaseTransport | None, owner: Resolver
    ) -> None:
        self._context = httpx2.create_ssl_context(verify) if origin.startswith("https") else None
        self._http = httpx2.Client(
            base_url=origin,
            verify=self._context if self._context is not None else False,
            limits=CLIENT_LIMITS,
            transport=transport,
        )
        self._sockets = httpcore2.SyncBackend()
        self._lock = threading.Lock()
        self._owner = owner

    def run(self, call: Call[T]) -> T:
        """Runs a call to its end."""
        proceed: Callable[[], Effect] = lambda: next(call)  # noqa: E731
        try:
            while True:
                effect = proceed()
                try:
                    result = self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the call decides
                    proceed = _thrower(call, error)
                else:
                    proceed = _sender(call, result)
        except StopIteration as done:
            value: T = done.value
            return value
        except OutcomeUnknown as error:
            error.resolver = self._owner
            raise

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Request):
            return self._send(effect)
        if isinstance(effect, Sleep):
            time.sleep(effect.seconds)
        elif isinstance(effect, Acquire):
            self._lock.acquire()
        elif isinstance(effect, Release):
            self._lock.release()
        else:
            with _our_errors():
                return self._use_socket(effect)
        return None

    def _use_socket(self, effect: Connect | Read | Write | Close) -> Any:
        if isinstance(effect, Connect):
            stream = self._sockets.connect_tcp(effect.host, effect.port, timeout=effect.timeout)
            if self._context is not None:
                return stream.start_tls(self._context, effect.host, timeout=effect.timeout)
            return stream
        if isinstance(effect, Read):
            return effect.handle.read(READ_BYTES, timeout=effect.timeout)
        if isinstance(effect, Write):
            return effect.handle.write(effect.data, timeout=effect.timeout)
        return effect.handle.close()

    def _send(self, request: Request) -> Response:
        with _our_errors():
            sent = self._http.build_request(
                request.method,
                request.target,
                headers=dict(request.headers),
                content=request.body,
                timeout=request.timeout,
            )
            answer = self._http.send(sent, stream=True)
            try:
                if request.sink is None or answer.status_code != 200:
                    return _response(answer, answer.read())
                request.sink.begin()
                for part in answer.iter_bytes():
                    request.sink.write(part)
                return _response(answer, b"")
            finally:
                answer.close()


class AsyncDriver:
    """Performs effects and awaits."""

    def __init__(
        self,
        origin: str,
        *,
        verify: ssl.SSLContext | bool,
        transport: httpx2.AsyncBaseTransport | None,
        owner: AsyncResolver,
    ) -> None:
        self._context = httpx2.create_ssl_context(verify) if origin.startswith("https") else None
        self._http = httpx2.AsyncClient(
            base_url=origin,
            verify=self._context if self._context is not None else False,
            limits=CLIENT_LIMITS,
            transport=transport,
        )
        self._sockets = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())
        self._lock = asyncio.Lock()
        self._owner = owner

    async def run(self, call: Call[T]) -> T:
        """Runs a call to its end."""
        proceed: Callable[[], Effect] = lambda: next(call)  # noqa: E731
        try:
            while True:
                effect = proceed()
                try:
                    result = await self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the call decides
                    proceed = _thrower(call, error)
                else:
                    proceed = _sender(call, result)
        except StopIteration as done:
            value: T = done.value
            return value
        except OutcomeUnknown as error:
            error.async_resolver = self._owner
            raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Request):
            return await self._send(effect)
        if isinstance(effect, Sleep):
            await asyncio.sleep(effect.seconds)
        elif isinstance(effect, Acquire):
            await self._lock.acquire()
        elif isinstance(effect, Release):
            self._lock.release()
        else:
            with _our_errors():
                return await self._use_socket(effect)
        return None

    async def _use_socket(self, effect: Connect | Read | Write | Close) -> Any:
        if isinstance(effect, Connect):
            stream = await self._sockets.connect_tcp(effect.host, effect.port, timeout=effect.timeout)
            if self._context is not None:
                return await stream.start_tls(self._context, effect.host, timeout=effect.timeout)
            return stream
        if isinstance(effect, Read):
            return await effect.handle.read(READ_BYTES, timeout=effect.timeout)
        if isinstance(effect, Write):
            return await effect.handle.write(effect.data, timeout=effect.timeout)
        return await effect.handle.aclose()

    async def _send(self, request: Request) -> Response:
        with _our_errors():
            sent = self._http.build_request(
                request.method,
                request.target,
                headers=dict(request.headers),
                content=request.body,
                timeout=request.timeout,
            )
            answer = await self._http.send(sent, stream=True)
            try:
                if request.sink is None or answer.status_code != 200:
                    return _response(answer, await answer.aread())
                request.sink.begin()
                async for part in answer.aiter_bytes():
                    request.sink.write(part)
                return _response(answer, b"")
            finally:
                await answer.aclose()


def _sender(call: Call[T], result: Any) -> Callable[[], Effect]:
    return lambda: call.send(result)


def _thrower(call: Call[T], error: BaseException) -> Callable[[], Effect]:
    return lambda: call.throw(error)
