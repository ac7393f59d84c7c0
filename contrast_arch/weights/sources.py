"""The file that a source of weights stands for: a name that ships, a file, or an experiment's folder."""

import math
from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.files import shipped
from contrast_arch.weights.files import SAFETENSORS

LATEST, BEST = "latest", "best"


def pretrained_names() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in shipped("weights").glob(f"*{SAFETENSORS}"))


def shipped_file(source: str | Path) -> Path:
    """The file of a name that ships; every other source as a path."""
    return shipped("weights") / f"{source}{SAFETENSORS}" if str(source) in pretrained_names() else Path(source)


def find_file(source: str | Path, iteration: str | int | None = None) -> Path:
    """Find the file of a name that ships, of a file, or of a folder ``experiments/NAME``.

    Args:
        iteration: see :func:`experiment_checkpoint`; of a folder only.
    """
    path = shipped_file(source)
    if path.is_dir():
        return experiment_checkpoint(path, LATEST if iteration is None else iteration)[0]
    if not path.is_file():
        raise InputError(
            f"no weights {source}: expected {', '.join(pretrained_names())}, the path of a {SAFETENSORS} or .pth file, "
            "or an experiment's folder"
        )
    if iteration is not None:
        raise InputError(f"iteration={iteration!r} chooses a checkpoint of an experiment's folder; {source} is a file")
    return path


def experiment_of(path: Path) -> Path | None:
    """The folder ``experiments/NAME`` in whose ``models`` a checkpoint lies; None for a file elsewhere."""
    models, folder = path.absolute().parent, path.absolute().parents[1]
    written = (*folder.glob("*.yml"), *folder.glob("train_*.log"))
    return folder if models.name == "models" and written else None


def experiment_checkpoint(folder: Path, iteration: str | int = LATEST) -> tuple[Path, int | None]:
    """Find a checkpoint of an experiment.

    Args:
        folder: ``experiments/NAME``.
        iteration: "latest" for the end of the training or, before its end, the largest iteration; "best" for the
            checkpoint with the best PSNR on the first validation set (the first metric where there is no PSNR); or a
            number.

    Returns:
        The file and its iteration; None for the file of the end, whose name does not say it.
    """
    models = folder / "models"
    found = {int(path.stem[6:]): path for path in models.glob("net_g_*.pth") if path.stem[6:].isdecimal()}
    end = models / "net_g_latest.pth"
    if not found and not end.exists():
        raise InputError(f"{folder} has no checkpoints: expected net_g_latest.pth or net_g_NUMBER.pth in {models}")
    if iteration == LATEST:
        return (end, None) if end.exists() else (found[max(found)], max(found))
    wanted = str(iteration)
    if wanted.isdecimal() and int(wanted) in found:
        return found[int(wanted)], int(wanted)
    if wanted != BEST and not wanted.isdecimal():
        raise InputError(f"iteration={iteration!r}: expected 'latest', 'best' or a number")
    experiment = records_of(folder).read_run(folder, finished=True)
    if end.exists() and experiment.finished:
        found[experiment.iterations] = found.get(experiment.iterations, end)
    chosen = _best(records_of(folder).read_run(folder), found) if wanted == BEST else int(wanted)
    if chosen not in found:
        raise InputError(f"{folder} has no checkpoint of iteration {chosen}; it has {_listed(found)}")
    return found[chosen], chosen


def records_of(folder: Path):
    """The module that reads the options and the records of an experiment."""
    try:
        from contrast_arch.experiments import records
    except ImportError as error:
        raise InputError(f"{folder}: reading an experiment needs {error.name}: pip install pyyaml") from error
    return records


def _best(experiment, found):
    """The iteration with the best validation, of those whose checkpoint is there."""
    sets = experiment.metrics()
    if not sets:
        raise InputError(f"{experiment.folder} has no validation, so none is the best; it has {_listed(found)}")
    dataset, names = next(iter(sets.items()))
    metric = "psnr" if "psnr" in names else names[0]
    values = experiment.values[f"metrics/{dataset}/{metric}"]
    measured = {i: value for i, value in values.items() if i in found and math.isfinite(value)}
    if not measured:
        raise InputError(
            f"{experiment.folder}: no checkpoint of it was validated: {dataset} was at iteration "
            f"{_listed(values)}, and checkpoints are {_listed(found)}"
        )
    settings = ((experiment.options.get("val") or {}).get("metrics") or {}).get(metric) or {}
    return (min if settings.get("better") == "lower" else max)(measured, key=measured.get)


def _listed(iterations):
    listed = sorted(iterations)
    return ", ".join(map(str, listed)) if len(listed) < 8 else f"{len(listed)} from {listed[0]} to {listed[-1]}"
