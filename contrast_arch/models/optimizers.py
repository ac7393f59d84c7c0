"""Optimizer and schedule: made for an option file, and fitted to the training state that a run goes on from."""

import inspect
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from contrast_arch.errors import InputError, hint

# The base class; one that evaluates the loss several times a step; one for sparse gradients.
NOT_SUPPORTED = ("Optimizer", "LBFGS", "SparseAdam")
# Values of an optimizer that say how it computes a step, not which one.
IMPLEMENTATION = {"params", "foreach", "fused", "capturable", "differentiable"}
# Values that states of earlier versions of PyTorch, or without a schedule, lack.
LATER = {"maximize", "decoupled_weight_decay", "initial_lr"}
# Values of BasicSR's schedules that are the option file's.
SCHEDULE = ("milestones", "gamma", "restarts", "restart_weights", "periods", "eta_min")


def optimizer_names() -> list[str]:
    """List the classes of torch.optim that train an image network."""
    classes = inspect.getmembers(torch.optim, inspect.isclass)
    return [name for name, found in classes if issubclass(found, torch.optim.Optimizer) and name not in NOT_SUPPORTED]


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """A class of torch.optim; InputError where :func:`optimizer_names` has none of that name."""
    known = optimizer_names()
    if name not in known:
        raise InputError(f"train: optim_g: type: {name!r} is not supported; {hint(name, known, 'supported: ')}")
    return getattr(torch.optim, name)


def multi_step_rates(schedule: LRScheduler) -> list[float]:
    """Compute the rates of BasicSR's MultiStepRestartLR at its iteration from the initial ones alone.

    BasicSR's own go on from the optimizer's: after ``warmup_iter: N`` they are (N - 1) / N of the option file's to the
    end, without the milestones inside the warm-up. Without a warm-up both are equal, bit for bit.
    """
    now = schedule.last_epoch
    restart = max((at for at in schedule.restarts if at <= now), default=-1)
    weight = schedule.restart_weights[schedule.restarts.index(restart)] if restart >= 0 else 1
    rates = [group["initial_lr"] * weight for group in schedule.optimizer.param_groups]
    for milestone in sorted(at for at in schedule.milestones if restart < at <= now):
        rates = [rate * schedule.gamma ** schedule.milestones[milestone] for rate in rates]
    return rates


def fit_state(
    optimizer: torch.optim.Optimizer, schedule: Any, opt: dict, state: dict, override: bool = False
) -> list[tuple[tuple[str, ...], str]]:
    """Prepare a training state for the optimizer and the schedule of an option file, before they load it.

    Args:
        state: changed where its schedule is of another type, or a cosine that ends too early, at which BasicSR fails;
            and where ``override`` is.
        override: write the file's values into the state; its averages of gradients, and its iteration, stay.

    Returns:
        Keys whose values differ, each with a message that says which one counts.

    Raises:
        InputError: the state is of another type of optimizer.
    """
    name, group, groups = type(optimizer).__name__, optimizer.param_groups[0], state["optimizers"][0]["param_groups"]
    # BasicSR's states do not say their optimizer.
    same = not (group.keys() ^ groups[0].keys()) - IMPLEMENTATION - LATER
    saved = state.get("optimizer_types") or [name if same else "another optimizer"]
    if saved != [name]:
        raise InputError(
            f"train: optim_g: type: {name}: the training state is of {saved[0]}; write its type, or begin a run of "
            "another name with its checkpoint (path: pretrain_network_g)"
        )
    of_file = {key: value for key, value in vars(schedule).items() if key in (*SCHEDULE, "cumulative_period")}
    for kept in state["schedulers"]:
        cosine = "periods" in kept
        if cosine != ("periods" in of_file) or (cosine and sum(kept["periods"]) < opt["train"]["total_iter"] - 1):
            for key in (*SCHEDULE, "cumulative_period"):
                kept.pop(key, None)
    differing = list(_differing(group, of_file, state, override))
    if override:
        for own in groups:
            own.update({key: value for key, value in group.items() if key not in {"lr", *IMPLEMENTATION}})
        for kept in state["schedulers"]:
            kept.update(of_file, base_lrs=schedule.base_lrs)
            if "periods" not in of_file:
                # BasicSR's cosine computes its rate anew, its MultiStepRestartLR goes on from this one.
                schedule.last_epoch = kept["last_epoch"]
                for own in groups:
                    own["lr"] = multi_step_rates(schedule)[0]
    return differing


def _differing(group, of_file, state, override) -> Iterator[tuple[tuple[str, ...], str]]:
    """Compare the values of the file's optimizer and schedule with those of a state."""
    saved = state["optimizers"][0]["param_groups"][0]
    initial, begun = ({**values, "lr": values.get("initial_lr", values["lr"])} for values in (group, saved))
    pairs = [("optim_g", initial, begun)] + [("scheduler", of_file, kept) for kept in state["schedulers"][:1]]
    counts = ", which is taken (--override-state)" if override else "; --override-state takes the file's"
    for section, in_file, in_state in pairs:
        common = in_file.keys() & in_state.keys() - {"initial_lr", "cumulative_period", *IMPLEMENTATION}
        for key in sorted(common):
            ours, theirs = _written(in_file[key]), _written(in_state[key])
            if ours != theirs:
                text = f"train: {section}: {key}: the state has {theirs}, the file says {ours}{counts}"
                yield ("train", section, key), text
        if not common:
            text = "train: scheduler: type: the training state is of another schedule; this one takes over at iteration"
            yield ("train", section, "type"), f"{text} {state['iter']}, after a rate of {saved['lr']:g}"


def _written(value):
    """A value as an option file has it."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    return list(value) if isinstance(value, tuple) else value


def fit(model, state: dict, override: bool = False) -> None:
    """Prepare a training state for a model of BasicSR, see :func:`fit_state`; the log names what differs.

    Best metrics that the option file has added, or ranks the other way round now, begin without a value.
    """
    if len(model.optimizers) == len(model.schedulers) == 1 and "optim_g" in model.opt["train"]:
        for _, message in fit_state(model.optimizers[0], model.schedulers[0], model.opt, state, override):
            logging.getLogger("basicsr").warning(message)
    model.best_metric_results, metrics = {}, (model.opt.get("val") or {}).get("metrics") or {}
    for dataset, results in (state.get("best_metric_results") or {}).items():
        best = model.best_metric_results[dataset] = {}
        for key, metric in metrics.items():
            better = metric.get("better", "higher")
            new = {"better": better, "val": float("-inf" if better == "higher" else "inf"), "iter": -1}
            best[key] = results[key] if results.get(key, {}).get("better") == better else new
