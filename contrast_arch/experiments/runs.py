"""A training run as report, export and comparison see it, whoever recorded it."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

Values = dict[str, dict[int, float]]
# Image -> metric -> value.
ImageValues = dict[str, dict[str, float]]


class Memory(NamedTuple):
    """Peak memory of a run.

    Attributes:
        mib: in MiB.
        kind: "resident" or "allocated".
        device: "CPU" or "GPU".
    """

    mib: int
    kind: str
    device: str


@dataclass(eq=False)
class Piece:
    """One start of a run, up to its end.

    Attributes:
        where: its record, for messages.
        start: iteration of the state that it went on from, 0 for a new run; None if training did not begin.
        batch: images of an iteration, over all processes.
        began: unix time of its beginning.
        elapsed: seconds from its first record to its last.
        last: its last known iteration.
        finished: True if training came to its end.
        options: those it was run with, ``--force_yml`` included; empty if unknown.
        parameters: of the network.
        values: tag (``losses/l_pix``, ``metrics/Set5/psnr``) -> iteration -> value.
        per_image: validation set -> iteration -> image -> metric -> value.
        seconds: iteration -> training time since the beginning of the piece.
        iteration_seconds: of each training record.
        memory: its peak.
    """

    where: str
    start: int | None = None
    batch: int | None = None
    began: float | None = None
    elapsed: float = 0.0
    last: int = 0
    finished: bool = False
    options: dict = field(default_factory=dict)
    parameters: int | None = None
    values: Values = field(default_factory=dict)
    per_image: dict[str, dict[int, ImageValues]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    iteration_seconds: list[float] = field(default_factory=list)
    memory: Memory | None = None


@dataclass(eq=False)
class Run:
    """A training run, over all of its starts.

    What a piece recorded after the iteration that a later piece went on from does not count.

    Attributes:
        folder: ``experiments/NAME``, as given.
        label: short name for curves, unlike that of every other run.
        options: of the last start; empty if unknown.
        option_file: the newest one in the folder.
        pieces: oldest first.
        sources: the files that were read, in words.
        notes: what is missing or broken, each with its path.
    """

    folder: Path
    label: str = ""
    options: dict = field(default_factory=dict)
    option_file: Path | None = None
    pieces: list[Piece] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def network(self) -> str:
        """``network_g: type``; "-" if unknown."""
        return str(section(self.options, "network_g").get("type", "-"))

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the network."""
        return next((piece.parameters for piece in self.pieces if piece.parameters), None)

    @property
    def iteration_seconds(self) -> list[float]:
        """Seconds an iteration, of every training record."""
        return [value for piece in self.pieces for value in piece.iteration_seconds]

    @property
    def seconds(self) -> float | None:
        """Seconds an iteration: the median of the training records."""
        return statistics.median(self.iteration_seconds) if self.iteration_seconds else None

    @property
    def memory(self) -> Memory | None:
        """Peak over all starts."""
        return max((piece.memory for piece in self.pieces if piece.memory and piece.memory.mib), default=None)

    @property
    def finished(self) -> bool:
        """True if the last start came to its end."""
        return bool(self.pieces) and self.pieces[-1].finished

    @property
    def iterations(self) -> int:
        """The last known iteration; 0 if there is none."""
        known = [max(points) for points in self.values.values()]
        if self.finished:
            known.append(self.pieces[-1].last)
        return max(known, default=0)

    @property
    def interval(self) -> int | None:
        """Iterations from one checkpoint to the next: ``val_freq``, or ``save_checkpoint_freq`` without validation."""
        validation = section(self.options, "val").get("val_freq")
        return validation or section(self.options, "logger").get("save_checkpoint_freq")

    @property
    def images_per_iteration(self) -> int | None:
        """Images of an iteration in the last start; None if unknown."""
        starts = self._starts
        return starts[-1][1] if starts else None

    @cached_property
    def values(self) -> Values:
        """Tag -> iteration -> value."""
        return self._merged(lambda piece: piece.values)

    @cached_property
    def per_image(self) -> dict[str, dict[int, ImageValues]]:
        """Validation set -> iteration -> image -> metric -> value, as recorded."""
        return self._merged(lambda piece: piece.per_image)

    def _merged(self, recorded: Callable[[Piece], dict]):
        merged = {}
        for piece in self.pieces:
            if piece.start is None:
                continue
            merged = {key: _up_to(piece.start, points) for key, points in merged.items()}
            for key, points in recorded(piece).items():
                merged.setdefault(key, {}).update(points)
        return {key: dict(sorted(points.items())) for key, points in merged.items() if points}

    def images(self, iteration: int) -> int:
        """Training images seen up to an iteration; each start counts with its own batch and number of processes."""
        ends = [start for start, _ in self._starts[1:]] + [math.inf]
        return sum(
            batch * max(0, min(iteration, end) - start) for (start, batch), end in zip(self._starts, ends, strict=True)
        )

    @cached_property
    def _starts(self):
        """(iteration, images an iteration from there on) of the starts that count."""
        starts = []
        for piece in self.pieces:
            if piece.start is not None and piece.batch:
                starts = [earlier for earlier in starts if earlier[0] < piece.start]
                # Records before the oldest one are lost; their run is assumed to be alike.
                starts.append((piece.start if starts else 0, piece.batch))
        batch = images_an_iteration(self.options)
        return starts or ([(0, batch)] if batch else [])

    def hours(self, iteration: int) -> float | None:
        """Hours of training up to an iteration, without pauses between starts; None if unknown."""
        if not self._seconds:
            return None
        return float(np.interp(iteration, list(self._seconds), list(self._seconds.values()))) / 3600

    @cached_property
    def _seconds(self):
        total = {}
        for piece in self.pieces:
            if piece.start is not None and piece.seconds:
                total = _up_to(piece.start, total)
                before = max(total.values(), default=0.0)
                total |= {piece.start: before} | {i: before + value for i, value in piece.seconds.items()}
        return dict(sorted(total.items()))

    def interval_means(self, tag: str) -> dict[int, float]:
        """Mean over each whole checkpoint interval, at the last iteration of the interval."""
        if not self.interval:
            return {}
        groups = {}
        for iteration, value in self.values.get(tag, {}).items():
            end = -(-iteration // self.interval) * self.interval
            if end <= self.iterations:
                groups.setdefault(end, []).append(value)
        return {end: statistics.fmean(group) for end, group in sorted(groups.items())}

    def metrics(self) -> dict[str, list[str]]:
        """Validation set -> its metrics, in the order of the record."""
        found = {}
        for tag in self.values:
            if tag.startswith("metrics/"):
                dataset, _, metric = tag.removeprefix("metrics/").rpartition("/")
                found.setdefault(dataset, []).append(metric)
        return found

    def best_and_last(self, dataset: str, metric: str) -> tuple | None:
        """((iteration, value) of the highest value, (iteration, value) of the last); None without a finite value.

        The earliest of equal values is the best.
        """
        recorded = self.values.get(f"metrics/{dataset}/{metric}", {})
        points = [(i, value) for i, value in recorded.items() if math.isfinite(value)]
        return (max(points, key=lambda point: (point[1], -point[0])), max(points)) if points else None


def _up_to(last, points):
    return {iteration: value for iteration, value in points.items() if iteration <= last}


def section(options: dict, key: str) -> dict:
    """The mapping under a key of options; an empty one if there is none."""
    found = options.get(key)
    return found if isinstance(found, dict) else {}


def images_an_iteration(options: dict, batch: int | None = None, processes: int = 1) -> int | None:
    """Images of an iteration of BasicSR's trainer.

    Args:
        options: of the run.
        batch: images of a GPU; None takes that of the options.
        processes: of the run.
    """
    batch = batch or section(section(options, "datasets"), "train").get("batch_size_per_gpu")
    if not batch:
        return None
    gpus = options.get("num_gpu")
    if not options.get("dist") and isinstance(gpus, int) and gpus > 1:
        return batch * gpus  # without a launcher BasicSR runs DataParallel: one process, one batch for each GPU
    return batch * processes
