"""Authentication: API keys are exchanged for bearer tokens; the caller of a decoded token is cached."""

import hmac
import time

from redis.asyncio import Redis

from archiver.queries import Archive
from core.errors import Unauthenticated
from core.settings import Settings
from exchange import login_codes, tokens
from exchange.login_limit import LoginLimit
from exchange.revocations import Revocations
from exchange.tokens import Caller, ExpiredToken, InvalidToken, Role, SigningKeys

CACHED_TOKENS_MAX = 50_000
TOKEN_MISSING = "send an access token as `Authorization: Bearer …`; POST /auth/token gives one for a trader's API key"  # noqa: S105 - a sentence
TOKEN_REVOKED = "the API key of this access token is revoked: get a token from POST /auth/token with another key"  # noqa: S105 - a sentence


class Authenticator:
    """Checks tokens and API keys."""

    def __init__(self, settings: Settings, archive: Archive, revocations: Revocations, redis: Redis) -> None:
        self._revocations = revocations
        self._redis = redis
        self._keys = SigningKeys.of(settings)
        self._seconds = settings.token_seconds
        self._archive = archive
        self._limit = LoginLimit(settings.failed_logins_per_minute)
        self._caller_by_header: dict[bytes, Caller] = {}  # by header

    def authenticate(self, authorization: bytes | None) -> Caller:
        """Returns the caller of an `Authorization` header, given as received.

        Raises:
            Unauthenticated: the header is missing or malformed, or its token is wrong, expired or of a revoked key.
            Unavailable: PostgreSQL has not answered since the start, so revoked keys are not known.
        """
        caller = self._caller_by_header.get(authorization or b"")
        if caller is None:
            caller = self._caller_of_token(_bearer_token((authorization or b"").decode("latin-1")))
        self.check(caller)
        return caller

    def check(self, caller: Caller) -> None:
        """Judges a caller once more, as for a connection that lives on.

        Raises:
            Unauthenticated: its token has expired, or is of a revoked key.
            Unavailable: PostgreSQL has not answered since the start, so revoked keys are not known.
        """
        if caller.expires_at <= time.time():
            raise Unauthenticated("token_expired", "the access token has expired: get a new one from POST /auth/token")
        if caller.api_key_id in self._revocations.key_ids:
            raise Unauthenticated("token_revoked", TOKEN_REVOKED)

    async def token_for(self, trader_id: int, api_key: str, address: str | None = None) -> tuple[str, int]:
        """Issues an access token for an API key; returns the token and its lifetime in seconds.

        `address`: where the caller is, None if that is not known.

        Raises:
            RateLimited: too many logins from this address failed.
            Unauthenticated: the trader is unknown or the key is wrong; the error does not tell which.
            Unavailable: PostgreSQL does not answer.
        """
        self._limit.check(address)
        role, keys = await self._archive.valid_keys(trader_id) or ("trader", ())
        given = tokens.hash_api_key(api_key)
        matching = [key_id for key_id, expected in keys if hmac.compare_digest(expected, given)]
        if not matching:
            self._limit.add_failure(address)
            raise Unauthenticated("invalid_credentials", f"trader {trader_id} does not exist or has another API key")
        issued_role: Role = "admin" if role == "admin" else "trader"
        return self._keys.issue(trader_id, issued_role, self._seconds, matching[0]), self._seconds

    async def token_for_code(self, code: str, address: str | None = None) -> tuple[str, int, int]:
        """Issues an access token for a login code; returns the token, its lifetime in seconds, and the trader.

        `address`: where the caller is, None if that is not known.

        Raises:
            RateLimited: too many logins from this address failed.
            Unauthenticated: there is no such code, or not any more.
            Unavailable: Redis does not answer.
        """
        self._limit.check(address)
        trader_id = await login_codes.redeem(self._redis, code)
        if trader_id is None:
            self._limit.add_failure(address)
            raise Unauthenticated("login_code_invalid", "the login code does not exist, was used, or is too old")
        return self._keys.issue(trader_id, "trader", self._seconds), self._seconds, trader_id

    def _caller_of_token(self, text: str) -> Caller:
        """Decodes a token, unless the cache has it under the usual spelling of the header."""
        usual = f"Bearer {text}".encode("latin-1")
        caller = self._caller_by_header.get(usual)
        if caller is None:
            caller = self._decode(text)
            if len(self._caller_by_header) >= CACHED_TOKENS_MAX:
                self._caller_by_header.clear()
            self._caller_by_header[usual] = caller
        return caller

    def _decode(self, text: str) -> Caller:
        try:
            return self._keys.decode(text)
        except ExpiredToken as error:
            raise Unauthenticated("token_expired", str(error)) from None
        except InvalidToken as error:
            raise Unauthenticated("token_invalid", str(error)) from None


def _bearer_token(header: str) -> str:
    """Returns the token of an `Authorization` header.

    Raises:
        Unauthenticated: the header is missing or malformed.
    """
    if not header:
        raise Unauthenticated("token_missing", TOKEN_MISSING)
    scheme, _, text = header.partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise Unauthenticated("token_invalid", "the Authorization header must be `Bearer` and an access token")
    return text
