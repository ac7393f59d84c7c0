"""Checkpoints and training states: whether they can be read, and whether they are of this network."""

from collections.abc import Iterator
from pathlib import Path

import torch

from contrast_arch.check.context import RunContext
from contrast_arch.check.parts import optimizer_and_scheduler
from contrast_arch.check.registry import trains_as_srmodel
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.models import checkpoints
from contrast_arch.models.resuming import fit_state
from contrast_arch.options.problems import Problem, error, warning
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.training.state import find_state, networks_of
from contrast_arch.weights.files import SAFETENSORS, check_weights, read, weights_under
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(opt: Section, network: torch.nn.Module | None, context: RunContext) -> Iterator[Problem]:
    """Find what is wrong with the weights that a run begins with, and with the state that training goes on from.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        network: see :func:`~contrast_arch.check.network.build_on_meta`.
    """
    paths, resumed, state = opt.section("path"), False, None
    checkpoint = paths["pretrain_network_g"]
    try:
        if context.is_train:
            yield from _elsewhere(opt)
            path, state, passed_over = _state(opt, context)
            yield from _start_problems(opt, state)
            yield from (warning(None, f"passed over: {text}") for text in passed_over)
        if state is not None:
            if network is not None:
                _check_optimizer(path, state.model, network)
            yield from _overridden(opt, state.for_model(), context.override_state)
            resumed = "g" in networks_of(opt.values)
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
            weights = weights_under(checkpoint, content, *param_keys)
            check_weights(checkpoint, weights, network, strict)
            if not strict and network is not None:
                yield from _partly_loaded(paths, checkpoint, weights, network)
        if not context.is_train and paths.values.get("param_key_g", "params") == "params" and "params_ema" in content:
            text = f"params: checkpoint {checkpoint} has averaged weights too, which its training validated; write "
            yield paths.warning(f"{text}'param_key_g: params_ema' to test them", "param_key_g")
    except InputError as failure:
        yield error(("path", key), str(failure))


def _partly_loaded(paths, checkpoint, weights, network):
    """Count the weights that loading without ``strict_load_g`` does not give to a network."""
    own, written = network.state_dict(), "~" if paths["strict_load_g"] is None else "false"
    lacking = [name for name, value in own.items() if name not in weights or weights[name].shape != value.shape]
    if lacking:
        text = (
            f"{written}: checkpoint {checkpoint} lacks {len(lacking)} of the {len(own)} weights of this network_g, or "
        )
        yield paths.warning(f"{text}has them in other shapes; they stay as they are initialized", "strict_load_g")


def _state(opt, context):
    """Find the state that a run goes on from, as its trainer does; see :func:`find_state`."""
    if context.auto_resume and context.trainer == "basicsr":
        states = sorted(Path(opt.section("path")["training_states"]).glob("[!.]*.state"))
        other = next((file for file in states if not file.stem.isdigit()), None)
        if other is not None:
            why = "BasicSR's --auto_resume fails at a file that is not named NUMBER.state"
            raise InputError(f"{other}: {why}; move it out of the folder")
    path, state, passed_over = find_state(opt.values)
    if passed_over and context.trainer == "basicsr":
        raise InputError(f"{passed_over[0]}; BasicSR's --auto_resume takes the newest state all the same")
    return path, state, passed_over


def _elsewhere(opt):
    """Name a training state that lies in the experiment of another name than the network that is resumed with it."""
    paths = opt.section("path")
    path, states = paths["resume_state"], Path(paths["training_states"])
    if not path or opt["auto_resume"] or "g" not in networks_of(opt.values):
        return
    folder = resolved(path).parent
    if folder.name == states.name and folder != resolved(states):
        network = checkpoints.network_file(opt.values, Path(path).stem)
        text = f"{path} does not lie in {states}: its network is read from {network}, as name: {opt['name']} has it"
        yield paths.warning(text, "resume_state")


def _start_problems(opt, state):
    """Find a start at another iteration than may be meant."""
    paths, total = opt.section("path"), opt.section("train")["total_iter"]
    root = paths["experiments_root"]
    if state is None and opt["auto_resume"] and Path(root).exists():
        text = f"--auto_resume: no NUMBER.state in {paths['training_states']}: training starts at iteration 0"
        yield warning(None, f"{text}, and BasicSR moves {root} aside")
    elif state is not None and total and state.iter >= total:
        text = f"{total}: the state that is resumed is of iteration {state.iter}: nothing is trained; raise total_iter"
        yield opt.section("train").warning(text, "total_iter")


def _moved_aside(opt):
    """Name the files that a run reads in the folder of an earlier run of its name, which BasicSR moves before."""
    root = Path(opt.section("path")["experiments_root"])
    root = root if opt["is_train"] else Path("results", opt["name"]).absolute()
    mend = "write another name" + (", or go on with that run by --auto_resume" if opt["is_train"] else "")
    of_data = ((dataset, key) for dataset in opt.section("datasets") for key in ("dataroot_gt", "dataroot_lq"))
    lists = ((dataset, "meta_info_file") for dataset in opt.section("datasets"))
    for section, key in ((opt.section("path"), "pretrain_network_g"), *of_data, *lists):
        if isinstance(section[key], str) and resolved(section[key]).is_relative_to(resolved(root)):
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


def _overridden(opt, state, override):
    """Values of the file that a training state overrides, for models that train as SRModel does."""
    model = opt["model_type"]
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
