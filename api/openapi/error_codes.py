"""Every code of a problem as the OpenAPI document describes it: status, title, meaning and an example.

Names in braces stand for values of the running exchange, as in `{cards}`; `{asked}` is the parameter in the path.
tests/test_openapi.py fails for a code that is missing here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from api.http_protocol import HEAD_BYTES_MAX
from api.problems import Problem, problem_of
from archiver.exports import EXPORTS_MAX
from core.candles import CANDLE_SECONDS
from core.errors import InvalidRequest, Violation
from core.model import CLIENT_ORDER_ID_RULE, COMMANDS_MAX, TRADER_ID_MAX
from core.rules import CANCEL_AFTER_RULE
from exchange.administration import LABEL_CHARACTERS_MAX, REASON_CHARACTERS_MAX
from exchange.auth import TOKEN_MISSING, TOKEN_REVOKED
from exchange.market import FILLS, TIME_RULE
from streams.channels import CHANNELS_MAX
from streams.channels import TEXT_MAX as CHANNELS_TEXT_MAX

RATE_EXAMPLE = {"retry_after": 1, "limit": 1_000, "reset": 10}


class ErrorCode(msgspec.Struct, frozen=True):
    """A code under one status. The code of a field has `field`, `rule` and a wrong `value` instead of `detail`."""

    status: int
    code: str
    title: str
    meaning: str
    detail: str = ""
    field: str = ""
    rule: str = ""
    value: Any = msgspec.UNSET

    @property
    def key(self) -> str:
        """The key by which a call names the code, as in `404 unknown_card`."""
        return f"{self.status} {self.code}"

    def example(self, texts: Mapping[str, str]) -> Problem:
        """Makes an example of a problem with this code; `texts` replace the names in braces."""
        if not self.field:
            problem = Problem(self.status, self.code, self.title, self.detail.format_map(texts))
            return msgspec.structs.replace(problem, **RATE_EXAMPLE) if self.status == 429 else problem
        value = self.value.format_map(texts) if isinstance(self.value, str) else self.value
        error = Violation(self.field.format_map(texts), self.code, self.rule.format_map(texts), value)
        return problem_of(InvalidRequest([error]))


def _field_code(code: str, field: str, meaning: str, rule: str, value: Any = msgspec.UNSET) -> ErrorCode:
    return ErrorCode(422, code, "Invalid request", meaning, field=field, rule=rule, value=value)


def parameter_code(name: str, low: int, high: int) -> ErrorCode:
    """Makes the code of a query parameter that is a whole number within bounds."""
    rule = f"must be a whole number from {low} to {high}"
    return _field_code(f"invalid_{name}", name, f"The query parameter {name} breaks its rule.", rule, str(low - 1))


_TABLE = (
    ErrorCode(
        400,
        "malformed_request",
        "Malformed request",
        "The bytes are no HTTP/1.1 request; the connection is closed.",
        "this is not an HTTP/1.1 request",
    ),
    ErrorCode(
        400,
        "incomplete_request",
        "Incomplete request",
        "The client sent nothing more before the request line and the headers were whole.",
        "the client went away within the request",
    ),
    ErrorCode(
        400,
        "incomplete_body",
        "Incomplete body",
        "The client sent nothing more before the body was whole.",
        "the client went away within the body",
    ),
    ErrorCode(
        400,
        "bad_request",
        "Bad request",
        "The request cannot be read for another reason; `detail` says which.",
        "the request cannot be read",
    ),
    ErrorCode(
        401,
        "token_missing",
        "Unauthorized",
        "There is no Authorization header.",
        TOKEN_MISSING,
    ),
    ErrorCode(
        401,
        "token_invalid",
        "Unauthorized",
        "The access token is none of this exchange's, or the header is malformed.",
        "the Authorization header must be `Bearer` and an access token",
    ),
    ErrorCode(
        401,
        "token_expired",
        "Unauthorized",
        "The access token was valid and is no longer.",
        "the access token has expired: get a new one from POST /auth/token",
    ),
    ErrorCode(
        401,
        "token_revoked",
        "Unauthorized",
        "The API key that the access token was issued for is revoked.",
        TOKEN_REVOKED,
    ),
    ErrorCode(
        401,
        "invalid_credentials",
        "Unauthorized",
        "The trader does not exist, or has another API key.",
        "trader 1 does not exist or has another API key",
    ),
    ErrorCode(
        401,
        "login_code_invalid",
        "Unauthorized",
        "The login code does not exist, was used, or is older than an hour.",
        "the login code does not exist, was used, or is too old",
    ),
    ErrorCode(
        403,
        "forbidden",
        "Forbidden",
        "The caller is no admin.",
        "only an admin may do this",
    ),
    ErrorCode(
        404,
        "trader_not_found",
        "Trader not found",
        "There is no such trader.",
        "there is no trader 'ash'",
    ),
    ErrorCode(
        404,
        "key_not_found",
        "API key not found",
        "There is no such API key, or it is revoked where a valid one is needed.",
        "there is no valid API key with the key_id '{asked}'",
    ),
    ErrorCode(
        404,
        "order_not_found",
        "Order not found",
        "There is no such order, or it is another trader's.",
        "there is no order '{asked}' of yours",
    ),
    ErrorCode(
        404,
        "unknown_card",
        "Unknown card",
        "The card in the path is not traded here.",
        "there is no card 'missingno'; there are {cards}",
    ),
    ErrorCode(
        404,
        "not_found",
        "Not found",
        "The path is none of a call, as where a part of it is empty or has a slash.",
        "there is nothing at {path}/more",
    ),
    ErrorCode(
        405,
        "method_not_allowed",
        "Method not allowed",
        "The path has no such method; the header Allow lists those that it has.",
        "PATCH is not a method of {path}",
    ),
    ErrorCode(
        408,
        "request_timeout",
        "Request timeout",
        "The request did not come whole in time; the connection is closed, and nothing was entered.",
        "the body did not come whole within {body_seconds} s",
    ),
    ErrorCode(
        409,
        "client_order_id_conflict",
        "Conflict",
        "The client_order_id names another order of the trader on this card, with other contents.",
        "client_order_id 'my-order-1' already names order {card}-1001 with other contents",
    ),
    ErrorCode(
        409,
        "order_completed",
        "Order is completed",
        "The order was filled, canceled or expired before the cancel or the replace came.",
        "order {asked} is filled already",
    ),
    ErrorCode(
        409,
        "too_many_open_orders",
        "Too many open orders",
        "The trader has as many open orders on this card as it may have; one must be completed or canceled first.",
        "nothing was accepted: you may have 500 open orders on {card}",
    ),
    ErrorCode(
        409,
        "too_many_keys",
        "Too many API keys",
        "The trader has as many valid API keys as it may have; one must be revoked first.",
        "trader 1 has 20 valid API keys, and may not have more: revoke one first",
    ),
    ErrorCode(
        413,
        "body_too_large",
        "Body too large",
        "The body has more bytes than this exchange takes.",
        "the body has more than {body_bytes_max} bytes",
    ),
    ErrorCode(
        422,
        "invalid_json",
        "Invalid JSON",
        "The body is not JSON in UTF-8.",
        "the body is empty: send a JSON object",
    ),
    ErrorCode(
        422, "invalid_body", "Invalid body", "The body is JSON, but no object.", "the body must be a JSON object"
    ),
    _field_code("missing_field", "{required}", "A field that is required is not in the body.", "is required"),
    _field_code(
        "unknown_field", "colour", "The body has a field that the call does not know.", "is not a field of this request"
    ),
    _field_code("duplicate_field", "{required}", "The body has a field twice.", "must be given once"),
    _field_code("too_many_errors", "body", "More is wrong than is listed.", "has more that is wrong"),
    _field_code("unknown_card", "card", "The card is not traded here.", "must be one of {cards}", "missingno"),
    _field_code("invalid_side", "side", "The side is no side.", "must be one of buy, sell", "hold"),
    _field_code(
        "invalid_price",
        "price",
        "The price is out of its bounds, has more than two decimals, or is no decimal.",
        "must be a decimal from {price_min} to {price_max} with at most two decimals",
        "5.505",
    ),
    _field_code(
        "invalid_quantity",
        "quantity",
        "The quantity is out of its bounds, or no whole number.",
        "must be a whole number from 1 to {max_quantity}",
        0,
    ),
    _field_code(
        "invalid_client_order_id",
        "client_order_id",
        "The client_order_id has other characters than it may have, or too many.",
        CLIENT_ORDER_ID_RULE,
        "my order",
    ),
    _field_code(
        "invalid_time_in_force",
        "time_in_force",
        "The time in force is none of the three.",
        "must be one of gtc, ioc, fok",
        "day",
    ),
    _field_code(
        "invalid_post_only",
        "post_only",
        "post_only is neither true nor false, or true with a time in force that never rests.",
        "must be true or false",
        "yes",
    ),
    _field_code(
        "invalid_action",
        "action",
        "An item of a batch asks for something else than the three actions.",
        "must be one of place, cancel, replace",
        "amend",
    ),
    _field_code(
        "invalid_orders",
        "orders",
        "The batch is no list, is empty or too long.",
        f"must be a list of 1 to {COMMANDS_MAX} orders",
        "an array",
    ),
    _field_code(
        "invalid_trader_id",
        "trader_id",
        "The trader_id is no whole number, or out of its bounds.",
        f"must be a whole number from 1 to {TRADER_ID_MAX}",
        0,
    ),
    _field_code(
        "invalid_api_key",
        "api_key",
        "The api_key is no text of a possible length.",
        "must be a string of 1 to 200 characters",
        "",
    ),
    _field_code(
        "invalid_login_code",
        "login_code",
        "The login_code is no text of a possible length.",
        "must be a string of 1 to 100 characters",
        "",
    ),
    _field_code(
        "invalid_seconds",
        "seconds",
        "The seconds are no whole number within bounds.",
        CANCEL_AFTER_RULE,
        -1,
    ),
    _field_code(
        "invalid_prefer",
        "Prefer",
        "The header Prefer asks for a wait that is no number of seconds within its bounds.",
        "wait must be a number of seconds from 0 to 10",
        "60",
    ),
    _field_code(
        "invalid_channels",
        "channels",
        "The parameter channels names no channel, or too many.",
        f"must be 1 to {CHANNELS_MAX} channels, separated by commas, in at most {CHANNELS_TEXT_MAX} characters",
        "",
    ),
    _field_code(
        "invalid_after", "after", "The parameter after names nothing that a list can go on after.", "{after}", "1042"
    ),
    _field_code(
        "invalid_before",
        "before",
        "The parameter before names nothing that a page could end with.",
        "must be {place}",
        "yesterday",
    ),
    _field_code(
        "invalid_order_id",
        "order_id",
        "The parameter order_id names no order of the caller's, or none of the card that is asked for.",
        "must be an order_id of yours, like pikachu-1001",
        "1001",
    ),
    _field_code(
        "invalid_reason",
        "reason",
        "The parameter reason is too long, or has other than printable characters.",
        f"must be at most {REASON_CHARACTERS_MAX} printable characters",
        "two\nlines",
    ),
    _field_code(
        "invalid_label",
        "label",
        "The parameter label is too long, or has other than printable characters.",
        f"must be at most {LABEL_CHARACTERS_MAX} printable characters",
        "two\nlines",
    ),
    _field_code("invalid_status", "status", "The parameter status is no status to list by.", "{statuses}", "closed"),
    _field_code(
        "invalid_interval",
        "interval",
        "The parameter interval is no interval of candles.",
        "must be one of " + ", ".join(CANDLE_SECONDS),
        "2m",
    ),
    _field_code(
        "invalid_fill",
        "fill",
        "The parameter fill says no way to fill.",
        "must be one of " + ", ".join(FILLS),
        "zero",
    ),
    *(
        _field_code(f"invalid_{name}", name, f"The parameter {name} is no time.", TIME_RULE, "yesterday")
        for name in ("start", "end", "since", "until")
    ),
    _field_code(
        "invalid_limit",
        "limit",
        "The parameter limit is out of the bounds of the list.",
        "must be a whole number from 1 to 50, or to 500 with status=open",
        "501",
    ),
    _field_code(
        "unknown_parameter",
        "colour",
        "The call does not know the query parameter.",
        "is not a parameter of this request; it takes {parameters}",
    ),
    _field_code("duplicate_parameter", "{parameter}", "A query parameter is given twice.", "must be given once"),
    _field_code("missing_parameter", "{query}", "A query parameter that is required is not there.", "is required"),
    _field_code(
        "invalid_parameter",
        "parameters",
        "The query parameters cannot be read; `detail` says why.",
        "are not valid: they cannot be read",
    ),
    ErrorCode(
        429,
        "rate_limited",
        "Too many requests",
        "The caller asks more often than it may; nothing was accepted: repeat it after `Retry-After`.",
        "nothing was accepted: you may place 100 orders a second on {card}, 1000 at once after a pause; repeat it "
        "after 1 s",
    ),
    ErrorCode(
        431,
        "headers_too_large",
        "Headers too large",
        "The request line and the headers are too long; the connection is closed.",
        f"the request line and the headers have more than {HEAD_BYTES_MAX} bytes",
    ),
    ErrorCode(
        500,
        "internal_error",
        "Internal error",
        "The server failed; whether an order was entered is not known: repeat it with its client_order_id.",
        "the server failed; see its log",
    ),
    ErrorCode(
        429,
        "too_many_connections",
        "Too many connections",
        "As many connections of this address are open as may be; nothing was accepted, and this one is closed.",
        "nothing was accepted: 100 connections may be open from an address; close some",
    ),
    ErrorCode(
        429,
        "too_many_requests",
        "Too many requests",
        "As many requests of this connection wait for answers as may; nothing was accepted, and it is closed.",
        "nothing was accepted: 1000000 bytes of requests wait on this connection; read the answers first",
    ),
    ErrorCode(
        503,
        "too_many_connections",
        "Too many connections",
        "This API process has as many connections as it takes; nothing was accepted: repeat it after `Retry-After`.",
        "nothing was accepted: this API process has as many connections as it takes; repeat the request later",
    ),
    ErrorCode(
        503,
        "overloaded",
        "Overloaded",
        "More waits than may wait, or memory is full; nothing was accepted: repeat it later.",
        "nothing was accepted: 20000 commands of {card} wait to be appended",
    ),
    ErrorCode(
        503,
        "too_many_exports",
        "Too many exports",
        "As many exports go on in this API process as may: repeat it after `Retry-After`.",
        f"{EXPORTS_MAX} exports go on in this API process, and no more may: repeat the request later",
    ),
    ErrorCode(
        503,
        "unavailable",
        "Unavailable",
        "A server behind the API does not answer; an order may have been entered: repeat it with its client_order_id.",
        "Redis did not answer; repeat the request, an order with the same client_order_id",
    ),
    ErrorCode(
        503,
        "card_halted",
        "Card is halted",
        "An admin has halted the card: no order is accepted until the card goes on; cancels are taken.",
        "nothing was accepted: {card} is halted since 2026-11-22T23:53:06.123Z: a wrong price; cancels are taken",
    ),
    ErrorCode(
        503,
        "history_conflict",
        "History conflict",
        "Log and archive do not belong together, as after a loss of data; nothing is accepted until an operator acts.",
        "nothing was accepted: log and archive do not belong together, and an operator has to look",
    ),
)

ERROR_CODES: Mapping[str, ErrorCode] = {error.key: error for error in _TABLE}
"""All codes by status and code, as in `404 unknown_card`."""

EVERY_CALL = (
    *("400 malformed_request", "400 incomplete_request", "400 incomplete_body", "400 bad_request"),
    *("405 method_not_allowed", "408 request_timeout", "422 unknown_parameter", "431 headers_too_large"),
    *("429 too_many_connections", "429 too_many_requests", "500 internal_error", "503 too_many_connections"),
)
TOKEN = ("401 token_missing", "401 token_invalid", "401 token_expired", "401 token_revoked")
BODY = (
    *("413 body_too_large", "422 invalid_json", "422 invalid_body"),
    *("422 missing_field", "422 unknown_field", "422 duplicate_field", "422 too_many_errors"),
)
ORDER_FIELDS = (
    *("422 unknown_card", "422 invalid_side", "422 invalid_price", "422 invalid_quantity"),
    *("422 invalid_client_order_id", "422 invalid_time_in_force", "422 invalid_post_only"),
)
CHANGE_FIELDS = (
    *("422 invalid_price", "422 invalid_quantity", "422 invalid_client_order_id", "422 invalid_post_only"),
)
