"""Rotation of the keys that sign access tokens."""

import base64
import json
import time

import httpx
import jwt
import pytest

from core.settings import Settings
from exchange import tokens
from exchange.tokens import SigningKeys
from testing.exchange import exchange_server

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32
SECONDS = 60


def without_name(secret: str) -> str:
    """A token as earlier versions made it: its header names no key."""
    now = int(time.time())
    return jwt.encode({"iss": tokens.ISSUER, "sub": "7", "role": "trader", "exp": now + SECONDS}, secret)


def with_header(token: str, **header: object) -> str:
    """A token whose header is another one; its signature stays."""
    _, claims, signature = token.split(".")
    text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{text}.{claims}.{signature}"


def test_a_token_of_the_previous_key_is_valid_while_the_key_is_listed() -> None:
    before = SigningKeys(OLD).issue(7, "admin", SECONDS)
    rotated = SigningKeys(NEW, OLD)

    assert rotated.decode(before).trader_id == 7
    assert rotated.decode(before).role == "admin"
    with pytest.raises(tokens.InvalidToken, match="signing key is not known here"):
        SigningKeys(NEW).decode(before)


def test_the_current_key_signs_and_names_itself() -> None:
    token = SigningKeys(NEW, OLD).issue(7, "trader", SECONDS)

    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT", "kid": tokens.key_name(NEW)}
    assert SigningKeys(NEW).decode(token).trader_id == 7
    assert SigningKeys(OTHER, NEW).decode(token).trader_id == 7
    with pytest.raises(tokens.InvalidToken):
        SigningKeys(OLD).decode(token)


def test_the_name_of_a_key_is_the_same_everywhere_and_says_nothing_of_it() -> None:
    assert tokens.key_name(OLD) == tokens.key_name(OLD) != tokens.key_name(NEW)
    assert OLD[:4] not in tokens.key_name(OLD)
    assert len(tokens.key_name(OLD)) == tokens.KEY_NAME_DIGITS


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_a_token_without_the_name_of_its_key_is_valid_under_every_listed_key(secret: str) -> None:
    assert SigningKeys(NEW, OLD).decode(without_name(secret)).trader_id == 7
    with pytest.raises(tokens.InvalidToken, match="Signature verification failed"):
        SigningKeys(NEW, OLD).decode(without_name(OTHER))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": tokens.key_name(NEW)},
        {"alg": "HS512", "kid": tokens.key_name(NEW)},
        {"alg": "RS256", "kid": tokens.key_name(NEW)},
        {"alg": "HS256", "kid": tokens.key_name(OLD)},
        {"alg": "HS256", "kid": tokens.key_name(OTHER)},
        {"alg": "HS256", "kid": ""},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "kid": ["x"]},
        {"alg": "HS256", "kid": "../../etc/passwd"},
        {"alg": "HS256", "kid": NEW, "jwk": {"kty": "oct", "k": "eA"}, "jku": "http://127.0.0.1/keys"},
    ],
)
def test_a_header_chooses_neither_the_algorithm_nor_another_key(header: dict[str, object]) -> None:
    token = with_header(SigningKeys(NEW).issue(7, "trader", SECONDS), **header)

    with pytest.raises(tokens.InvalidToken):
        SigningKeys(NEW, OLD).decode(token)


@pytest.mark.parametrize("key", [7, None, ["x"], {"a": 1}, "x" * (tokens.API_KEY_ID_DIGITS + 1)])
def test_a_token_names_an_api_key_or_none(key: object) -> None:
    claims = {"iss": tokens.ISSUER, "sub": "7", "role": "trader", "exp": int(time.time()) + SECONDS, "key": key}

    with pytest.raises(tokens.InvalidToken, match="its key is no id of an API key"):
        SigningKeys(NEW).decode(jwt.encode(claims, NEW))


def test_the_keys_come_from_the_settings() -> None:
    keys = SigningKeys.of(Settings(jwt_secret=NEW, jwt_previous_secrets=(OLD, OTHER)))

    for secret in (NEW, OLD, OTHER):
        assert keys.decode(tokens.issue_token(secret, 7, "trader", SECONDS)).trader_id == 7


@pytest.mark.server
def test_a_rotation_under_way_refuses_no_token() -> None:
    with exchange_server("api", jwt_secret=OLD) as own:
        before = own.bearer(7)
        statuses = [_status(own.http, before)]
        for changes in (
            {"jwt_previous_secrets": (NEW,)},  # every process knows the new key before one signs with it
            {"jwt_secret": NEW, "jwt_previous_secrets": (OLD,)},
        ):
            own.stop_service("api")
            own.servers.change(**changes)
            own.start_service("api")
            statuses.append(_status(own.http, before))
        after = own.http.post("/auth/token", json={"trader_id": 7, "api_key": own.api_key(7)}).json()["access_token"]
        own.stop_service("api")
        own.servers.change(jwt_previous_secrets=())
        own.start_service("api")

        assert statuses == [200, 200, 200]
        assert _status(own.http, {"authorization": f"Bearer {after}"}) == 200
        refused = own.http.get("/orders", headers=before)
        assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")


def _status(client: httpx.Client, headers: dict[str, str]) -> int:
    return client.get("/orders", headers=headers).status_code
