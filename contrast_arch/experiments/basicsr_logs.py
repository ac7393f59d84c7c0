"""Text logs of BasicSR 1.4.2 as lines of a record: one file a start, up to the last whole line of a run in progress.

The formats are those of ``basicsr.utils.logger.MessageLogger`` and ``basicsr.models.sr_model.SRModel``.
"""

import ast
import re
import time
from datetime import datetime
from pathlib import Path

# The names end in the time of the start.
_FILES = f"train_*_{'[0-9]' * 8}_{'[0-9]' * 6}.log"
_TIME = "%Y%m%d_%H%M%S"
_MESSAGE = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) [A-Z]+: ", re.MULTILINE)
_TRAINING = re.compile(r"iter:\s*([\d,]+), lr:.* time \(data\): (\d+\.\d+) \(\d+\.\d+\)\] (.*)$")
_LOSS = re.compile(r"(l_\S+): (\S+)")
_VALIDATION = re.compile(r"Validation (\S.*?)\s*$")
_METRIC = re.compile(r"^\s*# (\S+): (-?\d+\.\d{4}|nan|-?inf)(?:\s|$)")
_START = re.compile(r"Start training from epoch: -?\d+, iter: (\d+)$")
_PARAMETERS = re.compile(r"Network: .*, with parameters: ([\d,]+)$")


def training_line(line: str) -> dict | None:
    """Parse a line of training, as in metrics.jsonl; None for every other line.

    A loss is that of the batch of this iteration alone, the seconds are BasicSR's running mean.
    """
    found = _TRAINING.search(line)
    losses = {name: float(value) for name, value in _LOSS.findall(found[3])} if found else {}
    line = {"kind": "train", "values": losses}
    return line | {"iteration": _whole(found[1]), "iteration_seconds": float(found[2])} if losses else None


def _whole(text):
    return int(text.replace(",", ""))


def read_logs(folder: Path) -> list[list[dict]]:
    """Lines, as in metrics.jsonl, of each text log of an experiment in which training began, oldest first.

    The first line, that of the start, also has the ``options`` as the run used them, ``--force_yml`` included (empty if
    unknown), and the network's ``parameters`` (None if unknown).
    """
    paths = sorted(folder.glob(_FILES), key=lambda path: path.stem[-15:])
    return [lines for lines in map(list, map(_lines, paths)) if lines]


def _lines(path):
    text = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0]
    _, *parts = _MESSAGE.split(text)
    options, parameters, last, end, validated = {}, None, None, None, {}
    for moment, message in zip(parts[::2], parts[1::2], strict=True):
        seconds = datetime.fromisoformat(moment.replace(",", ".")).timestamp()
        first, *others = message.rstrip("\n").split("\n")
        if "\n  network_g:[" in message:
            options = _parse_options(message)
        elif found := _PARAMETERS.match(first):
            parameters = _whole(found[1])
        elif found := _START.match(first):
            start = last = int(found[1])
            from_time = seconds
            began = time.mktime(time.strptime(path.stem[-15:], _TIME))
            line = {"kind": "run", "time": began, "iteration": start, "batch": images_an_iteration(options)}
            yield line | {"resumed": True, "options": options, "parameters": parameters}
        elif last is None:
            continue
        elif line := training_line(first):
            last = line["iteration"]
            yield line | {"seconds": seconds - from_time}
        elif (found := _VALIDATION.match(first)) and (metrics := list(filter(None, map(_METRIC.match, others)))):
            # BasicSR does not log the iteration of a validation.
            dataset, freq = found[1], section(options, "val").get("val_freq", 1)
            earliest = max(last, validated.get(dataset, start) + 1)
            validated[dataset] = end or -(-earliest // freq) * freq
            values = {metric[1]: float(metric[2]) for metric in metrics}
            yield {"kind": "validation", "iteration": validated[dataset], "set": dataset, "values": values}
        elif first.startswith("End of training."):
            total = section(options, "train").get("total_iter", 0)
            # Under DataParallel BasicSR counts too few epochs, and may end before the last iteration.
            end = total if last < total < last + section(options, "logger").get("print_freq", 1) else max(last, 1)
            yield {"kind": "checkpoint", "iteration": end, "path": "net_g_latest.pth"}


def section(options: dict, key: str) -> dict:
    """The mapping under a key of options; an empty one if there is none."""
    found = options.get(key)
    return found if isinstance(found, dict) else {}


def images_an_iteration(options: dict) -> int | None:
    """Images of an iteration of BasicSR's trainer with these options; None if they do not say it."""
    batch = section(section(options, "datasets"), "train").get("batch_size_per_gpu")
    processes, gpus = options.get("world_size", 1), options.get("num_gpu")
    if not options.get("dist") and isinstance(gpus, int) and gpus > 1:
        processes = gpus  # without a launcher BasicSR runs DataParallel: one process, one batch for each GPU
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
            open_sections.append(open_sections[-1].setdefault(line[:-2], {}))
        elif separator:
            try:
                open_sections[-1][key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                open_sections[-1][key] = value
    return options
