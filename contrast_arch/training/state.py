"""State of a run, to go on where it stopped: one file, with checksums, written whole and read once."""

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from contrast_arch.errors import InputError
from contrast_arch.models import checkpoints
from contrast_arch.version import __version__
from contrast_arch.weights.files import ABOUT, checksum, read, weights_under

# Options that the parser adds, and that another start may have otherwise.
OF_A_START = ("auto_resume", "dist", "is_train", "path", "rank", "root_path", "world_size")


@dataclass
class TrainState:
    """A training run between two iterations.

    A file of it is a training state of BasicSR with further entries. BasicSR's own, and those of earlier versions of
    this package, lack some of them, which then have their defaults.

    Attributes:
        iter: the last iteration that was trained.
        epoch: counted from 0.
        model: see :func:`~contrast_arch.models.checkpoints.model_state`.
        position: images of the epoch that were seen, over all processes; 0 starts the epoch over, as BasicSR does.
        images: training images that the run has seen, over all epochs; 0 where it is not known.
        seed: ``manual_seed``, or what was drawn in its place; None where it is not known.
        random_states: of every process, by rank.
        validation_due: True if the validation of this iteration is still to come.
        data: see :func:`~contrast_arch.models.resuming.data_of`.
        versions: of this package, PyTorch and BasicSR.
        options_digest: see :func:`options_digest`.
        checksums: of the tensors of this state, and of each checkpoint that belongs to it.
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

    def write(self, path: Path, whole: bool = True) -> None:
        """Write the state, with the checksums of its tensors.

        Args:
            whole: see :func:`~contrast_arch.models.checkpoints.write`.

        Raises:
            SaveError: it could not be written.
        """
        content = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "model"}
        content |= self.model
        content["checksums"] = self.checksums | {"state": checksums(content | {"checksums": None})}
        checkpoints.write(path, lambda target: torch.save(content, target), whole)

    @classmethod
    def read(cls, path: Path) -> "TrainState":
        """Read a state that this package or BasicSR has written.

        Raises:
            InputError: it cannot be read, is something else, or a tensor is not the one that was saved.
        """
        content = read(path, "training state")
        kinds = {"iter": int, "epoch": int, "optimizers": list, "schedulers": list}
        if not isinstance(content, dict) or not all(isinstance(content.get(key), kinds[key]) for key in kinds):
            raise InputError(f"training state {path} is none: expected a file NUMBER.state that BasicSR saved")
        saved = content.get("checksums") or {}
        if "state" in saved:
            _compare(f"training state {path}", checksums(content | {"checksums": None}), saved["state"])
        own = {name.name for name in fields(cls)}
        model = {key: value for key, value in content.items() if key not in own}
        return cls(model=model, **{key: value for key, value in content.items() if key in own})

    def for_model(self) -> dict:
        """Return the state as ``resume_training`` of BasicSR's models takes it, and may change it."""
        return _copy({"iter": self.iter, "epoch": self.epoch, "data": self.data, **self.model})


def _copy(value):
    """Copy nested dicts and lists, not what they hold."""
    if isinstance(value, dict):
        copied = value.copy()  # a Counter's update() would add
        for key, item in value.items():
            copied[key] = _copy(item)
        return copied
    return [_copy(item) for item in value] if isinstance(value, list) else value


def checksums(content) -> dict[str, str]:
    """SHA-256 of every tensor in nested dicts and lists by its place; of all other values together under "others"."""
    found, others = {}, hashlib.sha256()

    def visit(value, place):
        if isinstance(value, torch.Tensor):
            found[place] = checksum(value.detach().cpu())
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(item, f"{place}.{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                visit(item, f"{place}.{number}")
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
    """SHA-256 of the options of a file, whatever the start and the folder."""
    own = {key: value for key, value in opt.items() if key not in OF_A_START}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()


def take_up(opt: dict, path: Path, state: TrainState) -> None:
    """Let the networks of a run begin with the checkpoints of the state that it goes on from.

    Each checkpoint of a run has its weights under ``params``, whatever the run itself began with.
    """
    paths = opt["path"]
    paths["resume_state"] = str(path)
    for label in networks_of(opt):
        paths |= {f"pretrain_network_{label}": str(checkpoints.network_file(opt, state.iter, label))}
        paths |= {f"param_key_{label}": "params"}


def versions() -> dict[str, str]:
    """Return the versions that a state and a record name."""
    from basicsr.version import __version__ as basicsr

    return {"package": __version__, "torch": str(torch.__version__), "basicsr": basicsr}


def networks_of(opt: dict) -> list[str]:
    """List the labels of the networks that a resumed run loads: g for ``network_g``."""
    ignored = opt["path"].get("ignore_resume_networks") or ()
    return [key.removeprefix("network_") for key in opt if key.startswith("network_") and key not in ignored]


@functools.lru_cache(maxsize=1)
def _read(path, models, labels, *files):
    """Read a state and look through its checkpoints; ``files`` are what is there, with the times of the last change."""
    state = TrainState.read(path)
    for file in (Path(models, f"net_{label}_{state.iter}.pth") for label in labels):
        content = read(file)
        weights_under(file, content, "params")
        if file.name in state.checksums:
            found = checksums({key: value for key, value in content.items() if key != ABOUT})
            _compare(f"checkpoint {file}", found, state.checksums[file.name])
    return state


def read_state(path: Path | str, opt: dict) -> TrainState:
    """Read a training state whose checkpoints load too; once, as long as the files stay as they are.

    Raises:
        InputError: see :meth:`TrainState.read`; or a checkpoint that belongs to it cannot be read or is damaged.
    """
    models = Path(opt["path"]["models"])
    files = sorted(
        (file.name, file.stat().st_mtime_ns)
        for file in (*models.glob("net_*"), *Path(path).parent.glob("*"))
        if file.exists()
    )
    return _read(Path(path), models, tuple(networks_of(opt)), *files)


def find_state(opt: dict) -> tuple[Path | None, TrainState | None, list[str]]:
    """Find the training state a run with these options goes on from.

    With ``--auto_resume`` the newest one of the experiment that is whole, otherwise ``path: resume_state``.

    Returns:
        The file and what it holds, both None where training starts anew; and why newer ones were passed over.

    Raises:
        InputError: ``path: resume_state`` cannot be read, or none of an experiment's states can.
    """
    if not opt["auto_resume"]:
        path = opt["path"].get("resume_state")
        return (Path(path), read_state(path, opt), []) if path else (None, None, [])
    passed_over = []
    iterations = checkpoints.saved_iterations(opt)
    for iteration in iterations:
        path = checkpoints.state_file(opt, iteration)
        try:
            return path, read_state(path, opt), passed_over
        except InputError as error:
            passed_over.append(str(error))
    if iterations:
        lines = "\n  ".join(passed_over)
        raise InputError(
            f"none of the {len(iterations)} training states in {opt['path']['training_states']} can be resumed:\n"
            f"  {lines}\nmove {opt['path']['experiments_root']} away to start anew"
        )
    return None, None, []
