"""The shipped weights, from photographs: ContrastNoPE, light, with ssm_ratio 2, for X4, X2 and X3.

    python benchmarks/weights.py --photos FOLDER --set5 FOLDER --set14 FOLDER [--num-gpu 1] [--stages constant ...]

Of the photographs the same 20 as in benchmarks/comparison.py are left out of training; they choose between variants.
Stages that are finished stay as they are, one that was stopped goes on: weights/README.md has their figures. In the end
`contrast-arch export experiments/STAGE --half` writes the file.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml
from comparison import prepare, roots_of

from contrast_arch.check import read_options
from contrast_arch.files import option_files


class Stage(NamedTuple):
    """A training run: from the averaged weights of another, ``batch`` patches of ``patch``² LQ pixels an iteration."""

    scale: int
    start: str | None
    iterations: int
    batch: int
    patch: int
    lr: float
    ema_decay: float
    period: int | None  # of the cosine, iterations; None keeps the rate


STAGES = {
    "constant": Stage(4, None, 27_664, 4, 32, 5e-4, 0.999, None),
    "cosine": Stage(4, "constant", 2_050, 32, 64, 1e-3, 0.999, 2_050),
    "longer": Stage(4, "cosine", 2_200, 8, 64, 5e-4, 0.999, 4_140),
    "x4": Stage(4, "longer", 1_000, 8, 64, 2.3e-4, 0.999, 1_000),
    "x2": Stage(2, "cosine", 3_000, 8, 32, 5e-4, 0.998, 3_000),
    "x3": Stage(3, "cosine", 3_000, 8, 32, 5e-4, 0.998, 3_000),
}


def options_of(name: str, num_gpu: int) -> dict:
    """The shipped option file of the network with the data, loss and schedule of a stage."""
    stage = STAGES[name]
    options = read_options(str(option_files() / "train" / "train_ContrastNoPE_ssm_ratio2_light_SRx4_from_scratch.yml"))
    options |= {"name": name, "model_type": "ContrastModel", "num_gpu": num_gpu, "scale": stage.scale}
    options["network_g"]["upscale"] = stage.scale
    data = options["datasets"]
    data["val_3"] = dict(data["val_1"])
    for key, folder in (("train", "photographs"), ("val_1", "Set5"), ("val_2", "Set14"), ("val_3", "BSD20")):
        data[key] |= roots_of(folder, stage.scale) | {"filename_tmpl": f"{{}}x{stage.scale}"}
    data["train"] |= {
        "meta_info_file": "datasets/photographs/meta_info.txt",
        "gt_size": stage.patch * stage.scale,
        "batch_size_per_gpu": stage.batch,
        "num_worker_per_gpu": 15 if num_gpu else 1,
        "dataset_enlarge_ratio": 100,
        "prefetch_mode": "cuda" if num_gpu else None,
        "pin_memory": bool(num_gpu),
    }
    if stage.start:
        start = {
            "pretrain_network_g": f"experiments/{stage.start}/models/net_g_latest.pth",
            "param_key_g": "params_ema",
        }
        # The last convolution is that of another scale.
        options["path"] |= start | {"strict_load_g": stage.scale == STAGES[stage.start].scale}
    constant = {"type": "MultiStepLR", "milestones": [], "gamma": 0.5}
    cosine = {
        "type": "CosineAnnealingRestartLR",
        "periods": [stage.period],
        "restart_weights": [1],
        "eta_min": 1e-6,
    }
    options["train"] |= {
        "amp": "bf16",
        "ema_decay": stage.ema_decay,
        "optim_g": {"type": "Adam", "lr": stage.lr, "betas": [0.9, 0.99]},
        "scheduler": cosine if stage.period else constant,
        "total_iter": stage.iterations,
        "warmup_iter": 50 if stage.period else 200,
        "clip_grad_norm": 1.0 if stage.period else None,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    options["val"]["val_freq"] = options["logger"]["save_checkpoint_freq"] = min(2_000, stage.iterations // 2)
    for metric in options["val"]["metrics"].values():
        metric["crop_border"] = stage.scale
    options["logger"] |= {"keep_last": 2, "use_tb_logger": False}
    return options


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--photos", "--set5", "--set14"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--num-gpu", type=int, default=0)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--output", type=Path, default=Path("."))
    arguments = parser.parse_args()
    largest = max(stage.scale * stage.patch for stage in STAGES.values())
    prepare(arguments, "photographs", largest, sorted({stage.scale for stage in STAGES.values()}))
    for name in arguments.stages:
        file = Path(f"{name}.yml")
        file.write_text(yaml.safe_dump(options_of(name, arguments.num_gpu), sort_keys=False))
        subprocess.run([sys.executable, "-m", "contrast_arch.train", "-opt", str(file), "--auto_resume"], check=True)
