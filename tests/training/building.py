"""Training runs in this process."""

import json
import logging
import os
import random
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
import torch
from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import ARCH_REGISTRY

from contrast_arch.training.loop import Trainer
from contrast_arch.training.signals import STOP
from tests.conftest import write_pairs
from tests.models.building import options


@ARCH_REGISTRY.register()
class DroppingNet(torch.nn.Sequential):
    """A network that draws random numbers in training: the generators are part of what a run is."""

    def __init__(self):
        layers = torch.nn.Conv2d(3, 48, 3, padding=1), torch.nn.Dropout(0.2), torch.nn.PixelShuffle(4)
        super().__init__(*layers)


def seed_all(seed: int = 0) -> None:
    for call in (random.seed, np.random.seed, torch.manual_seed):
        call(seed)


def run_options(root: Path, model_type: str = "SRModel", **changes) -> dict:
    """Options of a run of eight iterations in epochs of four, with all that has a state, as BasicSR parses them."""
    if not (root / "HR").exists():
        write_pairs(root, lq=(16, 12))
    train = {
        "total_iter": 8,
        "ema_decay": 0.9,
        "scheduler": {"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.5},
    }
    changes["train"] = train | changes.get("train", {})
    opt = options(root, model_type, **changes)
    opt["network_g"] = {"type": "DroppingNet"}
    if not list(Path(opt["path"]["training_states"]).iterdir()):
        shutil.rmtree(opt["path"]["experiments_root"])
    return opt


def make(root: Path, *args, override_state: bool = False, **changes) -> Trainer:
    """A trainer of :func:`run_options`; it goes on from the newest state in ``root``."""
    opt = run_options(root, *args, **changes)
    seed_all()
    return Trainer(opt, ("options.yml", "name: tiny\n"), override_state)


def forked(output: Path, call, *arguments) -> int:
    """Fork this process, which has all imported.

    Args:
        output: file for stderr, and for the log.
        call: gives the exit code of the child; 99 where it raises.

    Returns:
        Number of the child.
    """
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
            logging.getLogger("basicsr").handlers.clear()
            initialized_logger.clear()
            torch.set_num_threads(1)
            code = call(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at(trainer: Trainer, iteration: int, call) -> None:
    """Call something after an iteration."""
    step = trainer.model.optimize_parameters

    def optimize_parameters(current_iter):
        step(current_iter)
        if current_iter == iteration:
            call()

    trainer.model.optimize_parameters = optimize_parameters


def cut(trainer: Trainer, iteration: int) -> Trainer:
    """Train as far as an iteration, where a signal ends the run."""
    at(trainer, iteration, lambda: setattr(trainer.requests, "wanted", STOP))
    if iteration == 0:
        trainer.requests.wanted = STOP
    trainer.run()
    return trainer


def content(root: Path, name: str = "net_g_latest.pth", run: str = "tiny") -> dict:
    """Weights of a checkpoint, by key and name."""
    found = torch.load(root / "experiments" / run / "models" / name, weights_only=True)
    return {f"{key}.{name}": value for key in found if key != "contrast_arch" for name, value in found[key].items()}


def state(root: Path, iteration: int, run: str = "tiny") -> dict:
    return torch.load(root / "experiments" / run / "training_states" / f"{iteration}.state", weights_only=True)


def record(root: Path, run: str = "tiny") -> list[dict]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (root / "experiments" / run / "metrics.jsonl").read_text().splitlines()]
