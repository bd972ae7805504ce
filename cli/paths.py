"""Checks of output paths before the work whose results go there."""

import os
import tempfile
from pathlib import Path

from core.errors import StartError


def check_folder(folder: Path) -> None:
    """Checks that files can be made in a folder, which may not exist yet. The check leaves no file behind.

    Raises:
        StartError: the folder cannot be written.
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
    """Checks that a file can be written in an existing folder. The check leaves no file behind.

    Raises:
        StartError: the file cannot be written.
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
    """Makes the error for a path that cannot be written."""
    return StartError(f"{path} can't be written: {error.strerror}")
