"""``contrast-arch report``: curves, tables, pictures and a page from the records of training runs."""

import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from contrast_arch.errors import InputError
from contrast_arch.experiments import charts, pairs, pictures, records, tables
from contrast_arch.files import replacing, resolved


def run(experiments: list[Path], output: Path) -> None:
    """Write ``index.html``, ``report.md``, figures (PNG) and values (CSV) into a folder; earlier ones are replaced.

    Notes on missing and broken data stand in the page and in ``report.md``, and are printed.

    Args:
        experiments: folders ``experiments/NAME``, also of runs in progress; InputError if nothing is usable in any.
    """
    for folder in experiments:
        if not folder.is_dir():
            raise InputError(f"{folder}: expected the folder of an experiment, experiments/NAME")
    runs = [records.read_run(folder) for folder in {resolved(folder): folder for folder in experiments}.values()]
    grouped = records.grouped(runs)
    drawn, behind = records.drawable(grouped)
    notes = [note for run in runs for note in run.notes]
    if not drawn:
        raise InputError("nothing to report in any experiment:\n  " + "\n  ".join(notes))
    compared, incomparable = pairs.pairwise(drawn)
    slides, files, unreadable = pictures.slides(drawn)
    notes += [*behind, *incomparable, *unreadable]
    title, figures = f"Report of {len(runs)} experiment{'s' if len(runs) > 1 else ''}", charts.charts(drawn)
    made = (tables.networks_table(drawn), tables.pairs_table(compared), tables.options_table(grouped))
    content = {"title": title, "tables": [table for table in made if table.rows], "charts": figures, "notes": notes}
    files |= {f"{chart['name']}.png": charts.png(chart) for chart in figures}
    texts = {f"{table.name}.csv": table.csv() for table in content["tables"]}
    texts |= {"curves.csv": tables.curves_csv(runs), "report.md": tables.report_md(**content)}
    texts["index.html"] = _page(content, runs, slides, resolved(output))
    output.mkdir(parents=True, exist_ok=True)
    for name, data in (files | {name: text.encode() for name, text in texts.items()}).items():
        with replacing(output / name) as temporary:
            temporary.write_bytes(data)
    for note in notes:
        print(f"note: {note}")
    print(f"report: {output / 'index.html'}")


def _page(content, runs, slides, output):
    """The HTML of a report; ``templates/`` holds its template, style and script."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["link"] = lambda path: Path(os.path.relpath(resolved(path), output)).as_posix()
    data = {"colors": {"light": charts.LIGHT, "dark": charts.DARK}, "axes": charts.AXES, "charts": content["charts"]}
    page, data = environment.get_template("index.html"), data | {"slides": slides}
    return page.render(content, runs=runs, slides=slides, plotly=get_plotlyjs(), axes=charts.AXES, data=data)
