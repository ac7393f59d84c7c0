"""The record of a training run: ``experiments/NAME/metrics.jsonl``, or BasicSR's text logs where there is none.

A line of the record is a JSON object with ``kind``, ``time`` (unix seconds) and ``iteration``, and by kind:

- ``run``, at each start: ``batch`` (images an iteration, over all processes), ``device`` ("cpu" or the name of a GPU),
  ``resumed``;
- ``train``, every ``print_freq``: ``values`` (losses by name), ``seconds`` (of training since the start of the
  process), ``iteration_seconds``, ``memory_bytes``;
- ``validation``: ``set``, ``values`` (metrics by name) and, if recorded, ``values_per_image`` (by image and metric);
- ``checkpoint``: ``path``, ``bytes``; ``net_g_latest`` is saved at the end of training alone;
- ``problem``: ``message``.

Other kinds and keys are passed over. The options and the number of parameters come from the text log of the same start.
"""

import json
import math
import os
from pathlib import Path

import yaml

from contrast_arch.experiments.basicsr_logs import log_files, read_log
from contrast_arch.experiments.runs import Memory, Piece, Run
from contrast_arch.parsing import parse_yaml

RECORD = "metrics.jsonl"
# Logs are named by whole seconds.
CLOCK_TOLERANCE = 2.0


def has_record(folder: Path) -> bool:
    """True if a folder holds an option file, a record or a text log of training."""
    return any(any(folder.glob(pattern)) for pattern in ("*.yml", RECORD, "train_*.log"))


def read_run(folder: Path, finished: bool = False) -> Run:
    """Read the record of a run; what is broken or missing is in its notes.

    Args:
        folder: ``experiments/NAME``.
        finished: leave out the starts after the last one that came to its end, if there is such a one.
    """
    run = Run(folder)
    logs = _read_logs(run)
    run.pieces = _read_record(run, logs) or logs
    if finished and any(piece.finished for piece in run.pieces):
        while not run.finished:
            run.pieces.pop()
    recorded = (folder / RECORD).is_file()
    run.sources.append(f"{shown(folder)} ({RECORD if recorded else _counted(len(run.pieces), 'text log')})")
    _add_options(run)
    _add_notes(run)
    return run


def read_options(folder: Path) -> dict:
    """Options of a run's last start; empty if they are unknown."""
    run = Run(folder)
    run.pieces = _read_logs(run)
    _add_options(run)
    return run.options


def _read_logs(run):
    pieces = []
    for path in log_files(run.folder):
        try:
            pieces.append(read_log(path, shown(path)))
        except OSError as error:
            run.notes.append(f"{shown(path)}: cannot be read: {error.strerror}")
    return pieces


def _read_record(run, logs):
    """Pieces of the record; none where there is no usable line."""
    path = run.folder / RECORD
    if not path.is_file():
        return []
    pieces = []
    # The last line may be in the middle of being written.
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            _add_line(run, pieces, json.loads(line), shown(path))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            run.notes.append(f"{shown(path)}:{number}: not a line of a record; passed over")
    for piece in pieces:
        log = next((log for log in reversed(logs) if (log.began or 0) <= piece.began + CLOCK_TOLERANCE), None)
        if log is not None:
            piece.options, piece.parameters = log.options, log.parameters
    return pieces


def _add_line(run, pieces, line, where):
    kind, iteration = line["kind"], line["iteration"]
    if kind == "problem":
        run.notes.append(f"{where}: iteration {iteration:,}: {line['message']}")
        return
    if kind == "run":
        start = iteration if line["resumed"] else 0
        memory = Memory(0, *(("resident", "CPU") if line["device"] == "cpu" else ("allocated", "GPU")))
        where = f"{where}: start {len(pieces) + 1}"
        pieces.append(Piece(where, start, line["batch"], line["time"], last=start, memory=memory))
        return
    piece = pieces[-1]
    piece.last, piece.elapsed = max(piece.last, iteration), line["time"] - piece.began
    if kind == "train":
        _add_training(piece, iteration, line)
    elif kind == "validation":
        for metric, value in line["values"].items():
            piece.values.setdefault(f"metrics/{line['set']}/{metric}", {})[iteration] = value
        if line.get("values_per_image"):
            piece.per_image.setdefault(line["set"], {})[iteration] = line["values_per_image"]
    elif kind == "checkpoint":
        piece.finished |= Path(line["path"]).stem == "net_g_latest"


def _add_training(piece, iteration, line):
    for name, value in line["values"].items():
        if name.startswith("l_"):
            piece.values.setdefault(f"losses/{name}", {})[iteration] = value
    piece.seconds[iteration] = line["seconds"]
    piece.iteration_seconds.append(line["iteration_seconds"])
    if line.get("memory_bytes"):
        piece.memory = piece.memory._replace(mib=max(piece.memory.mib, line["memory_bytes"] >> 20))


def _add_options(run):
    """Options of the last start, as the run used them; else those of the newest option file."""
    run.options = next((piece.options for piece in reversed(run.pieces) if piece.options), {})
    # neosr's are TOML.
    paths = [path for kind in ("*.yml", "*.toml") for path in run.folder.glob(kind)]
    if not paths:
        run.notes.append(f"{shown(run.folder)}: no option file (*.yml)")
        return
    run.option_file = max(paths, key=lambda path: path.stat().st_mtime)
    run.sources.append(run.option_file.name)
    if run.options:
        return
    try:
        options = _parse(run.option_file)
    except (OSError, ValueError, ImportError, RecursionError, yaml.YAMLError) as error:
        options = str(error)
    if isinstance(options, dict):
        run.options = options
    else:
        run.notes.append(f"{shown(run.option_file)}: not readable as an option file")


def _parse(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".toml":
        return parse_yaml(text)
    import tomllib  # Python 3.11 has it

    return tomllib.loads(text)


def _counted(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _add_notes(run):
    where = shown(run.folder)
    for piece in run.pieces:
        if not piece.iteration_seconds:
            run.notes.append(f"{piece.where}: no line of training yet")
    losses = {tag: points for tag, points in run.values.items() if tag.startswith("losses/")}
    for tag, points in losses.items():
        wrong = [iteration for iteration, value in points.items() if not math.isfinite(value)]
        if wrong:
            run.notes.append(f"{where}: {tag} is not finite at iteration {wrong[0]:,} ({len(wrong)} times)")
    if not run.values:
        run.notes.append(f"{where}: nothing was logged yet")
        return
    if not run.metrics():
        run.notes.append(f"{where}: no validation so far; it has no point in the figures of PSNR and SSIM")
    if not run.images_per_iteration:
        run.notes.append(f"{where}: no batch size, neither in a text log nor in an option file: not drawn")
    elif losses and not run.interval:
        run.notes.append(f"{where}: neither val_freq nor save_checkpoint_freq: no curve of the loss")
    elif losses and run.iterations % run.interval:
        whole = run.iterations // run.interval * run.interval
        run.notes.append(
            f"{where}: iteration {run.iterations:,} ends no checkpoint interval ({run.interval:,} iterations); what "
            f"comes after iteration {whole:,} is left out of the curve of the loss"
        )


def shown(path: Path) -> str:
    """A path as the user would write it: relative if it lies under the working directory."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
