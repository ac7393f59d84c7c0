"""Text logs of BasicSR 1.4.2: one file a start, readable at any time, up to the last complete line.

A line that is cut off in the middle says nothing, so that the log of a run in progress can be read. The formats are
those of ``basicsr.utils.logger.MessageLogger`` and ``basicsr.models.sr_model.SRModel``.
"""

import ast
import re
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from contrast_arch.experiments.runs import Memory, Piece, images_an_iteration, section

# BasicSR formats every loss with ".4e": fewer digits in the exponent mean that the line ends too early.
_NUMBER = r"-?\d\.\d+e[+-]\d{2,3}|nan|-?inf"
_VALUE = re.compile(rf"(\S+): ({_NUMBER})")
_TRAINING = re.compile(
    r"\[epoch:\s*\d+, iter:\s*([\d,]+), lr:\([^)]*\)\] "
    rf"\[eta: .*?, time \(data\): (\d+\.\d+) \(\d+\.\d+\)\] ((?:\S+: (?:{_NUMBER})(?:\s+|$))+)$"
)
_VALIDATION = re.compile(r"(?:^|INFO: )Validation (\S.*?)\s*$")
_METRIC = re.compile(r"^\s*# (\S+): (-?\d+\.\d{4}|nan|-?inf)(?:\s+Best: .*)?\s*$")
# Written by this package's trainer at its end.
_MEMORY = re.compile(r"Peak memory: ([\d,]+) MiB \((\w+), (\w+)\)\s*$")
_MESSAGE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+: ", re.MULTILINE)
_NUMBERS = {
    "parameters": re.compile(r"^Network: .*, with parameters: ([\d,]+)$", re.MULTILINE),
    "batch": re.compile(r"^\tBatch size per gpu: (\d+)$", re.MULTILINE),
    "processes": re.compile(r"^\tWorld size \(gpu number\): (\d+)$", re.MULTILINE),
    "total": re.compile(r"^\tTotal epochs: \d+; iters: (\d+)\.$", re.MULTILINE),
    "start": re.compile(r"^Start training from epoch: -?\d+, iter: (\d+)$", re.MULTILINE),
}


class TrainingLine(NamedTuple):
    """A line of training.

    Attributes:
        iteration: counted from 1.
        seconds: an iteration, BasicSR's running mean.
        losses: name (``l_pix``) -> value, of the batch of this iteration alone.
    """

    iteration: int
    seconds: float
    losses: dict[str, float]


class MetricLine(NamedTuple):
    """A metric (``psnr``) of the validation that the last :func:`validation_line` opened."""

    name: str
    value: float


def training_line(line: str) -> TrainingLine | None:
    """Parse a line of training; None for every other line and for one that is cut off."""
    found = _TRAINING.search(line)
    if not found:
        return None
    losses = {name: float(value) for name, value in _VALUE.findall(found[3]) if name.startswith("l_")}
    return TrainingLine(_whole(found[1]), float(found[2]), losses) if losses else None


def validation_line(line: str) -> str | None:
    """Name of the dataset whose metrics follow, one a line; None for every other line."""
    found = _VALIDATION.search(line)
    return found[1] if found else None


def metric_line(line: str) -> MetricLine | None:
    """Parse a metric of a validation; None for every other line and for one whose value is cut off."""
    found = _METRIC.search(line)
    return MetricLine(found[1], float(found[2])) if found else None


def memory_line(line: str) -> Memory | None:
    """Parse the peak memory that this package's trainer logs; None for every other line."""
    found = _MEMORY.search(line)
    return Memory(_whole(found[1]), found[2], found[3]) if found else None


def _whole(text):
    return int(text.replace(",", ""))


def log_files(folder: Path) -> list[Path]:
    """Text logs of an experiment, oldest first: their names end in the time."""
    return sorted(folder.glob("train_*.log"), key=lambda path: path.stem[-len("20250101_120000") :])


def read_log(path: Path, where: str) -> Piece:
    """Read a text log; a last line that is not complete is left out.

    Args:
        path: ``train_NAME_TIMESTAMP.log``.
        where: the path as it stands in messages.

    Raises:
        OSError: it cannot be read.
    """
    complete, newline, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    _, *parts = _MESSAGE.split(complete + newline)
    log = _Log(where)
    for moment, message in zip(parts[::2], parts[1::2], strict=True):
        log.add(datetime.fromisoformat(moment.replace(",", ".")).timestamp(), message.rstrip("\n"))
    piece = log.complete()
    piece.began = _named_time(path) or piece.began
    return piece


def _named_time(path):
    try:
        return time.mktime(time.strptime(path.stem[-len("20250101_120000") :], "%Y%m%d_%H%M%S"))
    except ValueError:  # a log of another name
        return None


class _Log:
    """Reads messages one by one into a piece."""

    def __init__(self, where):
        self.piece = Piece(where)
        self.numbers = {}
        self.blocks = Counter()
        self.validated = {}
        self.logged = 0
        self.trained_from = None

    def add(self, moment, message):
        """Take in a message without its time and level."""
        self.piece.began = moment if self.piece.began is None else self.piece.began
        self.piece.elapsed = moment - self.piece.began
        first, *others = message.split("\n")
        line, dataset = training_line(first), validation_line(first)
        if line:
            self._add_training(line, moment)
        elif dataset:
            self._add_validation(dataset, others)
        elif not first.strip() and any(text.startswith("  network_g:[") for text in others):
            self.piece.options = _parse_options(others)
        elif first.startswith("End of training."):
            self.piece.finished = True
        else:
            self.piece.memory = memory_line(first) or self.piece.memory
            self._add_numbers(message, moment)

    def _add_numbers(self, message, moment):
        for name, pattern in _NUMBERS.items():
            found = pattern.search(message)
            if found:
                self.numbers.setdefault(name, _whole(found[1]))
                if name == "start":
                    self.trained_from = moment

    def _add_training(self, line, moment):
        self.logged = line.iteration
        self.piece.iteration_seconds.append(line.seconds)
        if self.trained_from is not None:
            self.piece.seconds[line.iteration] = moment - self.trained_from
        for name, value in line.losses.items():
            self.piece.values.setdefault(f"losses/{name}", {})[line.iteration] = value

    def _add_validation(self, dataset, lines):
        metrics = [metric for metric in map(metric_line, lines) if metric]
        if not metrics:
            return
        # Validation sets of one name follow each other in a validation; the last one's figures stay, as in events.
        if self.blocks[dataset] % self._sets(dataset) == 0:
            self.validated[dataset] = self._validation_iteration(dataset)
        self.blocks[dataset] += 1
        for metric in metrics:
            tag = f"metrics/{dataset}/{metric.name}"
            self.piece.values.setdefault(tag, {})[self.validated[dataset]] = metric.value

    def _sets(self, name):
        """Number of validation sets of a name."""
        datasets = section(self.piece.options, "datasets").items()
        sets = [value for key, value in datasets if key.split("_")[0] == "val" and isinstance(value, dict)]
        return max(1, sum(value.get("name") == name for value in sets))

    def _validation_iteration(self, dataset):
        """The iteration of the validation that comes now; BasicSR does not log it."""
        start = self.numbers.get("start", 0)
        last = max(self.logged, start)
        if self.piece.finished:
            total = self.numbers.get("total", 0)
            # Under DataParallel BasicSR counts too few epochs, and training may end before its last iteration.
            return total if last < total < last + self._print_freq else last
        every = section(self.piece.options, "val").get("val_freq", 1)
        earliest = max(last, self.validated.get(dataset, start) + 1)
        return -(-earliest // every) * every

    @property
    def _print_freq(self):
        return section(self.piece.options, "logger").get("print_freq", 1)

    def complete(self):
        """The piece, with what the log says as a whole."""
        piece, numbers = self.piece, self.numbers
        piece.start, piece.parameters = numbers.get("start"), numbers.get("parameters")
        piece.batch = images_an_iteration(piece.options, numbers.get("batch"), numbers.get("processes", 1))
        known = max((max(points) for points in piece.values.values()), default=0)
        piece.last = known
        if piece.finished:
            piece.last = max(known, min(numbers.get("total", 0), known + self._print_freq - 1))
        return piece


def _parse_options(lines):
    """Options as ``basicsr.utils.options.dict2str`` writes them: "key: value", and "key:[" ... "]" around a section."""
    options = {}
    open_sections = [options]
    for line in map(str.strip, lines):
        key, separator, value = line.partition(": ")
        if line == "]" and len(open_sections) > 1:
            open_sections.pop()
        elif line.endswith(":["):
            child = open_sections[-1][line[:-2]] = {}
            open_sections.append(child)
        elif separator:
            open_sections[-1][key] = _literal(value)
    return options


def _literal(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
