"""When an access token begins and ends, by clocks that differ."""

import time

import jwt
import pytest

from exchange import tokens

SECRET = 32 * "s"


def made(**claims: int) -> str:
    """A token with these claims, in seconds from now."""
    now = int(time.time())
    times = {name: now + seconds for name, seconds in {"exp": 60, **claims}.items()}
    return jwt.encode({"iss": tokens.ISSUER, "sub": "7", "role": "trader", **times}, SECRET)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize("seconds", [-60, 0, 1, tokens.CLOCK_SKEW_SECONDS - 2])
def test_a_token_of_a_machine_whose_clock_is_ahead_is_valid(claim: str, seconds: int) -> None:
    assert tokens.decode_token(SECRET, made(**{claim: seconds})).trader_id == 7


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_of_the_future_is_not(claim: str) -> None:
    with pytest.raises(tokens.InvalidToken, match="not yet valid"):
        tokens.decode_token(SECRET, made(**{claim: tokens.CLOCK_SKEW_SECONDS + 5}))


@pytest.mark.parametrize("seconds", [0, -1, 1 - tokens.CLOCK_SKEW_SECONDS, -3_600])
def test_a_token_ends_at_its_second(seconds: int) -> None:
    with pytest.raises(tokens.ExpiredToken):
        tokens.decode_token(SECRET, made(exp=seconds))


def test_a_token_is_valid_until_its_second() -> None:
    token = made(exp=2)

    assert tokens.decode_token(SECRET, token).expires_at == pytest.approx(time.time() + 2, abs=1.1)
