"""Who calls: API keys are exchanged for bearer tokens; a token is decoded once and remembered."""

import hashlib
import hmac
import time
from typing import Literal, cast

import jwt
import msgspec

from api.problems import ApiError, unauthorized
from archiver.store import Archive
from engine.settings import Settings

ALGORITHM = "HS256"
ISSUER = "tcgx"
REMEMBERED_MAX = 50_000

Role = Literal["trader", "admin"]


class Identity(msgspec.Struct, frozen=True):
    """Whom a token speaks for, until when (seconds since 1970)."""

    trader_id: int
    role: Role
    expires_at: int


def token(secret: str, trader_id: int, role: Role, seconds: int) -> str:
    """An access token, valid from now on."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": str(trader_id), "role": role, "iat": now, "exp": now + seconds}
    return jwt.encode(claims, secret, ALGORITHM)


def key_hash(api_key: str) -> bytes:
    """What is stored of an API key: SHA-256. The keys are 32 random bytes, so a slow hash would add nothing."""
    return hashlib.sha256(api_key.encode()).digest()


class Authenticator:
    """Checks tokens and API keys."""

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._secret = settings.jwt_secret
        self._seconds = settings.token_seconds
        self._archive = archive
        self._remembered: dict[str, Identity] = {}

    def identify(self, authorization: str | None) -> Identity:
        """The identity behind an `Authorization` header.

        Raises:
            ApiError: 401, because it is missing, malformed, wrong or expired.
        """
        identity = self._remembered.get(authorization or "")
        if identity is None:
            identity = self._decode(authorization)
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[authorization or ""] = identity
        if identity.expires_at <= time.time():
            self._remembered.pop(authorization or "", None)
            raise unauthorized("token_expired", "the access token has expired: get a new one from POST /auth/token")
        return identity

    async def exchange(self, trader_id: int, api_key: str) -> tuple[str, int]:
        """An access token for an API key, and for how many seconds it is valid.

        Raises:
            ApiError: 401, unknown trader or wrong key, one answer for both.
            Unavailable: PostgreSQL, which knows the traders, does not answer.
        """
        stored = await self._archive.api_key(trader_id)
        expected, role = stored if stored else (bytes(32), "trader")
        if not hmac.compare_digest(expected, key_hash(api_key)):
            raise unauthorized("invalid_credentials", f"trader {trader_id} does not exist or has another API key")
        return token(self._secret, trader_id, cast(Role, role), self._seconds), self._seconds

    def _decode(self, authorization: str | None) -> Identity:
        if not authorization:
            raise unauthorized("token_missing", "send an access token as `Authorization: Bearer …`")
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "bearer" or not value:
            raise unauthorized("token_invalid", "the Authorization header must be `Bearer` and an access token")
        try:
            claims = jwt.decode(
                value.strip(), self._secret, [ALGORITHM], issuer=ISSUER, options={"require": ["exp", "sub", "iss"]}
            )
            identity = Identity(int(claims["sub"]), _role(claims.get("role")), int(claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise unauthorized(
                "token_expired", "the access token has expired: get a new one from POST /auth/token"
            ) from None
        except (jwt.InvalidTokenError, ValueError, TypeError) as error:
            raise unauthorized("token_invalid", f"the access token is not valid: {error}") from None
        return identity


def _role(value: object) -> Role:
    if value not in ("trader", "admin"):
        raise ValueError(f"role {value!r} is unknown")
    return value


def require_admin(identity: Identity) -> None:
    """Raises `ApiError` 403 for anyone but an admin."""
    if identity.role != "admin":
        raise ApiError(403, "forbidden", "Forbidden", "this needs a token with the role admin")
