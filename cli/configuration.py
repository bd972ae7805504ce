"""The settings of a command and the source of each setting."""

import argparse
import os
from collections.abc import Mapping

import msgspec

from cli.arguments import STANDALONE
from cli.run_file import RunFile, find_running, path_in
from core.errors import SettingError, StartError, TcgxError, Unavailable
from core.settings import PREFIX, Settings, check, environment_of, read, variable, with_secret_files

OPTIONS = ("data_dir", "port")

Sources = Mapping[str, str]
"""The source of each variable whose value is not the default."""


def load(given: argparse.Namespace) -> tuple[Settings, Sources]:
    """Loads the settings from options, the environment and the running exchange; the first one that has a value wins.

    Raises:
        SettingError: a variable is unknown, or its value is invalid.
        StartError: the run file of the exchange cannot be used.
    """
    given_variables = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
    environment = with_secret_files(given_variables)
    options = {name: getattr(given, name) for name in OPTIONS if getattr(given, name, None) is not None}
    settings = msgspec.structs.replace(read(environment), **options)
    check(settings)
    sources = {name: "environment" if name in given_variables else "file" for name in environment} | {
        variable(name): "option" for name in options
    }
    here = None if given.name in STANDALONE else find_running(settings.data_dir)
    if here is None or not here.is_meant_by(environment):
        return settings, sources
    beside = msgspec.structs.replace(_read_beside(here, environment, settings.data_dir), **options)
    return beside, dict.fromkeys(environment_of(beside), "running exchange") | sources


def _read_beside(here: RunFile, environment: Mapping[str, str], data_dir: str) -> Settings:
    try:
        return read({**here.variables(), **environment})
    except SettingError as error:
        raise StartError(
            f"{path_in(data_dir)} was written by another version of tcgx, or does not fit the environment: {error}"
        ) from error


def explain(error: TcgxError, settings: Settings, sources: Sources) -> str:
    """Returns the text of an error for the terminal. If no variable names a server, an unreachable server means that no
    exchange runs."""
    if isinstance(error, Unavailable) and not {variable("redis_url"), variable("database_url")} & set(sources):
        return f"{not_running_text(settings)} ({error})"
    return str(error)


def not_running_text(settings: Settings) -> str:
    """Returns the sentence that no exchange runs, with the remedies."""
    return (
        f"no exchange runs in {settings.data_dir}: start one with `tcgx up`, or name the folder of one with --data-dir"
    )
