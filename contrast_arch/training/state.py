"""State of a training run: one file with checksums, written whole and read once."""

import functools
import hashlib
import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from torch.utils._pytree import tree_map

from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.options.schema import OptionFile
from contrast_arch.training.distributed import broadcast_object
from contrast_arch.weights.files import ABOUT, checksum, read, weights_under

# Options that the parser adds, and that another start may have otherwise.
OF_A_START = ("auto_resume", "dist", "is_train", "path", "rank", "root_path", "world_size")


@dataclass
class TrainState:
    """A training run between two iterations.

    A file of it is a training state of BasicSR with further entries, some of which those of BasicSR and of earlier
    versions of this package lack; they have their defaults then.

    Attributes:
        iter, epoch: the last iteration that was trained, and its epoch, counted from 0.
        model: see :func:`~contrast_arch.models.checkpoints.model_state`.
        position: images of the epoch that were seen, over all processes; 0 starts the epoch over, as BasicSR does.
        images: training images that the run has seen, over all epochs; 0 where it is not known.
        seed: ``manual_seed``, or what was drawn in its place; None where it is not known.
        random_states: of every process, by rank.
        validation_due: True if the validation of this iteration is still to come.
        data, options_digest: see :func:`~contrast_arch.models.resuming.data_of` and :func:`options_digest`.
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
    data: dict = field(default_factory=dict)
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
        saved = content["checksums"].pop("state", None)
        if saved is not None and checksums(content) != saved:
            # States of earlier versions leave out the checksums of the checkpoints.
            _compare(f"training state {path}", checksums(content | {"checksums": None}), saved)
        own = {name.name: content.pop(name.name) for name in fields(cls) if name.name in content}
        return cls(model=content, **own)

    def for_model(self) -> dict:
        """Return the state as ``resume_training`` of BasicSR's models takes it, and may change it."""
        content = {"iter": self.iter, "epoch": self.epoch, "data": self.data, **self.model}
        return tree_map(lambda tensor: tensor, content)  # dicts and lists are copied


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


def _compare(what, found, saved):
    wrong = next((place for place in {**saved, **found} if found.get(place) != saved.get(place)), None)
    if wrong is not None:
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
    """Read a training state, once as long as the files stay as they are; InputError where it is broken, or one of its
    checkpoints."""
    models = Path(opt["path"]["models"])
    files = (*models.glob("net_*"), *path.parent.glob("*"))
    changes = tuple(sorted((file.name, file.stat().st_mtime_ns) for file in files if file.exists()))
    return _read(path, models, tuple(networks_of(opt)), changes)


@functools.lru_cache(maxsize=1)
def _read(path, models, labels, changes):
    state = TrainState.read(path)
    for file in (models / f"net_{label}_{state.iter}.pth" for label in labels):
        content = read(file)
        weights_under(file, content, "params")
        if file.name in state.checksums:
            content.pop(ABOUT, None)
            _compare(f"checkpoint {file}", checksums(content), state.checksums[file.name])
    return state


def find_state(opt: dict) -> tuple[Path | None, TrainState | None, list[str]]:
    """Find the training state that a run goes on from: with ``--auto_resume`` the newest one of the experiment that is
    whole, otherwise ``path: resume_state``.

    Returns:
        The file and what it holds, both None where training starts anew; and why newer ones were passed over.
        InputError where the state of ``path: resume_state``, or all of the experiment's, cannot be resumed.
    """
    if not opt["auto_resume"]:
        name = opt["path"].get("resume_state")
        return (Path(name), read_state(Path(name), opt), []) if name else (None, None, [])
    passed_over = []
    for iteration in checkpoints.saved_iterations(opt):
        path = checkpoints.state_file(opt, iteration)
        try:
            return path, read_state(path, opt), passed_over
        except InputError as error:
            passed_over.append(str(error))
    if passed_over:
        lines = "\n  ".join(passed_over)
        raise InputError(
            f"none of the {len(passed_over)} training states in {opt['path']['training_states']} can be resumed:\n"
            f"  {lines}\nmove {opt['path']['experiments_root']} away to start anew"
        )
    return None, None, []


class Saver:
    """Writer of checkpoints and states, in the first process, in place of the model's two functions for that.

    Attributes:
        saved_at, failed_at: iterations of the newest state on the disk, and of a last one that failed; -1 for none.
        checksums: of the checkpoints beside it.
        seconds: of the last save.
    """

    def __init__(self, model, settings: OptionFile, record):
        self.model, self.settings, self.record = model, settings, record
        self.saved_at, self.failed_at, self.checksums, self.seconds, self._now = -1, -1, {}, 0.0, None
        model.save_network, model.save_training_state = self._save_network, self._save_state

    def save(self, now: TrainState, log, only_state: bool = False, final: bool = False) -> None:
        """Save checkpoints and a state; where that fails the run goes on.

        Args:
            only_state: write the state again, beside its checkpoints.
            final: write the checkpoint of the end, named "latest", without a state; TrainingStopped where that fails.
        """
        begun, failure, self._now = time.perf_counter(), None, now
        self.checksums = self.checksums if only_state or final else {}
        try:
            if only_state:
                self._save_state(now.epoch, now.iter)
            else:
                self.model.save(now.epoch, -1 if final else now.iter)
        except (checkpoints.SaveError, TrainingStopped) as error:
            failure = error
        failure = broadcast_object(failure)
        self.seconds = time.perf_counter() - begun
        if isinstance(failure, TrainingStopped):
            raise failure
        if failure and final:
            raise TrainingStopped(f"{failure}; {checkpoints.last_good(self.model.opt)}")
        if failure:
            log.error(f"Nothing was saved at iteration {now.iter}: {failure}. Training goes on.")
            self.failed_at = now.iter
        elif not final:
            self.saved_at, self.failed_at = now.iter, -1

    def _save_network(self, net, net_label, current_iter, param_key="params"):
        if self.model.opt["rank"] == 0:
            of_basicsr = (net, net_label, current_iter, param_key)
            path, content = checkpoints.save_network(self.model, self.settings, self._now.iter, *of_basicsr)
            self.checksums[path.name] = checksums(content)
            self.record.write("checkpoint", path=str(path), bytes=path.stat().st_size)

    def _save_state(self, epoch, current_iter):
        if self.model.opt["rank"] == 0 and current_iter != -1:
            self._now.checksums = self.checksums
            checkpoints.save_state(self.model.opt, self.settings, self._now.content())
