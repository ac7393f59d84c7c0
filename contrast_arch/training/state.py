"""State of a training run: one file with checksums, written whole and read once."""

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch.utils._pytree import tree_map

from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.weights.files import ABOUT, checksum, read, weights_under

# Options that the parser adds, and that another start may have otherwise.
OF_A_START = ("auto_resume", "dist", "is_train", "path", "rank", "root_path", "world_size")


@dataclass
class TrainState:
    """A training run between two iterations.

    A file of it is a training state of BasicSR with further entries; they have defaults for states that lack them.

    Attributes:
        iter, epoch: the last iteration that was trained, and its epoch, counted from 0.
        model: see :func:`~contrast_arch.models.checkpoints.model_state`.
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
        content = read(path, "training state")
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
            found[place] = checksum(value.detach().cpu())
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
        content = read(file)
        weights_under(file, content, "params")
        content.pop(ABOUT, None)
        _verify(f"checkpoint {file}", content, state.checksums.get(file.name))
    return state


def find_state(opt: dict) -> tuple[Path | None, TrainState | None, list[str]]:
    """Find the training state that a run goes on from: with ``--auto_resume`` the newest one of the experiment that is
    whole, otherwise ``path: resume_state``.

    Returns:
        The file and what it holds, both None where training starts anew; and why newer ones were passed over.
        InputError where the state of ``path: resume_state``, or all of the experiment's, cannot be resumed.
    """
    name, passed_over = opt["path"].get("resume_state"), []
    if name and not opt["auto_resume"]:
        return Path(name), read_state(Path(name), opt), []
    for iteration in checkpoints.saved_iterations(opt) if opt["auto_resume"] else ():
        path = checkpoints.state_file(opt, iteration)
        try:
            return path, read_state(path, opt), passed_over
        except InputError as error:
            passed_over.append(str(error))
    if passed_over:
        text = f"no training state in {opt['path']['training_states']} can be resumed:"
        end = f"\nmove {opt['path']['experiments_root']} away to start anew"
        raise InputError("\n  ".join([text, *passed_over]) + end)
    return None, None, []
