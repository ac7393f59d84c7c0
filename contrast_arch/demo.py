"""The demo: a photograph enlarged, then small Contrast and HAT-light trained on photographs of scikit-image."""

import os
import shutil
import sys
import webbrowser
from pathlib import Path

import skimage.data
import yaml
from PIL import Image

from contrast_arch import upscale
from contrast_arch.experiments import compare, report
from contrast_arch.files import option_files, replacing, resolved
from contrast_arch.inference.files import DEFAULT_MODEL
from contrast_arch.options.document import read_options
from contrast_arch.prepare import run as prepare

TRAINING = "astronaut.png", "hubble_deep_field.jpg", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"
PHOTOS = {"training": TRAINING, "validation": ("chelsea.png", "coffee.png")}
# Longer side of the photograph that is enlarged, so that it takes seconds on two cores.
LONGEST = 224
NETWORKS = {"Contrast": "dims", "HATLight": "embed_dim"}
SMALL = {"depths": [2, 2], "num_heads": [4, 4]}
WIDTH = 32
BATCH, CHECKPOINTS = 4, 5


def run(folder: Path, iterations: int) -> None:
    """Enlarge a photograph, train both networks, and show their report; a second call goes on.

    Args:
        folder: for all that is written.
        iterations: of each network; rounded down to a multiple of CHECKPOINTS.
    """
    folder, interval = resolved(folder), max(1, iterations // CHECKPOINTS)
    folder.mkdir(parents=True, exist_ok=True)
    # Experiments are written under the working directory.
    os.chdir(folder)
    for part, names in PHOTOS.items():
        Path("photos", part).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy2(Path(skimage.data.__file__).with_name(name), Path("photos", part))
    _enlarge(Path("photos", "validation", PHOTOS["validation"][0]))
    for part in PHOTOS:
        size = 128 if part == "training" else None
        prepare([Path("photos", part)], Path("datasets", part), purpose=part, gt_size=size)
    files = [_write_options(network, CHECKPOINTS * interval) for network in NETWORKS]
    compare.run(files, CHECKPOINTS * interval * BATCH, interval * BATCH, gpus=0, output=Path("compare"))
    report.run([Path("experiments", Path(file).stem) for file in files], Path("report"))
    page = folder / "report" / "index.html"
    print(f"the report: {page}")
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(page.as_uri())


def _enlarge(photo):
    """Enlarge a photograph with the shipped weights, unless an earlier call did."""
    target = resolved(f"{photo.stem}_x4.png")
    if not target.exists():
        with Image.open(photo) as image, replacing(target) as temporary:
            image.thumbnail((LONGEST, LONGEST))
            upscale(image, DEFAULT_MODEL).save(temporary, format="PNG")
    print(f"a photograph, four times as large: {target}")


def _write_options(network, iterations):
    """Write the shipped option file of a network, made small; return its name."""
    options = read_options(str(option_files() / "train" / f"train_{network}_SRx4_from_scratch.yml"))
    options.update(name=f"demo_{network}", num_gpu=0)
    options["network_g"].update(SMALL, **{NETWORKS[network]: WIDTH})
    sets, data = options["datasets"], {}
    options["datasets"] = data
    for key, old, name in (("train", "train", "training"), ("val", "val_1", "validation")):
        folder = f"datasets/{name}"
        data[key] = {**sets[old], "name": name}
        data[key] |= {"dataroot_gt": f"{folder}/HR", "dataroot_lq": f"{folder}/LR_bicubic/X4"}
    data["train"] |= {"meta_info_file": "datasets/training/meta_info.txt", "gt_size": 128, "batch_size_per_gpu": BATCH}
    data["train"] |= {"num_worker_per_gpu": 1, "dataset_enlarge_ratio": 400}
    # Ten times the published rate, lowered towards the end: few iterations have to do here.
    options["train"]["optim_g"]["lr"] = 2e-3
    options["train"]["scheduler"]["milestones"] = [iterations * 6 // 10, iterations * 8 // 10]
    options["val"]["save_img"] = True
    options["logger"].update(print_freq=10, use_tb_logger=False)
    file = Path(f"demo_{network}.yml")
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return str(file)
