"""The pages that are made from the source: `python -m docs_site.pages` writes them into docs/; a test compares."""

import re
from itertools import groupby
from pathlib import Path

from api.openapi.error_codes import ERROR_CODES, ErrorCode
from core.settings import BOUNDS, DESCRIPTIONS, Settings, variable

DOCS = Path(__file__).parents[1] / "docs"
IN_BRACES = re.compile(r"\{\w+\}")
"""A value of the running exchange within the text of an error."""

RETRIES = {
    401: "After a new token",
    408: "Yes, with the same `client_order_id`",
    429: "After `Retry-After`",
    500: "Yes, with the same `client_order_id`",
    503: "After `Retry-After`, with the same `client_order_id`",
}
"""Whether a request may be repeated as it is, by its status. Of all others the answer is no."""

ERRORS_HEAD = """# Errors

Every error is a problem of [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457): `application/problem+json` with a stable
`code`. Programs branch on `code`; `title` and `detail` are for people and may change; `…` below
is a value of the request or of the exchange. This page is made from the source of the exchange (`make docs`).

```sh
ME="Authorization: Bearer $(tcgx traders token 1)"
curl -s http://127.0.0.1:8000/orders -H "$ME" -d '{"card":"pikachu","side":"buy"}'
```

```json
{
  "status": 422,
  "code": "missing_field",
  "title": "Invalid request",
  "detail": "price is required",
  "errors": [{"field": "price", "code": "missing_field", "rule": "is required"}]
}
```

`errors` has every wrong field, up to 100, with the rule and the value. `retry_after`, `limit` and `reset` come with a
429, `request_id` with a 500 or 503. An item of a batch has the same `code` in its own outcome, and other items are not
affected.
[The client](client.md#when-something-goes-wrong) does all of this by itself.
"""

SETTINGS_HEAD = """# Settings

Each service reads its settings once from the environment, and refuses to start with one that is unknown or out of
bounds. `tcgx settings` shows them with their sources. This page is made from the source of the exchange (`make docs`).

```sh
tcgx settings
```

| variable | default | bounds | |
|---|---|---|---|
"""


def errors() -> str:
    """The page of all error codes, by status."""
    codes = sorted(ERROR_CODES.values(), key=lambda code: code.status)
    parts = [ERRORS_HEAD]
    for status, group in groupby(codes, key=lambda code: code.status):
        parts.append(f"\n## {status}\n\nMay it be repeated as it is? {RETRIES.get(status, 'No')}.\n\n")
        parts.append("| code | meaning | detail |\n|---|---|---|\n")
        parts += [f"| `{code.code}` | {_cell(code.meaning)} | {_detail(code)} |\n" for code in group]
    return "".join(parts)


def _detail(code: ErrorCode) -> str:
    text = f"{code.field} {code.rule}" if code.field else code.detail
    return _cell(f"`` {IN_BRACES.sub('…', text)} ``")


def settings() -> str:
    """The page of all settings."""
    defaults = Settings()
    rows = []
    for field, description in DESCRIPTIONS.items():
        value = getattr(defaults, field)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        low, high = BOUNDS.get(field, ("", ""))
        bounds = f"{low} to {high}" if field in BOUNDS else ""
        rows.append(f"| `{variable(field)}` | {f'`{text}`' if text else ''} | {bounds} | {_cell(description)} |\n")
    return SETTINGS_HEAD + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {"errors.md": errors, "settings.md": settings}


def main() -> None:
    """Writes the pages."""
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())


if __name__ == "__main__":
    main()
