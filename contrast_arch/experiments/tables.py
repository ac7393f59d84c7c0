"""The tables of a report: for the page, as CSV and in Markdown."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from contrast_arch.experiments import markdown
from contrast_arch.experiments.charts import METRICS, Chart, measured
from contrast_arch.experiments.groups import Group, different_options
from contrast_arch.experiments.pairs import COVERAGE, Difference, summaries
from contrast_arch.experiments.records import Run


class Cell(NamedTuple):
    """One cell."""

    text: str
    value: float | str | None = None  # for CSV and sorting; None if unknown
    detail: str = ""  # small print
    bounds: tuple[float, ...] = ()  # (lowest, highest) of a value; empty without any


class Table(NamedTuple):
    """A table whose first column names the row."""

    name: str  # of its place in the page, and of its CSV
    title: str
    rows: list[dict[str, Cell]]  # heading -> cell; all have the same headings
    text: Sequence[str] = ()  # paragraphs above the table
    note: str = ""  # small print below it

    def csv(self) -> str:
        """The values, with columns for their bounds; unknown ones are empty."""
        bounded = {heading for row in self.rows for heading, cell in row.items() if cell.bounds}
        rows = []
        for row in self.rows:
            values = {}
            for heading, cell in row.items():
                values[heading] = cell.value
                if heading in bounded:
                    values[f"{heading} low"], values[f"{heading} high"] = cell.bounds or (None, None)
            rows.append(values)
        return _csv(rows)


EXPLAINED = (
    "A difference is the mean over the images of the first network minus that of the second, after equally many "
    f"training images. Small print: its bootstrap interval of {COVERAGE} %, over images (the same ones for both) and "
    "seeds. With a single seed it does not cover how another training would end; with two or three it is rather too "
    "narrow. Each interval stands alone: of twenty pairs without any difference, one excludes zero on average."
)
ON_NETWORKS = (
    "Means over the seeds; small print: the lowest and the highest seed. Seconds an iteration: median of what was "
    "logged, and the middle half. Peak memory: on a CPU what the process held, on a GPU what PyTorch allocated."
)


def _name(text, detail=""):
    return Cell(text, text, detail)


def _number(value, form="{:,}", bounds=(), detail=""):
    detail = f"{form.format(bounds[0])} to {form.format(bounds[1])}" if bounds else detail
    return Cell("-" if value is None else form.format(value), value, detail, tuple(bounds))


def _mean(values, form):
    """Mean and range; unknown values (None) are left out."""
    known = [value for value in values if value is not None]
    return _number(statistics.fmean(known) if known else None, form, (min(known), max(known)) if len(known) > 1 else ())


def networks_table(groups: list[Group]) -> Table:
    """A row for each network: mean and range over its seeds."""
    rows = []
    for group in groups:
        first, times = group.runs[0], [seconds for run in group.runs for seconds in run.iteration_seconds]
        row = {"network": _name(group.label, first.network), "seeds": _number(len(group.runs))}
        row["parameters"] = _number(first.parameters)
        for dataset, metric in measured(groups):
            points = [run.best_and_last(dataset, metric) for run in group.runs]
            for number, which in enumerate(("best", "last")):
                values = [point and point[number][1] for point in points]
                row[f"{dataset} {which} {metric.upper()}"] = _mean(values, METRICS[metric][1])
        ended = "finished" if all(run.finished for run in group.runs) else "not finished"
        row["images"] = _number(first.images(first.iterations), detail=ended)
        row["hours"] = _mean([run.hours(run.iterations) for run in group.runs], "{:.2f}")
        quartiles = statistics.quantiles(times, n=4)[::2] if len(times) > 1 else ()
        row["seconds an iteration"] = _number(statistics.median(times) if times else None, "{:.3f}", quartiles)
        rows.append(row | {"peak memory (MiB)": _mean([run.memory for run in group.runs], "{:,.0f}")})
    return Table("summary", "Networks", rows, note=ON_NETWORKS)


def pairs_table(differences: list[Difference]) -> Table:
    """A row for each pair of networks on each validation set."""
    rows = []
    for found in differences:
        row = {"networks": _name(f"{found.a.label} - {found.b.label}")}
        row["validation set"] = _name(found.dataset, f"{found.pictures} images")
        for metric in (metric for metric in METRICS if any(metric in each.intervals for each in differences)):
            value, *bounds = found.intervals.get(metric, (None,))
            form = "{:+.3f}" if metric == "psnr" else "{:+.5f}"
            row[f"{metric.upper()} difference"] = _number(value, form, bounds)
        ahead = found.ordered[0] if found.ordered else "not decided: the interval includes zero"
        row[f"ahead in {differences[0].metric.upper()}"] = _name(ahead)
        rows.append(row | {"after images": _number(found.images)})
    return Table("differences", "Differences between networks", rows, [*summaries(differences), EXPLAINED])


def options_table(groups: list[Group]) -> Table:
    """A row for each option in which the networks differ, a column for each network."""
    firsts = {group.label: group.runs[0] for group in groups}
    rows = [
        {"option": _name(key)} | {label: _name(values.get(run, "-")) for label, run in firsts.items()}
        for key, values in different_options(list(firsts.values())).items()
    ]
    return Table("options", "Options that differ", rows)


def report_md(title: str, tables: list[Table], charts: list[Chart], notes: list[str]) -> str:
    """The whole report in Markdown, figures by relative link."""
    blocks = [f"# {title}"]
    for table in tables:
        cells = [[c.text + (f" ({c.detail})" if c.detail else "") for c in row.values()] for row in table.rows]
        lines = markdown.table(list(table.rows[0]), cells)
        blocks += [f"## {table.title}", *table.text, "\n".join(lines), table.note]
    for chart in charts:
        blocks += [f"## {chart.title}", f"![{chart.title}]({chart.name}.png)", chart.caption]
    blocks += ["## Notes", "\n".join(f"- {note}" for note in notes) or "Nothing was missing."]
    return "\n\n".join(filter(None, blocks)) + "\n"


def curves_csv(runs: list[Run]) -> str:
    """Every value in long form."""
    rows = []
    for run in runs:
        for tag, points in run.values.items():
            for iteration, value in points.items():
                images = run.images(iteration) if run.images_per_iteration else None
                row = {"experiment": run.label, "network": run.network, "tag": tag, "iteration": iteration}
                rows.append(row | {"images": images, "hours": run.hours(iteration), "value": value})
    return _csv(rows)


def _csv(rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.8g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return buffer.getvalue()
