"""Access tokens and hashes of API keys, for every door and the command line."""

import hashlib
import time
from typing import Literal

import jwt
import msgspec

from core.model import TRADER_ID_MAX

ALGORITHM = "HS256"
ISSUER = "tcgx"
CLOCK_SKEW_SECONDS = 10
"""Tolerance for the clock of the machine that issued a token: `iat` may lie this far in the future."""

Role = Literal["trader", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """The authenticated sender of a request. `expires_at` is the end of its token, in seconds since 1970."""

    trader_id: int
    role: Role
    expires_at: int


class InvalidToken(Exception):
    """A text is no access token of this exchange; the message says why."""


class ExpiredToken(InvalidToken):
    """The lifetime of an access token is over."""


def issue_token(secret: str, trader_id: int, role: Role, seconds: int) -> str:
    """Signs an access token that is valid from now on for `seconds`."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": str(trader_id), "role": role, "iat": now, "exp": now + seconds}
    return jwt.encode(claims, secret, ALGORITHM)


def decode_token(secret: str, text: str) -> Caller:
    """Verifies an access token and returns its caller.

    Raises:
        ExpiredToken: the lifetime of the token is over.
        InvalidToken: the token is wrong in another way.
    """
    try:
        claims = jwt.decode(
            text,
            secret,
            [ALGORITHM],
            issuer=ISSUER,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "sub", "iss"]},
        )
        expires_at = int(claims["exp"])
        if expires_at <= time.time():  # the leeway is meant for `iat` alone
            raise jwt.ExpiredSignatureError
        return Caller(_trader_id(claims["sub"]), _role(claims.get("role")), expires_at)
    except jwt.ExpiredSignatureError:
        raise ExpiredToken("the access token has expired: get a new one from POST /auth/token") from None
    except (jwt.InvalidTokenError, ValueError, TypeError) as error:
        raise InvalidToken(f"the access token is not valid: {error}") from None


def hash_api_key(api_key: str) -> bytes:
    """The SHA-256 under which the archive stores an API key. A key is 32 random bytes, so a slow hash adds nothing."""
    return hashlib.sha256(api_key.encode(errors="surrogatepass")).digest()


def _trader_id(value: str) -> int:
    trader_id = int(value)
    if not 1 <= trader_id <= TRADER_ID_MAX:
        raise ValueError(f"trader {trader_id} is not from 1 to {TRADER_ID_MAX}")
    return trader_id


def _role(value: object) -> Role:
    if value == "trader":
        return "trader"
    if value == "admin":
        return "admin"
    raise ValueError(f"role {value!r} is unknown")
