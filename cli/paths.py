"""Whether results can be written, before the work that makes them."""

import os
import tempfile
from pathlib import Path

from core.errors import StartError


def check_folder(folder: Path) -> None:
    """That files can be made in a folder, or in a new one of this name.

    Raises:
        StartError: they can't; nothing is left behind.
    """
    try:
        _try_folder(folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _try_folder(folder: Path) -> None:
    existing = next(step for step in (folder, *folder.absolute().parents) if step.exists())
    with tempfile.TemporaryFile(dir=existing):
        pass


def check_file(path: Path) -> None:
    """That a file can be written, in a folder that exists.

    Raises:
        StartError: it can't; nothing is left behind.
    """
    try:
        if path.is_dir():
            raise StartError(f"{path} can't be written: it is a folder")
        if not path.parent.exists():
            raise StartError(f"{path} can't be written: there is no folder {path.parent}")
        if path.is_file():
            os.close(os.open(path, os.O_WRONLY))
        elif not path.exists():
            _try_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> StartError:
    """The error that names a path and the reason."""
    return StartError(f"{path} can't be written: {error.strerror}")
