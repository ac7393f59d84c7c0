"""Shared fixtures: recorded references, small image folders, and a trainer in a process of its own."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

import contrast_arch  # noqa: F401  BasicSR imports beside today's torchvision only after it
from contrast_arch.weights.shapes import own_networks

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
SET5 = Path(__file__).parent / "data" / "Set5"
# All networks, for the tests that run over them.
NETWORKS = list(own_networks())
# Those of the published code, whose results are recorded.
RECORDED = [name for name in NETWORKS if (REFERENCE / f"{name}.safetensors").is_file()]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def unwritten_is_nan():
    """Memory that PyTorch gives out unwritten holds NaN: what is read of it, or left in an output, shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


def load_reference(name):
    """Config, weights, and the other tensors of a recorded network."""
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iteration in safetensors)
    state = {key.removeprefix("state."): t for key, t in tensors.items() if key.startswith("state.")}
    return json.loads(metadata["config"]), state, tensors, metadata


def relative_error(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def write_pairs(root: Path, count=2, lq=(24, 20), scale=4, seed=0):
    """Smooth LQ/GT pairs root/HR/N.png and root/LR/Nx4.png; ``lq`` is (width, height)."""
    import cv2

    rng = np.random.default_rng(seed)
    for folder in ("HR", "LR"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        small = rng.integers(0, 256, (lq[1], lq[0], 3), dtype=np.uint8)
        large = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / "LR" / f"{i}x{scale}.png"), small)
        cv2.imwrite(str(root / "HR" / f"{i}.png"), large)


TINY = {"type": "Contrast", "upscale": 4, "dims": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}


def tiny_options(root: Path, **changes) -> dict:
    """Options of a run of a few iterations on the CPU, over the pairs that write_pairs made in ``root``."""

    def dataset(name, **more):
        return {
            "name": name,
            "type": "PairedImageDataset",
            "dataroot_gt": str(root / "HR"),
            "dataroot_lq": str(root / "LR"),
            "filename_tmpl": "{}x4",
            "io_backend": {"type": "disk"},
            **more,
        }

    metric = {"crop_border": 4, "test_y_channel": True, "better": "higher"}
    options = {
        "name": "tiny",
        "model_type": "SRModel",
        "scale": 4,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": dataset(
                "train",
                gt_size=32,
                use_hflip=True,
                use_rot=True,
                num_worker_per_gpu=0,
                batch_size_per_gpu=2,
                dataset_enlarge_ratio=4,
            ),
            "val": dataset("val"),
        },
        "network_g": dict(TINY),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
            "total_iter": 4,
            "warmup_iter": -1,
            "pixel_opt": {"type": "MSELoss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "val": {
            "val_freq": 2,
            "save_img": False,
            "suffix": None,
            "metrics": {"psnr": {"type": "calculate_psnr", **metric}, "ssim": {"type": "calculate_ssim", **metric}},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }
    for key, value in changes.items():
        if value is None:
            del options[key]
        else:
            options[key] = {**options[key], **value} if isinstance(value, dict) else value
    return options


def run_module(module, options, cwd, *args):
    """Write ``options`` to cwd/options.yml and run ``python -m module -opt options.yml`` there."""
    text = options if isinstance(options, str) else yaml.safe_dump(options)
    (cwd / "options.yml").write_text(text)
    return run_python(cwd, "-m", module, "-opt", "options.yml", *args)


def run_python(cwd, *args):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


@pytest.fixture
def log():
    """Lines that go into BasicSR's log."""
    lines, logger = [], logging.getLogger("basicsr")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
