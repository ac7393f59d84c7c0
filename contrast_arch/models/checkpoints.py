"""Checkpoints and training states on the disk: written whole, read back with care, old ones removed."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.files import replacing, temporary_name
from contrast_arch.weights.files import SAFETENSORS, as_metadata, first_not_finite, read, weights_under

ATTEMPTS = 3


def write(path: Path, save: Callable[[Path], None], whole: bool = True) -> str | None:
    """Write a file, trying again where it fails; by default the old file stays until the new one is on the disk.

    Args:
        save: writes to the path it is given.
        whole: whether the file is written under another name, synced and renamed.

    Returns:
        None, or why it could not be written.
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
            return None
        except (OSError, RuntimeError) as error:  # torch.save gives a RuntimeError for a full disk
            reason = str(error).splitlines()[0]
    return f"{path} could not be written ({reason}); {free_space(path.parent)}"


def on_the_cpu(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a network, on the CPU and contiguous."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def save_safetensors(path: Path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Save tensors with a description, see :func:`~contrast_arch.weights.files.description`."""
    from safetensors.torch import save_file

    # Tensors that share memory are refused.
    save_file({name: value.clone() for name, value in tensors.items()}, path, as_metadata(about))


def free_space(folder: Path) -> str:
    """For messages, such as ``12 MiB are free in experiments/a``."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows has none
        return f"see whether {folder} is there and has room"
    return f"{found.f_bavail * found.f_frsize >> 20} MiB are free in {folder}"


def state_file(opt: dict, iteration: int) -> Path:
    return Path(opt["path"]["training_states"], f"{iteration}.state")


def network_file(opt: dict, iteration: int | str) -> Path:
    return Path(opt["path"]["models"], f"net_g_{iteration}.pth")


def saved_iterations(opt: dict) -> list[int]:
    """Of the training states of an experiment, the newest first; whether they can be read is not looked at."""
    folder = Path(opt["path"]["training_states"])
    names = [path.stem for path in folder.glob("*.state")] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def read_state(path: Path | str) -> dict:
    """A training state of BasicSR or of ContrastModel.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    state = read(path, "training state")
    if not isinstance(state, dict) or not {"iter", "epoch", "optimizers", "schedulers"} <= set(state):
        raise InputError(f"training state {path} is none: expected a file NUMBER.state that BasicSR saved")
    return state


def resumes_network(opt: dict) -> bool:
    """True if a resumed run goes on with the network that it saved with its state, not with pretrain_network_g."""
    return "network_g" not in (opt["path"].get("ignore_resume_networks") or ())


def _with_its_network(path, opt):
    """A training state whose checkpoint can be loaded too."""
    state = read_state(path)
    if resumes_network(opt):
        network = network_file(opt, state["iter"])
        weights_under(network, read(network), "params")
    return state


def resumed_state(opt: dict) -> tuple[Path | None, dict | None, list[str]]:
    """The training state a run with these options goes on from.

    With ``--auto_resume`` the newest one of the experiment that can be read, otherwise ``path: resume_state``.

    Returns:
        The file and what it holds, both None where training starts anew; and why newer ones were passed over.

    Raises:
        InputError: ``path: resume_state`` cannot be read, or none of an experiment's states can.
    """
    if not opt["auto_resume"]:
        path = opt["path"].get("resume_state")
        return (Path(path), _with_its_network(path, opt), []) if path else (None, None, [])
    passed_over = []
    iterations = saved_iterations(opt)
    for iteration in iterations:
        path = state_file(opt, iteration)
        try:
            return path, _with_its_network(path, opt), passed_over
        except InputError as error:
            passed_over.append(str(error))
    if iterations:
        lines = "\n  ".join(passed_over)
        raise InputError(
            f"none of the {len(iterations)} training states in {opt['path']['training_states']} can be resumed:\n"
            f"  {lines}\nmove {opt['path']['experiments_root']} away to start anew"
        )
    return None, None, []


def last_good(opt: dict) -> str:
    """For messages: the newest training state, as the user would name it."""
    iterations = saved_iterations(opt)
    if not iterations:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {network_file(opt, iterations[0])} (iteration {iterations[0]})"


def remove_older(opt: dict, iteration: int, keep_last: int, best: Iterable[int]) -> None:
    """Remove training states, each with its checkpoint, but the newest ones and the best.

    Args:
        iteration: of the newest. What is there of later ones, of a run that was resumed before its end or in files that
            are broken, is left alone.
        keep_last: how many of the newest to keep.
        best: iterations to keep besides.
    """
    earlier = [saved for saved in saved_iterations(opt) if saved <= iteration]
    for saved in set(earlier[keep_last:]) - set(best):
        # In this order, so that no state is ever without its checkpoint.
        state_file(opt, saved).unlink(missing_ok=True)
        network = network_file(opt, saved)
        network.unlink(missing_ok=True)
        network.with_suffix(SAFETENSORS).unlink(missing_ok=True)


def remove_unfinished(opt: dict) -> None:
    """Remove what a killed process had not finished writing."""
    for folder, pattern in ((opt["path"]["training_states"], "*.state"), (opt["path"]["models"], "net_g_*")):
        for path in Path(folder).glob(temporary_name(Path(folder, pattern)).name):
            path.unlink(missing_ok=True)


def refuse_not_finite(weights: dict[str, torch.Tensor], opt: dict) -> None:
    """See that weights are numbers before they take the place of older ones.

    Raises:
        TrainingStopped: they are not.
    """
    wrong = first_not_finite(weights)
    if wrong is not None:
        raise TrainingStopped(
            f"the network's {wrong} is not finite any more although losses and gradients were, so nothing was saved; "
            f"{last_good(opt)}. Lower the learning rate, or look at the optimizer's eps"
        )
