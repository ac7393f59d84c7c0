"""Text logs of BasicSR's training: one file a start, readable at any time, up to the last complete line."""

import ast
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from contrast_arch.report.lines import Memory, memory_line, metric_line, training_line, validation_line

_MESSAGE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+: ", re.MULTILINE)
_NUMBERS = {
    "parameters": re.compile(r"^Network: .*, with parameters: ([\d,]+)$", re.MULTILINE),
    "batch_size": re.compile(r"^\tBatch size per gpu: (\d+)$", re.MULTILINE),
    "world_size": re.compile(r"^\tWorld size \(gpu number\): (\d+)$", re.MULTILINE),
    "total": re.compile(r"^\tTotal epochs: \d+; iters: (\d+)\.$", re.MULTILINE),
    "start": re.compile(r"^Start training from epoch: -?\d+, iter: (\d+)$", re.MULTILINE),
}


@dataclass
class Log:
    """What one text log says.

    Attributes:
        path: of the file.
        options: those of the run, --force_yml included; empty where the log ends before them.
        numbers: "parameters", "batch_size" (a GPU), "world_size", "total" (iterations) and "start" (the iteration of
            the state that training went on from, 0 for a new one), as far as the log says them.
        seconds: an iteration, of each line of training.
        values: tag as in BasicSR's events (``losses/l_pix``, ``metrics/Set5/psnr``) -> iteration -> value.
        memory: the highest of the run; None where the log does not say it.
        finished: whether training came to its end.
    """

    path: Path
    options: dict = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    memory: Memory | None = None
    finished: bool = False
    _last: int = 0
    _validated: dict[str, int] = field(default_factory=dict)
    _blocks: Counter = field(default_factory=Counter)

    def add(self, message: str) -> None:
        """Take in a message without its time and level."""
        first, *others = message.split("\n")
        line = training_line(first)
        dataset = validation_line(first)
        if line:
            self._last = line.iteration
            self.seconds.append(line.seconds)
            for name, value in line.losses.items():
                self._set(f"losses/{name}", line.iteration, value)
        elif dataset:
            self._add_validation(dataset, others)
        elif not first.strip() and any(text.startswith("  network_g:[") for text in others):
            self.options = _parse_options(others)
        elif first.startswith("End of training."):
            self.finished = True
        else:
            self.memory = memory_line(first) or self.memory
            for name, pattern in _NUMBERS.items():
                found = pattern.search(message)
                if found:
                    self.numbers.setdefault(name, int(found[1].replace(",", "")))

    def _add_validation(self, dataset, lines):
        metrics = [metric for metric in map(metric_line, lines) if metric]
        if metrics:
            # Validation sets of one name follow each other in a validation; the last one's figures stay, as in events.
            if self._blocks[dataset] % self._sets(dataset) == 0:
                self._validated[dataset] = self._validation_iteration(dataset)
            self._blocks[dataset] += 1
            iteration = self._validated[dataset]
            for metric in metrics:
                self._set(f"metrics/{dataset}/{metric.name}", iteration, metric.value)

    def _sets(self, name):
        """Number of validation sets of a name."""
        sets = [value for key, value in section(self.options, "datasets").items() if key.split("_")[0] == "val"]
        return max(1, sum(isinstance(value, dict) and value.get("name") == name for value in sets))

    def _validation_iteration(self, dataset):
        """The iteration of the validation that comes now; BasicSR does not log it."""
        start = self.numbers.get("start", 0)
        last = max(self._last, start)
        if self.finished:
            total, print_freq = self.numbers.get("total", 0), section(self.options, "logger").get("print_freq", 1)
            # Under DataParallel BasicSR counts too few epochs, and training may end before its last iteration.
            return total if last < total < last + print_freq else last
        every = section(self.options, "val").get("val_freq", 1)
        earliest = max(last, self._validated.get(dataset, start) + 1)
        return -(-earliest // every) * every

    def _set(self, tag, iteration, value):
        self.values.setdefault(tag, {})[iteration] = value


def read_log(path: Path) -> Log:
    """Read a text log; a last line that is not complete is left out.

    Args:
        path: ``train_NAME_TIMESTAMP.log``.

    Raises:
        OSError: it cannot be read.
    """
    complete, newline, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    log = Log(path)
    for message in _MESSAGE.split(complete + newline):
        log.add(message.rstrip("\n"))
    return log


def section(options: dict, key: str) -> dict:
    """The mapping under a key of options; an empty one where there is none."""
    found = options.get(key)
    return found if isinstance(found, dict) else {}


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
