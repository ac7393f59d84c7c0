"""The report as one HTML page that opens from disk: ``templates/`` holds its template, style and script."""

import os
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from contrast_arch.experiments import figures, tables
from contrast_arch.experiments.charts import Chart
from contrast_arch.experiments.differences import shared_settings
from contrast_arch.experiments.runs import Run
from contrast_arch.experiments.slides import Slide


def page(
    runs: list[Run], made: list[tables.Table], charts: list[Chart], slides: list[Slide], notes: list[str], output: Path
) -> str:
    """Render the HTML of a report.

    Args:
        made: tables in their order.
        output: folder that the page will lie in, for links to option files.
    """
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("index.html").render(
        title=tables.title(runs),
        settings=shared_settings(runs),
        tables=made,
        charts=charts,
        slides=slides,
        notes=notes,
        sources=[_source(run, output) for run in runs],
        plotly=get_plotlyjs(),
        data={
            "colors": {"light": figures.LIGHT, "dark": figures.DARK},
            "charts": [_plotted(chart) for chart in charts],
            "slides": [asdict(slide) for slide in slides],
        },
    )


def _source(run, output):
    link = None
    if run.option_file:
        link = Path(os.path.relpath(run.option_file.resolve(), output)).as_posix()
    return {"label": run.label, "text": ", ".join(run.sources), "link": link}


def _plotted(chart):
    panels = [
        {
            "id": f"{chart.name}-{number}",
            "title": panel.y_label,
            "log": panel.log,
            "curves": [asdict(curve) for curve in panel.curves],
        }
        for number, panel in enumerate(chart.panels)
    ]
    return {"name": chart.name, "axes": chart.axes, "scatter": chart.scatter, "panels": panels}
