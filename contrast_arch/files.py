"""Files that come with the package, and files it writes."""

import contextlib
import os
from pathlib import Path


def shipped(folder: str) -> Path:
    """A folder that comes with the package (options, weights): in ``shipped``, or beside the package in a checkout."""
    inside = Path(__file__).parent / "shipped" / folder
    return inside if inside.is_dir() else Path(__file__).parents[1] / folder


def option_files() -> Path:
    """The folder of the option files."""
    return shipped("options")


def resolved(path: Path | str) -> Path:
    """Path without links, but for those in a circle, at which ``Path.resolve`` raises."""
    return Path(os.path.realpath(path))


def temporary_name(path: Path) -> Path:
    """Path to which :func:`replacing` writes before it renames; a killed process's file there is worthless."""
    return path.with_name(f".{path.name}.tmp")


@contextlib.contextmanager
def replacing(path: Path, sync: bool = False):
    """Write a file whole or not at all: the path that is yielded is renamed to ``path`` at the end.

    Args:
        sync: wait until the disk has it, so that the file is whole after a power cut too.
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        if sync:
            _sync(temporary, os.O_RDWR)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync and os.name != "nt":
        # The new name is on the disk once its folder is.
        _sync(path.parent, os.O_RDONLY)


def _sync(path, flags):
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
