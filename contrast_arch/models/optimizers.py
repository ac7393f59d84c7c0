"""The optimizers of PyTorch by name, and BasicSR's schedule as the option file has it, whatever a warm-up did."""

import inspect

import torch
from torch.optim.lr_scheduler import LRScheduler

from contrast_arch.errors import InputError, hint

# The base class; one that evaluates the loss several times a step; one for sparse gradients.
NOT_SUPPORTED = {"Optimizer", "LBFGS", "SparseAdam"}


def optimizer_names() -> list[str]:
    """List the classes of torch.optim that train an image network."""
    found = vars(torch.optim).items()
    names = {key for key, value in found if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)}
    return sorted(names - NOT_SUPPORTED)


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """A class of torch.optim; InputError where :func:`optimizer_names` has none of that name."""
    known = optimizer_names()
    if name not in known:
        raise InputError(f"train: optim_g: type: {name!r} is not supported; {hint(name, known, 'supported: ')}")
    return getattr(torch.optim, name)


def multi_step_rates(schedule: LRScheduler) -> list[float]:
    """Compute the rates of BasicSR's MultiStepRestartLR at its iteration from the initial ones alone.

    BasicSR's schedule goes on from the rates that the optimizer has. After ``warmup_iter: N`` those are (N - 1) / N of
    the option file's for the rest of the run, without the milestones inside the warm-up. Without a warm-up the rates
    are BasicSR's, bit for bit.
    """
    now = schedule.last_epoch
    restart = max((at for at in schedule.restarts if at <= now), default=-1)
    weight = schedule.restart_weights[schedule.restarts.index(restart)] if restart >= 0 else 1
    rates = [group["initial_lr"] * weight for group in schedule.optimizer.param_groups]
    for milestone in sorted(at for at in schedule.milestones if restart < at <= now):
        rates = [rate * schedule.gamma ** schedule.milestones[milestone] for rate in rates]
    return rates
