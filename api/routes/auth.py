"""`/auth`: access tokens for API keys and login codes."""

from litestar import Request, post

from api.context import context_of
from api.decoding import TOKEN_BYTES_MAX, decode_login_code_body, decode_token_body
from api.openapi import operations
from api.views import LoginView, TokenView


@post(
    "/auth/token",
    status_code=200,
    tags=["auth"],
    summary="Exchange an API key for an access token",
    description="Source: the traders table in PostgreSQL.",
    operation_class=operations.CreateTokenOperation,
    responses=operations.problems(
        *(
            "401 invalid_credentials",
            "422 invalid_trader_id",
            "422 invalid_api_key",
            "429 rate_limited",
            "503 unavailable",
        )
    ),
    request_max_body_size=TOKEN_BYTES_MAX,
    operation_id="create_token",
)
async def create_token(request: Request) -> TokenView:  # type: ignore[type-arg]
    """An access token for a trader's API key."""
    context = context_of(request)
    body = decode_token_body(await request.body())
    address = request.client.host if request.client else None
    value, seconds = await context.authenticator.token_for(body.trader_id, body.api_key, address)
    return TokenView(value, "bearer", seconds)


@post(
    "/auth/login-code",
    status_code=200,
    tags=["auth"],
    summary="Exchange a login code for an access token",
    description=(
        "`tcgx up` prints a link with a code, for a browser on the same machine. A code is worth one token, within an "
        "hour. Source: Redis."
    ),
    operation_class=operations.UseLoginCodeOperation,
    responses=operations.problems(
        "401 login_code_invalid", "422 invalid_login_code", "429 rate_limited", "503 unavailable"
    ),
    request_max_body_size=TOKEN_BYTES_MAX,
    operation_id="use_login_code",
)
async def use_login_code(request: Request) -> LoginView:  # type: ignore[type-arg]
    """An access token for a login code."""
    code = decode_login_code_body(await request.body())
    address = request.client.host if request.client else None
    value, seconds, trader_id = await context_of(request).authenticator.token_for_code(code, address)
    return LoginView(value, "bearer", seconds, trader_id)


ROUTES = [create_token, use_login_code]
