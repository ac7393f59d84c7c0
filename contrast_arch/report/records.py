"""What BasicSR wrote of one experiment, put together: option file, text logs and events, over all of its starts."""

import math
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from contrast_arch.parsing import parse_yaml
from contrast_arch.report.events import available, read_events
from contrast_arch.report.lines import Memory
from contrast_arch.report.logs import Log, read_log, section

Values = dict[str, dict[int, float]]


@dataclass
class Experiment:
    """One experiment.

    Attributes:
        folder: as it was given.
        label: short name for curves, unlike that of every other experiment.
        options: of the last start; empty where nothing says them.
        logs: one a start, oldest first.
        values: tag -> iteration -> value, of the starts that count.
        sources: what was read, in words.
        notes: what was missing or broken, each with its path.
    """

    folder: Path
    label: str = ""
    options: dict = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def network(self) -> str:
        """``network_g: type`` of the options; "-" where nothing says it."""
        return str(section(self.options, "network_g").get("type", "-"))

    @property
    def parameters(self) -> int | None:
        """Of the network, as BasicSR counted them."""
        return next((log.numbers["parameters"] for log in self.logs if "parameters" in log.numbers), None)

    @property
    def seconds(self) -> float | None:
        """An iteration: the median of what the lines of training say."""
        seconds = [value for log in self.logs for value in log.seconds]
        return statistics.median(seconds) if seconds else None

    @property
    def memory(self) -> Memory | None:
        """The highest of all starts."""
        return max((log.memory for log in self.logs if log.memory), key=lambda memory: memory.mib, default=None)

    @property
    def finished(self) -> bool:
        """Whether the last start came to its end."""
        return bool(self.logs) and self.logs[-1].finished

    @property
    def iterations(self) -> int:
        """The last iteration of which something is known; 0 where nothing is."""
        known = [max(points) for points in self.values.values() if points]
        if self.finished:
            known.append(min(self.logs[-1].numbers.get("total", 0), max(known, default=0) + self._print_freq - 1))
        return max(known, default=0)

    @property
    def _print_freq(self):
        return section(self.options, "logger").get("print_freq", 1)

    @property
    def interval(self) -> int | None:
        """Iterations from one checkpoint to the next: ``val_freq``, or ``save_checkpoint_freq`` without validation."""
        validation = section(self.options, "val").get("val_freq")
        return validation or section(self.options, "logger").get("save_checkpoint_freq")

    @property
    def images_per_iteration(self) -> int | None:
        """Of the last start; None where nothing says the batch size."""
        starts = self._starts()
        return starts[-1][1] if starts else None

    def images(self, iteration: int) -> int:
        """Training images seen up to an iteration; each start counts with its own batch size and number of GPUs."""
        starts = self._starts()
        ends = [start for start, _ in starts[1:]] + [math.inf]
        return sum(
            images * max(0, min(iteration, end) - start) for (start, images), end in zip(starts, ends, strict=True)
        )

    def _starts(self):
        """(iteration, images an iteration from there on), of the starts that count."""
        starts = []
        for log in self.logs:
            start, images = log.numbers.get("start"), _images_per_iteration(log.options or self.options, log.numbers)
            if start is not None and images:
                starts = [earlier for earlier in starts if earlier[0] < start]
                # What came before the oldest log that is left is taken for a run like it.
                starts.append((start if starts else 0, images))
        images = _images_per_iteration(self.options, {})
        return starts or ([(0, images)] if images else [])

    def interval_means(self, tag: str) -> dict[int, float]:
        """The mean over each whole checkpoint interval -> value, at the last iteration of the interval."""
        if not self.interval:
            return {}
        groups = {}
        for iteration, value in self.values.get(tag, {}).items():
            end = -(-iteration // self.interval) * self.interval
            if end <= self.iterations:
                groups.setdefault(end, []).append(value)
        return {end: statistics.fmean(group) for end, group in sorted(groups.items())}

    def metrics(self) -> dict[str, list[str]]:
        """Validation set -> its metrics, in the order in which they were found."""
        found = {}
        for tag in self.values:
            if tag.startswith("metrics/"):
                dataset, _, metric = tag.removeprefix("metrics/").rpartition("/")
                found.setdefault(dataset, []).append(metric)
        return found


def _images_per_iteration(options, numbers):
    batch = numbers.get("batch_size") or section(section(options, "datasets"), "train").get("batch_size_per_gpu")
    if not batch:
        return None
    gpus = options.get("num_gpu")
    if not options.get("dist") and isinstance(gpus, int) and gpus > 1:
        return batch * gpus  # without a launcher BasicSR runs DataParallel: one process, one batch for each GPU
    return batch * numbers.get("world_size", 1)


def looks_like_experiment(folder: Path) -> bool:
    """Whether a folder holds an option file or a text log of training, or has events beside it."""
    return bool(any(folder.glob("*.yml")) or any(folder.glob("train_*.log")) or _event_paths(folder))


def _event_paths(folder):
    """Oldest first; the name holds the time."""
    folder = folder.resolve()
    return sorted((folder.parent.parent / "tb_logger" / folder.name).glob("events.out.tfevents.*"))


def read_experiment(folder: Path, finished: bool = False) -> Experiment:
    """Read what BasicSR wrote of an experiment; what is broken or missing is said in its notes.

    Args:
        folder: ``experiments/NAME``; events lie in ``tb_logger/NAME`` beside ``experiments``.
        finished: leave out the starts after the last one that came to its end, if there is such a one.
    """
    experiment = Experiment(folder)
    _add_logs(experiment)
    starts = len(experiment.logs)
    if finished:
        while any(log.finished for log in experiment.logs) and not experiment.finished:
            experiment.logs.pop()
    experiment.sources.append(f"{shown(folder)} ({_counted(len(experiment.logs), 'text log')})")
    _add_options(experiment)
    events = _read_event_files(experiment)
    if len(experiment.logs) < starts:
        # Which events are of which start is known only if each start has written its own.
        events = events[: len(experiment.logs)] if len(events) == starts else []
    text = _merged([(log.numbers.get("start"), log.values) for log in experiment.logs])
    experiment.values = _with_events(experiment, text, events)
    _add_notes(experiment)
    return experiment


def experiment_options(folder: Path) -> dict:
    """Read the options of an experiment's last start; empty where nothing says them."""
    experiment = Experiment(folder)
    _add_logs(experiment)
    _add_options(experiment)
    return experiment.options


def _add_logs(experiment):
    """Oldest first; the name ends in the time."""
    paths = experiment.folder.glob("train_*.log")
    for path in sorted(paths, key=lambda path: path.stem[-len("20250101_120000") :]):
        _add_log(experiment, path)


def _add_log(experiment, path):
    try:
        log = read_log(path)
    except OSError as error:
        experiment.notes.append(f"{shown(path)}: cannot be read: {error.strerror}")
        return
    experiment.logs.append(log)
    if not log.seconds:
        experiment.notes.append(f"{shown(path)}: no line of training yet")


def _add_options(experiment):
    """Those of the last log, as the run used them; else the newest option file."""
    experiment.options = next((log.options for log in reversed(experiment.logs) if log.options), {})
    # neosr's are TOML.
    paths = [path for kind in ("*.yml", "*.toml") for path in experiment.folder.glob(kind)]
    paths.sort(key=lambda path: path.stat().st_mtime)
    if not paths:
        experiment.notes.append(f"{shown(experiment.folder)}: no option file (*.yml)")
        return
    experiment.sources.append(paths[-1].name)
    if experiment.options:
        return
    try:
        options = _parse(paths[-1])
    except (OSError, ValueError, ImportError, RecursionError, yaml.YAMLError) as error:
        options = str(error)
    if isinstance(options, dict):
        experiment.options = options
    else:
        experiment.notes.append(f"{shown(paths[-1])}: not readable as an option file")


def _parse(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".toml":
        return parse_yaml(text)
    import tomllib  # Python 3.11 has it

    return tomllib.loads(text)


def _read_event_files(experiment):
    if not available():
        return []
    files = [read_events(path) for path in _event_paths(experiment.folder)]
    if files:
        experiment.sources.append(f"{shown(files[0].path.parent)} ({_counted(len(files), 'event file')})")
    experiment.notes += [f"{shown(file.path)}: {file.damage}" for file in files if file.damage]
    return files


def _counted(number, what):
    return f"{number} {what}{'' if number == 1 else 's'}"


def _with_events(experiment, text, events):
    """The values of the text logs, replaced by those of the events, which have all digits, wherever there are such."""
    logs = experiment.logs
    if not events:
        return text
    firsts = [min((min(points) for points in file.values.values()), default=math.inf) for file in events]
    starts = [log.numbers.get("start") for log in logs]
    totals = [log.numbers.get("total", math.inf) for log in logs]
    if logs and not _belong_together(starts, firsts):
        more = "text logs" if len(logs) > len(events) else "events"
        experiment.notes.append(
            f"{shown(experiment.folder)}: {_counted(len(logs), 'text log')} and {_counted(len(events), 'event file')} "
            f"that do not belong together (each start writes one of each); values are taken from the {more} alone"
        )
        if more == "text logs":
            return text
        text, logs = {}, []
    if not logs:
        total = section(experiment.options, "train").get("total_iter") or max(totals, default=math.inf)
        starts, totals = [first - 1 for first in firsts], [total] * len(events)
    values = _merged(
        [(start, _up_to(total, file.values)) for start, total, file in zip(starts, totals, events, strict=True)]
    )
    return {tag: dict(sorted({**text.get(tag, {}), **values.get(tag, {})}.items())) for tag in {**text, **values}}


def _belong_together(starts, firsts):
    """Whether event files whose first iterations are given can be those of starts from the given iterations."""
    return len(starts) == len(firsts) and all(
        math.isinf(first) if start is None else first > start for start, first in zip(starts, firsts, strict=True)
    )


def _up_to(total, values):
    """BasicSR counts on after the last iteration, and logs the last validation there, but no loss."""
    losses = [max(points) for tag, points in values.items() if tag.startswith("losses/")]
    total = max([total, *losses])
    return {tag: {min(int(i), total): value for i, value in sorted(points.items())} for tag, points in values.items()}


def _merged(starts):
    """The values of starts, oldest first; what was logged after the iteration a later one went on from is void."""
    merged = {}
    for start, values in starts:
        if start is None or math.isinf(start):
            continue
        merged = {tag: {i: v for i, v in points.items() if i <= start} for tag, points in merged.items()}
        for tag, points in values.items():
            merged.setdefault(tag, {}).update(points)
    return {tag: points for tag, points in merged.items() if points}


def _add_notes(experiment):
    where = shown(experiment.folder)
    losses = {tag: points for tag, points in experiment.values.items() if tag.startswith("losses/")}
    for tag, points in losses.items():
        wrong = [iteration for iteration, value in points.items() if not math.isfinite(value)]
        if wrong:
            experiment.notes.append(f"{where}: {tag} is not finite at iteration {wrong[0]:,} ({len(wrong)} times)")
    if not experiment.values:
        experiment.notes.append(f"{where}: nothing was logged yet")
        return
    if not experiment.metrics():
        experiment.notes.append(f"{where}: no validation so far; it has no point in the figures of PSNR and SSIM")
    if not experiment.logs:
        experiment.notes.append(f"{where}: no text log: parameters, iteration time and memory are not known")
    if not experiment.images_per_iteration:
        experiment.notes.append(f"{where}: no batch size, neither in a text log nor in an option file: not drawn")
    elif losses and not experiment.interval:
        experiment.notes.append(f"{where}: neither val_freq nor save_checkpoint_freq: no curve of the loss")
    elif losses and experiment.iterations % experiment.interval:
        whole = experiment.iterations // experiment.interval * experiment.interval
        experiment.notes.append(
            f"{where}: iteration {experiment.iterations:,} ends no checkpoint interval ({experiment.interval:,} "
            f"iterations); what comes after iteration {whole:,} is left out of the curve of the loss"
        )


def shown(path: Path) -> str:
    """A path as the user would write it: relative where it lies under the working directory."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
