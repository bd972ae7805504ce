"""Access tokens and API keys: how they are made and checked, for the API and the command line."""

import hashlib
import time
from typing import Literal

import jwt
import msgspec

from core.model import TRADER_ID_MAX

ALGORITHM = "HS256"
ISSUER = "tcgx"
CLOCK_SKEW_SECONDS = 10
"""A token may be so much younger than this machine's clock says it can be: whoever made it has another clock."""

Role = Literal["trader", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """Who asks: a trader or an admin, until the token expires (seconds since 1970)."""

    trader_id: int
    role: Role
    expires_at: int


class InvalidToken(Exception):
    """Not a token of ours; the message says why."""


class ExpiredToken(InvalidToken):
    """It was one."""


def issue_token(secret: str, trader_id: int, role: Role, seconds: int) -> str:
    """An access token, valid from now on."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": str(trader_id), "role": role, "iat": now, "exp": now + seconds}
    return jwt.encode(claims, secret, ALGORITHM)


def decode_token(secret: str, text: str) -> Caller:
    """The caller that an access token speaks for.

    Raises:
        ExpiredToken: its time is over.
        InvalidToken: wrong in any other way.
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
        if expires_at <= time.time():  # the leeway is for its beginning alone
            raise jwt.ExpiredSignatureError
        return Caller(_trader_id(claims["sub"]), _role(claims.get("role")), expires_at)
    except jwt.ExpiredSignatureError:
        raise ExpiredToken("the access token has expired: get a new one from POST /auth/token") from None
    except (jwt.InvalidTokenError, ValueError, TypeError) as error:
        raise InvalidToken(f"the access token is not valid: {error}") from None


def hash_api_key(api_key: str) -> bytes:
    """What is stored of an API key: SHA-256. The keys are 32 random bytes, so a slow hash would add nothing."""
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
