"""Models in this process, as BasicSR's trainer would build them."""

import random
from pathlib import Path

import numpy as np
import torch
from basicsr.models import build_model
from basicsr.utils.registry import LOSS_REGISTRY

from contrast_arch.models import checkpoints
from tests.conftest import tiny_options


def options(root: Path, model_type: str = "ContrastModel", **changes) -> dict:
    """Options of tiny_options as BasicSR's parser returns them; the folder experiments/tiny in ``root`` exists."""
    opt = tiny_options(root, model_type=model_type, **changes)
    opt |= {"is_train": True, "dist": False, "rank": 0, "world_size": 1, "auto_resume": True, "root_path": str(root)}
    folder = root / "experiments" / opt["name"]
    folders = {"models": "models", "training_states": "training_states", "visualization": "visualization", "log": "."}
    opt["path"] |= {"experiments_root": str(folder)} | {key: str(folder / name) for key, name in folders.items()}
    for name in folders.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    for phase, dataset in opt["datasets"].items():
        dataset |= {"phase": phase, "scale": opt["scale"]}
    return opt


def build(opt: dict, seed: int = 0):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    return build_model(opt)


def batch(number: int = 0, images: int = 4) -> dict:
    """Images of an iteration, LQ 8x8 and GT 32x32."""
    generator = torch.Generator().manual_seed(number)
    return {key: torch.rand(images, 3, side, side, generator=generator) for key, side in (("lq", 8), ("gt", 32))}


def train(model, first: int, last: int, batches=batch) -> list[dict]:
    """Iterations as BasicSR's trainer does them; their logs."""
    logs = []
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration, warmup_iter=model.opt["train"].get("warmup_iter", -1))
        model.feed_data(batches(iteration))
        model.optimize_parameters(iteration)
        logs.append(dict(model.get_current_log()))
    return logs


def weights(net) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in net.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


@LOSS_REGISTRY.register()
class TinyPerceptualLoss(torch.nn.Module):
    """Two losses as BasicSR's PerceptualLoss gives them, without its download."""

    def __init__(self, style=True):
        super().__init__()
        self.style = style

    def forward(self, x, gt):
        pooled = torch.nn.functional.avg_pool2d(x - gt, 2)
        return pooled.abs().mean(), (pooled**2).mean() if self.style else None


def empty_run(folder):
    """Options of a run that has saved nothing yet, with its folders."""
    paths = {"training_states": folder / "states", "models": folder / "models", "experiments_root": folder}
    for path in paths.values():
        path.mkdir(exist_ok=True)
    return {"auto_resume": True, "network_g": {}, "path": {key: str(path) for key, path in paths.items()}}


def save(opt, *iterations):
    """States as BasicSR saves them."""
    for iteration in iterations:
        state = {"iter": iteration, "epoch": 0, "optimizers": [], "schedulers": []}
        torch.save(state, checkpoints.state_file(opt, iteration))
        torch.save({"params": {"a": torch.zeros(1)}}, checkpoints.network_file(opt, iteration))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
