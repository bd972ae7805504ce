"""Objects as YAML text. A scalar is plain JSON, which is YAML, or an expression of Helm, which stays as it is."""

import json
from collections.abc import Iterator
from typing import Any


class Expression(str):
    """A scalar that Helm fills in."""

    __slots__ = ()


class Block(str):
    """A value of the chart that Helm writes as YAML below its key."""

    __slots__ = ()


def text(value: Any) -> str:
    """The YAML of a mapping or a list."""
    return "\n".join(_lines(value, 0)) + "\n"


def _lines(value: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entry(f"{indent}{_key(key)}:", item, depth + 1)
        return
    for item in value:
        nested = [*_lines(item, depth + 1)] if _is_nested(item) else [f"{indent}  {_scalar(item)}"]
        yield f"{indent}- {nested[0][len(indent) + 2 :]}"
        yield from nested[1:]


def _entry(head: str, item: Any, depth: int) -> Iterator[str]:
    if isinstance(item, Block):
        yield f"{head} {{{{- toYaml {item} | nindent {2 * depth} }}}}"
    elif _is_nested(item):
        yield head
        yield from _lines(item, depth)
    else:
        yield f"{head} {_scalar(item)}"


def _is_nested(item: Any) -> bool:
    return isinstance(item, dict | list) and bool(item)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").replace("/", "").replace(".", "").isalnum() else json.dumps(key)


def _scalar(item: Any) -> str:
    if isinstance(item, Expression):
        return str(item)
    if isinstance(item, str) and "\n" in item:
        return json.dumps(item)
    return json.dumps(item, ensure_ascii=False)
