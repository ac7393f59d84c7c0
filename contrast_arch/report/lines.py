"""Single lines of the text log that BasicSR 1.4.2 writes to its log file and to stderr.

A line that is cut off in the middle is taken for none, so that the log of a run in progress can be read at any time.
The formats are those of ``basicsr.utils.logger.MessageLogger`` and ``basicsr.models.sr_model.SRModel``.
"""

import re
from typing import NamedTuple

# BasicSR formats every loss with ".4e": fewer digits in the exponent mean that the line ends too early.
_NUMBER = r"-?\d\.\d+e[+-]\d{2,3}|nan|-?inf"
_VALUE = re.compile(rf"(\S+): ({_NUMBER})")
_TRAINING = re.compile(
    r"\[epoch:\s*\d+, iter:\s*([\d,]+), lr:\([^)]*\)\] "
    rf"\[eta: .*?, time \(data\): (\d+\.\d+) \(\d+\.\d+\)\] ((?:\S+: (?:{_NUMBER})(?:\s+|$))+)$"
)
_VALIDATION = re.compile(r"(?:^|INFO: )Validation (\S.*?)\s*$")
_METRIC = re.compile(r"^\s*# (\S+): (-?\d+\.\d{4}|nan|-?inf)(?:\s+Best: .*)?\s*$")
_MEMORY = re.compile(r"Peak memory: ([\d,]+) MiB \((\w+), (\w+)\)\s*$")


class TrainingLine(NamedTuple):
    """What a line of training says.

    Attributes:
        iteration: counted from 1.
        seconds: an iteration, BasicSR's running mean.
        losses: name (``l_pix``) -> value; of the batch of this iteration alone.
    """

    iteration: int
    seconds: float
    losses: dict[str, float]


class MetricLine(NamedTuple):
    """A metric (``psnr``) of the validation that the last :func:`validation_line` opened."""

    name: str
    value: float


class Memory(NamedTuple):
    """The highest memory of a run.

    Attributes:
        mib: in MiB.
        kind: what was counted, such as "resident" or "allocated".
        device: "CPU" or "GPU".
    """

    mib: int
    kind: str
    device: str


def training_line(line: str) -> TrainingLine | None:
    """A line of training; None for every other line and for one that is cut off."""
    found = _TRAINING.search(line)
    if not found:
        return None
    losses = {name: float(value) for name, value in _VALUE.findall(found[3]) if name.startswith("l_")}
    return TrainingLine(int(found[1].replace(",", "")), float(found[2]), losses) if losses else None


def validation_line(line: str) -> str | None:
    """The name of the dataset whose metrics follow, one a line; None for every other line."""
    found = _VALIDATION.search(line)
    return found[1] if found else None


def metric_line(line: str) -> MetricLine | None:
    """A metric of a validation; None for every other line and for one whose value is cut off."""
    found = _METRIC.search(line)
    return MetricLine(found[1], float(found[2])) if found else None


def memory_line(line: str) -> Memory | None:
    """The line that contrast_arch's training writes at its end; None for every other line."""
    found = _MEMORY.search(line)
    return Memory(int(found[1].replace(",", "")), found[2], found[3]) if found else None
