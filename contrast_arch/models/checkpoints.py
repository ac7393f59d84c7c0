"""Files of a training run: written whole, named as BasicSR names them, old ones removed."""

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from contrast_arch.errors import TrainingStopped
from contrast_arch.files import replacing, temporary_name
from contrast_arch.options.schema import OptionFile
from contrast_arch.weights.files import ABOUT, SAFETENSORS, as_metadata, description, first_not_finite
from contrast_arch.weights.shapes import config_of


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file by a function that takes its path; the old file stays until the new one is whole and on the disk.

    A write that fails is tried three times, then it is an OSError, whose message is for the user.
    """
    for pause in (0, 1, 1):
        time.sleep(pause)
        try:
            with replacing(path, sync=True) as target:
                return save(target)
        except (OSError, RuntimeError) as error:  # torch.save gives a RuntimeError for a full disk
            reason = str(error).splitlines()[0]
    raise OSError(f"{path} could not be written ({reason})")


def save_network(model, settings: OptionFile, done: int, net, label: str, current_iter: int, param_key) -> tuple:
    """Write ``models/LABEL_ITERATION.pth``; a .safetensors beside it where ``logger: save_format`` asks for it.

    Args:
        done: the last iteration that was trained.
        net, label, current_iter, param_key: arguments of BasicSR's ``save_network``.

    Returns:
        The file and its content, key -> weights. OSError where a file could not be written; TrainingStopped, and
        nothing is written, where weights are NaN or infinite.
    """
    opt, name = model.opt, "latest" if current_iter == -1 else current_iter
    nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
    content = {}
    for key, each in zip(keys, map(model.get_bare_model, nets), strict=True):
        content[key] = {part: value.detach().cpu().contiguous() for part, value in each.state_dict().items()}
        if wrong := first_not_finite(content[key]):
            raise TrainingStopped(
                f"the network's {wrong} is not finite any more although losses and gradients were, so nothing was "
                f"saved; {last_good(opt)}. Lower the learning rate, or look at the optimizer's eps"
            )
    path = Path(opt["path"]["models"], f"{label}_{name}.pth")
    about = description(opt.get(label.replace("net_", "network_"), {}), done if current_iter == -1 else current_iter)
    write(path, lambda target: torch.save(content | {ABOUT: about}, target))
    if settings.logger.save_format == "safetensors":
        from safetensors.torch import save_file

        # The averaged weights where there are any. Tensors that share memory are refused.
        tensors = {part: value.clone() for part, value in content[keys[-1]].items()}
        tensors |= config_of(model.get_bare_model(nets[-1]), about["network_g"])
        metadata = as_metadata(about | {"param_key": keys[-1]})
        write(path.with_suffix(SAFETENSORS), lambda target: save_file(tensors, target, metadata))
    return path, content


def save_state(opt: dict, settings: OptionFile, state: dict) -> None:
    """Write ``training_states/ITERATION.state``, see :func:`write`; remove those beyond ``logger: keep_last``."""
    write(state_file(opt, state["iter"]), lambda target: torch.save(state, target))
    if settings.logger.keep_last is not None:
        best = {metric["iter"] for results in state["best_metric_results"].values() for metric in results.values()}
        remove_older(opt, state["iter"], settings.logger.keep_last, best)


def model_state(model) -> dict:
    """Return the state of a BasicSR model: optimizers, schedules, best metrics, and its ``own_state()``."""
    best = {
        # As Python's numbers: weights_only refuses NumPy's.
        name: {key: metric | {"val": float(metric["val"])} for key, metric in results.items()}
        for name, results in getattr(model, "best_metric_results", {}).items()
    }
    return {
        "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in model.schedulers],
        "optimizer_types": [type(optimizer).__name__ for optimizer in model.optimizers],
        "best_metric_results": best,
        **getattr(model, "own_state", dict)(),
    }


def state_file(opt: dict, iteration: int) -> Path:
    return Path(opt["path"]["training_states"], f"{iteration}.state")


def network_file(opt: dict, iteration: int | str, label: str = "g") -> Path:
    return Path(opt["path"]["models"], f"net_{label}_{iteration}.pth")


def saved_iterations(opt: dict) -> list[int]:
    """List the iterations of an experiment's training states, the newest first, readable or not."""
    names = [path.stem for path in Path(opt["path"]["training_states"]).glob("*.state")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_good(opt: dict) -> str:
    """Name the newest checkpoint, for messages."""
    for iteration in saved_iterations(opt):
        return f"the last good checkpoint is {network_file(opt, iteration)} (iteration {iteration})"
    return "there is no checkpoint yet"


def remove_older(opt: dict, newest: int, keep_last: int, best: set[int]) -> None:
    """Remove training states, each with its checkpoints, but the last ones and the best."""
    # Later ones are left alone, of a run that was resumed before its end or in broken files.
    earlier = [saved for saved in saved_iterations(opt) if saved <= newest]
    try:
        for saved in set(earlier[keep_last:]) - best:
            # The state first, so that none is ever without its checkpoint.
            networks = [Path(opt["path"]["models"]).glob(f"net_*_{saved}{kind}") for kind in (".pth", SAFETENSORS)]
            for path in itertools.chain([state_file(opt, saved)], *networks):
                path.unlink(missing_ok=True)
    except OSError as error:
        logging.getLogger("basicsr").warning(f"logger: keep_last: an older state could not be removed: {error}")


def remove_unfinished(opt: dict) -> None:
    """Remove the unfinished files of a killed process."""
    for folder, pattern in ((opt["path"]["training_states"], "*.state"), (opt["path"]["models"], "net_*")):
        for path in Path(folder).glob(temporary_name(Path(folder, pattern)).name):
            path.unlink(missing_ok=True)
