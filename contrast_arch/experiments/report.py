"""``contrast-arch report``: curves, tables, pictures and a page from the records of training runs."""

import re
import shutil
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved

_WRITTEN = re.compile(
    r"index\.html|report\.md|(curves|summary|differences)\.csv|(loss|parameters|validation_.*|picture_\d+_\d+)\.png"
)


def run(experiments: list[Path], output: Path) -> None:
    """Write a report on experiments: ``index.html``, ``report.md``, figures (PNG) and values (CSV).

    Notes on what was missing, broken or different stand in the page and in ``report.md``, and are printed.

    Args:
        experiments: folders ``experiments/NAME``, also of runs in progress.
        output: a new folder, or that of an earlier report, which is replaced. All is written at once or nothing is.

    Raises:
        InputError: a folder that does not exist or holds no experiment, nothing usable in any, an output folder that
            holds other files, or a missing package.
    """
    _check_output(output)
    try:
        files, notes = build(experiments, resolved(output))
    except ImportError as error:
        needed = "pip install 'contrast-arch[report]'"
        raise InputError(f"the report needs {error.name}, which is not installed: {needed}") from error
    try:
        _write(files, resolved(output))
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}; name another folder") from error
    for note in notes:
        print(f"note: {note}")
    print(f"report of {len(experiments)} experiments: {output / 'index.html'}")


def build(folders: list[Path], output: Path) -> tuple[dict[str, bytes], list[str]]:
    """Read experiments and make every file of their report.

    Args:
        folders: ``experiments/NAME``.
        output: folder that the files will lie in.

    Returns:
        File name -> content, and notes on what was missing, broken or different.

    Raises:
        InputError: see :func:`run`.
        ImportError: a package is missing.
    """
    from contrast_arch.experiments import figures, tables
    from contrast_arch.experiments.charts import charts
    from contrast_arch.experiments.differences import differences, without_repeats
    from contrast_arch.experiments.groups import drawable, grouped
    from contrast_arch.experiments.page import page
    from contrast_arch.experiments.pairwise import pairwise
    from contrast_arch.experiments.records import read_run
    from contrast_arch.experiments.slides import slides

    for folder in folders:
        _check(folder)
    folders, notes = without_repeats(folders)
    runs = [read_run(folder) for folder in folders]
    groups, of_labels = grouped(runs)
    drawn, behind = drawable(groups)
    if not drawn:
        reasons = "\n  ".join(note for run in runs for note in run.notes)
        raise InputError(f"nothing to report in any experiment:\n  {reasons}")
    compared, incomparable = pairwise(drawn)
    pictures, files, unreadable = slides(drawn)
    notes += [*of_labels, *(note for run in runs for note in run.notes)]
    notes += [*differences(groups), *behind, *incomparable, *unreadable]
    made = [tables.networks_table(drawn)] if any(len(group.runs) > 1 for group in groups) else []
    made += [tables.pairs_table(compared)] if compared else []
    made += [tables.runs_table(groups)]
    made += [tables.options_table(groups)] if len(groups) > 1 else []
    figures_of = charts(drawn)
    texts = {
        "index.html": page(runs, made, figures_of, pictures, notes, output),
        "report.md": tables.markdown(runs, made, figures_of, notes),
        "curves.csv": tables.curves_csv(runs),
        "summary.csv": tables.summary_csv(groups),
    }
    if compared:
        texts["differences.csv"] = tables.differences_csv(compared)
    files |= {name: text.encode() for name, text in texts.items()}
    return files | {f"{chart.name}.png": figures.png(chart) for chart in figures_of}, notes


def _check(folder):
    from contrast_arch.experiments.records import has_record

    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; expected the folder of an experiment, experiments/NAME")
    if has_record(folder):
        return
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and has_record(path))
    if inside:
        raise InputError(f"{folder} holds experiments; name them: {' '.join(map(str, inside))}")
    raise InputError(
        f"{folder} holds no experiment; expected a folder experiments/NAME with an option file (*.yml) and a record of "
        "training (metrics.jsonl, or BasicSR's train_NAME_TIMESTAMP.log)"
    )


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
