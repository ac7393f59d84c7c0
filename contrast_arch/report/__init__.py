"""``contrast-arch report``: curves, a table and a page from what BasicSR wrote of experiments."""

import re
import shutil
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.files import replacing

_WRITTEN = re.compile(r"index\.html|report\.md|curves\.csv|summary\.csv|(loss|parameters|validation_.*)\.png")


def run(experiments: list[Path], output: Path) -> None:
    """Write figures (PNG), ``index.html``, ``report.md``, ``curves.csv`` and ``summary.csv`` of experiments.

    Notes on what was missing, broken or different stand in the page and in ``report.md``, and are printed.

    Args:
        experiments: folders ``experiments/NAME`` that BasicSR wrote, also of runs in progress.
        output: a new folder, or that of an earlier report, which is replaced. All is written at once or nothing is.

    Raises:
        InputError: a folder that does not exist or holds no experiment, nothing usable in any, an output folder that
            holds other files, or a missing package.
    """
    try:
        from contrast_arch.report import build
    except ImportError as error:
        needed = "pip install matplotlib pyyaml tensorboard"
        raise InputError(f"the report needs {error.name}, which is not installed: {needed}") from error
    _check_output(output)
    files, notes = build.build(experiments)
    try:
        _write(files, output.resolve())
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}; name another folder") from error
    for note in notes:
        print(f"note: {note}")
    print(f"report of {len(experiments)} experiments: {output / 'index.html'}")


def _check_output(output):
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder for the report")
    others = sorted(path.name for path in output.glob("*") if not _WRITTEN.fullmatch(path.name))
    if others:
        raise InputError(
            f"{output} holds {others[0]}, which no report wrote; a report replaces its whole folder: name another one"
        )


def _write(files, output):
    """Write files (name -> content) as a folder that takes the place of ``output``."""
    output.parent.mkdir(parents=True, exist_ok=True)
    earlier = output.with_name(f".{output.name}.earlier")
    with replacing(output) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            for name, content in files.items():
                (temporary / name).write_bytes(content)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        if output.exists():
            shutil.rmtree(earlier, ignore_errors=True)
            output.rename(earlier)
    shutil.rmtree(earlier, ignore_errors=True)
