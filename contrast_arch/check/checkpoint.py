"""Checkpoints and training states: whether they can be read, and whether they are of this network."""

from collections.abc import Iterator
from pathlib import Path

import torch

from contrast_arch.check.parts import optimizer_and_scheduler
from contrast_arch.check.registry import trains_as_srmodel
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.models.resuming import fit_state
from contrast_arch.options.problems import Problem, error, warning
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.training.state import find_state
from contrast_arch.weights.files import SAFETENSORS, check_weights, read, weights_under
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(opt: Section, network: torch.nn.Module | None) -> Iterator[Problem]:
    """Find what is wrong with the weights that a run begins with, and with the state that training goes on from.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        network: see :func:`~contrast_arch.check.network.build_on_meta`.
    """
    paths, resumed = opt.section("path"), False
    checkpoint = paths["pretrain_network_g"]
    try:
        path, state, passed_over = find_state(opt.values) if opt["is_train"] else (None, None, [])
        yield from (warning(None, f"passed over: {text}") for text in passed_over)
        if state is not None:
            if network is not None:
                _check_optimizer(path, state.model, network)
            yield from _overridden(opt, state.for_model())
            resumed = "network_g" not in (paths["ignore_resume_networks"] or ())
    except InputError as failure:
        yield error(("path", "resume_state"), str(failure))
        return
    if state is None:
        moved = list(_moved_aside(opt))
        yield from moved
        if any(problem.path == ("path", "pretrain_network_g") for problem in moved):
            return
    if resumed:
        checkpoint = str(checkpoints.network_file(opt.values, state.iter))
    elif checkpoint is None:
        if not opt["is_train"]:
            yield paths.warning("missing: random weights are tested", "pretrain_network_g")
        return
    key, checkpoint = "pretrain_network_g" if state is None else "resume_state", str(shipped_file(checkpoint))
    if checkpoint.endswith(SAFETENSORS) and opt["model_type"] != CONTRAST_MODEL:
        text = f"{checkpoint}: BasicSR's models read .pth files only; 'model_type: {CONTRAST_MODEL}' reads this one"
        yield paths.error(text, key)
        return
    strict = bool(paths.values.get("strict_load_g", True))
    try:
        content = read(checkpoint)
        for param_keys in _param_keys(opt, checkpoint, content, resumed):
            check_weights(checkpoint, weights_under(checkpoint, content, *param_keys), network, strict)
    except InputError as failure:
        yield error(("path", key), str(failure))


def _moved_aside(opt):
    """Name the files that a run reads in the folder of an earlier run of its name, which BasicSR moves before."""
    root = Path(opt.section("path")["experiments_root"])
    root = root if opt["is_train"] else Path("results", opt["name"]).absolute()
    mend = "write another name" + (", or go on with that run by --auto_resume" if opt["is_train"] else "")
    of_data = ((dataset, key) for dataset in opt.section("datasets") for key in ("dataroot_gt", "dataroot_lq"))
    lists = ((dataset, "meta_info_file") for dataset in opt.section("datasets"))
    for section, key in ((opt.section("path"), "pretrain_network_g"), *of_data, *lists):
        if isinstance(section[key], str) and Path(section[key]).resolve().is_relative_to(root.resolve()):
            text = f"{section[key]} lies in {root}, which BasicSR moves aside before it reads there; {mend}"
            yield section.error(text, key)


def _param_keys(opt, checkpoint, content, resumed):
    """The keys of the network's weights and, for training with averages, of the averaged ones to begin with."""
    # A run saves its weights under this key, whatever it began with.
    param_key = "params" if resumed else opt.section("path").values.get("param_key_g", "params")
    yield (param_key,)
    averages = opt["is_train"] and (opt.section("train")["ema_decay"] or 0) > 0
    if not averages or checkpoint.endswith(SAFETENSORS):
        return
    if opt["model_type"] == CONTRAST_MODEL:
        yield "params_ema", param_key
    elif "params" in content or "params_ema" in content:
        yield "params_ema", "params"
    else:
        raise InputError(
            f"checkpoint {checkpoint} has no 'params_ema' and no 'params', with which BasicSR's models begin the "
            f"averaged weights of train: ema_decay; 'model_type: {CONTRAST_MODEL}' begins them with those of "
            "param_key_g, or save the weights as {'params': weights}"
        )


def _overridden(opt, state):
    """Values of the file that a training state overrides, for models that train as SRModel does."""
    override, model = opt["override_state"], opt["model_type"]
    if not trains_as_srmodel(opt.values, "setup_optimizers"):
        if override:
            text = f"expected a model that makes its optimizer as SRModel does, and {model} does not; leave it out"
            yield error(None, f"--override-state: {text}")
        return
    try:
        optimizer, scheduler = optimizer_and_scheduler(opt.values)
    except Exception:  # what they raise is found on its own
        return
    if not opt.section("train")["total_iter"]:
        return
    try:
        yield from (warning(*found) for found in fit_state(optimizer, scheduler, opt.values, state, override))
    except InputError as failure:
        yield error(("train", "optim_g", "type"), str(failure))
    except (IndexError, KeyError, TypeError) as failure:
        yield error(("path", "resume_state"), f"the training state is not of SRModel's form: {failure!r}")


def _check_optimizer(path, state, network):
    try:
        saved = sum(len(group["params"]) for group in state["optimizers"][0]["param_groups"])
    except (IndexError, KeyError, TypeError) as failure:
        raise InputError(f"training state {path} has no optimizer's state: {failure!r}") from failure
    own = sum(1 for weight in network.parameters() if weight.requires_grad)
    if saved != own:
        raise InputError(f"training state {path} is of a network of {saved} weights; this network_g has {own}")
