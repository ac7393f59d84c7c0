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
    """Find the file of a name that ships, of a file, or of a folder ``experiments/NAME`` at an iteration."""
    path = shipped_file(source)
    if path.is_dir():
        return experiment_checkpoint(path, LATEST if iteration is None else iteration)[0]
    if not path.is_file():
        names = ", ".join(pretrained_names())
        text = f"expected {names}, the path of a {SAFETENSORS} or .pth file, or an experiment's folder"
        raise InputError(f"no weights {source}: {text}")
    if iteration is not None:
        raise InputError(f"iteration={iteration!r} chooses a checkpoint of an experiment's folder; {source} is a file")
    return path


def read_run(folder: Path, finished: bool = False):
    """Read an experiment's record, see ``read_run`` of the floor above."""
    from contrast_arch.experiments import records

    return records.read_run(folder, finished)


def experiment_checkpoint(folder: Path, iteration: str | int = LATEST) -> tuple[Path, int | None]:
    """Find a checkpoint of an experiment, and its iteration: None for the file of the end, whose name does not say it.

    Args:
        folder: ``experiments/NAME``.
        iteration: "latest" for the end of the training or, before its end, the largest iteration; "best" for the
            checkpoint with the best PSNR on the first validation set; or a number.
    """
    models, wanted = folder / "models", str(iteration)
    found = {int(path.stem[6:]): path for path in models.glob("net_g_*.pth") if path.stem[6:].isdecimal()}
    end = models / "net_g_latest.pth"
    if not found and not end.exists():
        raise InputError(f"{folder} has no checkpoints: expected net_g_latest.pth or net_g_NUMBER.pth in {models}")
    if wanted == LATEST:
        return (end, None) if end.exists() else (found[max(found)], max(found))
    if wanted != BEST and not wanted.isdecimal():
        raise InputError(f"iteration={iteration!r}: expected 'latest', 'best' or a number")
    if end.exists() and (ended := read_run(folder, finished=True)).finished:
        found.setdefault(ended.iterations, end)
    if wanted == BEST:
        run = read_run(folder)
        values = run.values.get(f"metrics/{next(iter(run.metrics()), None)}/psnr", {})
        measured = {number: psnr for number, psnr in values.items() if number in found and math.isfinite(psnr)}
        chosen, what = max(measured, key=measured.get, default=None), "checkpoint whose PSNR was measured"
    else:
        chosen, what = int(wanted), f"checkpoint of iteration {wanted}"
    if chosen not in found:
        raise InputError(f"{folder} has no {what}; it has {', '.join(map(str, sorted(found)))}")
    return found[chosen], chosen
