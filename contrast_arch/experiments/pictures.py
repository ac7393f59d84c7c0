"""Pictures that validations saved (``val: save_img: true``), side by side: LQ, bicubic, each network, GT."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from contrast_arch import images
from contrast_arch.experiments.basicsr_logs import section
from contrast_arch.experiments.charts import METRICS, datasets
from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.records import Run

# Of each validation set, the first ones by name.
COUNT = 5


class Pair(NamedTuple):
    """Files of a validation image."""

    name: str  # stem of the LQ image
    lq: Path
    gt: Path


def validation_pairs(run: Run, dataset: str) -> list[Pair]:
    """Images of a validation set, by name; those that are not in plain folders on this machine are left out."""
    for options in section(run.options, "datasets").values():
        folders = [Path(str(options.get(key))) for key in ("dataroot_gt", "dataroot_lq")]
        if options.get("name") == dataset and all(folder.is_dir() for folder in folders):
            template = options.get("filename_tmpl", "{}")
            lq = {path.stem: path for path in folders[1].iterdir()}
            names = {template.format(path.stem): path for path in sorted(folders[0].iterdir())}
            return [Pair(name, lq[name], gt) for name, gt in names.items() if name in lq]
    return []


def latest_picture(run: Run, name: str) -> tuple[int, Path] | None:
    """(Iteration, file) of the latest picture that a validation saved of an image; None if there is none."""
    saved = {}
    for path in (run.folder / "visualization" / name).glob("*.png"):
        if number := re.fullmatch(rf"{re.escape(name)}_(\d+)", path.stem):
            saved[int(number[1])] = path
    if not saved:
        return None
    # BasicSR counts on after the last iteration and validates there once more.
    latest = max(saved)
    return min(latest, run.iterations) if run.finished else latest, saved[latest]


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
    networks = []
    for label, (first, *_) in groups:
        if latest := latest_picture(first, pair.name):
            iteration, path = latest
            values = first.per_image.get(dataset, {}).get(iteration, {}).get(pair.name, {})
            after = f"after {first.images(iteration):,} images"
            networks.append((label, f"{_in_words(values)} {after}".strip(), read(path)))
    if not networks:
        return []
    from basicsr.metrics import calculate_metric

    from contrast_arch.prepare.images import bicubic

    lq, scale = read(pair.lq), run.options["scale"]
    enlarged = bicubic(lq, scale)
    # As BasicSR's PairedImageDataset cuts it.
    gt = read(pair.gt)[: enlarged.shape[0], : enlarged.shape[1]]
    if gt.shape != enlarged.shape:
        raise images.Unreadable(f"the GT image has the shape {gt.shape}, expected {enlarged.shape}")
    metrics = section(section(run.options, "val"), "metrics")
    known = {name: dict(metrics[name]) for name in METRICS if name in metrics}
    values = {name: calculate_metric({"img": enlarged, "img2": gt}, how) for name, how in known.items()}
    return [("LQ", "", lq), ("bicubic", _in_words(values), enlarged), *networks, ("GT", "", gt)]


def _in_words(values):
    known = {metric: values[metric] for metric in METRICS if metric in values}
    return ", ".join(f"{metric.upper()} {METRICS[metric][1].format(value)}" for metric, value in known.items())


def _png(image):
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()
