"""LQ and GT images: their pairs, and their sizes."""

import os.path as osp
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from contrast_arch import images
from contrast_arch.errors import InputError, one_line

# Opening a header takes about 0.1 ms; of larger datasets this many pairs are looked at, evenly spread.
MOST_PAIRS_CHECKED = 5000


class _Seen(NamedTuple):
    """An image: width and height as a run reads it, its losses as RGB of 8 bits, and a kind that is decoded alike."""

    size: tuple[int, int] = (0, 0)
    converted: tuple[str, ...] = ()
    kind: tuple = ()


@dataclass
class Pairs:
    """The images of a dataset, as BasicSR finds them.

    Attributes:
        lq, gt: their paths, or keys of an LMDB; ``gt`` is empty where the dataset has none.
        problems: of their names.
        results: GT image (LQ image without GT), width and height of the network's result, of validation and test
            images that were looked at.
        looked_at: number of images that were looked at, LQ and GT.
        converted: images that are changed when BasicSR reads them as RGB of 8 bits, by the kind of the change.
    """

    lq: list[str]
    gt: list[str]
    problems: list[str] = field(default_factory=list)
    results: list[tuple[str, int, int]] = field(default_factory=list)
    looked_at: int = 0
    converted: dict[str, list[str]] = field(default_factory=dict)


def find_pairs(dataset: dict, cls: Callable) -> Pairs:
    """Find the images of a dataset.

    Args:
        dataset: its options, with everything that BasicSR needs to find them.
        cls: BasicSR's class of the dataset.

    Raises:
        InputError: a folder or list cannot be read.
    """
    from basicsr.utils import scandir

    lq, gt = dataset["dataroot_lq"], dataset.get("dataroot_gt")
    by_name = cls.__name__ == "PairedImageDataset" and dataset.get("meta_info_file") is None
    if not by_name or dataset["io_backend"]["type"] == "lmdb":
        try:
            paths = cls(deepcopy(dataset)).paths
        except Exception as error:  # each class fails in its own way
            raise InputError(f"{one_line(error)} ({', '.join(filter(None, (lq, gt)))})") from error
        if all(isinstance(path, str) for path in paths):
            return Pairs(paths, [])
        return Pairs(*([pair[key] for pair in paths] for key in ("lq_path", "gt_path")))
    # As BasicSR's paired_paths_from_folder, which stops at the first missing one.
    names, there, template = sorted(scandir(gt)), set(scandir(lq)), dataset.get("filename_tmpl", "{}")
    expected = [f"{template.format(stem)}{suffix}" for stem, suffix in map(osp.splitext, names)]
    problems = [f"{name}: {own} is not in {lq}" for name, own in zip(names, expected, strict=True) if own not in there]
    problems += [f"{osp.join(lq, name)} belongs to no image of {gt}" for name in sorted(there - set(expected))]
    return Pairs([osp.join(lq, name) for name in expected], [osp.join(gt, name) for name in names], problems)


def size_problems(dataset: dict, pairs: Pairs, every: bool) -> list[str]:
    """Find pairs whose images cannot be read or do not fit each other, the scale or ``gt_size``.

    Args:
        dataset: its options, ``scale`` and ``phase`` among them.
        pairs: receives ``results``, ``looked_at`` and ``converted``.
        every: look at all of them, each read completely; otherwise at the headers of some.
    """
    chosen = list(zip(pairs.lq, pairs.gt, strict=True) if pairs.gt else zip(pairs.lq, strict=True))
    if not every and len(chosen) > MOST_PAIRS_CHECKED:
        # Evenly spread ones, and one for each kind of file name.
        kinds = {tuple(osp.splitext(path)[1] for path in pair): pair for pair in reversed(chosen)}
        chosen = list(dict.fromkeys([*chosen[:: -(-len(chosen) // MOST_PAIRS_CHECKED)], *kinds.values()]))
    with ThreadPoolExecutor() as pool:
        looks = (pool.map if every else map)(partial(_look, dataset, every, {}), chosen)
        hidden = None if every and len(chosen) > 1 else True  # None: hidden where stderr is no terminal
        found = list(tqdm(looks, dataset["phase"], len(chosen), unit="pair", leave=False, disable=hidden))
    for paths, (seen, _) in zip(chosen, found, strict=True):
        pairs.looked_at += len(seen)
        for path, image in zip(paths, seen, strict=False):
            for change in image.converted:
                pairs.converted.setdefault(change, []).append(path)
        if seen and dataset["phase"] != "train":
            # In validation BasicSR crops GT to LQ times the scale.
            pairs.results.append((paths[-1], *(dataset["scale"] * side for side in seen[0].size)))
    return [problem for _, problem in found if problem]


def _look(dataset, every, exchanged, paths):
    """Look at a pair; return its images, and an error or None."""
    seen = []
    for path in paths:
        try:
            seen.append(_see(path, every, exchanged))
        except (OSError, images.Unreadable) as error:
            return [], f"{path}: cannot be read as an image{' completely' if every else ''}: {error}"
    return seen, _misfit(dataset, paths, seen) if len(seen) == 2 else None


def _see(path, every, exchanged):
    """Read the header of an image, or decode it.

    A header says the size of an image, but not that OpenCV decodes it nor that OpenCV turns it. One image of each kind
    is decoded for that; ``exchanged`` has the kinds, True where OpenCV exchanges the width and the height.
    """
    seen = _header(path)
    if seen.kind in exchanged and not every:
        return seen._replace(size=seen.size[::-1]) if exchanged[seen.kind] else seen
    content = images.content(Path(path))
    size = images.read(content).shape[1::-1]
    damage = images.damage(content) if every else None
    if damage:
        raise images.Unreadable(damage)
    # Where a header says another size than the one decoded, it is not trusted for other files either.
    if size in (seen.size, seen.size[::-1]):
        exchanged[seen.kind] = size != seen.size
    return seen._replace(size=size)


def _header(path):
    """Read the header of an image by Pillow; nothing where Pillow cannot."""
    try:
        with Image.open(path, formats=images.FORMATS) as image:
            orientation = images.orientation(image)
            changes = (*images.converted(image), *(["EXIF"] if orientation != 1 else []))
            exchanged = orientation >= 5 and image.width != image.height
            return _Seen(image.size, changes, (image.format, image.mode, image.info.get("compression"), exchanged))
    except Exception:  # Pillow's plugins raise many kinds; OpenCV may read it nevertheless
        return _Seen()


def _misfit(dataset, paths, seen):
    (lq_path, gt_path), (lq, gt), scale = paths, (image.size for image in seen), dataset["scale"]
    over = [large - small * scale for large, small in zip(gt, lq, strict=True)]
    is_train, gt_size = dataset["phase"] == "train", dataset.get("gt_size", 0)
    if is_train and over == [0, 0] and min(gt) < gt_size:
        return f"{gt_path} is {_size(gt)}, smaller than gt_size {gt_size}: leave it out or lower gt_size"
    # In validation BasicSR crops what a scale that does not divide the image leaves over.
    if all(0 <= side < (1 if is_train else scale) for side in over):
        return None
    text = f"{lq_path} is {_size(lq)}, so at scale {scale} {gt_path} must be {_size(side * scale for side in lq)}"
    turned = any("EXIF" in image.converted for image in seen)
    return f"{text}, not {_size(gt)}" + ("; OpenCV turns images by their EXIF orientation" if turned else "")


def _size(size):
    return "x".join(map(str, size))
