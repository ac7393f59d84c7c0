"""Files of a training run: checkpoints and states, written whole, read with care, named as BasicSR names them."""

import functools
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch.utils._pytree import tree_map

from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.files import replacing, temporary_name
from contrast_arch.options.schema import OptionFile
from contrast_arch.weights import files
from contrast_arch.weights.files import ABOUT, SAFETENSORS
from contrast_arch.weights.shapes import config_of

# Options that the parser adds, and that another start may have otherwise.
OF_A_START = ("auto_resume", "dist", "is_train", "path", "rank", "root_path", "world_size")


@dataclass
class TrainState:
    """A training run between two iterations.

    A file of it is a training state of BasicSR with further entries; they have defaults for states that lack them.

    Attributes:
        iter, epoch: the last iteration that was trained, and its epoch, counted from 0.
        model: see :func:`model_state`.
        position: images of the epoch that were seen, over all processes; 0 starts the epoch over, as BasicSR does.
        images: training images that the run has seen, over all epochs; 0 where it is not known.
        seed: ``manual_seed``, or the one that was drawn; None where it is not known.
        random_states: of every process, by rank.
        validation_due: True if the validation of this iteration is still to come.
        versions: of this package, PyTorch and BasicSR.
        checksums: of each checkpoint that belongs to the state.
    """

    iter: int
    epoch: int
    model: dict
    position: int = 0
    images: int = 0
    seed: int | None = None
    random_states: list = field(default_factory=list)
    validation_due: bool = False
    versions: dict = field(default_factory=dict)
    options_digest: str = ""
    checksums: dict = field(default_factory=dict)

    def content(self) -> dict:
        """Return the content of its file, with the checksums of all of it."""
        content = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "model"} | self.model
        return content | {"checksums": self.checksums | {"state": checksums(content)}}

    @classmethod
    def read(cls, path: Path) -> "TrainState":
        """Read a state that this package or BasicSR has written; InputError where it is broken or something else."""
        content = files.read(path, "training state")
        kinds = {"iter": int, "epoch": int, "optimizers": list, "schedulers": list}
        if not isinstance(content, dict) or not all(isinstance(content.get(key), kinds[key]) for key in kinds):
            raise InputError(f"training state {path} is none: expected a file NUMBER.state that BasicSR saved")
        content["checksums"] = dict(content.get("checksums") or {})
        _verify(f"training state {path}", content, content["checksums"].pop("state", None))
        own = {name.name: content.pop(name.name) for name in fields(cls) if name.name in content}
        return cls(model=content, **own)

    def for_model(self) -> dict:
        """Return the state as ``resume_training`` of BasicSR's models takes it, and may change it."""
        # The dicts and lists are copied.
        return tree_map(lambda tensor: tensor, {"iter": self.iter, "epoch": self.epoch, **self.model})


def checksums(content) -> dict[str, str]:
    """SHA-256 of every tensor in nested dicts and lists by its place; of all other values together under "others"."""
    found, others = {}, hashlib.sha256()

    def visit(value, place):
        if isinstance(value, torch.Tensor):
            found[place] = files.checksum(value.detach().cpu())
        elif isinstance(value, (dict, list, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                visit(item, f"{place}.{key}")
        else:
            others.update(f"{place}={value!r};".encode())

    visit(content, "")
    return found | {"others": others.hexdigest()}


def _verify(what, content, saved):
    """Compare with the checksums that were saved, if any."""
    found = saved if saved is None else checksums(content)
    if found != saved:
        wrong = next(place for place in {**saved, **found} if found.get(place) != saved.get(place))
        raise InputError(
            f"{what} is damaged: {wrong.removeprefix('.')} is not what was saved (checksum); a disk, memory or a copy "
            "has changed it"
        )


def options_digest(opt: dict) -> str:
    """SHA-256 of the options of a file, the same for every start and folder."""
    own = {key: value for key, value in opt.items() if key not in OF_A_START}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()


def networks_of(opt: dict) -> list[str]:
    """List the labels of the networks that a resumed run loads: g for ``network_g``."""
    ignored = opt["path"].get("ignore_resume_networks") or ()
    return [key.removeprefix("network_") for key in opt if key.startswith("network_") and key not in ignored]


def read_state(path: Path, opt: dict) -> TrainState:
    """Read a training state, once for checks and run; InputError where it or one of its checkpoints is broken."""
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _read(path, changed, Path(opt["path"]["models"]), tuple(networks_of(opt)))


@functools.lru_cache(maxsize=1)
def _read(path, changed, models, labels):
    state = TrainState.read(path)
    for file in (models / f"net_{label}_{state.iter}.pth" for label in labels):
        content = files.read(file)
        files.weights_under(file, content, "params")
        content.pop(ABOUT, None)
        _verify(f"checkpoint {file}", content, state.checksums.get(file.name))
    return state


def find_state(opt: dict) -> tuple[Path | None, TrainState | None, list[str]]:
    """Find the training state that a run goes on from: with ``--auto_resume`` the newest one of the experiment that is
    whole, otherwise ``path: resume_state``; InputError where there are states but none that can be resumed.

    Returns:
        The file and its content, both None where training starts anew; and why newer ones were passed over.
    """
    name, passed_over = opt["path"].get("resume_state"), []
    if name and not opt["auto_resume"]:
        return Path(name), read_state(Path(name), opt), []
    for iteration in saved_iterations(opt) if opt["auto_resume"] else ():
        path = state_file(opt, iteration)
        try:
            return path, read_state(path, opt), passed_over
        except InputError as error:
            passed_over.append(str(error))
    if passed_over:
        text = f"no training state in {opt['path']['training_states']} can be resumed:"
        end = f"\nmove {opt['path']['experiments_root']} away to start anew"
        raise InputError("\n  ".join([text, *passed_over]) + end)
    return None, None, []


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file whole by a function that takes its path; an OSError, for the user, where that fails three times."""
    for pause in (0, 1, 1):
        time.sleep(pause)
        try:
            with replacing(path, sync=True) as target:
                return save(target)
        except (OSError, RuntimeError) as error:  # torch.save gives a RuntimeError for a full disk
            reason = str(error).splitlines()[0]
    raise OSError(f"{path} could not be written ({reason})")


def save_network(model, settings: OptionFile, done: int, net, label: str, current_iter: int, param_key) -> tuple:
    """Write ``models/LABEL_ITERATION.pth``; a .safetensors beside it where ``logger: save_format`` asks for it.

    Args:
        done: the last iteration that was trained.
        net, label, current_iter, param_key: arguments of BasicSR's ``save_network``.

    Returns:
        The file, and key -> weights. TrainingStopped, and nothing is written, where weights are NaN or infinite.
    """
    opt, name = model.opt, "latest" if current_iter == -1 else current_iter
    nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
    content = {}
    for key, each in zip(keys, map(model.get_bare_model, nets), strict=True):
        content[key] = {part: value.detach().cpu().contiguous() for part, value in each.state_dict().items()}
        if wrong := files.first_not_finite(content[key]):
            raise TrainingStopped(
                f"the network's {wrong} is not finite any more although losses and gradients were, so nothing was "
                f"saved; {last_good(opt)}. Lower the learning rate, or look at the optimizer's eps"
            )
    path = Path(opt["path"]["models"], f"{label}_{name}.pth")
    about = files.description(opt.get(label.replace("net_", "network_"), {}), done)
    write(path, lambda target: torch.save(content | {ABOUT: about}, target))
    if settings.logger.save_format == "safetensors":
        from safetensors.torch import save_file

        # The averaged weights where there are any. Tensors that share memory are refused.
        tensors = {part: value.clone() for part, value in content[keys[-1]].items()}
        tensors |= config_of(model.get_bare_model(nets[-1]), about["network_g"])
        metadata = files.as_metadata(about | {"param_key": keys[-1]})
        write(path.with_suffix(SAFETENSORS), lambda target: save_file(tensors, target, metadata))
    return path, content


def save_state(opt: dict, settings: OptionFile, state: dict) -> None:
    """Write ``training_states/ITERATION.state``; remove those beyond ``logger: keep_last``, each with its checkpoints,
    but those of the best metrics."""
    write(state_file(opt, state["iter"]), lambda target: torch.save(state, target))
    # Later ones are left alone, of a run that was resumed before its end or in broken files.
    earlier = [saved for saved in saved_iterations(opt) if saved <= state["iter"]]
    best = {metric["iter"] for results in state["best_metric_results"].values() for metric in results.values()}
    try:
        for saved in set(earlier[settings.logger.keep_last or len(earlier) :]) - best:
            # The state first, so that none is ever without its checkpoint.
            networks = [Path(opt["path"]["models"]).glob(f"net_*_{saved}{kind}") for kind in (".pth", SAFETENSORS)]
            for path in itertools.chain([state_file(opt, saved)], *networks):
                path.unlink(missing_ok=True)
    except OSError as error:
        logging.getLogger("basicsr").warning(f"logger: keep_last: an older state could not be removed: {error}")


def model_state(model) -> dict:
    """Return the state of a BasicSR model: optimizers, schedules, best metrics, and its ``own_state()``."""
    best = {}
    for name, results in getattr(model, "best_metric_results", {}).items():
        # As Python's numbers: weights_only refuses NumPy's.
        best[name] = {key: metric | {"val": float(metric["val"])} for key, metric in results.items()}
    state = {"best_metric_results": best, "optimizer_types": [type(each).__name__ for each in model.optimizers]}
    for key in ("optimizers", "schedulers"):
        state[key] = [part.state_dict() for part in getattr(model, key)]
    return state | getattr(model, "own_state", dict)()


def state_file(opt: dict, iteration: int) -> Path:
    return Path(opt["path"]["training_states"], f"{iteration}.state")


def network_file(opt: dict, iteration: int | str, label: str = "g") -> Path:
    return Path(opt["path"]["models"], f"net_{label}_{iteration}.pth")


def saved_iterations(opt: dict) -> list[int]:
    """List the iterations of an experiment's training states, the newest first, readable or not."""
    names = [path.stem for path in Path(opt["path"]["training_states"]).glob("*.state")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def last_good(opt: dict) -> str:
    """Name the newest checkpoint, for messages."""
    for iteration in saved_iterations(opt):
        return f"the last good checkpoint is {network_file(opt, iteration)} (iteration {iteration})"
    return "there is no checkpoint yet"


def remove_unfinished(opt: dict) -> None:
    """Remove the unfinished files of a killed process."""
    for folder, pattern in ((opt["path"]["training_states"], "*.state"), (opt["path"]["models"], "net_*")):
        for path in Path(folder).glob(temporary_name(Path(folder, pattern)).name):
            path.unlink(missing_ok=True)
