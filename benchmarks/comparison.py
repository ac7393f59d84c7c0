"""The committed comparison: the light networks, trained alike on photographs, with several seeds, on a CPU.

    python benchmarks/comparison.py --photos FOLDER --set5 FOLDER --set14 FOLDER [--images 8000] [--seeds 3]

Of the photographs in FOLDER whose name begins with bsds_, 20 are left out of training and become a third validation
set. All networks get what the published comparison fixes (MSE, Adam at a constant 2e-4), with 32x32 LQ patches and 4
images an iteration. A second call goes on where the first was stopped; more images go on from fewer. In the end
`contrast-arch report` writes the page.
"""

import argparse
import os
import random
from pathlib import Path

import yaml

from contrast_arch.check import read_options
from contrast_arch.cli import main
from contrast_arch.files import option_files

NETWORKS = (
    "HATLight",
    "Contrast",
    "ContrastNoPE",
    "ContrastNoPE_ssm_ratio2",
    "ContrastNoPENoCA",
    "MambaLight",
    "ContrastV2",
)
LEFT_OUT = 20


def split(photos: Path, output: Path) -> tuple[Path, Path]:
    """Two folders of links to the photographs: for training, and left out of it."""
    files = sorted(path.resolve() for path in photos.iterdir())
    left_out = set(random.Random(0).sample([path for path in files if path.name.startswith("bsds_")], LEFT_OUT))
    folders = output / "photos", output / "held_out"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        link = folders[path in left_out] / path.name
        if not link.exists():
            link.symlink_to(path)
    return folders


def write_options(network: str, folder: Path) -> Path:
    """The shipped option file of a light network with this comparison's data, loss and rate."""
    options = read_options(str(option_files() / "train" / f"train_{network}_light_SRx4_from_scratch.yml"))
    options |= {"name": f"{network}_light", "num_gpu": 0}
    data = options["datasets"]
    data["train"] |= roots_of("train_photos") | {
        "meta_info_file": "datasets/train_photos/meta_info.txt",
        "gt_size": 128,
        "batch_size_per_gpu": 4,
        "num_worker_per_gpu": 1,
        "dataset_enlarge_ratio": 10,
    }
    data["val_3"] = data["val_1"] | roots_of("BSD20")
    options["train"]["optim_g"] = {"type": "Adam", "lr": 2e-4, "betas": [0.9, 0.99]}
    options["train"]["scheduler"] = {"type": "MultiStepLR", "milestones": [], "gamma": 0.5}
    options["train"]["pixel_opt"] = {"type": "MSELoss", "loss_weight": 1.0, "reduction": "mean"}
    options["val"]["save_img"] = True
    options["logger"]["use_tb_logger"] = False
    path = folder / f"{network}.yml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def roots_of(name: str, scale: int = 4) -> dict:
    """Name and folders of a dataset of ``contrast-arch prepare``, for an option file."""
    root = f"datasets/{name}"
    return {"name": name, "dataroot_gt": f"{root}/HR", "dataroot_lq": f"{root}/LR_bicubic/X{scale}"}


def prepare(arguments: argparse.Namespace, name: str, gt_size: int, scales=(4,)) -> None:
    """Enter the folder of the results, and make the datasets there: ``name`` of the photographs, and the three sets."""
    sets = {"Set5": arguments.set5.resolve(), "Set14": arguments.set14.resolve()}
    photos, sets["BSD20"] = (folder.resolve() for folder in split(arguments.photos, arguments.output))
    os.chdir(arguments.output)
    scaled = ("--scales", *scales)
    command("prepare", photos, "--output", f"datasets/{name}", "--sub-images", 480, "--gt-size", gt_size, *scaled)
    for validation, folder in sets.items():
        command("prepare", folder, "--output", f"datasets/{validation}", "--for", "validation", *scaled)


def command(*words) -> None:
    """A command of ``contrast-arch``; what ends it ends this script."""
    code = main([str(word) for word in words])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--photos", "--set5", "--set14"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--images", default="8000")
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--output", type=Path, default=Path("."))
    arguments = parser.parse_args()
    prepare(arguments, "train_photos", 128)
    Path("options").mkdir(exist_ok=True)
    files = [write_options(network, Path("options")) for network in NETWORKS]
    budget = ("--images", arguments.images, "--images-per-checkpoint", 2000, "--seeds", arguments.seeds)
    command("compare", *files, *budget)
