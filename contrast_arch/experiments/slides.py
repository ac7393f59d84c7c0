"""Pictures of validation images side by side: LQ, bicubic, each network, GT."""

from dataclasses import dataclass

import numpy as np

from contrast_arch.experiments.charts import METRICS, datasets
from contrast_arch.experiments.groups import Group
from contrast_arch.experiments.validation_images import cropped_gt, measure, pictures, read, validation_pairs
from contrast_arch.images import Unreadable

# Of each validation set, the first ones by name.
COUNT = 5


@dataclass
class Slide:
    """One validation image.

    Attributes:
        label: validation set and name.
        layers: (label, text, file name) of each version, LQ first and GT last.
    """

    label: str
    layers: list[tuple[str, str, str]]


def slides(groups: list[Group]) -> tuple[list[Slide], dict[str, bytes], list[str]]:
    """Pictures that validations saved, of the first run of each network at its latest.

    Returns:
        The slides, their files (name -> PNG), and notes.
    """
    found, files, notes = [], {}, []
    for dataset in datasets(groups):
        run = next((group.runs[0] for group in groups if validation_pairs(group.runs[0], dataset)), None)
        for pair in validation_pairs(run, dataset)[:COUNT] if run else []:
            try:
                images = _versions(groups, run, dataset, pair)
            except ImportError as error:
                return [], {}, [f"no pictures: reading them needs {error.name}, which is not installed"]
            except Unreadable as error:
                notes.append(f"no picture of {pair.name} ({dataset}): one of its files cannot be used: {error}")
                continue
            if not images:
                continue
            slide = Slide(f"{dataset}: {pair.name}", [])
            for number, (label, text, image) in enumerate(images):
                name = f"picture_{len(found)}_{number}.png"
                files[name] = _png(image)
                slide.layers.append((label, text, name))
            found.append(slide)
    return found, files, notes


def _versions(groups, run, dataset, pair):
    """(label, metrics in words, image) of every version; empty if no network has saved any."""
    networks = []
    for group in groups:
        saved = pictures(group.runs[0], pair)
        if saved:
            iteration = max(saved)
            recorded = group.runs[0].per_image.get(dataset, {}).get(iteration, {}).get(pair.name)
            image = read(saved[iteration])
            values = recorded or measure(image, pair, group.runs[0].options)
            networks.append((group.label, f"{_text(values)} after {group.runs[0].images(iteration):,} images", image))
    if not networks:
        return []
    from contrast_arch.prepare.images import bicubic

    lq, scale = read(pair.lq), run.options["scale"]
    enlarged = bicubic(lq, scale)
    texts = _text(measure(enlarged, pair, run.options))
    return [("LQ", "", lq), ("bicubic", texts, enlarged), *networks, ("GT", "", cropped_gt(pair, scale))]


def _text(values):
    forms = {metric: form for metric, (_, form) in METRICS.items()}
    return ", ".join(f"{metric.upper()} {forms[metric](value)}" for metric, value in values.items() if metric in forms)


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()
