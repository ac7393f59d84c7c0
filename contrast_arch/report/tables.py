"""The table of a report, and its values as CSV and Markdown."""

import csv
import io
from dataclasses import dataclass

from contrast_arch.report.charts import METRICS, Chart, best_and_last
from contrast_arch.report.differences import shared_settings
from contrast_arch.report.records import Experiment


@dataclass
class Cell:
    """What stands in one cell: a value, and in small what belongs to it (such as after how many images)."""

    text: str
    detail: str = ""


def columns(experiments: list[Experiment]) -> list[tuple[str, str]]:
    """(group, heading) of each column after the first; a group is a validation set, "" for none."""
    found = [("", "network"), ("", "parameters")]
    for dataset in _datasets(experiments):
        found += [(dataset, f"{which} {metric.upper()}") for metric in METRICS for which in ("best", "last")]
    return [*found, *(("", name) for name in ("images", "seconds an iteration", "peak memory (MiB)"))]


def rows(experiments: list[Experiment]) -> list[list[Cell]]:
    """A row for each experiment: its label, then a cell for each column."""
    return [_row(experiment, _datasets(experiments)) for experiment in experiments]


def _datasets(experiments):
    return list(dict.fromkeys(name for experiment in experiments for name in experiment.metrics()))


def _row(experiment, datasets):
    cells = [Cell(experiment.label), Cell(experiment.network), Cell(_count(experiment.parameters))]
    for dataset in datasets:
        for metric, (_, value) in METRICS.items():
            points = best_and_last(experiment, dataset, metric) or (None, None)
            cells += [_metric_cell(experiment, point, value) for point in points]
    memory, seconds = experiment.memory, experiment.seconds
    cells += [
        Cell(
            _count(experiment.images(experiment.iterations)) if experiment.images_per_iteration else "-",
            _state(experiment),
        ),
        Cell("-" if seconds is None else f"{seconds:.3f}"),
        Cell(f"{memory.mib:,}", f"{memory.kind}, {memory.device}") if memory else Cell("-"),
    ]
    return cells


def _metric_cell(experiment, point, value):
    if point is None:
        return Cell("-")
    iteration, metric = point
    return Cell(value.format(metric), f"at {experiment.images(iteration):,}")


def _count(number):
    return "-" if number is None else f"{number:,}"


def _state(experiment):
    """Whether training has come to its end, as far as the text logs say."""
    if not experiment.logs:
        return ""
    return "finished" if experiment.finished else "not finished"


def markdown_table(experiments: list[Experiment]) -> str:
    """The table in Markdown, numbers to the right."""
    headings = ["experiment", *(" ".join(filter(None, column)) for column in columns(experiments))]
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for row in rows(experiments):
        lines.append([f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in row])
    return "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)


def markdown(experiments: list[Experiment], charts: list[Chart], notes: list[str]) -> str:
    """The whole report in Markdown, figures by relative link."""
    parts = [f"# {title(experiments)}\n", f"{shared_settings(experiments)}\n", markdown_table(experiments)]
    for chart in charts:
        parts.append(f"## {chart.title}\n\n![{chart.description}]({chart.name}.png)\n\n{chart.caption}\n")
    parts.append("## Notes\n\n" + ("".join(f"- {note}\n" for note in notes) or "Nothing was missing.\n"))
    parts.append("## Sources\n\n" + "".join(f"- {e.label}: {', '.join(e.sources)}\n" for e in experiments))
    return "\n".join(parts)


def title(experiments: list[Experiment]) -> str:
    """The heading of the report."""
    return f"Report of {len(experiments)} experiment{'s' if len(experiments) > 1 else ''}"


def curves_csv(experiments: list[Experiment]) -> str:
    """Every value in long form, and the means over checkpoint intervals under the tag "TAG (interval mean)"."""
    lines = [("experiment", "network", "tag", "iteration", "images", "value")]
    for experiment in experiments:
        for tag, points in experiment.values.items():
            curves = {tag: points}
            if tag.startswith("losses/"):
                curves[f"{tag} (interval mean)"] = experiment.interval_means(tag)
            for name, curve in curves.items():
                for iteration, value in sorted(curve.items()):
                    images = experiment.images(iteration) if experiment.images_per_iteration else ""
                    lines.append((experiment.label, experiment.network, name, iteration, images, f"{value:.8g}"))
    return _csv(lines)


def summary_csv(experiments: list[Experiment]) -> str:
    """The table with plain numbers: a line for each experiment; what is not known is empty."""
    lines = [_summary(experiment, _datasets(experiments)) for experiment in experiments]
    return _csv([tuple(lines[0]), *(tuple(line.values()) for line in lines)])


def _summary(experiment, datasets):
    known = bool(experiment.images_per_iteration)
    memory = experiment.memory
    line = {
        "experiment": experiment.label,
        "folder": experiment.name,
        "network": experiment.network,
        "parameters": experiment.parameters,
        "iterations": experiment.iterations,
        "images": experiment.images(experiment.iterations) if known else None,
        "interval_images": experiment.interval * experiment.images_per_iteration
        if known and experiment.interval
        else None,
        "finished": experiment.finished,
        "seconds_per_iteration": experiment.seconds,
        "memory_mib": memory.mib if memory else None,
        "memory_kind": f"{memory.kind}, {memory.device}" if memory else None,
    }
    for dataset in datasets:
        for metric in METRICS:
            points = best_and_last(experiment, dataset, metric) or (None, None)
            for which, point in zip(("best", "last"), points, strict=True):
                name = f"{dataset}_{metric}_{which}"
                line[name] = f"{point[1]:.8g}" if point else None
                line[f"{name}_images"] = experiment.images(point[0]) if point and known else None
    return line


def _csv(lines):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
