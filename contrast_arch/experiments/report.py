"""``contrast-arch report``: curves, tables, pictures and a page from the records of training runs."""

import os
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
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder for the report")
    others = sorted(path.name for path in output.glob("*") if not _WRITTEN.fullmatch(path.name))
    if others:
        raise InputError(
            f"{output} holds {others[0]}, which no report wrote; a report replaces its whole folder: name another one"
        )
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
    from contrast_arch.experiments import charts, groups, pairs, pictures, records, tables

    runs, notes = {}, []
    for folder in folders:
        _check(folder)
        if folder.resolve() in runs:
            notes.append(f"{records.shown(folder)}: named twice; read once")
        else:
            runs[folder.resolve()] = records.read_run(folder)
    runs = list(runs.values())
    grouped, of_labels = groups.grouped(runs)
    drawn, behind = groups.drawable(grouped)
    if not drawn:
        reasons = "\n  ".join(note for run in runs for note in run.notes)
        raise InputError(f"nothing to report in any experiment:\n  {reasons}")
    compared, incomparable = pairs.pairwise(drawn)
    slides, files, unreadable = pictures.slides(drawn)
    notes += [*of_labels, *(note for run in runs for note in run.notes)]
    notes += [*groups.differences(grouped), *behind, *incomparable, *unreadable]
    made = [tables.networks_table(drawn)] if any(len(group.runs) > 1 for group in grouped) else []
    made += [tables.pairs_table(compared)] if compared else []
    made += [table for table in (tables.runs_table(grouped), tables.options_table(grouped)) if table.rows]
    figures = charts.charts(drawn)
    texts = {
        "index.html": _page(runs, made, figures, slides, notes, output),
        "report.md": tables.report_md(runs, made, figures, notes),
        "curves.csv": tables.curves_csv(runs),
        "summary.csv": tables.summary_csv(grouped),
    }
    if compared:
        texts["differences.csv"] = tables.differences_csv(compared)
    files |= {name: text.encode() for name, text in texts.items()}
    return files | {f"{chart.name}.png": charts.png(chart) for chart in figures}, notes


def _check(folder):
    from contrast_arch.experiments.records import has_record

    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; expected the folder of an experiment, experiments/NAME")
    if not has_record(folder):
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and has_record(path))
        raise InputError(
            f"{folder} holds experiments; name them: {' '.join(map(str, inside))}"
            if inside
            else f"{folder} holds no experiment; expected a folder experiments/NAME with an option file (*.yml) and a "
            "record of training (metrics.jsonl, or BasicSR's train_NAME_TIMESTAMP.log)"
        )


def _page(runs, tables, charts, slides, notes, output):
    """The HTML of a report; ``templates/`` holds its template, style and script."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    from contrast_arch.experiments.charts import DARK, LIGHT
    from contrast_arch.experiments.groups import shared_settings
    from contrast_arch.experiments.tables import title

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = lambda path: Path(os.path.relpath(path.resolve(), output)).as_posix()
    plotted = [
        chart._asdict() | {"panels": [p._asdict() | {"curves": [c._asdict() for c in p.curves]} for p in chart.panels]}
        for chart in charts
    ]
    return environment.get_template("index.html").render(
        title=title(runs),
        settings=shared_settings(runs),
        tables=tables,
        charts=charts,
        slides=slides,
        notes=notes,
        runs=runs,
        plotly=get_plotlyjs(),
        data={"colors": {"light": LIGHT, "dark": DARK}, "charts": plotted, "slides": slides},
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
