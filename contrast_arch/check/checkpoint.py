"""Checkpoints and training states: they can be read, and are of this network."""

import os.path as osp
from collections.abc import Iterator

from contrast_arch.check.context import Run
from contrast_arch.check.parts import optimizer_and_scheduler, trains_as_srmodel
from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.models import checkpoints
from contrast_arch.models.checkpoints import find_state, networks_of
from contrast_arch.models.optimizers import fit_state
from contrast_arch.options.problems import WARNING, Problem
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.weights.files import SAFETENSORS, check_weights, read, weights_under
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(run: Run) -> Iterator[Problem]:
    """Find errors in the weights that a run starts from, and in the training state that it resumes."""
    paths, state, key = run.opt.section("path"), None, "pretrain_network_g"
    checkpoint, root, is_train = paths[key], paths["experiments_root"], run.context.is_train
    if "name" not in run.opt or (is_train and "train" not in run.opt):
        return
    try:
        if is_train:
            path, state, passed_over = find_state(run.opt.values)
            yield from (Problem(f"passed over: {text}", severity=WARNING) for text in passed_over)
            if state is None and run.context.auto_resume and osp.exists(root):
                text = f"--auto_resume: no NUMBER.state in {paths['training_states']}: training starts at iteration 0, "
                yield Problem(f"{text}and BasicSR moves {root} aside", severity=WARNING)
        if state is not None:
            key = "resume_state"
            yield from _state_problems(run, path, state)
    except InputError as failure:
        yield Problem(str(failure), ("path", "resume_state"))
        return
    resumed = state is not None and "g" in networks_of(run.opt.values)
    if resumed:
        checkpoint = checkpoints.network_file(run.opt.values, state.iter)
    elif checkpoint is None:
        if not is_train:
            yield paths.warning("missing: random weights are tested", key)
        return
    elif is_train and state is None and resolved(checkpoint).is_relative_to(resolved(root)):
        text = f"{checkpoint} lies in {root}, which BasicSR moves aside before it reads there; write another name"
        yield paths.error(f"{text}, or go on with that run by --auto_resume", key)
        return
    try:
        yield from _weights_problems(run, str(shipped_file(checkpoint)), key, resumed)
    except InputError as failure:
        yield Problem(str(failure), ("path", key))


def _weights_problems(run, checkpoint, key, resumed):
    paths = run.opt.section("path")
    if checkpoint.endswith(SAFETENSORS) and not run.is_contrast_model:
        text = f"{checkpoint}: BasicSR's models read .pth files only; 'model_type: {CONTRAST_MODEL}' reads this one"
        yield paths.error(text, key)
        return
    strict, content = paths.values.get("strict_load_g", True), read(checkpoint)
    for param_keys in _param_keys(run, checkpoint, content, resumed):
        check_weights(checkpoint, weights_under(checkpoint, content, *param_keys), run.network, bool(strict))
    if not run.context.is_train and paths.values.get("param_key_g", "params") == "params" and "params_ema" in content:
        text = f"params: checkpoint {checkpoint} has averaged weights too, which its training validated; write "
        yield paths.warning(f"{text}'param_key_g: params_ema' to test them", "param_key_g")


def _param_keys(run, checkpoint, content, resumed):
    """The keys of the network's weights and, for training with averages, of the averaged ones to begin with."""
    # Checkpoints of a run always have this key.
    param_key = "params" if resumed else run.opt.section("path").values.get("param_key_g", "params")
    yield (param_key,)
    if not (run.context.is_train and run.train["ema_decay"]) or checkpoint.endswith(SAFETENSORS):
        return
    if not run.is_contrast_model and not {"params", "params_ema"} & set(content):
        raise InputError(
            f"checkpoint {checkpoint} has no 'params_ema' and no 'params', with which BasicSR's models begin the "
            f"averaged weights of train: ema_decay; 'model_type: {CONTRAST_MODEL}' begins them with those of "
            "param_key_g, or save the weights as {'params': weights}"
        )
    yield "params_ema", param_key if run.is_contrast_model else "params"


def _state_problems(run, path, state):
    """Find a state of another network, and values of the file that it overrides in models that train as SRModel."""
    total, override = run.train["total_iter"], run.context.override_state
    if total and state.iter >= total:
        text = f"{total}: the state that is resumed is of iteration {state.iter}: nothing is trained; raise total_iter"
        yield run.train.warning(text, "total_iter")
    if run.network is not None:
        _check_optimizer(path, state.model, run.network)
    if not trains_as_srmodel(run.opt.values, "setup_optimizers"):
        if override:
            text = f"expected a model that makes its optimizer as SRModel does, and {run.opt['model_type']} does not"
            yield Problem(f"--override-state: {text}; leave it out")
        return
    try:
        optimizer, scheduler = optimizer_and_scheduler(run.opt.values)
    except Exception:  # reported by optimizer_problems
        return
    if not total:
        return
    try:
        for key, text in fit_state(optimizer, scheduler, run.opt.values, state.for_model(), override):
            yield Problem(text, key, WARNING)
    except InputError as failure:
        yield Problem(str(failure), ("train", "optim_g", "type"))
    except (IndexError, KeyError, TypeError) as failure:
        yield Problem(f"the training state is not of SRModel's form: {failure!r}", ("path", "resume_state"))


def _check_optimizer(path, state, network):
    try:
        saved = sum(len(group["params"]) for group in state["optimizers"][0]["param_groups"])
    except (IndexError, KeyError, TypeError) as failure:
        raise InputError(f"training state {path} has no optimizer's state: {failure!r}") from failure
    own = sum(1 for weight in network.parameters() if weight.requires_grad)
    if saved != own:
        raise InputError(f"training state {path} is of a network of {saved} weights; this network_g has {own}")
