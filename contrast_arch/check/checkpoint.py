"""Checkpoints and training states: whether they can be read, and whether they are of this network."""

from collections.abc import Iterator
from pathlib import Path

import torch

from contrast_arch.check.parts import optimizer_and_scheduler
from contrast_arch.check.problems import Problem, error, warning
from contrast_arch.check.registered import trains_as_srmodel
from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.models.resuming import fit_state
from contrast_arch.models.settings import OURS
from contrast_arch.weights.files import SAFETENSORS, check_weights
from contrast_arch.weights.sources import shipped_file


def checkpoint_problems(opt: dict, network: torch.nn.Module | None) -> Iterator[Problem]:
    """What is wrong with the weights that a run begins with, and with the state that training goes on from.

    Args:
        opt: see :func:`~contrast_arch.check.situation.completed`.
        network: see :func:`~contrast_arch.check.network.check_network`.
    """
    paths = opt["path"]
    key, checkpoint, resumed = "pretrain_network_g", paths.get("pretrain_network_g"), False
    if opt["is_train"]:
        yield from _elsewhere(opt)
        try:
            path, state, passed_over = _resumed(opt)
            yield from _start_problems(opt, state)
            if state is not None:
                key = "resume_state"
                if network is not None:
                    _check_optimizer(path, state, network)
                yield from _overridden(opt, state)
                if checkpoints.resumes_network(opt):
                    checkpoint, resumed = str(checkpoints.network_file(opt, state["iter"])), True
            yield from (warning(None, f"passed over: {text}") for text in passed_over)
        except InputError as failure:
            yield error(("path", "resume_state"), str(failure))
            return
    moved = list(_moved_aside(opt)) if key == "pretrain_network_g" else []
    yield from moved
    if any(problem.path == ("path", key) for problem in moved):
        return
    if checkpoint is None:
        if not opt["is_train"]:
            yield warning(("path", key), "path: no pretrain_network_g: random weights are tested")
        return
    checkpoint = str(shipped_file(checkpoint))
    if checkpoint.endswith(SAFETENSORS) and opt.get("model_type") != OURS:
        text = f"path: {key}: {checkpoint}: BasicSR's models read .pth files only; 'model_type: {OURS}' reads this one"
        yield error(("path", key), text)
        return
    strict = bool(paths.get("strict_load_g", True))
    try:
        content = checkpoints.read(checkpoint)
        for param_keys in _param_keys(opt, checkpoint, content, resumed):
            weights = checkpoints.weights_under(checkpoint, content, *param_keys)
            check_weights(checkpoint, weights, network, strict)
            if not strict and network is not None:
                yield from _partly_loaded(paths["strict_load_g"], checkpoint, weights, network)
        if not opt["is_train"] and paths.get("param_key_g", "params") == "params" and "params_ema" in content:
            text = f"path: param_key_g: params: checkpoint {checkpoint} has averaged weights too, which its training "
            yield warning(("path", "param_key_g"), f"{text}validated; write 'param_key_g: params_ema' to test them")
    except InputError as failure:
        yield error(("path", key), str(failure))


def _partly_loaded(strict, checkpoint, weights, network):
    """Count the weights that loading without ``strict_load_g`` does not give to a network."""
    own = network.state_dict()
    lacking = [name for name, value in own.items() if name not in weights or weights[name].shape != value.shape]
    if lacking:
        where = f"path: strict_load_g: {'~' if strict is None else 'false'}: checkpoint {checkpoint}"
        text = f"{where} lacks {len(lacking)} of the {len(own)} weights of this network_g, or has them in other shapes"
        yield warning(("path", "strict_load_g"), f"{text}; they stay as they are initialized")


def _moved_aside(opt):
    """Name the files that a run reads in the folder of an earlier run of its name, which BasicSR moves before."""
    root = Path(opt["path"]["experiments_root"]) if opt["is_train"] else Path("results", opt["name"]).absolute()
    mend = "write another name" + (", or go on with that run by --auto_resume" if opt["is_train"] else "")
    read = {("path", "pretrain_network_g"): opt["path"].get("pretrain_network_g")}
    for phase, dataset in opt["datasets"].items():
        read |= {("datasets", phase, key): dataset.get(key) for key in ("dataroot_gt", "dataroot_lq", "meta_info_file")}
    for at, place in read.items():
        if isinstance(place, str) and Path(place).resolve().is_relative_to(root.resolve()):
            text = f"{': '.join(at)}: {place} lies in {root}, which BasicSR moves aside before it reads there"
            yield error(at, f"{text}; {mend}")


def _param_keys(opt, checkpoint, content, resumed):
    """The keys of the network's weights and, for training with averages, of the averaged ones to begin with."""
    # What a run has saved has the weights under this key, whatever it began with.
    param_key = "params" if resumed else opt["path"].get("param_key_g", "params")
    yield (param_key,)
    if not opt["is_train"] or opt["train"].get("ema_decay", 0) <= 0 or checkpoint.endswith(SAFETENSORS):
        return
    if opt.get("model_type") == OURS:
        yield "params_ema", param_key
    elif "params" in content or "params_ema" in content:
        yield "params_ema", "params"
    else:
        raise InputError(
            f"checkpoint {checkpoint} has no 'params_ema' and no 'params', with which BasicSR's models begin the "
            f"averaged weights of train: ema_decay; 'model_type: {OURS}' begins them with those of param_key_g, or "
            "save the weights as {'params': weights}"
        )


def _resumed(opt: dict) -> tuple[str | None, dict | None, list[str]]:
    """The training state that a run goes on from, what it holds, and why newer ones are passed over.

    Raises:
        InputError: it cannot be read.
    """
    if opt.get("model_type") == OURS:
        path, state, passed_over = checkpoints.resumed_state(opt)
        return path and str(path), state, passed_over
    path = opt["path"].get("resume_state")
    if opt["auto_resume"]:
        states = sorted(Path(opt["path"]["training_states"]).glob("[!.]*.state"))
        other = next((file for file in states if not file.stem.isdigit()), None)
        if other is not None:
            why = "BasicSR's --auto_resume fails at a file that is not named NUMBER.state"
            raise InputError(f"{other}: {why}; move it out of the folder")
        # As BasicSR, which goes on from the newest whether it can be read or not.
        path = next((str(checkpoints.state_file(opt, saved)) for saved in checkpoints.saved_iterations(opt)), None)
    return path, checkpoints.read_state(path) if path else None, []


def _elsewhere(opt):
    """Name a training state that lies in the experiment of another name than the network that is resumed with it."""
    path, states = opt["path"].get("resume_state"), Path(opt["path"]["training_states"])
    if not path or opt["auto_resume"] or not checkpoints.resumes_network(opt):
        return
    folder = Path(path).resolve().parent
    if folder.name == states.name and folder != states.resolve():
        network = checkpoints.network_file(opt, Path(path).stem)
        text = f"path: resume_state: {path} does not lie in {states}: its network is read from {network}"
        yield warning(("path", "resume_state"), f"{text}, as name: {opt['name']} has it")


def _start_problems(opt, state):
    """The iteration at which training starts, where it may be another than is meant."""
    root, total = opt["path"]["experiments_root"], opt["train"].get("total_iter")
    if state is None and opt["auto_resume"] and Path(root).exists():
        text = f"--auto_resume: no NUMBER.state in {opt['path']['training_states']}: training starts at iteration 0"
        yield warning(None, f"{text}, and BasicSR moves {root} aside")
    elif state is not None and total and state["iter"] >= total:
        text = f"train: total_iter: {total}: the state that is resumed is of iteration {state['iter']}"
        yield warning(("train", "total_iter"), f"{text}: nothing is trained; raise total_iter")


def _overridden(opt, state):
    """Values of the file that a training state overrides, for models that train as SRModel does."""
    override = opt["override_state"]
    if not trains_as_srmodel(opt, "setup_optimizers"):
        if override:
            model = opt.get("model_type")
            text = f"--override-state: expected a model that makes its optimizer as SRModel does, and {model} does not"
            yield error(None, f"{text}; leave it out")
        return
    try:
        optimizer, scheduler = optimizer_and_scheduler(opt)
    except Exception:  # what they raise is found on its own
        return
    if not opt["train"].get("total_iter"):
        return
    try:
        yield from (warning(*found) for found in fit_state(optimizer, scheduler, opt, state, override))
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


def check_checkpoint(path: str, network: torch.nn.Module | None, param_key: str | None, strict: bool = True) -> None:
    """Check that a checkpoint loads and, given a network, that it holds the weights of that network.

    Without ``strict``, as for fine-tuning at another scale, it is enough that some of the weights fit. A file
    NAME.safetensors holds the weights without a key. Nothing that a file holds beyond tensors is run.

    Raises:
        InputError: names the file and what in it does not fit.
    """
    check_weights(path, checkpoints.weights_under(path, checkpoints.read(path), param_key), network, strict)
