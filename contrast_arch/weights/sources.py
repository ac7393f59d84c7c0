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


def records():
    """The module that reads experiments, of a floor above."""
    from contrast_arch.experiments import records

    return records


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
    read_run = records().read_run
    models, wanted = folder / "models", str(iteration)
    found = {int(path.stem[6:]): path for path in models.glob("net_g_*.pth") if path.stem[6:].isdecimal()}
    end = models / "net_g_latest.pth"
    if not found and not end.exists():
        raise InputError(f"{folder} has no checkpoints: expected net_g_latest.pth or net_g_NUMBER.pth in {models}")
    if wanted == LATEST:
        return (end, None) if end.exists() else (found[max(found)], max(found))
    if wanted != BEST and not wanted.isdecimal():
        raise InputError(f"iteration={iteration!r}: expected 'latest', 'best' or a number")
    if end.exists() and not (wanted.isdecimal() and int(wanted) in found):
        ended = read_run(folder, finished=True)
        if ended.finished:
            found.setdefault(ended.iterations, end)
    chosen = _best(read_run(folder), found) if wanted == BEST else int(wanted)
    if chosen not in found:
        what = "validated checkpoint" if wanted == BEST else f"checkpoint of iteration {wanted}"
        raise InputError(f"{folder} has no {what}; it has {', '.join(map(str, sorted(found)))}")
    return found[chosen], chosen


def _best(experiment, found):
    """The iteration with the best validation of those whose checkpoint is there; None if none was validated."""
    dataset, names = next(iter(experiment.metrics().items()), (None, ["psnr"]))
    metric = "psnr" if "psnr" in names else names[0]
    values = experiment.values.get(f"metrics/{dataset}/{metric}", {})
    measured = {i: value for i, value in values.items() if i in found and math.isfinite(value)}
    settings = ((experiment.options.get("val") or {}).get("metrics") or {}).get(metric) or {}
    return (min if settings.get("better") == "lower" else max)(measured, key=measured.get, default=None)
