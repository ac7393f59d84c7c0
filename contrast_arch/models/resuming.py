"""A training state and the option file of the run that goes on from it: which of them counts where they differ."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from contrast_arch.errors import InputError

# How an optimizer computes a step, not which one.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
# What a schedule of BasicSR keeps of the option file, besides what follows from it.
SCHEDULE = ("milestones", "gamma", "restarts", "restart_weights", "periods", "eta_min")


def fit_state(
    optimizer: torch.optim.Optimizer, scheduler: Any, train: dict, state: dict
) -> list[tuple[tuple[str, ...], str]]:
    """Prepare a training state for the optimizer and the schedule of an option file.

    Args:
        optimizer, scheduler: made from the file, before they load the state.
        train: section ``train`` of the file.
        state: changed where :func:`fit_schedules` says so.

    Returns:
        Keys whose values the state overrides, each with a message.

    Raises:
        InputError: the state is of another type of optimizer.
    """
    arguments = {key: value for key, value in train["optim_g"].items() if key not in ("type", *IMPLEMENTATION)}
    _check_type(type(optimizer), arguments, state)
    fit_schedules(state, hasattr(scheduler, "periods"), train["total_iter"])
    return list(_overridden(optimizer.param_groups[0], vars(scheduler), state))


def fit_schedules(state: dict, cosine: bool, total: float) -> None:
    """Leave the option file's schedule in force where the one of a training state cannot go on.

    Those are a cosine whose periods end too early, at which BasicSR fails, and a schedule of another type. What is
    taken out of the state stays as it was made from the file.

    Args:
        state: a training state; it is changed.
        cosine: True if the file's schedule is CosineAnnealingRestartLR, False if it is a MultiStepLR.
        total: ``train: total_iter``.
    """
    for saved in state["schedulers"]:
        if ("periods" in saved) != cosine:
            replaced = ("cumulative_period", *SCHEDULE)
        elif cosine and sum(saved["periods"]) < total - 1:
            replaced = ("cumulative_period", "periods", "restart_weights")
        else:
            continue
        for key in replaced:
            saved.pop(key, None)


def _check_type(optimizer, arguments, state):
    name, known = optimizer.__name__, state.get("optimizer_types")
    if known == [name] or (known is None and _can_go_on(optimizer, arguments, state["optimizers"][0])):
        return
    saved = known[0] if known else "another optimizer"
    raise InputError(
        f"train: optim_g: type: {name}: the training state is of {saved}, and no optimizer goes on with the state of "
        "another; write its type, or begin a run of another name with its checkpoint (path: pretrain_network_g)"
    )


def _can_go_on(optimizer, arguments, saved):
    """True unless a state, which does not say its optimizer, is known to be of another type."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    made, group = optimizer([weight], **arguments), saved["param_groups"][0]
    key = "decoupled_weight_decay"
    if optimizer.__name__ in ("Adam", "AdamW") and group.get(key, made.defaults.get(key)) != made.defaults.get(key):
        return False
    values = {key: value for key, value in group.items() if key not in IMPLEMENTATION}
    default = {key: made.defaults[key] for key in IMPLEMENTATION if key in made.defaults}
    weight.grad = torch.ones_like(weight)
    try:
        # Values that a later PyTorch has added get their defaults here.
        made.load_state_dict({"state": {}, "param_groups": [values | default | {"params": [0]}]})
        made.step()
    except Exception:  # each optimizer fails in its own way with the values of another
        return False
    of_weights = list(saved["state"].values())
    return not of_weights or set(made.state[weight]) <= set(of_weights[0])


def _overridden(group, schedule, state) -> Iterator[tuple[tuple[str, ...], str]]:
    """
    Args:
        group: the values of the file's optimizer.
        schedule: those of its schedule.
    """
    saved, schedules = state["optimizers"][0]["param_groups"][0], state["schedulers"]
    pairs = {("optim_g", "lr"): (group.get("initial_lr", group["lr"]), saved.get("initial_lr", saved["lr"]))}
    others = group.keys() & saved.keys() - {"params", "lr", "initial_lr", *IMPLEMENTATION}
    pairs |= {("optim_g", key): (group[key], saved[key]) for key in group if key in others}
    if schedules:
        common = [key for key in SCHEDULE if key in schedule and key in schedules[0]]
        pairs |= {("scheduler", key): (schedule[key], schedules[0][key]) for key in common}
        if not common:
            yield (
                ("train", "scheduler", "type"),
                "train: scheduler: type: the training state is of another schedule; this one takes over at iteration "
                f"{state['iter']}, after a rate of {saved['lr']:g}",
            )
    for path, (in_file, in_state) in pairs.items():
        if _written(in_file) != _written(in_state):
            where = ": ".join(("train", *path))
            text = f"{where}: {_written(in_file)} has no effect: the run goes on with {_written(in_state)} of its state"
            yield ("train", *path), text


def _written(value):
    """A value as an option file has it."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
