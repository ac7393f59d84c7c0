"""The tables of a report, and its values as CSV and Markdown."""

import csv
import io
import statistics
from dataclasses import dataclass, field

from contrast_arch.experiments.bootstrap import COVERAGE
from contrast_arch.experiments.charts import METRICS, Chart, curve, measured
from contrast_arch.experiments.differences import different_options, shared_settings
from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.pairwise import Difference, in_words, summaries
from contrast_arch.experiments.runs import Run


@dataclass
class Cell:
    """One cell.

    Attributes:
        text: what it shows.
        detail: what belongs to it, in small print.
        value: what a column is sorted by; None if unknown.
    """

    text: str
    detail: str = ""
    value: float | str | None = None


@dataclass
class Table:
    """A table whose first column names the row.

    Attributes:
        name: of its place in the page.
        title: heading.
        headings: of all columns.
        rows: a cell for each column.
        text: paragraphs above the table.
        note: small print below it.
    """

    name: str
    title: str
    headings: list[str]
    rows: list[list[Cell]]
    text: list[str] = field(default_factory=list)
    note: str = ""


DASH = Cell("-")
EXPLAINED = (
    "A difference is the mean over the images of a validation set of the first network minus that of the second, "
    f"paired by image, after equally many training images. Small print: its bootstrap interval of {COVERAGE} %. "
    "Resampled are the images, the same ones for both networks, and the seeds, of each network by itself. Of a network "
    "with a single seed the images alone are resampled: the interval then does not cover how another training would "
    "end. With two or three seeds it is rather too narrow. Each interval stands alone: of twenty pairs without any "
    "difference, one excludes zero on average."
)


def _name(text, detail=""):
    return Cell(text, detail, text)


def _number(value, form="{:,}", detail=""):
    return DASH if value is None else Cell(form.format(value), detail, value)


def _spread(values, form):
    """Mean, and in small print the range if there are several values; unknown ones (None) are left out."""
    known = [value for value in values if value is not None]
    ranged = f"{form.format(min(known))} to {form.format(max(known))}" if len(known) > 1 else ""
    return _number(statistics.fmean(known) if known else None, form, ranged)


def networks_table(groups: list[Group]) -> Table:
    """A row for each network: mean and range over its seeds."""
    headings = ["network", "seeds", "parameters"]
    headings += [f"{dataset} {metric.upper()}" for dataset, metric in measured(groups)]
    headings += ["training images", "seconds an iteration", "peak memory (MiB)"]
    rows = []
    for group in groups:
        row = [_name(group.label, group.runs[0].network), _number(len(group.runs))]
        row.append(_number(group.runs[0].parameters))
        row += [_last(group, dataset, metric) for dataset, metric in measured(groups)]
        row.append(_number(min(run.images(run.iterations) for run in group.runs)))
        row.append(_spread([run.seconds for run in group.runs], "{:.3f}"))
        row.append(_spread([run.memory.mib if run.memory else None for run in group.runs], "{:,.0f}"))
        rows.append(row)
    note = (
        "Means over the seeds; small print: the lowest and the highest seed. PSNR and SSIM are those of the last "
        "validation that all seeds have. Seconds an iteration: the median of each seed."
    )
    return Table("networks", "Networks", headings, rows, note=note)


def _last(group, dataset, metric):
    found = curve(0, group, lambda run: run.values.get(f"metrics/{dataset}/{metric}", {}))
    if found is None:
        return DASH
    form = METRICS[metric][1]
    ranged = f"{form(found.low[-1])} to {form(found.high[-1])}" if found.low else ""
    return Cell(form(found.y[-1]), ranged, found.y[-1])


def pairs_table(differences: list[Difference]) -> Table:
    """A row for each pair of networks on each validation set."""
    metrics = [metric for metric in METRICS if any(metric in d.intervals for d in differences)]
    headings = ["networks", "validation set", *(f"{metric.upper()} difference" for metric in metrics)]
    headings += [f"in words ({metrics[0].upper()})", "after images"] if metrics else []
    rows = []
    for found in differences:
        row = [_name(f"{found.a.label} - {found.b.label}"), _name(found.dataset, f"{found.pictures} images")]
        row += [_interval_cell(found, metric) for metric in metrics]
        row += [_name(in_words(found, metrics[0])) if metrics[0] in found.intervals else DASH, _number(found.images)]
        rows.append(row)
    return Table("differences", "Differences between networks", headings, rows, [*summaries(differences), EXPLAINED])


def _interval_cell(difference, metric):
    interval = difference.intervals.get(metric)
    if interval is None:
        return DASH
    form = "{:+.3f}" if metric == "psnr" else "{:+.5f}"
    edges = f"{form.format(interval.low)} to {form.format(interval.high)}"
    return Cell(form.format(interval.difference), edges, interval.difference)


def runs_table(groups: list[Group]) -> Table:
    """A row for each run."""
    metrics = measured(groups)
    headings = ["experiment", "network", "parameters"]
    headings += [f"{name} {which} {metric.upper()}" for name, metric in metrics for which in ("best", "last")]
    headings += ["images", "hours", "seconds an iteration", "peak memory (MiB)"]
    rows = [_run_row(run, metrics) for group in groups for run in group.runs]
    note = (
        "Small print below a metric: after how many training images. Seconds an iteration: median of what was logged, "
        "and the middle half. Hours: of training; from text logs of BasicSR with the validations in between."
    )
    return Table("runs", "Runs", headings, rows, note=note)


def _run_row(run, metrics):
    cells = [_name(run.label), _name(run.network), _number(run.parameters)]
    for dataset, metric in metrics:
        for point in run.best_and_last(dataset, metric) or (None, None):
            at = f"at {run.images(point[0]):,}" if point else ""
            cells.append(Cell(METRICS[metric][1](point[1]), at, point[1]) if point else DASH)
    quartiles = statistics.quantiles(run.iteration_seconds, n=4) if len(run.iteration_seconds) > 1 else None
    middle = f"{quartiles[0]:.3f} to {quartiles[2]:.3f}" if quartiles else ""
    memory = run.memory
    images = run.images(run.iterations) if run.images_per_iteration else None
    state = ("finished" if run.finished else "not finished") if run.pieces else ""
    cells.append(Cell("-" if images is None else f"{images:,}", state, images))
    cells += [_number(run.hours(run.iterations), "{:.2f}"), _number(run.seconds, "{:.3f}", middle)]
    cells.append(_number(memory.mib, detail=f"{memory.kind}, {memory.device}") if memory else DASH)
    return cells


def options_table(groups: list[Group]) -> Table:
    """A row for each option in which the networks differ, a column for each network."""
    rows = [[_name(key), *map(_name, values)] for key, values in different_options(groups).items()]
    return Table("options", "Options that differ", ["option", *(group.label for group in groups)], rows)


def title(runs: list[Run]) -> str:
    """The heading of the report."""
    return f"Report of {len(runs)} experiment{'s' if len(runs) > 1 else ''}"


def markdown_table(table: Table) -> str:
    """The table in Markdown, numbers to the right."""
    lines = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)]]
    lines += [[f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)


def markdown(runs: list[Run], tables: list[Table], charts: list[Chart], notes: list[str]) -> str:
    """The whole report in Markdown, figures by relative link."""
    parts = [f"# {title(runs)}\n", f"{shared_settings(runs)}\n"]
    for table in tables:
        paragraphs = [f"## {table.title}", *table.text, markdown_table(table), table.note]
        parts.append("\n\n".join(filter(None, paragraphs)) + "\n")
    for chart in charts:
        parts.append(f"## {chart.title}\n\n![{chart.description}]({chart.name}.png)\n\n{chart.caption}\n")
    parts.append("## Notes\n\n" + ("".join(f"- {note}\n" for note in notes) or "Nothing was missing.\n"))
    parts.append("## Sources\n\n" + "".join(f"- {run.label}: {', '.join(run.sources)}\n" for run in runs))
    return "\n".join(parts)


def curves_csv(runs: list[Run]) -> str:
    """Every value in long form, and the means over checkpoint intervals under the tag "TAG (interval mean)"."""
    lines = [("experiment", "network", "tag", "iteration", "images", "hours", "value")]
    for run in runs:
        for tag, points in run.values.items():
            curves = {tag: points}
            if tag.startswith("losses/"):
                curves[f"{tag} (interval mean)"] = run.interval_means(tag)
            for name, points_of_name in curves.items():
                for iteration, value in sorted(points_of_name.items()):
                    images = run.images(iteration) if run.images_per_iteration else ""
                    hours = run.hours(iteration)
                    hours = "" if hours is None else f"{hours:.6g}"
                    lines.append((run.label, run.network, name, iteration, images, hours, f"{value:.8g}"))
    return _csv(lines)


def summary_csv(groups: list[Group]) -> str:
    """The runs with plain numbers, a line each; what is not known is empty."""
    lines = [_summary(group, run, measured(groups)) for group in groups for run in group.runs]
    return _csv([tuple(lines[0]), *(tuple(line.values()) for line in lines)])


def _summary(group, run, metrics):
    known = bool(run.images_per_iteration)
    memory = run.memory
    line = {
        "experiment": run.label,
        "folder": run.name,
        "group": group.label,
        "network": run.network,
        "parameters": run.parameters,
        "iterations": run.iterations,
        "images": run.images(run.iterations) if known else None,
        "interval_images": run.interval * run.images_per_iteration if known and run.interval else None,
        "finished": run.finished,
        "hours": run.hours(run.iterations),
        "seconds_per_iteration": run.seconds,
        "memory_mib": memory.mib if memory else None,
        "memory_kind": f"{memory.kind}, {memory.device}" if memory else None,
    }
    for dataset, metric in metrics:
        points = run.best_and_last(dataset, metric) or (None, None)
        for which, point in zip(("best", "last"), points, strict=True):
            name = f"{dataset}_{metric}_{which}"
            line[name] = f"{point[1]:.8g}" if point else None
            line[f"{name}_images"] = run.images(point[0]) if point and known else None
    return line


def differences_csv(differences: list[Difference]) -> str:
    """Differences with their intervals, a line for each pair of networks, validation set and metric."""
    lines = [("set", "metric", "a", "b", "seeds_a", "seeds_b", "images", "pictures", "difference", "low", "high")]
    for found in differences:
        for metric, interval in found.intervals.items():
            seeds = len(found.a.runs), len(found.b.runs)
            about = found.dataset, metric, found.a.label, found.b.label, *seeds, found.images, found.pictures
            lines.append((*about, *(f"{value:.8g}" for value in interval)))
    return _csv(lines)


def _csv(lines):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
