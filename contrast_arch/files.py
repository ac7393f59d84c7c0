"""Files that come with the package, and files it writes."""

from pathlib import Path


def option_files() -> Path:
    """The folder of the option files: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "options"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "options"


def write_text(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
