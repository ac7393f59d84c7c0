"""Text logs of BasicSR 1.4.2 as lines of a record: one file a start, readable at any time, up to the last whole line.

A line that is cut off in the middle is passed over: the log may be of a run in progress. The formats are those of
``basicsr.utils.logger.MessageLogger`` and ``basicsr.models.sr_model.SRModel``.
"""

import ast
import re
import time
from datetime import datetime
from pathlib import Path
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
_MESSAGE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+: ", re.MULTILINE)
_NUMBERS = {
    "parameters": re.compile(r"INFO: Network: .*, with parameters: ([\d,]+)$", re.MULTILINE),
    "batch": re.compile(r"^\tBatch size per gpu: (\d+)$", re.MULTILINE),
    "processes": re.compile(r"^\tWorld size \(gpu number\): (\d+)$", re.MULTILINE),
    "total": re.compile(r"^\tTotal epochs: \d+; iters: (\d+)\.$", re.MULTILINE),
    "start": re.compile(r"INFO: Start training from epoch: -?\d+, iter: (\d+)$", re.MULTILINE),
}


class Log(NamedTuple):
    """A text log: one start of a run."""

    path: Path
    lines: list[dict]  # as in metrics.jsonl; none if training did not begin
    options: dict  # as the run used them, --force_yml included; empty if unknown
    parameters: int | None
    began: float  # unix time


def training_line(line: str) -> dict | None:
    """Parse a line of training, as in metrics.jsonl; None for every other line and for one that is cut off.

    A loss is that of the batch of this iteration alone, the seconds are BasicSR's running mean.
    """
    found = _TRAINING.search(line)
    losses = {name: float(value) for name, value in _VALUE.findall(found[3]) if name.startswith("l_")} if found else {}
    line = {"kind": "train", "values": losses}
    return line | {"iteration": _whole(found[1]), "iteration_seconds": float(found[2])} if losses else None


def _whole(text):
    return int(text.replace(",", ""))


def _stamp(path):
    return path.stem[-len("20250101_120000") :]


def read_logs(folder: Path) -> list[Log]:
    """Read the text logs of an experiment, oldest first: their names end in the time."""
    return [_read(path) for path in sorted(folder.glob("train_*.log"), key=_stamp)]


def _read(path):
    complete, newline, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    text = complete + newline
    numbers = {name: _whole(found[1]) for name, pattern in _NUMBERS.items() if (found := pattern.search(text))}
    _, *parts = _MESSAGE.split(text)
    times = [datetime.fromisoformat(moment.replace(",", ".")).timestamp() for moment in parts[::2]]
    messages = list(zip(times, parts[1::2], strict=True))
    options = next((_parse_options(message) for _, message in messages if "\n  network_g:[" in message), {})
    try:
        began = time.mktime(time.strptime(_stamp(path), "%Y%m%d_%H%M%S"))
    except ValueError:  # a log of another name
        began = times[0] if times else 0.0
    lines = list(_lines(messages, options, numbers, began)) if "start" in numbers else []
    return Log(path, lines, options, numbers.get("parameters"), began)


def _lines(messages, options, numbers, began):
    start, total = numbers["start"], numbers.get("total", 0)
    print_freq = section(options, "logger").get("print_freq", 1)
    val_freq = section(options, "val").get("val_freq", 1)
    batch = images_an_iteration(options, numbers.get("batch"), numbers.get("processes", 1))
    yield {"kind": "run", "time": began, "iteration": start, "batch": batch, "resumed": True}
    last, validated, end, from_time = start, {}, None, began
    for moment, message in messages:
        first, *others = message.rstrip("\n").split("\n")
        if line := training_line(first):
            last = line["iteration"]
            yield line | {"seconds": moment - from_time}
        elif (found := _VALIDATION.search(first)) and (metrics := list(filter(None, map(_METRIC.match, others)))):
            # BasicSR does not log the iteration of a validation.
            dataset, values = found[1], {metric[1]: float(metric[2]) for metric in metrics}
            earliest = max(last, validated.get(dataset, start) + 1)
            validated[dataset] = end or -(-earliest // val_freq) * val_freq
            yield {"kind": "validation", "iteration": validated[dataset], "set": dataset, "values": values}
        elif first.startswith("Start training from epoch"):
            from_time = moment
        elif first.startswith("End of training."):
            # Under DataParallel BasicSR counts too few epochs, and may end before the last iteration.
            end = total if last < total < last + print_freq else max(last, *validated.values(), 1)
            yield {"kind": "checkpoint", "iteration": end, "path": "net_g_latest.pth"}


def section(options: dict, key: str) -> dict:
    """The mapping under a key of options; an empty one if there is none."""
    found = options.get(key)
    return found if isinstance(found, dict) else {}


def validation_sets(options: dict) -> list[dict]:
    """The sections of the validation sets."""
    found = section(options, "datasets").items()
    return [value for phase, value in found if phase.split("_")[0] == "val" and isinstance(value, dict)]


def images_an_iteration(options: dict, batch: int | None = None, processes: int = 1) -> int | None:
    """Images of an iteration of BasicSR's trainer.

    Args:
        options: of the run.
        batch: images of a GPU; None takes that of the options.
        processes: of the run.
    """
    batch = batch or section(section(options, "datasets"), "train").get("batch_size_per_gpu")
    gpus = options.get("num_gpu")
    if batch and not options.get("dist") and isinstance(gpus, int) and gpus > 1:
        return batch * gpus  # without a launcher BasicSR runs DataParallel: one process, one batch for each GPU
    return batch and batch * processes


def _parse_options(message):
    """Options as ``basicsr.utils.options.dict2str`` writes them: "key: value", and "key:[" ... "]" around a section."""
    options = {}
    open_sections = [options]
    for line in map(str.strip, message.split("\n")):
        key, separator, value = line.partition(": ")
        if line == "]" and len(open_sections) > 1:
            open_sections.pop()
        elif line.endswith(":["):
            child = open_sections[-1][line[:-2]] = {}
            open_sections.append(child)
        elif separator:
            try:
                open_sections[-1][key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                open_sections[-1][key] = value
    return options
