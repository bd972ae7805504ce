"""What a client is made with: its arguments, else the environment."""

import os

from tcgx_client.session import Options

DEFAULT_URL = "http://127.0.0.1:8000"


def options_of(
    base_url: str | None,
    *,
    trader_id: int | None,
    api_key: str | None,
    token: str | None,
    timeout: float,
    max_retries: int,
    deadline: float | None,
) -> Options:
    """The options of a client. `TCGX_URL`, `TCGX_TRADER_ID`, `TCGX_API_KEY` and `TCGX_TOKEN` stand in for arguments.

    An identity that is given leaves that of the environment out.
    """
    if trader_id is None and api_key is None and token is None:
        number = os.environ.get("TCGX_TRADER_ID", "")
        trader_id = int(number) if number.isascii() and number.isdigit() else None
        api_key = os.environ.get("TCGX_API_KEY") or None
        token = os.environ.get("TCGX_TOKEN") or None
    return Options(
        base_url=base_url or os.environ.get("TCGX_URL") or DEFAULT_URL,
        trader_id=trader_id,
        api_key=api_key,
        token=token,
        timeout=timeout,
        max_retries=max_retries,
        deadline=deadline,
    )
