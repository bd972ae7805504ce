"""The OpenAPI document as a judge: whatever a server answers must be what its document says."""

from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs
import msgspec

from api.app import create_app
from api.problems import MEDIA_TYPE
from core.settings import Settings

Json = dict[str, Any]

METHODS = ("get", "put", "post", "delete", "patch")
SECRET = "s" * 32


def document_of(settings: Settings) -> Json:
    """The document of an exchange with these settings, which need not run."""
    if not settings.jwt_secret:
        settings = msgspec.structs.replace(settings, jwt_secret=SECRET)
    found: Json = msgspec.json.decode(msgspec.json.encode(create_app(settings).openapi_schema.to_schema()))
    return found


def operations(document: Json) -> list[tuple[str, Json]]:
    """Every call by method and path, as in `POST /orders`."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def validator(document: Json, schema: Json) -> jsonschema_rs.Validator:
    """Judges values by a schema of the document, formats included."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}, validate_formats=True)


class Contract:
    """What the document of an exchange says about its answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._validators: dict[tuple[str, int], jsonschema_rs.Validator] = {}

    @cached_property
    def document(self) -> Json:
        """The document."""
        return document_of(self._settings)

    @cached_property
    def _calls(self) -> dict[str, Json]:
        return dict(operations(self.document))

    def judge(self, method: str, target: str, status: int, content_type: str, body: bytes) -> None:
        """Fails unless the call, if it is one, may answer this: status, content type, code and schema."""
        call = self._call(method, urlsplit(target).path)
        if call is None or not body:
            return
        responses = self._calls[call]["responses"]
        assert str(status) in responses, f"{call} answers {status}, which its document does not say"
        content = responses[str(status)]["content"]
        assert content_type in content, f"{call} answers {status} as {content_type}, not as {[*content]}"
        value: Any = msgspec.json.decode(body) if "json" in content_type else body.decode()
        if content_type == MEDIA_TYPE:
            codes = [*content[content_type]["examples"]]
            assert value["code"] in codes, f"{call} answers {status} {value['code']}, its document has {codes}"
        if (call, status) not in self._validators:
            self._validators[call, status] = validator(self.document, content[content_type]["schema"])
        self._validators[call, status].validate(value)

    def _call(self, method: str, path: str) -> str | None:
        """The call that a path leads to; one whose path is spelled out comes before one that takes anything there."""
        parts = path.split("/")
        fitting = [
            known
            for known in self.document["paths"]
            if f"{method} {known}" in self._calls and _fits(known.split("/"), parts)
        ]
        return f"{method} {min(fitting, key=lambda known: known.count('{'))}" if fitting else None


def _fits(known: list[str], parts: list[str]) -> bool:
    return len(known) == len(parts) and all(
        (word.startswith("{") and part and "/" not in unquote(part)) or word == part
        for word, part in zip(known, parts, strict=True)
    )
