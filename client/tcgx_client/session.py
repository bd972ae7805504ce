"""Requests with tokens and retries. What may have changed something is either certain, or `OutcomeUnknown`."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import msgspec

from tcgx_client.backoff import Random, retry_seconds
from tcgx_client.effects import Acquire, Call, Release, Request, Response, Sink, Sleep
from tcgx_client.errors import (
    ApiError,
    ConnectFailed,
    OutcomeUnknown,
    TcgxError,
    TransportError,
    Unauthorized,
    api_error,
    problem_of,
)

RETRIED = frozenset({429, 500, 502, 503, 504})
REFUSED = frozenset({"card_halted", "history_conflict"})
"""Codes of 503 that another try meets again until an operator acts."""

UNCERTAIN_CODES = frozenset({"unavailable", "internal_error", "unknown"})
"""Codes of a 5xx after which a request may have taken effect; the others say that nothing was accepted."""

CERTAIN = frozenset({400, 404, 409, 413, 422})
"""Statuses that say what became of an order, however many tries before went unanswered."""

TOKEN_CODES = frozenset({"token_expired", "token_invalid", "token_revoked"})
TOKEN_MARGIN_SECONDS, TOKEN_MARGIN_SHARE = 60.0, 0.2
"""A token is replaced so long before its end: the smaller of the two."""

RETRY_AFTER_SECONDS_MAX = 60.0
"""A longer `Retry-After` is told to the caller instead of being waited for."""


class Change(msgspec.Struct, frozen=True):
    """What a request changes, for `OutcomeUnknown`."""

    operation: str
    client_order_ids: tuple[str, ...] = ()
    order_id: str | None = None

    def unknown(self, cause: BaseException) -> OutcomeUnknown:
        """The exception if no answer is certain."""
        return OutcomeUnknown(
            self.operation, str(cause), client_order_ids=self.client_order_ids, order_id=self.order_id
        )


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How an exchange is reached. `deadline`: seconds for a call with all of its tries; None sets no bound."""

    base_url: str
    trader_id: int | None = None
    api_key: str | None = None
    token: str | None = None
    timeout: float = 5.0
    max_retries: int = 3
    deadline: float | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer below 400. `tries`: how many it took."""

    response: Response
    tries: int


class Session:
    """The requests of one client. It has the token, which calls and streams share."""

    def __init__(
        self, options: Options, *, clock: Callable[[], float] = time.monotonic, chance: Random = random.random
    ) -> None:
        self.options = options
        self.clock = clock
        self.random = chance
        parts = urlsplit(options.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url must be http://… or https://…, got {options.base_url!r}")
        self.is_tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_tls else 80)
        self.netloc = parts.netloc.rpartition("@")[2]
        self.origin = f"{parts.scheme}://{self.netloc}"
        self.prefix = parts.path.rstrip("/")
        self._token = options.token
        self._renew_at: float | None = None

    # -- tokens

    @property
    def can_login(self) -> bool:
        """Whether the session can get tokens."""
        return self.options.trader_id is not None and self.options.api_key is not None

    @property
    def has_identity(self) -> bool:
        """Whether the session can say whose it is."""
        return self._token is not None or self.can_login

    def forget_token(self) -> None:
        """Has the next request get a token of its own, if it can."""
        if self.can_login:
            self._token = None

    def token(self) -> Call[str]:
        """A token that is valid for a while. Calls at the same time share one request.

        Raises:
            Unauthorized: the client knows neither a token nor an API key, or the key is wrong.
        """
        if self._is_fresh() and self._token is not None:
            return self._token
        if not self.can_login:
            raise Unauthorized(
                problem_of(
                    401, b'{"code":"token_missing","detail":"the client needs trader_id and api_key, or a token"}'
                )
            )
        yield Acquire()
        try:
            if not self._is_fresh() or self._token is None:
                yield from self._login()
            return self._token or ""
        finally:
            yield Release()

    def _is_fresh(self) -> bool:
        return self._token is not None and (self._renew_at is None or self.clock() < self._renew_at)

    def _login(self) -> Call[None]:
        body = {"trader_id": self.options.trader_id, "api_key": self.options.api_key}
        asked_at = self.clock()
        answer = yield from self.send("POST", "/auth/token", body=body, is_public=True)
        view: dict[str, Any] = msgspec.json.decode(answer.response.body)
        seconds = float(view["expires_in"])
        self._token = view["access_token"]
        self._renew_at = asked_at + seconds - min(TOKEN_MARGIN_SECONDS, TOKEN_MARGIN_SHARE * seconds)

    # -- requests

    def target(self, path: str, query: Mapping[str, object] | None = None) -> str:
        """The target of a request. Parameters that are None are left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return f"{self.prefix}{path}{'?' if given else ''}{urlencode(given)}"

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        wait: float | None = None,
        change: Change | None = None,
        sink: Sink | None = None,
        is_public: bool = False,
    ) -> Call[Answer]:
        """Sends a request until it is answered below 400. It must be one that may be sent twice.

        `wait`: the seconds that the exchange may wait for the match. `is_public`: no token is sent.

        Raises:
            OutcomeUnknown: the request has a `change`, and no answer says what became of it.
            ApiError: the exchange refused the request.
            TransportError: there was no answer.
        """
        target = self.target(path, query)
        encoded = None if body is None else msgspec.json.encode(body)
        started = self.clock()
        tries = 0
        is_uncertain = has_new_token = False
        while True:
            tries += 1
            try:
                headers = yield from self._headers(encoded, wait, is_public=is_public)
            except TcgxError as error:
                if is_uncertain and change is not None:
                    raise change.unknown(error) from error
                raise
            try:
                timeout = self.options.timeout + (wait or 0.0)
                response: Response = yield Request(method, target, headers, encoded, timeout, sink)
            except TransportError as error:
                failure: TcgxError = error
                is_uncertain |= not isinstance(error, ConnectFailed)
            else:
                if response.status < 400:
                    return Answer(response, tries)
                failure = _error(response)
                is_uncertain |= response.status >= 500 and failure.code in UNCERTAIN_CODES
                if failure.code in TOKEN_CODES and self.can_login and not has_new_token and not is_public:
                    has_new_token = True
                    self.forget_token()
                    continue
            pause = self._pause(failure, tries - 1, started)
            if pause is None:
                _raise(failure, change if is_uncertain else None)
            yield Sleep(pause)

    def _headers(self, body: bytes | None, wait: float | None, *, is_public: bool) -> Call[dict[str, str]]:
        headers = {"accept": "*/*"}
        if body is not None:
            headers["content-type"] = "application/json"
        if wait is not None:
            headers["prefer"] = f"wait={round(wait, 3):g}"
        if not is_public and self.has_identity:
            token = yield from self.token()
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _pause(self, failure: TcgxError, retries: int, started: float) -> float | None:
        """The time until the next try; None where there is none."""
        retry_after = None
        if isinstance(failure, ApiError):
            if failure.status not in RETRIED or failure.code in REFUSED:
                return None
            retry_after = failure.retry_after
        elif not isinstance(failure, TransportError):
            return None
        if retries >= self.options.max_retries:
            return None
        pause = retry_seconds(retries, retry_after, self.random)
        deadline = self.options.deadline
        if pause > RETRY_AFTER_SECONDS_MAX or (deadline is not None and self.clock() + pause > started + deadline):
            return None
        return pause


def _error(response: Response) -> ApiError:
    headers = response.headers
    problem = problem_of(
        response.status,
        response.body,
        retry_after=headers.get("retry-after", ""),
        request_id=headers.get("x-request-id", ""),
    )
    return api_error(problem)


def refusal(response: Response) -> ApiError:
    """The exception of an answer from 400 on."""
    return _error(response)


def _raise(failure: TcgxError, change: Change | None) -> NoReturn:
    """Ends a call. `change` is given if an earlier try may have taken effect."""
    if change is None:
        raise failure
    if isinstance(failure, ApiError) and failure.status in CERTAIN:
        failure.is_repeat = True
        raise failure
    raise change.unknown(failure) from failure
