"""``contrast-arch report``: curves, tables, pictures and a page from the records of training runs."""

import os
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.files import replacing, resolved


def run(experiments: list[Path], output: Path) -> None:
    """Write a report on experiments: ``index.html``, ``report.md``, figures (PNG) and values (CSV).

    Notes on missing and broken data stand in the page and in ``report.md``, and are printed.

    Args:
        experiments: folders ``experiments/NAME``, also of runs in progress.
        output: a folder, made if need be; files of these names in it are replaced.

    Raises:
        InputError: a folder that does not exist, or nothing usable in any.
        ImportError: a package is missing.
    """
    files, notes = build(experiments, resolved(output))
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(content)
    for note in notes:
        print(f"note: {note}")
    print(f"report: {output / 'index.html'}")


def build(folders: list[Path], output: Path) -> tuple[dict[str, bytes], list[str]]:
    """Read experiments and make every file of their report.

    Args:
        folders: ``experiments/NAME``.
        output: folder that the files will lie in.

    Returns:
        File name -> content, the page last; and notes on missing and broken data.

    Raises:
        InputError: see :func:`run`.
        ImportError: a package is missing.
    """
    from contrast_arch.experiments import charts, groups, pairs, pictures, records, tables

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: expected the folder of an experiment, experiments/NAME")
    runs = [records.read_run(folder) for folder in {resolved(folder): folder for folder in folders}.values()]
    grouped = groups.grouped(runs)
    drawn, behind = groups.drawable(grouped)
    notes = [note for run in runs for note in run.notes]
    if not drawn:
        raise InputError("nothing to report in any experiment:\n  " + "\n  ".join(notes))
    compared, incomparable = pairs.pairwise(drawn)
    slides, files, unreadable = pictures.slides(drawn)
    notes += [*behind, *incomparable, *unreadable]
    made = [tables.networks_table(drawn), tables.pairs_table(compared), tables.options_table(grouped)]
    made = [table for table in made if table.rows]
    figures = charts.charts(drawn)
    title = f"Report of {len(runs)} experiment{'s' if len(runs) > 1 else ''}"
    texts = {f"{table.name}.csv": table.csv() for table in made} | {"curves.csv": tables.curves_csv(runs)}
    texts["report.md"] = tables.report_md(title, made, figures, notes)
    files |= {f"{chart.name}.png": charts.png(chart) for chart in figures}
    texts["index.html"] = _page(title, runs, made, figures, slides, notes, output)
    return files | {name: text.encode() for name, text in texts.items()}, notes


def _page(title, runs, tables, charts, slides, notes, output):
    """The HTML of a report; ``templates/`` holds its template, style and script."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    from contrast_arch.experiments.charts import AXES, DARK, LIGHT

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = lambda path: Path(os.path.relpath(resolved(path), output)).as_posix()
    plotted = [
        chart._asdict() | {"panels": [p._asdict() | {"curves": [c._asdict() for c in p.curves]} for p in chart.panels]}
        for chart in charts
    ]
    return environment.get_template("index.html").render(
        title=title,
        tables=tables,
        charts=charts,
        slides=slides,
        notes=notes,
        runs=runs,
        plotly=get_plotlyjs(),
        axes=AXES,
        data={"colors": {"light": LIGHT, "dark": DARK}, "axes": AXES, "charts": plotted, "slides": slides},
    )
