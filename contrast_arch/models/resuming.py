"""A training state and the option file of the run that goes on from it: which of them counts where they differ."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from contrast_arch.errors import InputError
from contrast_arch.models.optimizers import multi_step_rates

# How an optimizer computes a step, not which one.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
# Values of an optimizer that need averages of their own.
WITH_AVERAGES = ("amsgrad", "centered", "momentum")
# Values that states of earlier versions of PyTorch lack.
LATER = ("maximize", "decoupled_weight_decay")
# What a schedule of BasicSR keeps of the option file, and what follows from it.
SCHEDULE = ("milestones", "gamma", "restarts", "restart_weights", "periods", "eta_min")
WITH_FOLLOWING = (*SCHEDULE, "base_lrs", "cumulative_period")
ANEW = "begin a run of another name with its checkpoint (path: pretrain_network_g)"
# What a state of ContrastModel says of the training data; a run that goes on takes the option file's.
DATA = ("batch_size_per_gpu", "gt_size", "dataset_enlarge_ratio")


def fit_state(
    optimizer: torch.optim.Optimizer, scheduler: Any, opt: dict, state: dict, override: bool = False
) -> list[tuple[tuple[str, ...], str]]:
    """Prepare a training state for the optimizer and the schedule of an option file, before they load it.

    Args:
        state: changed where its schedule cannot go on, and where ``override`` is.
        override: write the file's values into the state; its averages of gradients, and its iteration, stay.

    Returns:
        Keys whose values differ, each with a message that says which one counts. InputError where the state is of
        another type of optimizer, or has no averages for the file's values.
    """
    name, known = type(optimizer).__name__, state.get("optimizer_types")
    group, saved = optimizer.param_groups[0], state["optimizers"][0]["param_groups"][0]
    if known != [name] and (known or not _of_one_type(group, saved)):
        other = known[0] if known else "another optimizer"
        raise InputError(f"train: optim_g: type: {name}: the training state is of {other}; write its type, or {ANEW}")
    _fit_schedules(state, scheduler, opt["train"]["total_iter"])
    counts = ", which is taken (--override-state)" if override else "; --override-state takes the file's"
    differing, data = list(_differing(group, vars(scheduler), state, counts)), data_of(opt)
    for key, value in state.get("data", {}).items():
        if data.get(key) != value:
            text = f"datasets: train: {key}: the state has {value}, the file says {data.get(key)}, which is taken"
            differing.append((("datasets", "train", key), text))
    if override:
        _override(group, scheduler, state)
    return differing


def fit(model, state: dict, override: bool = False) -> list[str]:
    """Prepare a training state for a model of BasicSR, before it loads the state; see :func:`fit_state`."""
    if len(model.optimizers) == len(model.schedulers) == 1 and "optim_g" in model.opt["train"]:
        found = fit_state(model.optimizers[0], model.schedulers[0], model.opt, state, override)
        return [message for _, message in found]
    for scheduler in model.schedulers[:1]:
        _fit_schedules(state, scheduler, model.opt["train"]["total_iter"])
    return []


def best_results(opt: dict, state: dict) -> dict:
    """Return the best metrics of a training state; one that the option file has added, or ranks the other way round
    now, begins without a best value."""
    val, found = opt.get("val") or {}, {}
    for dataset, results in (state.get("best_metric_results") or {}).items():
        found[dataset] = {}
        for key, metric in (val.get("metrics") or {}).items():
            better = metric.get("better", "higher")
            new = {"better": better, "val": float("-inf" if better == "higher" else "inf"), "iter": -1}
            found[dataset][key] = results[key] if results.get(key, {}).get("better") == better else new
    return found


def data_of(opt: dict) -> dict:
    """Values of an option file's training data, for a training state."""
    return {key: value for key, value in opt["datasets"]["train"].items() if key in DATA}


def _fit_schedules(state, scheduler, total):
    """Remove from a state a schedule of another type, or a cosine that ends too early, at which BasicSR fails."""
    cosine = hasattr(scheduler, "periods")
    for saved in state["schedulers"]:
        replaced = ()
        if ("periods" in saved) != cosine:
            replaced = ("cumulative_period", *SCHEDULE)
        elif cosine and sum(saved["periods"]) < total - 1:
            replaced = ("cumulative_period", "periods", "restart_weights")
        for key in replaced:
            saved.pop(key, None)


def _of_one_type(group, saved):
    """True unless the values of a state, which does not say its optimizer, are those of another type."""
    own, others = (set(values) - {"initial_lr", *IMPLEMENTATION, *LATER} for values in (group, saved))
    decay = group.get("decoupled_weight_decay")
    return own == others and saved.get("decoupled_weight_decay", decay) == decay


def _override(group, scheduler, state):
    values = {key: value for key, value in group.items() if key not in ("params", "lr", *IMPLEMENTATION)}
    groups = state["optimizers"][0]["param_groups"]
    for own in groups:
        if missing := [key for key in WITH_AVERAGES if values.get(key) and not own.get(key)]:
            text = f"{missing[0]}: the training state has no averages for it; leave it out, or {ANEW}"
            raise InputError(f"--override-state: train: optim_g: {text}")
        own.update(values)
    of_file = {key: value for key, value in vars(scheduler).items() if key in WITH_FOLLOWING}
    for schedule in state["schedulers"]:
        for key in WITH_FOLLOWING:
            schedule.pop(key, None)
        schedule |= of_file
        if not hasattr(scheduler, "periods"):
            # BasicSR's cosine computes its rate anew, its MultiStepRestartLR goes on from this one.
            scheduler.last_epoch = schedule["last_epoch"]
            for own in groups:
                own["lr"] = multi_step_rates(scheduler)[0]


def _differing(group, schedule, state, counts) -> Iterator[tuple[tuple[str, ...], str]]:
    """Hold the values of the file's optimizer and schedule against those of a state; ``counts`` ends the messages."""
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
            text = f"{where}: the state has {_written(in_state)}, the file says {_written(in_file)}{counts}"
            yield ("train", *path), text


def _written(value):
    """A value as an option file has it."""
    if isinstance(value, Counter):
        return sorted(value.elements())
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
