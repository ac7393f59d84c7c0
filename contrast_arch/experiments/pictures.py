"""Single images of a validation: their metrics, and their pictures side by side: LQ, bicubic, each network, GT.

Metrics of an image come from the record, else from the picture that the validation saved (``val: save_img: true``): it
holds exactly the pixels that the validation measured. No network is run.
"""

import contextlib
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contrast_arch import images
from contrast_arch.experiments.basicsr_logs import section, validation_sets
from contrast_arch.experiments.charts import METRICS, datasets
from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.records import Run

MEASURED = ("calculate_psnr", "calculate_ssim")
# Of each validation set, the first ones by name.
COUNT = 5


class Pair(NamedTuple):
    """Files of a validation image."""

    name: str  # stem of the LQ image
    lq: Path
    gt: Path


def validation_pairs(run: Run, dataset: str) -> list[Pair]:
    """Images of a validation set, by name; those that are not in plain folders on this machine are left out."""
    for options in validation_sets(run.options):
        folders = [Path(str(options.get(key))) for key in ("dataroot_gt", "dataroot_lq")]
        if options.get("name") == dataset and all(folder.is_dir() for folder in folders):
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
    return found


def measured_iterations(run: Run, dataset: str) -> set[int]:
    """Iterations of which the metrics of each image of a validation set are known."""
    recorded = set(run.per_image.get(dataset, {}))
    # A validation may leave out images of the folder (meta_info_file).
    saved = [iterations for pair in validation_pairs(run, dataset) if (iterations := set(pictures(run, pair)))]
    validated = [set(points) for tag, points in run.values.items() if tag.startswith(f"metrics/{dataset}/")]
    return recorded | (set.intersection(*saved) & set.union(*validated) if saved and validated else set())


def image_values(run: Run, dataset: str, iteration: int) -> dict[str, dict[str, float]]:
    """Metrics of each image (image -> metric -> value) at one of its :func:`measured_iterations`.

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


def slides(groups: list[Group]) -> tuple[list[dict], dict[str, bytes], list[str]]:
    """Pictures that validations saved, of the first run of each network at its latest.

    Returns:
        Slides {"label": validation set and name, "layers": (label, text, file name) of each version, LQ first and GT
        last}, their files (name -> PNG), and notes.
    """
    found, files, notes = [], {}, []
    for dataset in datasets(groups):
        run = next((group.runs[0] for group in groups if validation_pairs(group.runs[0], dataset)), None)
        for pair in validation_pairs(run, dataset)[:COUNT] if run else []:
            try:
                versions = _versions(groups, run, dataset, pair)
            except ImportError as error:
                return [], {}, [f"no pictures: reading them needs {error.name}, which is not installed"]
            except images.Unreadable as error:
                notes.append(f"no picture of {pair.name} ({dataset}): one of its files cannot be used: {error}")
                continue
            names = [f"picture_{len(found)}_{number}.png" for number in range(len(versions))]
            files |= {name: _png(image) for name, (*_, image) in zip(names, versions, strict=True)}
            layers = [(label, text, name) for name, (label, text, _) in zip(names, versions, strict=True)]
            found += [{"label": f"{dataset}: {pair.name}", "layers": layers}] if layers else []
    return found, files, notes


def _versions(groups, run, dataset, pair):
    """(label, metrics in words, image) of every version; empty if no network has saved any."""

    def text(values):
        known = {metric: value for metric, value in values.items() if metric in METRICS}
        return ", ".join(f"{metric.upper()} {METRICS[metric][1].format(value)}" for metric, value in known.items())

    networks = []
    for label, (first, *_) in groups:
        if saved := pictures(first, pair):
            iteration = max(saved)
            recorded = first.per_image.get(dataset, {}).get(iteration, {}).get(pair.name)
            image = read(saved[iteration])
            values = text(recorded or measure(image, pair, first.options))
            networks.append((label, f"{values} after {first.images(iteration):,} images", image))
    if not networks:
        return []
    from contrast_arch.prepare.images import bicubic

    lq, scale = read(pair.lq), run.options["scale"]
    enlarged = bicubic(lq, scale)
    texts = text(measure(enlarged, pair, run.options))
    return [("LQ", "", lq), ("bicubic", texts, enlarged), *networks, ("GT", "", cropped_gt(pair, scale))]


def _png(image):
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()
