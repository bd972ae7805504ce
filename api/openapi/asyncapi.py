"""The AsyncAPI document of streams: channels, and the messages as their structs describe them."""

from typing import Any

import msgspec

from api.openapi.document import DocumentBuilder
from api.openapi.stream_messages import MESSAGES
from core.settings import Settings
from streams.channels import RULE
from streams.websocket import Request

Json = dict[str, Any]

DOCUMENT, VIEWER_FILES = "/schema/asyncapi.yaml", "/schema/assets-asyncapi"
PAGE = f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tcgx streams</title>
<link rel="icon" type="image/png" href="/schema/assets/favicon-32x32.png">
<script src="{VIEWER_FILES}/asyncapi-viewer.iife.js" defer></script>
</head>
<body>
<asyncapi-viewer src="{DOCUMENT}" sidebar></asyncapi-viewer>
<noscript>The page needs scripts; the document is at <a href="{DOCUMENT}">{DOCUMENT}</a>.</noscript>
</body>
</html>
"""
"""The page of the document. All that it loads comes from here."""

DESCRIPTION = f"""\
Live market data and your own orders. `GET /stream` sends server-sent events: the event is the channel or the type of a
message, its data the message. `/stream/ws` is a WebSocket with the same messages as JSON text frames; a client sends
requests there. A channel {RULE}.

docs/streams.md has the rules of positions, the recipe of a local book, close codes and limits.
"""


def document(settings: Settings) -> Json:
    """The document for an exchange with these settings."""
    names = [struct.__name__ for struct in MESSAGES]
    message_refs = {name: {"$ref": f"#/components/messages/{name}"} for name in names}
    request = Request.__name__
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "tcgx streams",
            "version": "0.1.0",
            "description": DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": "/stream",
                "description": "Server-sent events; `channels` in the query names the channels.",
                "messages": message_refs,
            },
            "socket": {
                "address": "/stream/ws",
                "description": "A WebSocket.",
                "messages": message_refs | {request: {"$ref": f"#/components/messages/{request}"}},
            },
        },
        "operations": {
            "readEvents": {"action": "send", "channel": {"$ref": "#/channels/events"}},
            "readSocket": {
                "action": "send",
                "channel": {"$ref": "#/channels/socket"},
                "messages": [{"$ref": f"#/channels/socket/messages/{name}"} for name in names],
            },
            "ask": {
                "action": "receive",
                "channel": {"$ref": "#/channels/socket"},
                "messages": [{"$ref": f"#/channels/socket/messages/{request}"}],
            },
        },
        "components": {
            "messages": {
                name: {"name": name, "payload": {"$ref": f"#/components/schemas/{name}"}} for name in [*names, request]
            },
            "schemas": DocumentBuilder(settings).schemas_of([*MESSAGES, Request]),
        },
    }


def encoded(settings: Settings) -> bytes:
    """The document as JSON, which is YAML, too."""
    return msgspec.json.format(msgspec.json.encode(document(settings)))
