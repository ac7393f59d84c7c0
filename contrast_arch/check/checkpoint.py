"""Checkpoints and training states: they can be read, and are of this network."""

import os.path as osp
from collections.abc import Iterator

from contrast_arch.check.context import Run, problem_of
from contrast_arch.check.parts import trains_as_srmodel
from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.models import checkpoints
from contrast_arch.models.checkpoints import find_state, networks_of
from contrast_arch.models.optimizers import fit_state
from contrast_arch.options.document import WARNING, Problem
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.weights.files import SAFETENSORS, check_weights, read, weights_under
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(run: Run) -> Iterator[Problem]:
    """Find errors in the weights that a run starts from, and in the training state that it resumes."""
    if "name" not in run.opt or (run.context.is_train and "train" not in run.opt):
        return
    key = "resume_state"
    try:
        state = None
        if run.context.is_train:
            path, state, passed_over = find_state(run.opt)
            yield from (Problem(f"passed over: {text}", severity=WARNING) for text in passed_over)
        if state is None:
            key = "pretrain_network_g"
        else:
            yield from _state_problems(run, path, state)
        yield from _start_problems(run, state, key)
    except InputError as failure:
        yield problem_of(failure, ("path", key))


def _start_problems(run, state, key):
    """Find errors in the weights of a run that starts, or goes on from a state."""
    paths, is_train = run.opt.section("path"), run.context.is_train
    checkpoint, root = paths["pretrain_network_g"], paths["experiments_root"]
    if is_train and state is None and run.context.auto_resume and osp.exists(root):
        text = f"--auto_resume: no NUMBER.state in {paths['training_states']}: training starts anew"
        yield Problem(f"{text}, and BasicSR moves {root} aside", severity=WARNING)
    resumed = state is not None and "g" in networks_of(run.opt)
    if resumed:
        checkpoint = checkpoints.network_file(run.opt, state.iter)
    elif checkpoint is None:
        if not is_train:
            yield paths.warning("missing: random weights are tested", key)
        return
    elif is_train and state is None and resolved(checkpoint).is_relative_to(resolved(root)):
        text = f"{checkpoint} lies in {root}, which BasicSR moves aside before it reads there"
        raise InputError(f"path: {key}: {text}; write another name, or --auto_resume")
    checkpoint = str(shipped_file(checkpoint))
    if checkpoint.endswith(SAFETENSORS) and not run.is_contrast_model:
        text = f"{checkpoint}: BasicSR's models read .pth files only; 'model_type: {CONTRAST_MODEL}' reads this one"
        raise InputError(f"path: {key}: {text}")
    content, under = read(checkpoint), paths.get("param_key_g", "params")

    def check(*keys):
        weights = weights_under(checkpoint, content, *keys)
        check_weights(checkpoint, weights, run.network, bool(paths.get("strict_load_g", True)))

    # Checkpoints of a run always have this key.
    check(first := "params" if resumed else under)
    if is_train and run.train["ema_decay"] and not checkpoint.endswith(SAFETENSORS):
        if not run.is_contrast_model and not {"params", "params_ema"} & set(content):
            text = "has no 'params_ema' and no 'params', with which BasicSR's models begin averaged weights (ema_decay)"
            raise InputError(f"checkpoint {checkpoint} {text}; {CONTRAST_MODEL} takes those of param_key_g")
        check("params_ema", first if run.is_contrast_model else "params")
    if not is_train and under == "params" and "params_ema" in content:
        text = f"params: {checkpoint} has averaged weights too, which its training validated: params_ema"
        yield paths.warning(text, "param_key_g")


def _state_problems(run, path, state):
    """Find a state of another network, and values of the file that it overrides in models that train as SRModel."""
    total, override = run.train["total_iter"], run.context.override_state
    if total and state.iter >= total:
        text = f"{total}: nothing is trained, since the state that is resumed is of iteration {state.iter}"
        yield run.train.warning(text, "total_iter")
    try:
        saved = sum(len(group["params"]) for group in state.model["optimizers"][0]["param_groups"])
        own = sum(weight.requires_grad for weight in run.network.parameters()) if run.network is not None else saved
        if saved != own:
            raise InputError(f"training state {path} is of a network of {saved} weights; this network_g has {own}")
        if not trains_as_srmodel(run.model, "setup_optimizers"):
            if override:
                yield Problem(f"--override-state: {run.opt['model_type']} makes optimizers of its own; leave it out")
        elif total and run.optimizer is not None and run.scheduler is not None:
            for key, text in fit_state(run.optimizer, run.scheduler, run.opt, state.for_model(), override):
                yield Problem(text, key, WARNING)
    except (IndexError, KeyError, TypeError) as failure:
        raise InputError(f"training state {path} is not of SRModel's form: {failure!r}") from failure
