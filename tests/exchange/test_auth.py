"""Tokens that the authenticator remembers. No server is needed."""

from typing import cast

import pytest
from redis.asyncio import Redis

from archiver.queries import Archive
from core.errors import Kind, Unauthenticated
from core.settings import Settings
from exchange import tokens
from exchange.auth import Authenticator
from exchange.revocations import Revocations

SECRET = 32 * "x"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_is_remembered_once_however_its_header_is_spaced(scheme: str) -> None:
    authenticator = Authenticator(
        Settings(jwt_secret=SECRET), cast(Archive, None), Revocations(known=True), cast(Redis, None)
    )
    token = tokens.issue_token(SECRET, 7, "trader", 60)

    found = [
        authenticator.authenticate(f"{scheme}{' ' * spaces}{token}{' ' * behind}".encode())
        for spaces in (1, 2, 9)
        for behind in (0, 3)
    ]

    assert all(caller is found[0] for caller in found)
    assert found[0].trader_id == 7
    assert len(authenticator._caller_by_header) == 1


def test_a_token_that_is_remembered_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = Authenticator(
        Settings(jwt_secret=SECRET), cast(Archive, None), Revocations(known=True), cast(Redis, None)
    )
    header = f"Bearer {tokens.issue_token(SECRET, 7, 'trader', 60)}".encode()
    expires_at = authenticator.authenticate(header).expires_at

    for seconds, code in ((-1, None), (0, "token_expired"), (1, "token_expired"), (-1, None)):
        monkeypatch.setattr("exchange.auth.time.time", lambda at=expires_at + seconds: at)

        if code is None:
            assert authenticator.authenticate(header).trader_id == 7
            continue
        with pytest.raises(Unauthenticated) as raised:
            authenticator.authenticate(header)
        assert raised.value.code == code


def test_no_more_tokens_are_remembered_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exchange.auth.CACHED_TOKENS_MAX", 10)
    authenticator = Authenticator(
        Settings(jwt_secret=SECRET), cast(Archive, None), Revocations(known=True), cast(Redis, None)
    )
    headers = [f"Bearer {tokens.issue_token(SECRET, trader_id, 'trader', 60)}".encode() for trader_id in range(1, 26)]

    for _ in range(2):
        assert [authenticator.authenticate(header).trader_id for header in headers] == list(range(1, 26))
        assert len(authenticator._caller_by_header) <= 10


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer  ", b"Basic x", b"Bearer \xff\x00", b"Bearer a.b.c"])
def test_what_is_no_token_is_not_remembered(header: bytes | None) -> None:
    authenticator = Authenticator(
        Settings(jwt_secret=SECRET), cast(Archive, None), Revocations(known=True), cast(Redis, None)
    )

    with pytest.raises(Unauthenticated) as raised:
        authenticator.authenticate(header)

    assert raised.value.kind is Kind.UNAUTHENTICATED
    assert not authenticator._caller_by_header
