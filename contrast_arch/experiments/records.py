"""The record of a training run: ``experiments/NAME/metrics.jsonl``, or BasicSR's text logs where there is none.

docs/report.md has the kinds of lines and their keys; others are passed over. The options and the number of parameters
come from the text log of the same start. Runs that differ in the seed alone are a group.
"""

import math
import re
import statistics
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contrast_arch.errors import InputError
from contrast_arch.experiments.basicsr_logs import images_an_iteration, read_logs, section
from contrast_arch.files import resolved
from contrast_arch.options.document import read_options
from contrast_arch.parsing import parse_json

RECORD = "metrics.jsonl"
SEED = re.compile(r"_seed(\d+)$")
# Metrics of the tables and figures -> label, and format of a value.
METRICS = {"psnr": ("PSNR (dB)", "{:.2f}"), "ssim": ("SSIM", "{:.4f}")}


@dataclass(eq=False)
class Run:
    """A training run, over all of its starts, whoever recorded it.

    Values that a start recorded after the iteration that a later start went on from do not count.
    """

    folder: Path  # experiments/NAME, as given
    label: str = ""  # short name for curves, unlike that of every other run
    options: dict = field(default_factory=dict)  # of the last start; empty if unknown
    option_file: Path | None = None  # the newest one in the folder
    parameters: int | None = None  # of the network
    starts: list[tuple[int, int, float]] = field(default_factory=list)  # (iteration, its images, unix time) of each
    values: dict[str, dict[int, float]] = field(default_factory=dict)  # tag (metrics/Set5/psnr) -> iteration -> value
    per_image: dict[str, dict[int, dict]] = field(default_factory=dict)  # set -> iteration -> image -> metric -> value
    training_seconds: dict[int, float] = field(default_factory=dict)  # iteration -> since the beginning, without pauses
    iteration_seconds: list[float] = field(default_factory=list)  # of every training record
    memory: int | None = None  # MiB at the peak
    finished_at: int | None = None  # iteration at which the last start came to its end
    notes: list[str] = field(default_factory=list)  # on missing and broken data, each with its path
    _before: float = 0.0  # training seconds before the start that is read

    @property
    def network(self) -> str:
        """``network_g: type``; "-" if unknown."""
        return str(section(self.options, "network_g").get("type", "-"))

    @property
    def finished(self) -> bool:
        """True if the last start came to its end."""
        return self.finished_at is not None

    @property
    def iterations(self) -> int:
        """The last known iteration; 0 if there is none."""
        return max([self.finished_at or 0, *(max(points) for points in self.values.values())])

    @property
    def interval(self) -> int | None:
        """Iterations from one checkpoint to the next: ``val_freq``, or ``save_checkpoint_freq`` without validation."""
        validation = section(self.options, "val").get("val_freq")
        return validation or section(self.options, "logger").get("save_checkpoint_freq")

    @property
    def images_per_iteration(self) -> int | None:
        """Images of an iteration in the last start; None if unknown."""
        return self.starts[-1][1] if self.starts else images_an_iteration(self.options)

    def images(self, iteration: int) -> int:
        """Training images seen up to an iteration; each start counts with its own batch and number of processes."""
        # Records before the oldest one are lost; their run is assumed to be alike.
        begins = [0, *(begin for begin, *_ in self.starts[1:]), math.inf]
        batches = [batch for _, batch, _ in self.starts] or [self.images_per_iteration or 0]
        spans = zip(begins, begins[1:], batches, strict=False)
        return sum(batch * max(0, min(iteration, end) - begin) for begin, end, batch in spans)

    def hours(self, iteration: int) -> float | None:
        """Hours of training up to an iteration, without pauses between starts; None if unknown."""
        known = self.training_seconds
        return float(np.interp(iteration, list(known), list(known.values()))) / 3600 if len(known) > 1 else None

    def interval_means(self, tag: str) -> dict[int, float]:
        """Mean over each whole checkpoint interval, at the last iteration of the interval."""
        groups = {}
        for iteration, value in self.values.get(tag, {}).items() if self.interval else ():
            groups.setdefault(-(-iteration // self.interval) * self.interval, []).append(value)
        return {end: statistics.fmean(group) for end, group in groups.items() if end <= self.iterations}

    def metrics(self) -> dict[str, list[str]]:
        """Validation set -> its metrics, in the order of the record."""
        found = {}
        for tag in self.values:
            if tag.startswith("metrics/"):
                dataset, _, metric = tag.removeprefix("metrics/").rpartition("/")
                found.setdefault(dataset, []).append(metric)
        return found

    def best_and_last(self, dataset: str, metric: str) -> tuple | None:
        """((iteration, value) of the first highest value, and of the last value); None without a finite value."""
        recorded = self.values.get(f"metrics/{dataset}/{metric}", {})
        points = sorted((i, value) for i, value in recorded.items() if math.isfinite(value))
        return (max(points, key=lambda point: point[1]), points[-1]) if points else None

    def add(self, line: dict, where: str = "") -> None:
        """Take in a line of the record; a malformed one raises KeyError, TypeError or AttributeError."""
        kind, iteration = line["kind"], line["iteration"]
        if kind == "problem":
            self.notes.append(f"{where}: iteration {iteration:,}: {line['message']}")
        elif kind == "run":
            self._begin(iteration if line["resumed"] else 0, line)
        elif kind == "train":
            for name in (name for name in line["values"] if name.startswith("l_")):
                self.values.setdefault(f"losses/{name}", {})[iteration] = line["values"][name]
            self.training_seconds[iteration] = self._before + line["seconds"]
            self.iteration_seconds.append(line["iteration_seconds"])
            self.memory = max(self.memory or 0, (line.get("memory_bytes") or 0) >> 20) or None
        elif kind == "validation":
            for name, value in line["values"].items():
                self.values.setdefault(f"metrics/{line['set']}/{name}", {})[iteration] = value
            if line.get("values_per_image"):
                self.per_image.setdefault(line["set"], {})[iteration] = line["values_per_image"]
        elif kind == "checkpoint" and Path(line["path"]).stem == "net_g_latest":
            self.finished_at = iteration

    def _begin(self, start, line):
        """Go on from the state of an iteration; drop the values recorded after it."""

        def kept(points):
            return {iteration: value for iteration, value in points.items() if iteration <= start}

        self.values = {tag: points for tag, found in self.values.items() if (points := kept(found))}
        self.per_image = {dataset: kept(found) for dataset, found in self.per_image.items()}
        self.training_seconds = kept(self.training_seconds)
        self._before = self.training_seconds[start] = max(self.training_seconds.values(), default=0.0)
        if line["batch"]:
            earlier = [known for known in self.starts if known[0] < start]
            self.starts = [*earlier, (start, line["batch"], line["time"])]
        self.options, self.parameters = line["options"] or self.options, line["parameters"] or self.parameters
        self.finished_at = None


def read_run(folder: Path, finished: bool = False) -> Run:
    """Read the record of a run, ``experiments/NAME``; its notes name broken and missing data.

    Args:
        finished: leave out the starts after the last one that came to its end, if there is such a one.
    """
    run, ended, logs, record = Run(folder), None, read_logs(folder), folder / RECORD
    # The last line may be in the middle of being written.
    *lines, _ = record.read_bytes().split(b"\n") if record.is_file() else [b""]
    if not any(b'"kind": "run"' in line for line in lines):
        lines += [line for log in logs for line in log]
    for number, line in enumerate(lines, start=1):
        try:
            line = parse_json(line) if isinstance(line, bytes) else line
            if line["kind"] == "run":
                ended = deepcopy(run) if run.finished else ended
                began = line["time"]
                same = min((log[0] for log in logs), key=lambda start: abs(start["time"] - began), default={})
                line = {"options": {}, "parameters": None} | same | line
            run.add(line, f"{record}:{number}")
        except (ValueError, KeyError, TypeError, AttributeError):
            run.notes.append(f"{record}:{number}: not a line of a record; passed over")
    run = ended if finished and ended and not run.finished else run
    run.option_file = max(folder.glob("*.yml"), key=lambda path: path.stat().st_mtime, default=None)
    if run.option_file and not run.options:
        try:
            run.options = read_options(str(run.option_file))
        except InputError as error:
            run.notes.append(str(error))
    for tag, points in run.values.items():
        wrong = [iteration for iteration, value in points.items() if not math.isfinite(value)]
        if wrong and tag.startswith("losses/"):
            run.notes.append(f"{run.folder}: {tag} is not finite at iteration {wrong[0]:,} ({len(wrong)} times)")
    if not run.values:
        run.notes.append(f"{run.folder}: no value in {RECORD} or train_*.log so far")
    elif not run.images_per_iteration:
        run.notes.append(f"{run.folder}: no batch size, neither in a text log nor in an option file: not drawn")
    return run


class Group(NamedTuple):
    """Runs of one network that differ in the seed alone; no other group has its label."""

    label: str
    runs: list[Run]


def grouped(runs: list[Run]) -> list[Group]:
    """Group runs by the path of their folder without ``_seedN``, and label both by its name, or path if not unique."""
    members = {}
    for run in runs:
        path = resolved(run.folder)
        members.setdefault(path.with_name(SEED.sub("", path.name)), []).append(run)
    names, groups = [path.name for path in members], []
    for path, found in members.items():
        name = path.name.removeprefix("train_").removesuffix("_from_scratch")
        groups.append(Group(name if names.count(path.name) == 1 else str(path), found))
        for run in found:
            seed = SEED.search(resolved(run.folder).name)
            run.label = f"{groups[-1].label} seed {seed[1]}" if seed else groups[-1].label
    return groups


def drawable(groups: list[Group]) -> tuple[list[Group], list[str]]:
    """Leave out runs without values or behind others of their group, with notes on those that are behind.

    Means over seeds then stay means over the same seeds while further seeds are being trained.
    """
    found, notes = [], []
    for label, runs in groups:
        ends = {run: run.images(run.iterations) for run in runs if run.values and run.images_per_iteration}
        longest = max(ends.values(), default=0)
        found += [Group(label, [run for run, end in ends.items() if end == longest])] if ends else []
        behind = f"training images, where other seeds have {longest:,}; left out of means and intervals so far"
        notes += [f"{run.folder}: {end:,} {behind}" for run, end in ends.items() if end < longest]
    return found, notes


def datasets(groups: list[Group]) -> list[str]:
    """Validation sets of all runs."""
    return list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics()))
