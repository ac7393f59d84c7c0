"""Files of a training run: written whole, named as BasicSR names them, old ones removed."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from contrast_arch.errors import TrainingStopped
from contrast_arch.files import replacing, temporary_name
from contrast_arch.options.schema import settings_of
from contrast_arch.weights.files import ABOUT, SAFETENSORS, as_metadata, description, first_not_finite
from contrast_arch.weights.shapes import config_of

ATTEMPTS = 3


class SaveError(Exception):
    """A file could not be written; the message says why."""


def write(path: Path, save: Callable[[Path], None], whole: bool = True) -> None:
    """Write a file, trying again where it fails; by default the old file stays until the new one is on the disk.

    Args:
        save: writes to the path it is given.
        whole: write the file under another name, sync and rename it.

    Raises:
        SaveError: it could not be written.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(1)
        try:
            if whole:
                with replacing(path, sync=True) as temporary:
                    save(temporary)
            else:
                save(path)
            return
        except (OSError, RuntimeError) as error:  # torch.save gives a RuntimeError for a full disk
            reason = str(error).splitlines()[0]
    try:
        room = f"{shutil.disk_usage(path.parent).free >> 20} MiB are free in {path.parent}"
    except OSError:
        room = f"{path.parent} is not there"
    raise SaveError(f"{path} could not be written ({reason}); {room}")


def save_network(model, net, label: str, current_iter: int, param_key, done: int) -> tuple[Path, dict]:
    """Write ``models/LABEL_ITERATION.pth``; a .safetensors beside it where ``logger: save_format`` asks for it.

    Args:
        model: of BasicSR.
        net, label, current_iter, param_key: arguments of BasicSR's ``save_network``.
        done: the last iteration that was trained.

    Returns:
        The file, and what it holds: key -> weights.

    Raises:
        SaveError: a file could not be written.
    """
    opt, logger = model.opt, settings_of(model.opt).logger
    nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
    nets = dict(zip(keys, map(model.get_bare_model, nets), strict=True))
    content = {
        key: {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
        for key, net in nets.items()
    }
    path = Path(opt["path"]["models"], f"{label}_{'latest' if current_iter == -1 else current_iter}.pth")
    about = description(opt.get(label.replace("net_", "network_"), {}), done if current_iter == -1 else current_iter)
    write(path, lambda target: torch.save(content | {ABOUT: about}, target), logger.atomic_save)
    if logger.save_format == "safetensors":
        from safetensors.torch import save_file

        # The averaged weights where there are any: what one would use.
        best = about["param_key"] = keys[-1]
        # Tensors that share memory are refused.
        tensors = {name: value.clone() for name, value in content[best].items()} | config_of(
            nets[best], about["network_g"]
        )
        write(
            path.with_suffix(SAFETENSORS),
            lambda target: save_file(tensors, target, as_metadata(about)),
            logger.atomic_save,
        )
    return path, content


def model_state(model) -> dict:
    """Return what a model of BasicSR needs to go on: optimizers, schedules, and what its ``own_state()`` gives."""
    best = getattr(model, "best_metric_results", {}).items()
    return {
        "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
        "optimizer_types": [type(optimizer).__name__ for optimizer in model.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in model.schedulers],
        # As Python's numbers: weights_only refuses NumPy's.
        "best_metric_results": {
            name: {key: metric | {"val": float(metric["val"])} for key, metric in results.items()}
            for name, results in best
        },
        **getattr(model, "own_state", dict)(),
    }


def state_file(opt: dict, iteration: int) -> Path:
    return Path(opt["path"]["training_states"], f"{iteration}.state")


def network_file(opt: dict, iteration: int | str, label: str = "g") -> Path:
    return Path(opt["path"]["models"], f"net_{label}_{iteration}.pth")


def saved_iterations(opt: dict) -> list[int]:
    """List the iterations of an experiment's training states, the newest first, readable or not."""
    folder = Path(opt["path"]["training_states"])
    names = [path.stem for path in folder.glob("*.state")] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_good(opt: dict) -> str:
    """For messages: the newest training state, as the user would name it."""
    iterations = saved_iterations(opt)
    if not iterations:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {network_file(opt, iterations[0])} (iteration {iterations[0]})"


def remove_older(opt: dict, iteration: int, best_metric_results: dict) -> None:
    """Remove training states, each with its checkpoints, but the newest ``logger: keep_last`` and the best.

    Args:
        iteration: of the newest. Later ones, of a run that was resumed before its end or in broken files, are left
            alone.
        best_metric_results: as BasicSR's models keep them.
    """
    keep_last = settings_of(opt).logger.keep_last
    if keep_last is None:
        return
    best = {metric["iter"] for results in best_metric_results.values() for metric in results.values()}
    earlier = [saved for saved in saved_iterations(opt) if saved <= iteration]
    try:
        for saved in set(earlier[keep_last:]) - best:
            # In this order, so that no state is ever without its checkpoint.
            state_file(opt, saved).unlink(missing_ok=True)
            for kind in (".pth", SAFETENSORS):
                for path in Path(opt["path"]["models"]).glob(f"net_*_{saved}{kind}"):
                    path.unlink(missing_ok=True)
    except OSError as error:
        logging.getLogger("basicsr").warning(f"logger: keep_last: an older state could not be removed: {error}")


def remove_unfinished(opt: dict) -> None:
    """Remove what a killed process had not finished writing."""
    for folder, pattern in ((opt["path"]["training_states"], "*.state"), (opt["path"]["models"], "net_*")):
        for path in Path(folder).glob(temporary_name(Path(folder, pattern)).name):
            path.unlink(missing_ok=True)


def refuse_not_finite(network: torch.nn.Module, opt: dict) -> None:
    """See that weights are numbers before they take the place of older ones.

    Raises:
        TrainingStopped: they are not.
    """
    wrong = first_not_finite(network.state_dict())
    if wrong is not None:
        raise TrainingStopped(
            f"the network's {wrong} is not finite any more although losses and gradients were, so nothing was saved; "
            f"{last_good(opt)}. Lower the learning rate, or look at the optimizer's eps"
        )
