"""What the scripts share beyond :mod:`contrast_arch.bench`: what only a checkout has."""

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.bench import machine

HERE = Path(__file__).parent
RESULTS = HERE / "results"
NETWORKS = ("HATLight", "Contrast", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight")


def reference_error(name: str, device: str = "cpu") -> float:
    """How far the network is from its recorded reference, tests/reference/NAME.safetensors, relative to the largest
    value of the output."""
    with safe_open(HERE.parent / "tests" / "reference" / f"{name}.safetensors", "pt") as file:
        net = getattr(archs, name)(**json.loads(file.metadata()["config"]))
        keys = list(file.keys())
        net.load_state_dict({k.removeprefix("state."): file.get_tensor(k) for k in keys if k.startswith("state.")})
        expected = file.get_tensor("output")
        with torch.no_grad():
            out = net.to(device)(file.get_tensor("input").to(device)).cpu()
    return float((out - expected).abs().max() / expected.abs().max())


def machine_and_commit(threads: int) -> dict:
    """CPU, GPU where there is one, versions, commit."""
    commit = machine.first_line("git", "rev-parse", "--short", "HEAD", folder=HERE) or os.environ.get("COMMIT")
    return machine.machine(threads) | {"commit": commit}
