"""Single images of a validation: their metrics and their pictures.

Metrics of an image come from the record, else from the picture that the validation saved (``val: save_img: true``): it
holds exactly the pixels that the validation measured. No network is run.
"""

import contextlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from contrast_arch import images
from contrast_arch.experiments.runs import ImageValues, Run, section

MEASURED = ("calculate_psnr", "calculate_ssim")


@dataclass(frozen=True)
class Pair:
    """Files of a validation image.

    Attributes:
        name: stem of the LQ image.
        lq, gt: paths.
    """

    name: str
    lq: Path
    gt: Path


def validation_pairs(run: Run, dataset: str) -> list[Pair]:
    """Images of a validation set, by name; those that are not in plain folders on this machine are left out."""
    for phase, options in section(run.options, "datasets").items():
        if not phase.startswith("val") or not isinstance(options, dict) or options.get("name") != dataset:
            continue
        folders = [Path(str(options.get(key))) for key in ("dataroot_gt", "dataroot_lq")]
        if not all(folder.is_dir() for folder in folders):
            continue
        template = options.get("filename_tmpl", "{}")
        lq = {path.stem: path for path in folders[1].iterdir()}
        names = {template.format(path.stem): path for path in sorted(folders[0].iterdir())}
        return [Pair(name, lq[name], gt) for name, gt in names.items() if name in lq]
    return []


def pictures(run: Run, pair: Pair) -> dict[int, Path]:
    """Iteration -> the picture of the network that a validation saved of an image."""
    found = {}
    for path in (run.folder / "visualization" / pair.name).glob("*.png"):
        number = re.fullmatch(rf"{re.escape(pair.name)}_(\d+)", path.stem)
        if number:
            # BasicSR counts on after the last iteration and validates there once more.
            iteration = int(number[1])
            found[min(iteration, run.iterations) if run.finished else iteration] = path
    return dict(sorted(found.items()))


def measured_iterations(run: Run, dataset: str) -> set[int]:
    """Iterations of which the metrics of each image of a validation set are known."""
    recorded = set(run.per_image.get(dataset, {}))
    # A validation may leave out images of the folder (meta_info_file).
    saved = [iterations for pair in validation_pairs(run, dataset) if (iterations := set(pictures(run, pair)))]
    validated = [set(points) for tag, points in run.values.items() if tag.startswith(f"metrics/{dataset}/")]
    return recorded | (set.intersection(*saved) & set.union(*validated) if saved and validated else set())


def image_values(run: Run, dataset: str, iteration: int) -> ImageValues:
    """Metrics of each image of a validation set at one of its :func:`measured_iterations`.

    Pictures that cannot be read, such as one that is being written, are left out.

    Raises:
        ImportError: BasicSR is missing, whose metrics measure the pictures.
    """
    recorded = run.per_image.get(dataset, {}).get(iteration)
    if recorded:
        return recorded
    found = {}
    for pair in validation_pairs(run, dataset):
        path = pictures(run, pair).get(iteration)
        with contextlib.suppress(images.Unreadable):
            if path:
                found[pair.name] = measure(read(path), pair, run.options)
    return found


def measure(image: np.ndarray, pair: Pair, options: dict) -> dict[str, float]:
    """Metrics of an image as BasicSR's validation computes them.

    Args:
        image: (H, W, 3), BGR, uint8, of a network.
        pair: its LQ and GT.
        options: of the run; PSNR and SSIM of its ``val: metrics`` are measured.

    Raises:
        Unreadable: the image is not as large as the GT image, or that cannot be read.
    """
    from basicsr.metrics import calculate_metric

    gt = cropped_gt(pair, options["scale"])
    if image.shape != gt.shape:
        raise images.Unreadable(f"its shape is {image.shape}, that of the GT image {gt.shape}")
    metrics = section(section(options, "val"), "metrics")
    return {
        name: float(calculate_metric({"img": image, "img2": gt}, dict(settings)))
        for name, settings in metrics.items()
        if settings["type"] in MEASURED
    }


def cropped_gt(pair: Pair, scale: int) -> np.ndarray:
    """The GT image as BasicSR's PairedImageDataset gives it, cut to the LQ image; (H, W, 3), BGR, uint8."""
    height, width = (side * scale for side in read(pair.lq).shape[:2])
    return read(pair.gt)[:height, :width]


@lru_cache(maxsize=64)
def read(path: Path) -> np.ndarray:
    """Decode an image as BasicSR's datasets do; (H, W, 3), BGR, uint8."""
    return images.read(path.read_bytes())
