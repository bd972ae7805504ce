"""Secrets from files: `TCGX_JWT_SECRET_FILE` names the file whose text is `TCGX_JWT_SECRET`."""

from collections.abc import Collection, Mapping
from pathlib import Path

from core.errors import SettingError

SUFFIX = "_FILE"
BYTES_MAX = 65_536


def resolve(environment: Mapping[str, str], secrets: Collection[str], lists: Collection[str]) -> dict[str, str]:
    """The environment with the text of each file in place of the variable that names the file.

    `secrets`: the variables that may come from a file. `lists`: those of them that may have an item a line.

    Raises:
        SettingError: a file can't be used, or a secret is given in both ways. The message shows no secret.
    """
    resolved = dict(environment)
    for name in secrets:
        path = resolved.pop(name + SUFFIX, None)
        if path is None:
            continue
        if name in environment:
            raise SettingError(f"{name} and {name}{SUFFIX} are both set: set one of them")
        text = _text(name + SUFFIX, path)
        resolved[name] = ",".join(text.split()) if name in lists else text
    return resolved


def _text(variable: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise SettingError(f"{variable}={path} can't be read: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL
        raise SettingError(f"{variable} is no path: {error}") from error
    if len(content) > BYTES_MAX:
        raise SettingError(f"{variable}={path} has more than {BYTES_MAX} bytes")
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise SettingError(f"{variable}={path} is not text in UTF-8") from None
    if not text or "\0" in text:
        raise SettingError(f"{variable}={path} {'has a zero byte' if text else 'is empty'}")
    return text
