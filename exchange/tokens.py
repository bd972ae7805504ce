"""Access tokens and hashes of API keys, for every door and the command line."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Any, Literal

import jwt
import msgspec

from core.model import TRADER_ID_MAX
from core.settings import Settings

ALGORITHM = "HS256"
ISSUER = "tcgx"
CLOCK_SKEW_SECONDS = 10
"""Tolerance for the clock of the machine that issued a token: `iat` may lie this far in the future."""

KEY_NAME_DIGITS = 16
API_KEY_ID_DIGITS = 16

Role = Literal["trader", "admin"]


class Caller(msgspec.Struct, frozen=True):
    """The authenticated sender of a request. `expires_at` is the end of its token, in seconds since 1970.

    `api_key_id`: the API key that the token was issued for; empty for a token of the command line.
    """

    trader_id: int
    role: Role
    expires_at: int
    api_key_id: str = ""


class InvalidToken(Exception):
    """A text is no access token of this exchange; the message says why."""


class ExpiredToken(InvalidToken):
    """The lifetime of an access token is over."""


class SigningKeys:
    """The keys that sign access tokens. The first one signs new tokens; tokens of every key are valid.

    A token names its key in the header `kid`. The name is derived from the key, so processes need not agree on names.
    """

    def __init__(self, *secrets: str) -> None:
        self._current = secrets[0]
        self._by_name = {key_name(secret): secret for secret in reversed(secrets)}

    @classmethod
    def of(cls, settings: Settings) -> "SigningKeys":
        """The keys of the settings."""
        return cls(settings.jwt_secret, *settings.jwt_previous_secrets)

    def issue(self, trader_id: int, role: Role, seconds: int, api_key_id: str = "") -> str:
        """Signs an access token that is valid from now on for `seconds`."""
        return issue_token(self._current, trader_id, role, seconds, api_key_id)

    def decode(self, text: str) -> Caller:
        """Verifies an access token and returns its caller.

        Raises:
            ExpiredToken: the lifetime of the token is over.
            InvalidToken: the token is wrong in another way.
        """
        try:
            return _caller(self._claims(text))
        except jwt.ExpiredSignatureError:
            raise ExpiredToken("the access token has expired: get a new one from POST /auth/token") from None
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise InvalidToken(f"the access token is not valid: {error}") from None

    def _claims(self, text: str) -> dict[str, Any]:
        candidates = self._candidates(jwt.get_unverified_header(text).get("kid"))
        for secret in candidates[:-1]:
            try:
                return _verified(secret, text)
            except jwt.InvalidSignatureError:
                continue
        return _verified(candidates[-1], text)

    def _candidates(self, name: object) -> Sequence[str]:
        """The keys that may have signed a token: the named one, or any if it names none, as of earlier versions."""
        if name is None:
            return [*reversed(self._by_name.values())]
        secret = self._by_name.get(name) if isinstance(name, str) else None
        if secret is None:
            raise jwt.InvalidTokenError("its signing key is not known here, or not any more")
        return [secret]


def key_name(secret: str) -> str:
    """The name of a signing key, which reveals nothing of it."""
    return hmac.new(secret.encode(), b"tcgx signing key", hashlib.sha256).hexdigest()[:KEY_NAME_DIGITS]


def issue_token(secret: str, trader_id: int, role: Role, seconds: int, api_key_id: str = "") -> str:
    """Signs an access token that is valid from now on for `seconds`."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": str(trader_id), "role": role, "iat": now, "exp": now + seconds}
    if api_key_id:
        claims["key"] = api_key_id
    return jwt.encode(claims, secret, ALGORITHM, headers={"kid": key_name(secret)})


def decode_token(secret: str, text: str) -> Caller:
    """Verifies an access token of a single signing key; see `SigningKeys.decode`."""
    return SigningKeys(secret).decode(text)


def _verified(secret: str, text: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        text,
        secret,
        [ALGORITHM],
        issuer=ISSUER,
        leeway=CLOCK_SKEW_SECONDS,
        options={"require": ["exp", "sub", "iss"]},
    )
    return claims


def _caller(claims: dict[str, Any]) -> Caller:
    expires_at = int(claims["exp"])
    if expires_at <= time.time():  # the leeway is meant for `iat` alone
        raise jwt.ExpiredSignatureError
    return Caller(_trader_id(claims["sub"]), _role(claims.get("role")), expires_at, _api_key_id(claims.get("key", "")))


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


def _api_key_id(value: object) -> str:
    if not isinstance(value, str) or len(value) > API_KEY_ID_DIGITS:
        raise ValueError("its key is no id of an API key")
    return value
