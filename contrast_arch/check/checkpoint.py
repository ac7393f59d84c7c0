"""Checkpoints and training states: whether they can be read, and whether they are of this network."""

from collections.abc import Iterator
from pathlib import Path

from contrast_arch.check.context import Run
from contrast_arch.check.parts import optimizer_and_scheduler, trains_as_srmodel
from contrast_arch.errors import InputError
from contrast_arch.files import resolved
from contrast_arch.models import checkpoints
from contrast_arch.models.resuming import fit_state
from contrast_arch.options.problems import WARNING, Problem
from contrast_arch.options.schema import CONTRAST_MODEL
from contrast_arch.training.state import find_state, networks_of
from contrast_arch.weights.files import SAFETENSORS, check_weights, read, weights_under
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(run: Run) -> Iterator[Problem]:
    """Find what is wrong with the weights that a run begins with, and with the state that training goes on from."""
    paths, state, key = run.opt.section("path"), None, "pretrain_network_g"
    checkpoint = paths[key]
    if "name" not in run.opt or (run.context.is_train and "train" not in run.opt):
        return
    try:
        if run.context.is_train:
            yield from _elsewhere(run)
            path, state, passed_over = _state(run)
            yield from _start_problems(run, state)
            yield from (Problem(f"passed over: {text}", severity=WARNING) for text in passed_over)
        if state is not None:
            key = "resume_state"
            if run.network is not None:
                _check_optimizer(path, state.model, run.network)
            yield from _overridden(run, state.for_model())
    except InputError as failure:
        yield Problem(str(failure), ("path", "resume_state"))
        return
    if state is None:
        moved = list(_moved_aside(run))
        yield from moved
        if any(problem.path == ("path", key) for problem in moved):
            return
    resumed = state is not None and "g" in networks_of(run.opt.values)
    if resumed:
        checkpoint = checkpoints.network_file(run.opt.values, state.iter)
    elif checkpoint is None:
        if not run.context.is_train:
            yield paths.warning("missing: random weights are tested", key)
        return
    try:
        yield from _weights_problems(run, str(shipped_file(checkpoint)), key, resumed)
    except InputError as failure:
        yield Problem(str(failure), ("path", key))


def _weights_problems(run, checkpoint, key, resumed):
    paths, network = run.opt.section("path"), run.network
    if checkpoint.endswith(SAFETENSORS) and not run.is_contrast_model:
        text = f"{checkpoint}: BasicSR's models read .pth files only; 'model_type: {CONTRAST_MODEL}' reads this one"
        yield paths.error(text, key)
        return
    strict, content = paths.values.get("strict_load_g", True), read(checkpoint)
    for param_keys in _param_keys(run, checkpoint, content, resumed):
        weights = weights_under(checkpoint, content, *param_keys)
        check_weights(checkpoint, weights, network, bool(strict))
        if not strict and network is not None:
            own = network.state_dict()
            lacking = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
            if lacking:
                text = f"{'~' if strict is None else 'false'}: checkpoint {checkpoint} lacks {len(lacking)} of the "
                text += f"{len(own)} weights of this network_g, or has them in other shapes; they stay as they are"
                yield paths.warning(f"{text} initialized", "strict_load_g")
    if not run.context.is_train and paths.values.get("param_key_g", "params") == "params" and "params_ema" in content:
        text = f"params: checkpoint {checkpoint} has averaged weights too, which its training validated; write "
        yield paths.warning(f"{text}'param_key_g: params_ema' to test them", "param_key_g")


def _param_keys(run, checkpoint, content, resumed):
    """The keys of the network's weights and, for training with averages, of the averaged ones to begin with."""
    # A run saves its weights under this key, whatever it began with.
    param_key = "params" if resumed else run.opt.section("path").values.get("param_key_g", "params")
    yield (param_key,)
    averages = run.context.is_train and (run.train["ema_decay"] or 0) > 0
    if not averages or checkpoint.endswith(SAFETENSORS):
        return
    if not run.is_contrast_model and not {"params", "params_ema"} & set(content):
        raise InputError(
            f"checkpoint {checkpoint} has no 'params_ema' and no 'params', with which BasicSR's models begin the "
            f"averaged weights of train: ema_decay; 'model_type: {CONTRAST_MODEL}' begins them with those of "
            "param_key_g, or save the weights as {'params': weights}"
        )
    yield "params_ema", param_key if run.is_contrast_model else "params"


def _elsewhere(run):
    """Name a training state that lies in the experiment of another name than the network that is resumed with it."""
    opt, paths = run.opt, run.opt.section("path")
    path, states = paths["resume_state"], Path(paths["training_states"])
    if path and not run.context.auto_resume and "g" in networks_of(opt.values):
        folder = resolved(path).parent
        if folder.name == states.name and folder != resolved(states):
            network = checkpoints.network_file(opt.values, Path(path).stem)
            text = f"{path} does not lie in {states}: its network is read from {network}, as name: {opt['name']} has it"
            yield paths.warning(text, "resume_state")


def _state(run):
    """Find the state that a run goes on from, as its trainer does; see :func:`find_state`."""
    by_basicsr = run.context.trainer == "basicsr"
    if run.context.auto_resume and by_basicsr:
        states = sorted(Path(run.opt.section("path")["training_states"]).glob("[!.]*.state"))
        other = next((file for file in states if not file.stem.isdigit()), None)
        if other is not None:
            why = "BasicSR's --auto_resume fails at a file that is not named NUMBER.state"
            raise InputError(f"{other}: {why}; move it out of the folder")
    path, state, passed_over = find_state(run.opt.values)
    if passed_over and by_basicsr:
        raise InputError(f"{passed_over[0]}; BasicSR's --auto_resume takes the newest state all the same")
    return path, state, passed_over


def _start_problems(run, state):
    """Find a start at another iteration than may be meant."""
    paths, total = run.opt.section("path"), run.train["total_iter"]
    root, states = paths["experiments_root"], paths["training_states"]
    if state is None and run.context.auto_resume and Path(root).exists():
        text = f"--auto_resume: no NUMBER.state in {states}: training starts at iteration 0, and BasicSR moves {root}"
        yield Problem(f"{text} aside", severity=WARNING)
    elif state is not None and total and state.iter >= total:
        text = f"{total}: the state that is resumed is of iteration {state.iter}: nothing is trained; raise total_iter"
        yield run.train.warning(text, "total_iter")


def _moved_aside(run):
    """Name the files that a run reads in the folder of an earlier run of its name, which BasicSR moves before."""
    opt, is_train, paths = run.opt, run.context.is_train, run.opt.section("path")
    root = Path(paths["experiments_root"]) if is_train else Path("results", opt["name"]).absolute()
    mend = "write another name" + (", or go on with that run by --auto_resume" if is_train else "")
    keys = ("dataroot_gt", "dataroot_lq", "meta_info_file")
    for section, key in (
        (paths, "pretrain_network_g"),
        *((data, key) for data in opt.section("datasets") for key in keys),
    ):
        if isinstance(section[key], str) and resolved(section[key]).is_relative_to(resolved(root)):
            text = f"{section[key]} lies in {root}, which BasicSR moves aside before it reads there; {mend}"
            yield section.error(text, key)


def _overridden(run, state):
    """Values of the file that a training state overrides, for models that train as SRModel does."""
    override = run.context.override_state
    if not trains_as_srmodel(run.opt.values, "setup_optimizers"):
        if override:
            text = f"expected a model that makes its optimizer as SRModel does, and {run.opt['model_type']} does not"
            yield Problem(f"--override-state: {text}; leave it out")
        return
    try:
        optimizer, scheduler = optimizer_and_scheduler(run.opt.values)
    except Exception:  # what they raise is found on its own
        return
    if not run.train["total_iter"]:
        return
    try:
        for path, text in fit_state(optimizer, scheduler, run.opt.values, state, override):
            yield Problem(text, path, WARNING)
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
