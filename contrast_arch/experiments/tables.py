"""The tables of a report, and its values as CSV and Markdown."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from contrast_arch.experiments import markdown
from contrast_arch.experiments.charts import METRICS, Chart, curve, measured
from contrast_arch.experiments.groups import Group, different_options, shared_settings
from contrast_arch.experiments.pairs import COVERAGE, Difference, in_words, summaries
from contrast_arch.experiments.records import Run


class Cell(NamedTuple):
    """One cell."""

    text: str
    detail: str = ""  # what belongs to it, in small print
    value: float | str | None = None  # what a column is sorted by; None if unknown


class Table(NamedTuple):
    """A table whose first column names the row."""

    name: str  # of its place in the page
    title: str
    rows: list[dict[str, Cell]]  # heading -> cell; all have the same headings
    text: Sequence[str] = ()  # paragraphs above the table
    note: str = ""  # small print below it


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
    return Cell("-" if value is None else form.format(value), detail, value)


def _range(low, high, form):
    return f"{form.format(low)} to {form.format(high)}"


def _spread(values, form):
    """Mean, and in small print the range if there are several values; unknown ones (None) are left out."""
    known = [value for value in values if value is not None]
    ranged = _range(min(known), max(known), form) if len(known) > 1 else ""
    return _number(statistics.fmean(known) if known else None, form, ranged)


def networks_table(groups: list[Group]) -> Table:
    """A row for each network: mean and range over its seeds."""
    rows = []
    for group in groups:
        first = group.runs[0]
        row = {"network": _name(group.label, first.network), "seeds": _number(len(group.runs))}
        row["parameters"] = _number(first.parameters)
        for dataset, metric in measured(groups):
            found = curve(0, group, lambda run, tag=f"metrics/{dataset}/{metric}": run.values.get(tag, {}))
            form = METRICS[metric][1]
            ranged = _range(found.low[-1], found.high[-1], form) if found and found.low else ""
            row[f"{dataset} {metric.upper()}"] = _number(found and found.y[-1], form, ranged)
        row["training images"] = _number(min(run.images(run.iterations) for run in group.runs))
        row["seconds an iteration"] = _spread([run.seconds for run in group.runs], "{:.3f}")
        row["peak memory (MiB)"] = _spread([run.memory and run.memory[0] for run in group.runs], "{:,.0f}")
        rows.append(row)
    note = (
        "Means over the seeds; small print: the lowest and the highest seed. PSNR and SSIM are those of the last "
        "validation that all seeds have. Seconds an iteration: the median of each seed."
    )
    return Table("networks", "Networks", rows, note=note)


def pairs_table(differences: list[Difference]) -> Table:
    """A row for each pair of networks on each validation set."""
    metrics = [metric for metric in METRICS if any(metric in found.intervals for found in differences)]
    rows = []
    for found in differences:
        row = {"networks": _name(f"{found.a.label} - {found.b.label}")}
        row["validation set"] = _name(found.dataset, f"{found.pictures} images")
        for metric in metrics:
            value, low, high = found.intervals.get(metric, (None, None, None))
            form = "{:+.3f}" if metric == "psnr" else "{:+.5f}"
            row[f"{metric.upper()} difference"] = _number(value, form, "" if value is None else _range(low, high, form))
        words = in_words(found, metrics[0]) if metrics[0] in found.intervals else "-"
        rows.append(row | {f"in words ({metrics[0].upper()})": _name(words), "after images": _number(found.images)})
    return Table("differences", "Differences between networks", rows, [*summaries(differences), EXPLAINED])


def runs_table(groups: list[Group]) -> Table:
    """A row for each run."""
    rows = []
    for run in (run for group in groups for run in group.runs):
        row = {"experiment": _name(run.label), "network": _name(run.network), "parameters": _number(run.parameters)}
        for dataset, metric in measured(groups):
            for which, point in zip(("best", "last"), run.best_and_last(dataset, metric) or (None, None), strict=True):
                iteration, value = point or (None, None)
                at = f"at {run.images(iteration):,}" if point else ""
                row[f"{dataset} {which} {metric.upper()}"] = _number(value, METRICS[metric][1], at)
        known = run.iteration_seconds
        quartiles = statistics.quantiles(known, n=4) if len(known) > 1 else None
        mib, kind = run.memory or (None, "")
        images = run.images(run.iterations) if run.images_per_iteration else None
        row["images"] = _number(images, detail="finished" if run.finished else "not finished")
        row["hours"] = _number(run.hours(run.iterations), "{:.2f}")
        middle = _range(quartiles[0], quartiles[2], "{:.3f}") if quartiles else ""
        row["seconds an iteration"] = _number(run.seconds, "{:.3f}", middle)
        rows.append(row | {"peak memory (MiB)": _number(mib, detail=kind)})
    note = (
        "Small print below a metric: after how many training images. Seconds an iteration: median of what was logged, "
        "and the middle half. Hours: of training; from text logs of BasicSR with the validations in between."
    )
    return Table("runs", "Runs", rows, note=note)


def options_table(groups: list[Group]) -> Table:
    """A row for each option in which the networks differ, a column for each network."""
    firsts = {group.label: group.runs[0] for group in groups}
    rows = [
        {"option": _name(key)} | {label: _name(values.get(run, "-")) for label, run in firsts.items()}
        for key, values in different_options(list(firsts.values())).items()
    ]
    return Table("options", "Options that differ", rows)


def title(runs: list[Run]) -> str:
    """The heading of the report."""
    return f"Report of {len(runs)} experiment{'s' if len(runs) > 1 else ''}"


def report_md(runs: list[Run], tables: list[Table], charts: list[Chart], notes: list[str]) -> str:
    """The whole report in Markdown, figures by relative link."""
    blocks = [f"# {title(runs)}", shared_settings(runs)]
    for table in tables:
        cells = [[c.text + (f" ({c.detail})" if c.detail else "") for c in row.values()] for row in table.rows]
        lines = markdown.table(list(table.rows[0]), cells)
        blocks += [f"## {table.title}", *table.text, "\n".join(lines), table.note]
    for chart in charts:
        blocks += [f"## {chart.title}", f"![{chart.description}]({chart.name}.png)", chart.caption]
    blocks += ["## Notes", "\n".join(f"- {note}" for note in notes) or "Nothing was missing."]
    blocks += ["## Sources", "\n".join(f"- {run.label}: {', '.join(run.sources)}" for run in runs)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def curves_csv(runs: list[Run]) -> str:
    """Every value in long form, and the means over checkpoint intervals under the tag "TAG (interval mean)"."""
    rows = []
    for run in runs:
        means = {f"{tag} (interval mean)": run.interval_means(tag) for tag in run.values if tag.startswith("losses/")}
        for tag, points in (run.values | means).items():
            for iteration, value in points.items():
                images = run.images(iteration) if run.images_per_iteration else None
                row = {"experiment": run.label, "network": run.network, "tag": tag, "iteration": iteration}
                hours = run.hours(iteration)
                row |= {"images": images, "hours": None if hours is None else f"{hours:.6g}", "value": f"{value:.8g}"}
                rows.append(row)
    return _csv(rows)


def summary_csv(groups: list[Group]) -> str:
    """The runs with plain numbers, a line each; what is not known is empty."""
    rows = []
    for label, run in ((group.label, run) for group in groups for run in group.runs):
        batch = run.images_per_iteration
        row = {"experiment": run.label, "folder": run.name, "group": label, "network": run.network}
        row |= {"parameters": run.parameters, "iterations": run.iterations}
        row["images"] = run.images(run.iterations) if batch else None
        row["interval_images"] = run.interval * batch if batch and run.interval else None
        row |= {"finished": run.finished, "hours": run.hours(run.iterations), "seconds_per_iteration": run.seconds}
        row["memory_mib"], row["memory_kind"] = run.memory or (None, None)
        for dataset, metric in measured(groups):
            for which, point in zip(("best", "last"), run.best_and_last(dataset, metric) or (None, None), strict=True):
                row[f"{dataset}_{metric}_{which}"] = f"{point[1]:.8g}" if point else None
                row[f"{dataset}_{metric}_{which}_images"] = run.images(point[0]) if point and batch else None
        rows.append(row)
    return _csv(rows)


def differences_csv(differences: list[Difference]) -> str:
    """Differences with their intervals, a line for each pair of networks, validation set and metric."""
    rows = []
    for found in differences:
        for metric, interval in found.intervals.items():
            row = {"set": found.dataset, "metric": metric, "a": found.a.label, "b": found.b.label}
            row |= {"seeds_a": len(found.a.runs), "seeds_b": len(found.b.runs), "images": found.images}
            row |= {"pictures": found.pictures}
            rows.append(row | {name: f"{value:.8g}" for name, value in interval._asdict().items()})
    return _csv(rows)


def _csv(rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
