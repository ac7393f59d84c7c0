"""The tables of a report: for the page, as CSV and in Markdown."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from contrast_arch.experiments import markdown
from contrast_arch.experiments.basicsr_logs import section
from contrast_arch.experiments.pairs import COVERAGE, Difference, summaries
from contrast_arch.experiments.records import METRICS, Group, Run, datasets

# Options of the data that change speed, not results, or that images_per_iteration covers.
NOT_COMPARED = {"name", "phase", "scale", "num_worker_per_gpu", "prefetch_mode", "pin_memory", "batch_size_per_gpu"}
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
            rows.append({})
            for heading, cell in row.items():
                rows[-1][heading] = cell.value
                if heading in bounded:
                    rows[-1][f"{heading} low"], rows[-1][f"{heading} high"] = cell.bounds or (None, None)
        return _csv(rows)


def _cell(value, form="{}", bounds=(), detail=""):
    detail = f"{form.format(bounds[0])} to {form.format(bounds[1])}" if bounds else detail
    return Cell("-" if value is None else form.format(value), value, detail, tuple(bounds))


def _mean(values, form):
    """Mean and range; unknown values (None) are left out."""
    known = [value for value in values if value is not None]
    return _cell(statistics.fmean(known) if known else None, form, (min(known), max(known)) if len(known) > 1 else ())


def networks_table(groups: list[Group]) -> Table:
    """A row for each network: mean and range over its seeds."""
    tags = {tag for group in groups for run in group.runs for tag in run.values}
    rows = []
    for label, runs in groups:
        first, times = runs[0], [seconds for run in runs for seconds in run.iteration_seconds]
        row = {"network": _cell(label, detail=first.network), "seeds": _cell(len(runs))}
        row["parameters"] = _cell(first.parameters, "{:,}")
        for dataset in datasets(groups):
            for metric in (metric for metric in METRICS if f"metrics/{dataset}/{metric}" in tags):
                points = [run.best_and_last(dataset, metric) for run in runs]
                for number, which in enumerate(("best", "last")):
                    values = [point and point[number][1] for point in points]
                    row[f"{dataset} {which} {metric.upper()}"] = _mean(values, METRICS[metric][1])
        ended = "finished" if all(run.finished for run in runs) else "not finished"
        row["images"] = _cell(first.images(first.iterations), "{:,}", detail=ended)
        row["hours"] = _mean([run.hours(run.iterations) for run in runs], "{:.2f}")
        quartiles = statistics.quantiles(times, n=4)[::2] if len(times) > 1 else ()
        row["seconds an iteration"] = _cell(statistics.median(times) if times else None, "{:.3f}", quartiles)
        rows.append(row | {"peak memory (MiB)": _mean([run.memory for run in runs], "{:,.0f}")})
    return Table("summary", "Networks", rows, note=ON_NETWORKS)


def pairs_table(differences: list[Difference]) -> Table:
    """A row for each pair of networks on each validation set."""
    metrics, rows = [metric for metric in METRICS if any(metric in each.intervals for each in differences)], []
    for found in differences:
        row = {"networks": _cell(f"{found.a} - {found.b}")}
        row["validation set"] = _cell(found.dataset, detail=f"{found.pictures} images")
        for metric in metrics:
            value, *bounds = found.intervals.get(metric, (None,))
            row[f"{metric.upper()} difference"] = _cell(value, "{:+.3f}" if metric == "psnr" else "{:+.5f}", bounds)
        ahead = found.ordered[0] if found.ordered else "not decided: the interval includes zero"
        row[f"ahead in {differences[0].metric.upper()}"] = _cell(ahead)
        rows.append(row | {"after images": _cell(found.images, "{:,}")})
    return Table("differences", "Differences between networks", rows, [*summaries(differences), EXPLAINED])


def options_table(groups: list[Group]) -> Table:
    """A row for each option in which the networks differ ("train: optim_g: lr"), a column for each network."""
    options = {group.label: _compared(group.runs[0]) for group in groups}
    rows = []
    for key in dict.fromkeys(key for own in options.values() for key in own):
        values = {label: own.get(key, "none") if own else "-" for label, own in options.items()}
        if len({*values.values()} - {"-"}) > 1:
            rows.append({"option": _cell(key)} | {label: _cell(value) for label, value in values.items()})
    return Table("options", "Options that differ", rows)


def _compared(run):
    """The options of a run that make a difference, flat and as text; empty if none are known."""
    options, paths = run.options, section(run.options, "path")
    chosen = {key: options.get(key) for key in ("model_type", "network_g", "scale")}
    chosen["images an iteration"] = run.images_per_iteration
    for phase, dataset in section(options, "datasets").items():
        chosen[f"datasets: {phase}"] = {key: value for key, value in dataset.items() if key not in NOT_COMPARED}
    chosen["train"] = {key: value for key, value in section(options, "train").items() if key != "total_iter"}
    chosen["val: metrics"] = section(section(options, "val"), "metrics")
    # The log of a resumed run has its own checkpoint where the weights stood that it began from.
    weights = paths.get("pretrain_network_g")
    chosen["path: pretrain_network_g"] = "-" if str(weights).startswith(f"{paths.get('models')}/") else weights
    return {key: str(value) for key, value in flat(chosen) if value is not None} if options else {}


def flat(options: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    """Flat options: ("train: optim_g: lr", value) of each."""
    for key, value in options.items():
        yield from flat(value, f"{prefix}{key}: ") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def report_md(title: str, tables: list[Table], charts: list[dict], notes: list[str]) -> str:
    """The whole report in Markdown, figures by relative link."""
    blocks = [f"# {title}"]
    for table in tables:
        cells = [[c.text + (f" ({c.detail})" if c.detail else "") for c in row.values()] for row in table.rows]
        lines = markdown.table(list(table.rows[0]), cells)
        blocks += [f"## {table.title}", *table.text, "\n".join(lines), table.note]
    for chart in charts:
        blocks += [f"## {chart['title']}", f"![{chart['title']}]({chart['name']}.png)", chart["caption"]]
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
