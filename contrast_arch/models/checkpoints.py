"""Files of a training run: written whole, named as BasicSR names them, old ones removed."""

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


class SaveError(Exception):
    """A file could not be written; the message says why."""


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file by a function that takes its path; the old file stays until the new one is whole and on the disk.

    A write that fails is tried three times, then it is a SaveError.
    """
    for pause in (0, 1, 1):
        time.sleep(pause)
        try:
            with replacing(path, sync=True) as target:
                save(target)
            return
        except (OSError, RuntimeError) as error:  # torch.save gives a RuntimeError for a full disk
            reason = str(error).splitlines()[0]
    raise SaveError(f"{path} could not be written ({reason})")


def save_network(model, settings: OptionFile, done: int, net, label: str, current_iter: int, param_key) -> tuple:
    """Write ``models/LABEL_ITERATION.pth``; a .safetensors beside it where ``logger: save_format`` asks for it.

    Args:
        done: the last iteration that was trained.
        net, label, current_iter, param_key: arguments of BasicSR's ``save_network``.

    Returns:
        The file, and what it holds: key -> weights. SaveError where one could not be written; TrainingStopped, and
        nothing is written, where weights are NaN or infinite.
    """
    opt = model.opt
    nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
    nets = dict(zip(keys, map(model.get_bare_model, nets), strict=True))
    content = {
        key: {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
        for key, net in nets.items()
    }
    wrong = next(filter(None, map(first_not_finite, content.values())), None)
    if wrong:
        raise TrainingStopped(
            f"the network's {wrong} is not finite any more although losses and gradients were, so nothing was saved; "
            f"{last_good(opt)}. Lower the learning rate, or look at the optimizer's eps"
        )
    path = Path(opt["path"]["models"], f"{label}_{'latest' if current_iter == -1 else current_iter}.pth")
    about = description(opt.get(label.replace("net_", "network_"), {}), done if current_iter == -1 else current_iter)
    write(path, lambda target: torch.save(content | {ABOUT: about}, target))
    if settings.logger.save_format == "safetensors":
        from safetensors.torch import save_file

        # The averaged weights where there are any: what one would use.
        best = about["param_key"] = keys[-1]
        # Tensors that share memory are refused.
        tensors = {name: value.clone() for name, value in content[best].items()}
        tensors |= config_of(nets[best], about["network_g"])
        write(path.with_suffix(SAFETENSORS), lambda target: save_file(tensors, target, as_metadata(about)))
    return path, content


def save_state(opt: dict, settings: OptionFile, state: dict) -> None:
    """Write ``training_states/ITERATION.state``, or raise SaveError; remove those beyond ``logger: keep_last``."""
    path = state_file(opt, state["iter"])
    write(path, lambda target: torch.save(state, target))
    if settings.logger.keep_last is not None:
        best = (metric["iter"] for results in state["best_metric_results"].values() for metric in results.values())
        remove_older(opt, state["iter"], settings.logger.keep_last, set(best))


def model_state(model) -> dict:
    """Return the state of a BasicSR model: optimizers, schedules, best metrics, and its ``own_state()``."""
    parts = {"optimizers": model.optimizers, "schedulers": model.schedulers}
    state = {key: [part.state_dict() for part in of_kind] for key, of_kind in parts.items()}
    best = {
        # As Python's numbers: weights_only refuses NumPy's.
        name: {key: metric | {"val": float(metric["val"])} for key, metric in results.items()}
        for name, results in getattr(model, "best_metric_results", {}).items()
    }
    types = [type(optimizer).__name__ for optimizer in model.optimizers]
    return state | {"optimizer_types": types, "best_metric_results": best} | getattr(model, "own_state", dict)()


def state_file(opt: dict, iteration: int) -> Path:
    return Path(opt["path"]["training_states"], f"{iteration}.state")


def network_file(opt: dict, iteration: int | str, label: str = "g") -> Path:
    return Path(opt["path"]["models"], f"net_{label}_{iteration}.pth")


def saved_iterations(opt: dict) -> list[int]:
    """List the iterations of an experiment's training states, the newest first, readable or not."""
    names = [path.stem for path in Path(opt["path"]["training_states"]).glob("*.state")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_good(opt: dict) -> str:
    """For messages: the newest training state, as the user would name it."""
    for iteration in saved_iterations(opt):
        return f"the last good checkpoint is {network_file(opt, iteration)} (iteration {iteration})"
    return "there is no checkpoint yet"


def remove_older(opt: dict, newest: int, keep_last: int, best: set[int]) -> None:
    """Remove training states, each with its checkpoints, but the last ones and the best."""
    # Later ones are left alone, of a run that was resumed before its end or in broken files.
    earlier = [saved for saved in saved_iterations(opt) if saved <= newest]
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
    """Remove the unfinished files of a killed process."""
    for folder, pattern in ((opt["path"]["training_states"], "*.state"), (opt["path"]["models"], "net_*")):
        for path in Path(folder).glob(temporary_name(Path(folder, pattern)).name):
            path.unlink(missing_ok=True)
