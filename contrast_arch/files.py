"""Files that come with the package, and files it writes."""

import contextlib
from pathlib import Path


def shipped(folder: str) -> Path:
    """A folder that comes with the package (options, weights): inside of it, or beside it in a checkout."""
    inside = Path(__file__).parent / folder
    return inside if inside.is_dir() else Path(__file__).parents[1] / folder


def option_files() -> Path:
    """The folder of the option files."""
    return shipped("options")


@contextlib.contextmanager
def replacing(path: Path):
    """Write a file at once or not at all: what is written to the path it gives becomes ``path`` at the end."""
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    temporary.replace(path)


def plain(options: dict) -> dict:
    """Nested dicts in place of the ordered ones of BasicSR's loader, which YAML would write with their class."""
    return {key: plain(value) if isinstance(value, dict) else value for key, value in options.items()}
